//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, statistics.

mod host_logs;
mod logs;
mod observe;
mod resource_metrics;
mod route;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::FromDer;

use crate::config;
use crate::context::Context;
use crate::workers::Registry;

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// How long a caller may take over its TLS handshake, and over a request's head.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// HTTP/2: how long a caller may be silent before it is asked whether it is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Who asks: what a client certificate or a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Decides who may use the kubelet's API, for callers without a believed client certificate too.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Who holds this bearer token; `None` where nobody does.
    async fn authenticate(&self, token: &str) -> Option<User>;

    /// Whether `user` may `verb` the node's `subresource` (`proxy`, `log`, `stats`, `metrics`, …).
    async fn authorize(&self, user: &User, verb: &str, subresource: &str) -> bool;
}

/// What handlers work with.
pub struct Server {
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    config: config::Server,
}

/// A server that listens already.
pub struct Listening {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    config: config::Server,
    /// Where it listens, with the port it was given.
    pub address: SocketAddr,
}

/// Listens.
///
/// # Errors
/// Where the address is taken, or the authorities cannot be used.
pub async fn listen(config: config::Server) -> std::io::Result<Listening> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?;
    let builder = if config.client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let verifier = WebPkiClientVerifier::builder_with_provider(config.client_ca.clone(), provider)
            .allow_unauthenticated()
            .build()
            .map_err(std::io::Error::other)?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut tls = builder.with_cert_resolver(config.certificate.clone());
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let listener = TcpListener::bind(config.address).await?;
    let address = listener.local_addr()?;
    Ok(Listening { listener, acceptor: TlsAcceptor::from(Arc::new(tls)), config, address })
}

impl Listening {
    /// Serves until the kubelet stops.
    pub async fn serve(self, ctx: Arc<Context>, registry: Arc<Registry>) {
        let server = Arc::new(Server { ctx: ctx.clone(), registry, config: self.config });
        let acceptor = self.acceptor;
        listen::accept(self.listener, CONNECTIONS, ctx.stop.clone(), move |stream| {
            connection(server.clone(), acceptor.clone(), stream)
        })
        .await;
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "no TLS"),
        Err(_) => return tracing::debug!("the TLS handshake took too long"),
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(subject);
    let service = service_fn(move |request| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, std::convert::Infallible>(server.answer(request, user).await) }
    });
    // What TLS agreed on is taken at its word: looking for the version in what arrives would wait for ever for
    // somebody who sends nothing.
    let mut builder = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Builder::new(TokioExecutor::new()).http2_only(),
        _ => Builder::new(TokioExecutor::new()).http1_only(),
    };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(error, "a connection ended badly");
    }
}

/// A certificate's user and groups: its common name and organizations.
fn subject(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?.to_owned();
    let mut groups: Vec<String> = parsed
        .subject()
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .map(str::to_owned)
        .collect();
    groups.push("system:authenticated".into());
    Some(User { name, groups })
}
