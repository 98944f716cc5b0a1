//! Port-forward: pairs of streams, one for data and one for an error, by request.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::negotiate::{Accepted, Transport};
use super::spdy::{self, Stream};
use super::tunnel::Tunnel;
use crate::{ByteStream, Result};

/// Connections one client may have open at once.
const CONNECTIONS: usize = 1024;
/// How long a connection without traffic of any kind is kept, as upstream's `streamIdleTimeout`.
pub(super) const IDLE: Duration = Duration::from_secs(4 * 60 * 60);

/// Serves port-forward on the upgraded connection `io` until the client ends it. `connect` reaches a port
/// of the pod.
///
/// # Errors
/// Where the connection fails. A port that cannot be reached is told to the client and is no error here.
pub async fn serve_port_forward<T, C>(io: T, accepted: &Accepted, connect: C) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin,
    C: Fn(u16) -> BoxFuture<'static, Result<ByteStream>> + Send + Sync,
{
    match accepted.transport {
        Transport::Spdy(_) => serve(io, connect).await,
        Transport::Tunnel => serve(Tunnel::new(io).await, connect).await,
        Transport::WebSocket(..) => {
            Err(io::Error::new(io::ErrorKind::Unsupported, "ports are forwarded over SPDY"))
        }
    }
}

async fn serve<T, C>(io: T, connect: C) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send,
    C: Fn(u16) -> BoxFuture<'static, Result<ByteStream>> + Send + Sync,
{
    let (mut session, driver) = spdy::session(io, spdy::Role::Server);
    let (done, finished) = oneshot::channel::<()>();
    let work = async {
        let mut halves: HashMap<String, Pair> = HashMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                stream = session.accept() => {
                    let Some(stream) = stream else { break };
                    if halves.len() + running.len() >= CONNECTIONS {
                        tracing::debug!("a client forwards too many connections at once");
                        break;
                    }
                    if let Some((port, data, error)) = pair(&mut halves, stream) {
                        running.push(forward(port, connect(port), data, error));
                    }
                }
                Some(()) = running.next() => {}
                () = tokio::time::sleep(IDLE) => break,
            }
        }
        drop(done);
        std::future::pending::<()>().await;
    };
    let finished = async {
        let _ = finished.await;
    };
    tokio::select! { result = driver.run(finished) => result, () = work => Ok(()) }
}

#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// Takes one more stream; returns a pair that it completes.
fn pair(halves: &mut HashMap<String, Pair>, stream: Stream) -> Option<(u16, Stream, Stream)> {
    let port: u16 = stream.headers.get("port")?.parse().ok()?;
    // Clients older than Kubernetes 1.2 have no request identifiers and one request per port.
    let request = stream.headers.get("requestid").cloned().unwrap_or_else(|| port.to_string());
    let kind = stream.headers.get("streamtype").cloned();
    let half = halves.entry(request.clone()).or_default();
    match kind.as_deref() {
        Some("data") => half.data = Some(stream),
        Some("error") => half.error = Some(stream),
        _ => return None,
    }
    if half.data.is_none() || half.error.is_none() {
        return None;
    }
    let whole = halves.remove(&request)?;
    Some((port, whole.data?, whole.error?))
}

async fn forward(
    port: u16,
    connect: BoxFuture<'static, Result<ByteStream>>,
    data: Stream,
    mut error: Stream,
) {
    let Stream { mut reader, mut writer, .. } = data;
    match connect.await {
        Ok(mut pod) => {
            let out = async {
                let copied = tokio::io::copy(&mut reader, &mut pod.writer).await;
                // Whatever ended it, the pod is to see the end.
                let _ = pod.writer.shutdown().await;
                copied
            };
            let back = async {
                let copied = tokio::io::copy(&mut pod.reader, &mut writer).await;
                let _ = writer.shutdown().await;
                copied
            };
            tokio::pin!(out, back);
            // What the pod still has to say is delivered after the client's end, not the other way round.
            let ended = tokio::select! {
                ended = &mut back => ended,
                _ = &mut out => back.await,
            };
            // A runtime behind a socket tells only now that the port could not be reached. A pod that
            // resets its connection is no failure to forward.
            if let Err(failure) = ended
                && failure.kind() == io::ErrorKind::Other
            {
                tell(&mut error, port, &failure).await;
            }
        }
        Err(failure) => {
            tell(&mut error, port, &failure).await;
            let _ = writer.shutdown().await;
        }
    }
    let _ = error.writer.shutdown().await;
}

/// A client that has gone needs not be told.
async fn tell(error: &mut Stream, port: u16, failure: &(dyn std::error::Error + Sync)) {
    let message = format!("error forwarding port {port} to pod: {failure}");
    let _ = error.writer.write_all(message.as_bytes()).await;
}
