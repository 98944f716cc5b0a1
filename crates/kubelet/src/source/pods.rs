//! Pods the API has bound to this node, news from the runtime, and pods of the runtime nobody knows.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use client::Change;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::static_pods::Mirrors;
use crate::config::Config;
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
        // What a pod leaves behind others may have been waiting for.
        if change.is_deleted() || ended(change) {
            context.freed.send_replace(());
        }
    });
    ctx.pods.synced().await;
    mirrors.settle_all(ctx);
}

/// Whether a pod has just run its course.
fn ended(change: &Change<Pod>) -> bool {
    let over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    over(change.object()) && change.old().is_some_and(|old| !over(old))
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

/// Ends pods that something is left of, in the runtime or on the disk, though they were deleted while the
/// kubelet was away.
///
/// # Errors
/// The runtime's.
pub async fn end_orphans(ctx: &Arc<Context>, registry: &Arc<Registry>) -> cri::Result<()> {
    let mut left: BTreeMap<String, ObjectMeta> = on_disk(&ctx.config);
    for sandbox in ctx.runtime.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await? {
        let metadata = sandbox.metadata.unwrap_or_default();
        if sandbox.labels.contains_key(names::POD_UID) {
            let (namespace, name) = (Some(metadata.namespace), Some(metadata.name));
            left.insert(metadata.uid, ObjectMeta { name, namespace, ..Default::default() });
        }
    }
    for (uid, metadata) in left {
        if registry.pod(&uid).is_some() {
            continue;
        }
        let metadata = ObjectMeta { uid: Some(uid), ..metadata };
        let pod = Pod { metadata, spec: Some(PodSpec::default()), status: None };
        tracing::info!(pod = names::full(&pod), "ending a pod that was deleted meanwhile");
        registry.set(ctx, Desired { pod: Arc::new(pod), mirror: None, gone: true });
    }
    Ok(())
}

/// Pods that have a directory for files or logs, by uid; named where they have logs.
fn on_disk(config: &Config) -> BTreeMap<String, ObjectMeta> {
    let names = |dir: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let files = names(&config.root_dir.join("pods")).into_iter().map(|uid| (uid, ObjectMeta::default()));
    let logs = names(&config.pod_logs_dir).into_iter().filter_map(|dir| {
        let mut parts = dir.split('_').map(str::to_owned);
        let (namespace, name, uid) = (parts.next(), parts.next(), parts.next()?);
        Some((uid, ObjectMeta { namespace, name, ..Default::default() }))
    });
    files.chain(logs).collect()
}
