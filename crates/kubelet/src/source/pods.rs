//! Pods the API has bound to this node, news from the runtime, and pods of the runtime nobody knows.

use std::collections::HashSet;
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::runtime::{WatchStreamExt, watcher};

use super::static_pods::Mirrors;
use crate::context::Context;
use crate::names;
use crate::pod::worker::Desired;
use crate::workers::Registry;

/// Follows the pods of this node. `ready` is told once all of them have been heard of.
pub async fn follow(
    ctx: Arc<Context>,
    registry: Arc<Registry>,
    mirrors: Arc<Mirrors>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let api = Api::<Pod>::all(ctx.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", ctx.config.node_name));
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = HashSet::new();
    let mut ready = Some(ready);
    // Pods bound by the API, by uid; static pods have workers too, which a list says nothing about.
    let mut bound: HashSet<String> = HashSet::new();
    loop {
        match stream.try_next().await {
            Ok(None) => return,
            Ok(Some(watcher::Event::Init)) => listed.clear(),
            Ok(Some(watcher::Event::InitApply(pod))) => {
                listed.insert(names::uid(&pod).to_owned());
                bound.insert(names::uid(&pod).to_owned());
                apply(&ctx, &registry, &mirrors, pod);
            }
            Ok(Some(watcher::Event::InitDone)) => {
                for uid in bound.iter().filter(|uid| !listed.contains(*uid)) {
                    registry.modify(uid, |desired| desired.gone = true);
                }
                bound.retain(|uid| listed.contains(uid));
                mirrors.retain(&ctx, &registry, |uid| listed.contains(uid));
                ready.take().map(|ready| ready.send(()));
            }
            Ok(Some(watcher::Event::Apply(pod))) => {
                bound.insert(names::uid(&pod).to_owned());
                apply(&ctx, &registry, &mirrors, pod);
            }
            Ok(Some(watcher::Event::Delete(pod))) => {
                bound.remove(names::uid(&pod));
                if names::is_mirror(&pod) {
                    mirrors.deleted(&ctx, &registry, &pod);
                } else {
                    registry.modify(names::uid(&pod), |desired| desired.gone = true);
                }
            }
            Err(error) => tracing::debug!(%error, "the watch of pods is interrupted"),
        }
    }
}

fn apply(ctx: &Arc<Context>, registry: &Arc<Registry>, mirrors: &Arc<Mirrors>, pod: Pod) {
    if names::is_mirror(&pod) {
        mirrors.seen(ctx, registry, pod);
    } else {
        registry.set(ctx, Desired { pod: Arc::new(pod), mirror: None, gone: false });
    }
}

/// Passes the runtime's news to the workers they are for, until the runtime or the kubelet ends.
pub async fn runtime_events(ctx: Arc<Context>, registry: Arc<Registry>) -> cri::Result<()> {
    let mut events = ctx.runtime.events().await?;
    while let Some(event) = events.next().await {
        match event {
            cri::Event::Container { sandbox, .. } => registry.wake_sandbox(&sandbox),
            cri::Event::Resync => registry.wake_all(),
        }
    }
    Ok(())
}

/// Ends pods the runtime still has though they were deleted while the kubelet was away.
///
/// # Errors
/// The runtime's.
pub async fn end_orphans(ctx: &Arc<Context>, registry: &Arc<Registry>) -> cri::Result<()> {
    for sandbox in ctx.runtime.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await? {
        let metadata = sandbox.metadata.unwrap_or_default();
        if !sandbox.labels.contains_key(names::POD_UID) || registry.pod(&metadata.uid).is_some() {
            continue;
        }
        let pod = Pod {
            metadata: ObjectMeta {
                name: Some(metadata.name),
                namespace: Some(metadata.namespace),
                uid: Some(metadata.uid),
                ..Default::default()
            },
            spec: Some(PodSpec::default()),
            status: None,
        };
        tracing::info!(pod = names::full(&pod), "ending a pod that was deleted meanwhile");
        registry.set(ctx, Desired { pod: Arc::new(pod), mirror: None, gone: true });
    }
    Ok(())
}
