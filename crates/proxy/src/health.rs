//! Health check ports (`healthCheckNodePort`): load balancers ask them which nodes have endpoints of a
//! Service with `externalTrafficPolicy: Local`. Answers are upstream's, field by field.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use listen::accept;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::service::HealthCheck;
use crate::{Health, ServiceKey};

/// Connections of one port at once; load balancers open few.
const CONNECTIONS: usize = 64;
/// How long a caller may take over its request's head.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// An open port, closed when its token is cancelled.
struct Open {
    key: ServiceKey,
    stop: CancellationToken,
}

/// Opens and closes ports on `address` as `health` changes, until cancelled or `health`'s sender is gone.
/// A port that cannot be opened is told in the log and tried again at the next change.
pub async fn serve(address: IpAddr, mut health: watch::Receiver<Health>, cancelled: CancellationToken) {
    let tasks = TaskTracker::new();
    let mut open: BTreeMap<u16, Open> = BTreeMap::new();
    loop {
        let wanted: BTreeMap<u16, ServiceKey> =
            health.borrow_and_update().iter().map(|(key, check)| (check.port, key.clone())).collect();
        open.retain(|port, at| {
            let keep = wanted.get(port) == Some(&at.key);
            if !keep {
                at.stop.cancel();
            }
            keep
        });
        for (port, key) in wanted {
            if open.contains_key(&port) {
                continue;
            }
            match TcpListener::bind(SocketAddr::new(address, port)).await {
                Err(error) => tracing::warn!(%error, port, ?key, "a health check port cannot be opened"),
                Ok(listener) => {
                    let stop = cancelled.child_token();
                    tasks.spawn(port_of(listener, key.clone(), health.clone(), stop.clone()));
                    open.insert(port, Open { key, stop });
                }
            }
        }
        tokio::select! {
            () = cancelled.cancelled() => break,
            changed = health.changed() => if changed.is_err() { break },
        }
    }
    for at in open.values() {
        at.stop.cancel();
    }
    tasks.close();
    tasks.wait().await;
}

/// Answers on one port until `stop`.
async fn port_of(
    listener: TcpListener,
    key: ServiceKey,
    health: watch::Receiver<Health>,
    stop: CancellationToken,
) {
    accept(listener, CONNECTIONS, stop, move |socket| {
        let (key, health) = (key.clone(), health.clone());
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                let answer = answer(&key, health.borrow().get(&key));
                async move { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(socket), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a health check broke off");
            }
        }
    })
    .await;
}

/// 200 while this node has endpoints of the Service, else 503.
fn answer(key: &ServiceKey, check: Option<&HealthCheck>) -> Response<Full<Bytes>> {
    let local = check.map_or(0, |check| check.local_endpoints);
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": \"{}\",\n\t\t\"name\": \"{}\"\n\t}},\n\t\
         \"localEndpoints\": {local},\n\t\"serviceProxyHealthy\": true\n}}",
        key.namespace, key.name
    );
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = if local > 0 { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert("x-load-balancing-endpoint-weight", header::HeaderValue::from(local));
    response
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn ask(port: u16) -> std::io::Result<String> {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        socket.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// A port opens, follows its endpoints, and closes again.
    #[tokio::test]
    async fn a_port_says_whether_there_are_endpoints_here() {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap().port();
        let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
        let with = |local_endpoints| Health::from([(key.clone(), HealthCheck { port, local_endpoints })]);
        let (tell, health) = watch::channel(with(2));
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(Ipv4Addr::LOCALHOST.into(), health, stop.clone()));
        let first = loop {
            match ask(port).await {
                Ok(text) => break text,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
        assert!(first.contains("x-load-balancing-endpoint-weight: 2\r\n"), "{first}");
        assert!(first.contains("\"localEndpoints\": 2"), "{first}");
        tell.send_replace(with(0));
        let second = ask(port).await.unwrap();
        assert!(second.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{second}");
        tell.send_replace(Health::new());
        while ask(port).await.is_ok() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
        serving.await.unwrap();
    }
}
