//! Logs of containers, as `kubectl logs` asks for them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::v1;
use futures::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::mpsc;

use super::Server;
use super::route::{Body, Query, Refusal, flag};
use crate::logs::read::{Changes, Reader, Wanted};
use crate::pod::observed::State;
use crate::pod::status;

impl Server {
    pub(super) async fn logs(
        self: Arc<Self>,
        namespace: &str,
        pod: &str,
        container: &str,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let wanted = wanted(query)?;
        let follow = flag(query, &["follow"]);
        let observed = self.observed(namespace, pod).await?;
        let found = if flag(query, &["previous"]) {
            // The newest that has ended: a container that waits for its next try has no newer one.
            observed.containers.iter().find(|one| one.name == container && one.state == State::Exited)
        } else {
            observed.latest(container)
        };
        let Some(found) = found.filter(|one| one.state != State::Created).cloned() else {
            let message = if flag(query, &["previous"]) {
                format!("previous terminated container \"{container}\" in pod \"{pod}\" not found")
            } else {
                let known = self.pod(namespace, pod)?;
                let why = waits_for(&known, container);
                format!("container \"{container}\" in pod \"{pod}\" is waiting to start: {why}")
            };
            return Err((StatusCode::BAD_REQUEST, message));
        };
        let ended = match self.ctx.runtime.events().await {
            Ok(events) if follow && found.state == State::Running => {
                Some(ended(self.ctx.runtime.clone(), found.id.clone(), events))
            }
            _ => None,
        };
        let refused = |error| {
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("failed to open log file {:?}: {error}", found.log_path),
            )
        };
        let path = Path::new(&found.log_path);
        let mut changes = ended.is_some().then(|| Changes::of(path)).transpose().map_err(refused)?;
        let mut reader = Reader::open(path, wanted).map_err(refused)?;
        let (sender, receiver) = mpsc::channel::<Bytes>(16);
        let frames = futures::stream::unfold(receiver, async |mut receiver| {
            let bytes = receiver.recv().await?;
            Some((Ok::<_, std::convert::Infallible>(Frame::data(bytes)), receiver))
        });
        let stop = self.ctx.stop.clone();
        self.ctx.tasks.spawn(async move {
            let all = async {
                let ended = async {
                    match ended {
                        Some(ended) => ended.await,
                        None => std::future::ready(()).await,
                    }
                };
                let mut ended = std::pin::pin!(ended);
                let mut last = false;
                loop {
                    while let Some(bytes) = reader.next()? {
                        if sender.send(bytes).await.is_err() {
                            return Ok(());
                        }
                    }
                    if last || reader.is_full() {
                        return Ok::<_, std::io::Error>(());
                    }
                    let changed = async {
                        match &mut changes {
                            Some(changes) => changes.next().await,
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        () = &mut ended => last = true,
                        changed = changed => changed?,
                        () = sender.closed() => return Ok(()),
                    }
                }
            };
            if let Some(Err(error)) = stop.run_until_cancelled(all).await {
                tracing::warn!(%error, "cannot read a log");
            }
        });
        let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
        let kind = http::HeaderValue::from_static("text/plain");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        Ok(response)
    }
}

/// Resolves when the container runs no more.
async fn ended(runtime: Arc<dyn cri::Runtime>, id: String, mut events: cri::EventStream) {
    let exited = v1::ContainerState::ContainerExited as i32;
    let runs = async || runtime.container_status(&id).await.is_ok_and(|status| status.state != exited);
    // It may have ended between the list and the subscription.
    if !runs().await {
        return;
    }
    while let Some(event) = events.next().await {
        let over = match event {
            cri::Event::Container { container, kind, .. } => {
                container == id && matches!(kind, cri::EventKind::Stopped | cri::EventKind::Deleted)
            }
            cri::Event::Resync => !runs().await,
        };
        if over {
            return;
        }
    }
}

/// What a container that never ran waits for, in upstream's words.
fn waits_for(pod: &Pod, container: &str) -> String {
    let status = pod.status.as_ref().and_then(|status| status::find(status, container));
    let state = status.and_then(|status| status.state.as_ref());
    let reason = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.as_deref());
    match reason {
        Some("ErrImagePull") => "image can't be pulled".into(),
        Some("ImagePullBackOff") => "trying and failing to pull image".into(),
        Some(reason) => reason.to_owned(),
        None => "ContainerCreating".into(),
    }
}

fn wanted(query: &Query) -> Result<Wanted, Refusal> {
    let first = |name: &str| query.get(name).and_then(|values| values.first());
    let number = |name: &str| {
        first(name)
            .map(|text| {
                text.parse::<u64>()
                    .map_err(|_| (StatusCode::BAD_REQUEST, format!("invalid {name}: {text:?}")))
            })
            .transpose()
    };
    let since = match (number("sinceSeconds")?, first("sinceTime")) {
        (Some(seconds), _) => Timestamp::now().checked_sub(Duration::from_secs(seconds)).ok(),
        (None, Some(text)) => {
            let at = text
                .parse()
                .map_err(|_| (StatusCode::BAD_REQUEST, format!("invalid sinceTime: {text:?}")))?;
            Some(at)
        }
        (None, None) => None,
    };
    Ok(Wanted {
        tail: number("tailLines")?,
        limit: number("limitBytes")?,
        since,
        timestamps: flag(query, &["timestamps"]),
        stream: first("stream").filter(|stream| *stream != "All").map(|stream| stream.to_lowercase()),
    })
}
