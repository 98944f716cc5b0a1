//! A client of a server elsewhere: HTTPS with HTTP/2 where the server has it, a client certificate or a
//! bearer token, from a kubeconfig file or from parts.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Uri, header};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::Client;
use kube::client::Body;
use kube::config::{AuthInfo, Cluster, KubeConfigOptions, Kubeconfig};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service, ServiceExt};

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("kubeconfig {path}: {reason}")]
    Kubeconfig { path: PathBuf, reason: String },
    #[error("kubeconfig {path}: no {what} called {name:?}")]
    Missing { path: PathBuf, what: &'static str, name: String },
    #[error("{path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{what}: not PEM")]
    Pem { what: &'static str, source: rustls::pki_types::pem::Error },
    #[error("{what}: not base64")]
    Base64 { what: &'static str },
    #[error("server {url:?}: not an https or http URL")]
    Url { url: String },
    #[error("certificates")]
    Tls(#[from] rustls::Error),
    #[error("token: not fit for a header")]
    Token,
}

/// Who we are to the server.
#[derive(Clone, Default)]
pub struct Credentials {
    /// Certificate chain and key, PEM.
    pub certificate: Option<(Vec<u8>, Vec<u8>)>,
    pub token: Option<String>,
}

/// Where the server is and how it is known.
#[derive(Clone)]
pub struct Server {
    /// Such as `https://10.0.0.1:6443`.
    pub url: String,
    /// The authorities that may have signed its certificate, PEM.
    pub ca: Vec<u8>,
    /// The name its certificate must carry, if not the host of the URL.
    pub name: Option<String>,
}

/// A client from the current context of a kubeconfig file; for `agent` see [`connect`].
pub fn from_kubeconfig(path: &Path, agent: &'static str) -> Result<Client, Error> {
    let (server, credentials, namespace) = read_context(path, &KubeConfigOptions::default())?;
    connect(&server, &credentials, &namespace, agent)
}

/// What a context of a kubeconfig file says: the server, who we are to it, and the namespace.
pub fn read_context(
    path: &Path,
    options: &KubeConfigOptions,
) -> Result<(Server, Credentials, String), Error> {
    let config = Kubeconfig::read_from(path)
        .map_err(|error| Error::Kubeconfig { path: path.into(), reason: reason(&error) })?;
    let missing = |what, name: &str| Error::Missing { path: path.into(), what, name: name.to_owned() };
    let context_name = options.context.clone().or(config.current_context.clone()).unwrap_or_default();
    let context = config.contexts.iter().find(|c| c.name == context_name).and_then(|c| c.context.clone());
    let context = context.ok_or_else(|| missing("context", &context_name))?;
    let cluster_name = options.cluster.clone().unwrap_or(context.cluster);
    let cluster = config.clusters.iter().find(|c| c.name == cluster_name).and_then(|c| c.cluster.as_ref());
    let cluster = cluster.ok_or_else(|| missing("cluster", &cluster_name))?;
    let user_name = options.user.clone().or(context.user).unwrap_or_default();
    let user = config.auth_infos.iter().find(|u| u.name == user_name).and_then(|u| u.auth_info.as_ref());
    let user = user.ok_or_else(|| missing("user", &user_name))?;
    let namespace = context.namespace.unwrap_or_else(|| "default".into());
    Ok((server_of(cluster)?, credentials_of(user)?, namespace))
}

/// Why a kubeconfig is no use, without the path.
fn reason(error: &kube::config::KubeconfigError) -> String {
    // Each error there names its cause in its own words too: the last one says it all, if it is YAML's then
    // in its first line.
    let mut last: &dyn std::error::Error = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    last.to_string().lines().next().unwrap_or_default().to_owned()
}

fn server_of(cluster: &Cluster) -> Result<Server, Error> {
    let ca = data_or_file(
        "certificate-authority",
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    )?;
    Ok(Server {
        url: cluster.server.clone().unwrap_or_default(),
        ca: ca.unwrap_or_default(),
        name: cluster.tls_server_name.clone(),
    })
}

fn credentials_of(user: &AuthInfo) -> Result<Credentials, Error> {
    let certificate = data_or_file(
        "client-certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key_data = user.client_key_data.as_ref().map(secrecy::ExposeSecret::expose_secret);
    let key = data_or_file("client-key", key_data, user.client_key.as_deref())?;
    let token = match (&user.token, &user.token_file) {
        (Some(token), _) => Some(secrecy::ExposeSecret::expose_secret(token).to_owned()),
        (None, Some(file)) => Some(String::from_utf8_lossy(&read(Path::new(file))?).trim().to_owned()),
        (None, None) => None,
    };
    Ok(Credentials { certificate: certificate.zip(key), token })
}

fn data_or_file(
    what: &'static str,
    data: Option<&str>,
    file: Option<&str>,
) -> Result<Option<Vec<u8>>, Error> {
    use base64::Engine;
    match (data, file) {
        (Some(data), _) => base64::engine::general_purpose::STANDARD
            .decode(data)
            .map(Some)
            .map_err(|_| Error::Base64 { what }),
        (None, Some(file)) => read(Path::new(file)).map(Some),
        (None, None) => Ok(None),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|source| Error::Read { path: path.into(), source })
}

/// A client of `server`, as who `credentials` say. Nothing is sent before the first request. `agent` is its
/// User-Agent, by which managed fields name it.
pub fn connect(
    server: &Server,
    credentials: &Credentials,
    namespace: &str,
    agent: &'static str,
) -> Result<Client, Error> {
    let uri: Uri = server.url.parse().map_err(|_| Error::Url { url: server.url.clone() })?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.authority().is_none() {
        return Err(Error::Url { url: server.url.clone() });
    }
    let token = match &credentials.token {
        None => None,
        Some(token) => {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| Error::Token)?;
            value.set_sensitive(true);
            Some(value)
        }
    };
    let tls = Arc::new(tls(server, credentials)?);
    let http = transport(Connector::new(tls, server.name.clone(), &PATIENCE), &PATIENCE);
    let base = uri.into_parts();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let http = http.clone();
        let mut parts = request.uri().clone().into_parts();
        parts.scheme = base.scheme.clone();
        parts.authority = base.authority.clone();
        let target = Uri::from_parts(parts);
        if let Some(token) = &token {
            request.headers_mut().insert(header::AUTHORIZATION, token.clone());
        }
        request.headers_mut().entry(header::USER_AGENT).or_insert(HeaderValue::from_static(agent));
        async move {
            *request.uri_mut() = target?;
            http.request(request).await.map_err(BoxError::from)
        }
    });
    Ok(Client::new(service, namespace))
}

/// Connections as they are needed, one with HTTP/2 where the server has it.
fn transport(connector: Connector, patience: &Patience) -> legacy::Client<Connector, Body> {
    legacy::Client::builder(TokioExecutor::new())
        // Without timers hyper asks nobody whether they are still there, and keeps what nobody uses.
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_adaptive_window(true)
        .http2_keep_alive_interval(patience.silence)
        .http2_keep_alive_timeout(patience.answer)
        .http2_keep_alive_while_idle(true)
        .build(connector)
}

fn tls(server: &Server, credentials: &Credentials) -> Result<rustls::ClientConfig, Error> {
    let pem = |what| move |source| Error::Pem { what, source };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&server.ca) {
        roots.add(certificate.map_err(pem("certificate-authority"))?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match &credentials.certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
            let key = PrivateKeyDer::from_pem_slice(key).map_err(pem("client-key"))?;
            builder.with_client_auth_cert(chain.map_err(pem("client-certificate"))?, key)?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How long a server may leave us without a sign of life. A host that dies closes no connection: without
/// these a watch would hang until TCP gives up, a quarter of an hour later.
struct Patience {
    /// Until it has taken the connection.
    connect: Duration,
    /// Until TLS is agreed on.
    handshake: Duration,
    /// Until a silent HTTP/2 connection is asked for a sign of life, and until that has to come.
    silence: Duration,
    answer: Duration,
    /// The same for any connection, asked by the kernel.
    keep_alive: Duration,
}

/// client-go's times.
const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(30),
    handshake: Duration::from_secs(10),
    silence: Duration::from_secs(30),
    answer: Duration::from_secs(15),
    keep_alive: Duration::from_secs(30),
};

/// TCP, with TLS over it for `https`.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: Arc<rustls::ClientConfig>,
    name: Option<String>,
    handshake: Duration,
}

impl Connector {
    fn new(tls: Arc<rustls::ClientConfig>, name: Option<String>, patience: &Patience) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(patience.connect));
        tcp.set_keepalive(Some(patience.keep_alive));
        tcp.set_keepalive_interval(Some(patience.keep_alive));
        Self { tcp, tls, name, handshake: patience.handshake }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { tcp, tls, name, handshake } = self.clone();
        Box::pin(async move {
            let secure = uri.scheme_str() == Some("https");
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let stream = tcp.oneshot(uri).await?.into_inner();
            if !secure {
                return Ok(TokioIo::new(Stream::Plain(stream)));
            }
            let name = ServerName::try_from(name.unwrap_or(host))?;
            let connecting = tokio_rustls::TlsConnector::from(tls).connect(name, stream);
            let stream = tokio::time::timeout(handshake, connecting)
                .await
                .map_err(|_| "the server took too long over the TLS handshake")??;
            Ok(TokioIo::new(Stream::Tls(Box::new(stream))))
        })
    }
}

