//! The gRPC health check (`grpc.health.v1.Health/Check`), of which one request and one number are needed.

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::http::connect;

/// Most bytes of an answer that are read.
const LONGEST: usize = 10 << 10;

/// Asks the server at `host` and `port` after `service`.
///
/// # Errors
/// Upstream's words where it does not serve.
pub async fn check(host: &str, port: u16, service: &str) -> Result<(), String> {
    let stream = connect(host, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    let request = ::http::Request::post(format!("http://{host}:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.37")
        .body(Full::new(request(service)))
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let early = code(answer.headers());
        let body =
            Limited::new(answer.into_body(), LONGEST).collect().await.map_err(|error| error.to_string())?;
        let code = early.or_else(|| body.trailers().and_then(code)).unwrap_or(0);
        Ok::<_, String>((code, body.to_bytes()))
    };
    let mut exchange = std::pin::pin!(exchange);
    let (code, body) = tokio::select! {
        biased;
        result = &mut exchange => result?,
        ended = connection => {
            ended.map_err(|error| error.to_string())?;
            exchange.await?
        }
    };
    match (code, serving(&body)) {
        (0, Some(1)) => Ok(()),
        (0, status) => {
            let name = match status {
                Some(2) => "NOT_SERVING",
                Some(3) => "SERVICE_UNKNOWN",
                _ => "UNKNOWN",
            };
            Err(format!("service unhealthy (responded with {name:?})"))
        }
        (12, _) => {
            Err("this server does not implement the grpc health protocol (grpc.health.v1.Health)".into())
        }
        (code, _) => Err(format!("rpc error: health rpc probe failed with code {code}")),
    }
}

fn code(headers: &::http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A `HealthCheckRequest` with `service` as field 1, in its frame.
fn request(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.put_u8((length & 0x7f) as u8);
        message.put_slice(service.as_bytes());
    }
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(&message);
    frame.freeze()
}

/// The status in a framed `HealthCheckResponse`, its field 1.
fn serving(frame: &[u8]) -> Option<u8> {
    match frame.get(5..)? {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}
