//! Exec, attach and port-forward: an upgrade, then streams.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::streaming::{
    Accepted, CommandOptions, Purpose, Rejected, negotiate, serve_command, serve_port_forward,
};
use cri::{AttachOptions, ExecOptions};
use futures::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt;

use super::Server;
use super::route::{Body, Query, Refusal, flag, text};
use crate::names;
use crate::pod::observed::{Container, Observed, State};
use crate::pod::spec;

/// How long a peer may take to part.
const GOODBYE: Duration = Duration::from_secs(2);

impl Server {
    /// What the runtime has of a pod.
    pub(super) async fn observed(&self, namespace: &str, pod: &str) -> Result<Observed, Refusal> {
        let pod = self.pod(namespace, pod)?;
        let observed =
            Observed::load(self.ctx.runtime.as_ref(), names::uid(&pod), &Observed::default()).await;
        observed.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }

    async fn running(&self, namespace: &str, pod: &str, container: &str) -> Result<Container, Refusal> {
        let observed = self.observed(namespace, pod).await?;
        let latest = observed.latest(container).filter(|one| one.state == State::Running);
        latest.cloned().ok_or_else(|| {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")"))
        })
    }

    pub(super) async fn exec(
        self: Arc<Self>,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let found = self.running(namespace, pod, container).await?;
        let options = options(query)?;
        let exec = ExecOptions {
            command: query.get("command").cloned().unwrap_or_default(),
            tty: options.tty,
            stdin: options.stdin,
            stdout: options.stdout,
            stderr: options.stderr,
        };
        if exec.command.is_empty() {
            return Err((StatusCode::BAD_REQUEST, "you must specify at least one command to execute".into()));
        }
        self.clone().upgrade(request, Purpose::Command, move |io, accepted| {
            Box::pin(async move {
                let runtime = self.ctx.runtime.clone();
                let begin = async move { runtime.exec(&found.id, exec).await };
                serve_command(&mut *io, &accepted, options, begin).await
            })
        })
    }

    pub(super) async fn attach(
        self: Arc<Self>,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let found = self.running(namespace, pod, container).await?;
        let tty = spec::find(self.pod(namespace, pod)?.as_ref(), container)
            .and_then(|(_, container)| container.tty)
            .unwrap_or(false);
        let mut options = options(query)?;
        options.tty = tty;
        options.stderr &= !tty;
        let attach =
            AttachOptions { tty, stdin: options.stdin, stdout: options.stdout, stderr: options.stderr };
        self.clone().upgrade(request, Purpose::Command, move |io, accepted| {
            Box::pin(async move {
                let runtime = self.ctx.runtime.clone();
                // How the container ends is told by its status; to be detached is no failure.
                let begin = async move {
                    let mut streams = runtime.attach(&found.id, attach).await?;
                    let exit = streams.exit;
                    streams.exit = Box::pin(async move { exit.await.map(|_| 0) });
                    Ok(streams)
                };
                serve_command(&mut *io, &accepted, options, begin).await
            })
        })
    }

    pub(super) async fn port_forward(
        self: Arc<Self>,
        request: Request<Incoming>,
        namespace: &str,
        pod: &str,
    ) -> Result<Response<Body>, Refusal> {
        let observed = self.observed(namespace, pod).await?;
        let sandbox =
            observed.sandboxes.first().filter(|sandbox| sandbox.ready).map(|sandbox| sandbox.id.clone());
        let sandbox =
            sandbox.ok_or((StatusCode::INTERNAL_SERVER_ERROR, "pod has no running sandbox".to_owned()))?;
        self.clone().upgrade(request, Purpose::PortForward, move |io, accepted| {
            Box::pin(async move {
                let runtime = self.ctx.runtime.clone();
                let connect = move |port| -> BoxFuture<'static, cri::Result<cri::ByteStream>> {
                    let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
                    Box::pin(async move { runtime.port_forward(&sandbox, port).await })
                };
                serve_port_forward(&mut *io, &accepted, connect).await
            })
        })
    }

    pub(super) async fn run(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let found = self.running(namespace, pod, container).await?;
        let command = query.get("cmd").and_then(|all| all.first()).cloned().unwrap_or_default();
        let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
        let output = self.ctx.runtime.exec_sync(&found.id, &words, None).await;
        let output = output.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
        Ok(text(StatusCode::OK, String::from_utf8_lossy(&[output.stdout, output.stderr].concat())))
    }

    /// Answers `101`, and serves what follows in a task of its own.
    fn upgrade(
        self: Arc<Self>,
        request: Request<Incoming>,
        purpose: Purpose,
        serve: impl for<'io> FnOnce(&'io mut TokioIo<Upgraded>, Accepted) -> BoxFuture<'io, std::io::Result<()>>
        + Send
        + 'static,
    ) -> Result<Response<Body>, Refusal> {
        let accepted = negotiate(request.headers(), purpose).map_err(|rejected| {
            let status = match rejected {
                Rejected::NoProtocol { .. } => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, rejected.to_string())
        })?;
        let headers = accepted.headers.clone();
        let stop = self.ctx.stop.clone();
        self.ctx.tasks.spawn(async move {
            let all = async {
                let mut io = TokioIo::new(hyper::upgrade::on(request).await?);
                let served = serve(&mut io, accepted).await;
                let parted = part(&mut io).await;
                served?;
                parted?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            };
            if let Some(Err(error)) = stop.run_until_cancelled(all).await {
                tracing::debug!(error, "a stream ended badly");
            }
        });
        let mut response = Response::new(Empty::<Bytes>::new().boxed_unsync());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Ends a connection so that what was written last arrives: the peer is told that this was all, and heard until
/// it parts too, for what it sent and nobody read would make the kernel take back what is under way.
async fn part(io: &mut TokioIo<Upgraded>) -> std::io::Result<()> {
    let goodbye = async {
        io.shutdown().await?;
        tokio::io::copy(io, &mut tokio::io::sink()).await.map(drop)
    };
    // One that says nothing any more has had its time.
    tokio::time::timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
}

/// The streams a query asks for, in the kubelet's words or the API's.
fn options(query: &Query) -> Result<CommandOptions, Refusal> {
    let tty = flag(query, &["tty"]);
    let options = CommandOptions {
        tty,
        stdin: flag(query, &["input", "stdin"]),
        stdout: flag(query, &["output", "stdout"]),
        // A terminal mixes both.
        stderr: flag(query, &["error", "stderr"]) && !tty,
    };
    if !(options.stdin || options.stdout || options.stderr) {
        return Err((StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr".into()));
    }
    Ok(options)
}