/// A connection to the server.
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
                Connected::new().negotiated_h2()
            }
            _ => Connected::new(),
        }
    }
}

impl tokio::io::AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl tokio::io::AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const BRIEF: Duration = Duration::from_millis(20);

    /// What a request to a server that goes silent `when` comes to.
    async fn check(silent_before_tls: bool) -> String {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        // Keeps each connection open, and says nothing on it.
        let silent = tokio::spawn(async move {
            let mut kept = Vec::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if silent_before_tls {
                    kept.push(Stream::Plain(stream));
                    continue;
                }
                let held = TlsAcceptor::from(Arc::new(config.clone())).accept(stream).await.unwrap();
                std::future::pending::<()>().await;
                drop(held);
            }
        });
        let url = format!("https://localhost:{port}");
        let server = Server { url: url.clone(), ca: made.cert.pem().into_bytes(), name: None };
        let tls = Arc::new(tls(&server, &Credentials::default()).unwrap());
        let long = Duration::from_secs(600);
        let handshake = if silent_before_tls { BRIEF } else { long };
        let patience = Patience { connect: long, handshake, silence: BRIEF, answer: BRIEF, keep_alive: long };
        let http = transport(Connector::new(tls, None, &patience), &patience);
        let request = Request::get(format!("{url}/watch")).body(Body::empty()).unwrap();
        let failed = http.request(request).await.unwrap_err();
        let mut error: &dyn std::error::Error = &failed;
        while let Some(cause) = error.source() {
            error = cause;
        }
        silent.abort();
        error.to_string()
    }

    #[tokio::test]
    async fn a_server_that_goes_silent_is_given_up() {
        assert_eq!(check(true).await, "the server took too long over the TLS handshake");
        assert_eq!(check(false).await, "operation timed out");
    }
}
