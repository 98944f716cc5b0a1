//! Requests that are handed on: to kubelets (logs, exec, attach, port-forward), pods, services, nodes.

use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use api::Status;
use async_trait::async_trait;
use http::header::{CONNECTION, HOST, HeaderMap, HeaderName, UPGRADE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use registry::resource::{Asked, Connect, Target};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::body::Body;
use crate::info::Info;
use crate::server::{Call, Endpoint, Server};

/// A byte stream to somewhere.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Opens connections to targets, with TLS where the target's scheme says so. `PermissionDenied` is for targets
/// at addresses that must not be reached.
#[async_trait]
pub trait Dialer: Send + Sync {
    async fn dial(&self, target: &Target) -> std::io::Result<Box<dyn Wire>>;
}

/// How long a client may take to part from a stream that has ended.
const GOODBYE: Duration = Duration::from_secs(2);
/// The most that is read of why a kubelet refuses.
const REFUSAL_BYTES: usize = 50_000;
/// Headers that speak of one hop.
const HOP: &[&str] =
    &["keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailers", "transfer-encoding"];
/// Headers that are the API server's own business.
const PRIVATE: &str = "authorization";
const PRIVATE_PREFIX: &str = "impersonate-";

impl Server {
    pub(crate) async fn connect(
        self: Arc<Self>,
        mut call: Call,
        endpoint: &Endpoint,
        info: &Info,
        connect: &dyn Connect,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        if connect.streams_create() && call.parts.method == Method::GET && is_websocket(&call.parts.headers) {
            self.check_verb(&call, info, "create")?;
        }
        let verb = match call.parts.method {
            Method::GET => "get",
            Method::POST => "create",
            _ => "",
        };
        if !connect.is_proxy() && !connect.verbs().contains(&verb) {
            return Err(Status::method_not_allowed());
        }
        let Asking { scheme, name, port } = Asking::of(&info.name, endpoint, connect)?;
        let item = self.engine.get(&endpoint.resource, &info.namespace, name, None).await?;
        let object = item.object()?;
        let asked = Asked { port, path: &info.rest, query: call.raw_query() };
        let target = connect.target(&self.engine, &object, &asked).await?;
        let Some(mut target) = target else {
            let mut nothing = Response::new(Body::full(bytes::Bytes::new()));
            *nothing.status_mut() = StatusCode::NO_CONTENT;
            return Ok(nothing);
        };
        if scheme == "https" && !target.kubelet {
            target.scheme = "https";
        }
        let upgrade = call.parts.extensions.remove::<OnUpgrade>();
        let request = outgoing(&call, &target, body)?;
        let response = self.send(&target, request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let upgrade = upgrade.ok_or_else(|| {
                Status::bad_request("unable to upgrade: this connection cannot change its protocol")
            })?;
            return Ok(self.join(upgrade, response));
        }
        let read = target.kubelet && !connect.is_proxy() && call.parts.method == Method::GET;
        if read && !(200..=206).contains(&response.status().as_u16()) {
            return Err(refused(endpoint, name, response).await?);
        }
        let (mut parts, body) = response.into_parts();
        drop_hop_headers(&mut parts.headers);
        Ok(Response::from_parts(parts, Body::boxed(body)))
    }

    async fn send(
        &self,
        target: &Target,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, Status> {
        let unreachable = |e: &dyn std::fmt::Display| {
            Status::failure(
                if target.kubelet { 500 } else { 503 },
                if target.kubelet { "InternalError" } else { "ServiceUnavailable" },
                format!("error dialing backend: dial tcp {}:{}: {e}", target.host, target.port),
            )
        };
        let wire = self.dialer.dial(target).await.map_err(|e| match e.kind() {
            // An address that objects may claim, but nobody is sent to.
            ErrorKind::PermissionDenied => Status::bad_request(e.to_string()),
            _ => unreachable(&e),
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(|e| unreachable(&e))?;
        // Ends with the exchange: the connection serves this one request.
        self.carry_on(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "connection to a backend ended");
            }
        });
        sender.send_request(request).await.map_err(|e| unreachable(&e))
    }

    /// Carries bytes for a request until that ends, or the server.
    fn carry_on(&self, carrier: impl Future<Output = ()> + Send + 'static) {
        self.carriers.spawn(self.health.stop().clone().run_until_cancelled_owned(carrier));
    }

    /// Both sides have changed their protocol: from here bytes are carried as they are.
    fn join(&self, upgrade: OnUpgrade, mut backend: Response<hyper::body::Incoming>) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = backend.headers().clone();
        let there = hyper::upgrade::on(&mut backend);
        // Ends when either side closes.
        self.carry_on(async move {
            let (here, there) = match tokio::try_join!(upgrade, there) {
                Ok(both) => both,
                Err(error) => {
                    tracing::debug!(%error, "an upgrade did not happen");
                    return;
                }
            };
            if let Err(error) = carry(Ending(TokioIo::new(here)), Ending(TokioIo::new(there))).await {
                tracing::debug!(%error, "a stream ended");
            }
        });
        response
    }
}

