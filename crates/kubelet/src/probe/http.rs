//! HTTP GET as probes and hooks do it: certificates are not verified, redirects to the same host are followed.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Most redirects followed.
const REDIRECTS: usize = 10;
/// Most bytes of an answer that are read.
const LONGEST: usize = 10 << 10;

/// What to ask.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    pub path: String,
    pub headers: Vec<(String, String)>,
}

impl Request {
    /// The request `action` describes, to `host` unless it names one itself.
    pub fn new(action: &HTTPGetAction, host: &str, port: u16) -> Self {
        let path = action.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
        let own = action.host.clone().filter(|host| !host.is_empty());
        let headers = action.http_headers.iter().flatten();
        Self {
            tls: action.scheme.as_deref() == Some("HTTPS"),
            host: own.unwrap_or_else(|| host.to_owned()),
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
        }
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    fn url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }
}

/// Asks, and follows redirects. The answer's body on any status from 200 to 399.
///
/// # Errors
/// Upstream's words for what went wrong.
pub async fn get(request: &Request, timeout: Duration) -> Result<Bytes, String> {
    let mut request = request.clone();
    let url = request.url();
    let all = async {
        for _ in 0..REDIRECTS {
            let (status, location, body) =
                once(&request).await.map_err(|error| format!("Get {url:?}: {error}"))?;
            match location.filter(|_| (300..400).contains(&status)).map(|to| redirect(&request, &to)) {
                Some(Some(next)) => request = next,
                _ if (200..400).contains(&status) => return Ok(body),
                _ => return Err(format!("HTTP probe failed with statuscode: {status}")),
            }
        }
        Err(format!("Get {url:?}: stopped after {REDIRECTS} redirects"))
    };
    match tokio::time::timeout(timeout, all).await {
        Ok(result) => result,
        Err(_) => Err(format!(
            "Get {url:?}: context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        )),
    }
}

/// The request a redirect leads to; `None` where that is another host, which counts as an answer.
fn redirect(from: &Request, location: &str) -> Option<Request> {
    let uri: ::http::Uri = location.parse().ok()?;
    let mut next = from.clone();
    next.path = uri.path_and_query().map_or("/".to_owned(), ToString::to_string);
    if let Some(host) = uri.host() {
        if host != from.host {
            return None;
        }
        next.tls = uri.scheme_str() == Some("https");
        next.port = uri.port_u16().unwrap_or(if next.tls { 443 } else { 80 });
    }
    Some(next)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn once(request: &Request) -> Result<(u16, Option<String>, Bytes), String> {
    let stream = connect(&request.host, request.port).await?;
    let stream: Box<dyn Stream> =
        if request.tls { Box::new(secure(stream, &request.host).await?) } else { Box::new(stream) };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut message = ::http::Request::get(&request.path);
    let has = |name: &str| request.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
    for (name, value) in
        [("host", request.authority()), ("user-agent", "kube-probe/1.37".into()), ("accept", "*/*".into())]
    {
        if !has(name) {
            message = message.header(name, value);
        }
    }
    for (name, value) in request.headers.iter().filter(|(_, value)| !value.is_empty()) {
        message = message.header(name, value);
    }
    let message = message.header("connection", "close").body(Empty::<Bytes>::new());
    let message = message.map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(message).await.map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        let location = answer.headers().get("location").and_then(|to| to.to_str().ok()).map(str::to_owned);
        // What is too long to read is still an answer.
        let body = Limited::new(answer.into_body(), LONGEST).collect().await;
        Ok((status, location, body.map(http_body_util::Collected::to_bytes).unwrap_or_default()))
    };
    // The connection is driven until its exchange has ended, and no longer.
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        ended = connection => {
            ended.map_err(|error| error.to_string())?;
            exchange.await
        }
    }
}

/// A TCP connection, with Go's words where there is none.
pub async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    TcpStream::connect((host, port)).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            std::io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
            _ => error.to_string(),
        };
        format!("dial tcp {shown}: connect: {why}")
    })
}

async fn secure(stream: TcpStream, host: &str) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let config = client::unverified::config().map_err(|error| error.to_string())?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let connector = tokio_rustls::TlsConnector::from(config);
    connector.connect(name, stream).await.map_err(|error| error.to_string())
}
