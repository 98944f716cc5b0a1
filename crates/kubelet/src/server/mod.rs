//! The kubelet's HTTPS server: logs, exec, attach, port-forward, pods, statistics.

mod host_logs;
mod logs;
mod observe;
mod resource_metrics;
mod route;
mod streams;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::FromDer;

use crate::config;
use crate::context::Context;
use crate::workers::Registry;

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
        loop {
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, most likely: others will be closed meanwhile.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (server, acceptor, stop) = (server.clone(), self.acceptor.clone(), ctx.stop.clone());
            ctx.tasks.spawn(async move {
                stop.run_until_cancelled(connection(server, acceptor, stream)).await;
            });
        }
    }
}

async fn connection(server: Arc<Server>, acceptor: TlsAcceptor, stream: TcpStream) {
    let stream = match acceptor.accept(stream).await {
        Ok(stream) => stream,
        Err(error) => return tracing::debug!(%error, "no TLS"),
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).and_then(subject);
    let service = service_fn(move |request| {
        let (server, user) = (server.clone(), user.clone());
        async move { Ok::<_, std::convert::Infallible>(server.answer(request, user).await) }
    });
    let builder = Builder::new(TokioExecutor::new());
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