/// Whether a request asks to become a WebSocket.
fn is_websocket(headers: &HeaderMap) -> bool {
    let asked = headers.get_all(UPGRADE).into_iter().filter_map(|value| value.to_str().ok());
    asked.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case("websocket"))
}

/// A kubelet's refusal of what was to be read from it, as a Status.
async fn refused(
    endpoint: &Endpoint,
    name: &str,
    response: Response<hyper::body::Incoming>,
) -> Result<Status, Status> {
    let code = response.status().as_u16();
    let body = http_body_util::Limited::new(response.into_body(), REFUSAL_BYTES).collect().await;
    let body = body.map_err(Status::internal)?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    Ok(match code {
        400 => Status::bad_request(text),
        500 => Status::internal(text.trim_end()),
        code => Status::failure(code, reason(code), text).about(&endpoint.resource.group_resource(), name),
    })
}

fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        code if code >= 500 => "InternalError",
        _ => "Unknown",
    }
}

/// What the name in a path asks for: `https:NAME:8443` names a scheme and a port besides, where the target is
/// HTTP of its own.
struct Asking<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

impl<'a> Asking<'a> {
    fn of(text: &'a str, endpoint: &Endpoint, connect: &dyn Connect) -> Result<Asking<'a>, Status> {
        if !connect.is_proxy() {
            return Ok(Asking { scheme: "", name: text, port: "" });
        }
        let parts: Vec<&str> = text.split(':').collect();
        let asking = match parts.as_slice() {
            [name] => Asking { scheme: "", name, port: "" },
            [name, port] => Asking { scheme: "", name, port },
            [scheme @ ("" | "http" | "https"), name, port] => Asking { scheme, name, port },
            _ => Asking { scheme: "", name: "", port: "" },
        };
        if asking.name.is_empty() {
            let what = endpoint.resource.kind.to_lowercase();
            return Err(Status::bad_request(format!("invalid {what} request {text:?}")));
        }
        Ok(asking)
    }
}

fn outgoing(call: &Call, target: &Target, body: Body) -> Result<Request<Body>, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = call.parts.method.clone();
    *request.uri_mut() =
        target.path.parse().map_err(|e| Status::bad_request(format!("{}: {e}", target.path)))?;
    let mut headers = call.parts.headers.clone();
    let upgrade = headers.get(UPGRADE).cloned();
    drop_hop_headers(&mut headers);
    headers.remove(PRIVATE);
    let private = headers.keys().filter(|name| name.as_str().starts_with(PRIVATE_PREFIX));
    for name in private.cloned().collect::<Vec<_>>() {
        headers.remove(name);
    }
    if let Some(upgrade) = upgrade {
        headers.insert(UPGRADE, upgrade);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    let host = format!("{}:{}", target.host, target.port);
    headers.insert(HOST, HeaderValue::from_str(&host).map_err(|e| Status::bad_request(e.to_string()))?);
    *request.headers_mut() = headers;
    Ok(request)
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|n| n.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    headers.remove(CONNECTION);
    headers.remove(UPGRADE);
    for name in HOP {
        headers.remove(*name);
    }
}

/// Carries bytes both ways until one side ends. What the backend sent last reaches the client.
async fn carry<C: Wire, B: Wire>(client: C, backend: B) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let there = async {
        tokio::io::copy(&mut from_client, &mut to_backend).await?;
        to_backend.shutdown().await
    };
    let back = async {
        tokio::io::copy(&mut from_backend, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::pin!(there, back);
    tokio::select! {
        ended = &mut there => ended,
        ended = &mut back => {
            ended?;
            // A client that has heard the end parts too; one that does not is left.
            tokio::time::timeout(GOODBYE, there).await.unwrap_or(Ok(()))
        }
    }
}

/// A connection whose end may come without a word: that is no fault of what came before, and must not
/// throw it away.
struct Ending<T>(T);

impl<T: AsyncRead + Unpin> AsyncRead for Ending<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        match Pin::new(&mut self.0).poll_read(cx, buf) {
            Poll::Ready(Err(error))
                if matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof) =>
            {
                Poll::Ready(Ok(()))
            }
            polled => polled,
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Ending<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Says what it has to say, a little at a time, then breaks off.
    struct Curt(&'static [u8]);

    impl AsyncRead for Curt {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            if self.0.is_empty() {
                return Poll::Ready(Err(std::io::ErrorKind::UnexpectedEof.into()));
            }
            let (now, later) = self.0.split_at(self.0.len().min(8));
            buf.put_slice(now);
            self.0 = later;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Curt {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<std::io::Result<usize>> {
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_backend_said_last_arrives() {
        let (client, mut seen) = tokio::io::duplex(4);
        let said = b"twenty-four bytes, whole";
        let carried = tokio::spawn(carry(Ending(client), Ending(Curt(said))));
        let mut all = Vec::new();
        seen.read_to_end(&mut all).await.unwrap();
        drop(seen);
        assert_eq!(all, said);
        carried.await.unwrap().unwrap();
    }
}
