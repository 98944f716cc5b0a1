//! Pods the API has bound to this node, news from the runtime, and pods of the runtime nobody knows.

use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::static_pods::Mirrors;
use crate::context::Context;
use crate::names;
use crate::pod::worker::Desired;
use crate::workers::Registry;

/// Follows the pods of this node for as long as their informer does; returns once all have been heard of.
pub async fn follow(ctx: &Arc<Context>, registry: &Arc<Registry>, mirrors: &Arc<Mirrors>) {
    let (context, workers, shown) = (ctx.clone(), registry.clone(), mirrors.clone());
    ctx.pods.on_change(move |change| {
        let pod = change.object();
        match (change.is_deleted(), names::is_mirror(pod)) {
            (false, _) => apply(&context, &workers, &shown, pod.clone()),
            (true, true) => shown.deleted(&context, &workers, pod),
            (true, false) => workers.modify(names::uid(pod), |desired| desired.gone = true),
        }
    });
    ctx.pods.synced().await;
    mirrors.settle_all(ctx);
}

fn apply(ctx: &Arc<Context>, registry: &Arc<Registry>, mirrors: &Arc<Mirrors>, pod: Arc<Pod>) {
    if names::is_mirror(&pod) {
        mirrors.seen(ctx, registry, pod);
    } else {
        registry.set(ctx, Desired { pod, mirror: None, gone: false });
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
