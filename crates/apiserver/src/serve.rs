//! Connections: TLS with HTTP/1.1 and HTTP/2, bounded, ended by cancellation.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::server::Server;
use auth::Identity;

/// Connections at once.
const CONNECTIONS: usize = 16 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// HTTP/2: a watch is a stream, and informers open many over one connection.
const STREAMS: u32 = 10_000;
const WINDOW: u32 = 4 * 1024 * 1024;

/// A bound socket.
pub type Listener = TcpListener;

/// Serves TLS until it is cancelled; then ends its connections.
pub async fn serve(
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let acceptor = TlsAcceptor::from(tls);
    let carriers = server.carriers.clone();
    listen::accept_until(listener, CONNECTIONS, stop.clone(), move |socket| {
        let (acceptor, server, stop) = (acceptor.clone(), server.clone(), stop.clone());
        async move {
            let peer = socket.peer_addr().ok();
            let shaking = tokio::time::timeout(HANDSHAKE, acceptor.accept(socket));
            let Some(shaken) = stop.run_until_cancelled(shaking).await else { return };
            let tls = match shaken {
                Ok(Ok(tls)) => tls,
                Ok(Err(error)) => {
                    tracing::debug!(?peer, %error, "TLS handshake failed");
                    return;
                }
                Err(_) => {
                    tracing::debug!(?peer, "TLS handshake took too long");
                    return;
                }
            };
            let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
            let known = server.access.authenticator.connection(chain, rustls::pki_types::UnixTime::now());
            let identity = Some(Identity::Connection(Arc::new(known)));
            connection(tls, identity, server, stop).await;
        }
    })
    .await;
    carriers.close();
    carriers.wait().await;
}

/// Serves plain HTTP until it is cancelled: the insecure local port, where `identity` is everybody's.
pub async fn serve_plain(
    listener: Listener,
    identity: Identity,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    listen::accept_until(listener, CONNECTIONS, stop.clone(), move |socket| {
        connection(socket, Some(identity.clone()), server.clone(), stop.clone())
    })
    .await;
}

async fn connection<S>(socket: S, identity: Option<Identity>, server: Arc<Server>, stop: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::boxed);
        if let Some(identity) = &identity {
            request.extensions_mut().insert(identity.clone());
        }
        let answer = server.clone().handle(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW * 4)
        .max_frame_size(64 * 1024)
        .max_send_buf_size(1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(socket), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            // Watches never end by themselves: what is not done in a moment is cut off.
            tokio::time::timeout(Duration::from_millis(200), connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::trace!(%error, "connection ended");
    }
}
