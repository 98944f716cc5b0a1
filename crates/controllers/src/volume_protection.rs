//! Claims and volumes that were told to go stay until nobody uses them: a claim until no pod of its
//! namespace that may still run mounts it, a volume until no claim is bound to it.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::context::{Context, Error};
use crate::pods;

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";

struct Claims {
    context: Context,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

struct Volumes {
    context: Context,
    volumes: Informer<PersistentVolume>,
}

/// The names of the claims that a pod mounts: those it names, and those made for it.
fn mounted(pod: &Pod) -> Vec<String> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let name = |volume: &k8s_openapi::api::core::v1::Volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(claim.claim_name.clone()),
        None => volume.ephemeral.as_ref().map(|_| format!("{own}-{}", volume.name)),
    };
    volumes.filter_map(name).collect()
}

/// Whether a pod keeps a claim: one that has a node and has not ended.
fn uses(pod: &Pod, claim: &str) -> bool {
    pods::node(pod).is_some() && !pods::is_terminal(pod) && mounted(pod).iter().any(|name| name == claim)
}

/// Keeps claims that pods use.
pub async fn run_claims(context: Context) {
    let queue = WorkQueue::default();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let pods = context.informers.of::<Pod>();
    claims.enqueue(&queue, |change| Some(ObjectKey::of(&**change.object())));
    pods.enqueue(&queue, |change| {
        let pod = change.object();
        let over = change.is_deleted() || pods::is_terminal(pod);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let names = if over { mounted(pod) } else { Vec::new() };
        names.into_iter().map(move |name| ObjectKey::new(namespace.clone(), name)).collect::<Vec<_>>()
    });
    claims.synced().await;
    pods.synced().await;
    let (workers, cancel) = (Workers(context.config.workers), context.cancel.clone());
    let controller = Arc::new(Claims { context, claims, pods });
    client::run("pvc-protection", queue, workers, controller, cancel).await;
}

/// Keeps volumes that claims are bound to.
pub async fn run_volumes(context: Context) {
    let queue = WorkQueue::default();
    let volumes = context.informers.of::<PersistentVolume>();
    volumes.enqueue(&queue, |change| Some(ObjectKey::of(&**change.object())));
    volumes.synced().await;
    let (workers, cancel) = (Workers(context.config.workers), context.cancel.clone());
    let controller = Arc::new(Volumes { context, volumes });
    client::run("pv-protection", queue, workers, controller, cancel).await;
}

impl Reconcile for Claims {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(claim) = self.claims.get(key).filter(|claim| going(&**claim, CLAIM)) else {
            return Ok(None);
        };
        if self.pods.in_namespace(&key.namespace).iter().any(|pod| uses(pod, &key.name)) {
            return Ok(None);
        }
        // The cache may not show a pod that was bound a moment ago.
        let live: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let found = live.list(&kube::api::ListParams::default()).await;
        let found = found.map_err(Error::api(format!("listing the pods of {}", key.namespace)))?;
        if found.items.iter().any(|pod| uses(pod, &key.name)) {
            return Ok(None);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        release(&api, &claim, CLAIM, key).await
    }
}

impl Reconcile for Volumes {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(volume) = self.volumes.get(key).filter(|volume| going(&**volume, VOLUME)) else {
            return Ok(None);
        };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        if phase == Some("Bound") {
            return Ok(None);
        }
        let api: Api<PersistentVolume> = Api::all(self.context.client.clone());
        release(&api, &volume, VOLUME, key).await
    }
}

/// Whether an object was told to go and waits for a finalizer.
fn going<K: Resource>(object: &K, finalizer: &str) -> bool {
    let meta = object.meta();
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().flatten().any(|one| one == finalizer)
}

/// Takes the finalizer off.
async fn release<K>(
    api: &Api<K>,
    object: &K,
    finalizer: &str,
    key: &ObjectKey,
) -> Result<Option<Duration>, Error>
where
    K: Resource + Clone + PartialEq + Debug + DeserializeOwned + Serialize,
{
    let mut freed = object.clone();
    freed.meta_mut().finalizers.get_or_insert_default().retain(|one| one != finalizer);
    let written = write::replace(api, object, &freed).await;
    write::found(written.map(drop)).map_err(Error::api(format!("freeing {key}")))?;
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_used_by_pods_that_run() {
        let check = |node: Option<&str>, phase: &str, volume: serde_json::Value| {
            let value = json!({"metadata": {"name": "p"}, "status": {"phase": phase},
                "spec": {"containers": [], "nodeName": node, "volumes": [volume]}});
            uses(&serde_json::from_value::<Pod>(value).unwrap(), "data")
        };
        let named = || json!({"name": "v", "persistentVolumeClaim": {"claimName": "data"}});
        assert!(check(Some("n"), "Running", named()));
        assert!(!check(None, "Pending", named()), "a pod without a node mounts nothing yet");
        assert!(!check(Some("n"), "Succeeded", named()));
        assert!(!check(Some("n"), "Running", json!({"name": "data", "emptyDir": {}})));
        let value = json!({"metadata": {"name": "p"}, "spec": {"containers": [], "nodeName": "n",
            "volumes": [{"name": "v", "ephemeral": {}}]}});
        assert!(uses(&serde_json::from_value::<Pod>(value).unwrap(), "p-v"));
    }
}
