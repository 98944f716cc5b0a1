//! The claims of pods' ephemeral volumes: made from the pod's template, owned by the pod.

use std::sync::Arc;
use std::time::Duration;

use client::events::{Occurrence, Severity, reference};
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, PersistentVolumeClaimTemplate, Pod};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::context::{Context, Error};
use crate::ownership::controller_ref;

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

/// The ephemeral volumes of a pod: the claim's name, the volume's, and the claim's template.
fn wanted(pod: &Pod) -> Vec<(String, &str, &PersistentVolumeClaimTemplate)> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let ephemeral = volumes.filter_map(|volume| {
        let template = volume.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
        Some((format!("{own}-{}", volume.name), volume.name.as_str(), template))
    });
    ephemeral.collect()
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    pods.enqueue(&queue, |change| {
        let pod = change.object();
        let of_interest = !change.is_deleted() && !wanted(pod).is_empty();
        of_interest.then(|| ObjectKey::of(&**pod))
    });
    // A claim that goes while its pod stays is made again.
    claims.enqueue(&queue, |change| {
        let claim = &change.object().metadata;
        let mut owners = claim.owner_references.iter().flatten();
        let owner = owners.find(|owner| owner.kind == "Pod" && owner.controller == Some(true));
        let namespace = claim.namespace.clone().unwrap_or_default();
        owner.filter(|_| change.is_deleted()).map(|owner| ObjectKey::new(namespace, owner.name.clone()))
    });
    pods.synced().await;
    claims.synced().await;
    let (workers, cancel) = (Workers(context.config.workers), context.cancel.clone());
    let controller = Arc::new(Controller { context, pods, claims });
    client::run("ephemeral-volume", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key) else { return Ok(None) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        for (name, volume, template) in wanted(&pod) {
            if let Err(error) = self.bring(&pod, key, &name, template).await {
                self.context.recorder.record(Occurrence {
                    about: reference(&*pod),
                    severity: Severity::Warning,
                    reason: "FailedBinding".into(),
                    message: format!("ephemeral volume {volume}: {error}"),
                    action: None,
                });
                return Err(error);
            }
        }
        Ok(None)
    }
}

impl Controller {
    /// Makes a claim, unless it is there and this pod's.
    async fn bring(
        &self,
        pod: &Pod,
        key: &ObjectKey,
        name: &str,
        template: &PersistentVolumeClaimTemplate,
    ) -> Result<(), Error> {
        let claim = ObjectKey::new(&key.namespace, name);
        if let Some(there) = self.claims.get(&claim) {
            return owned(&there, pod, key);
        }
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), &made(pod, key, name, template)).await {
            Err(error) if write::namespace_terminating(&error) => Ok(()),
            // The cache is behind.
            Err(error) if write::already_exists(&error) => {
                let there = api.get(name).await.map_err(Error::api(format!("get PVC {name}")))?;
                owned(&there, pod, key)
            }
            other => other.map(drop).map_err(Error::api(format!("create PVC {name}"))),
        }
    }
}

/// Whether a claim that is there is the pod's own.
fn owned(claim: &PersistentVolumeClaim, pod: &Pod, key: &ObjectKey) -> Result<(), Error> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if owners.any(|owner| Some(&owner.uid) == pod.metadata.uid.as_ref()) {
        return Ok(());
    }
    let claim = ObjectKey::of(claim);
    Err(Error::Waiting(format!("PVC {claim} was not created for pod {key} (pod is not owner)")))
}

fn made(
    pod: &Pod,
    key: &ObjectKey,
    name: &str,
    template: &PersistentVolumeClaimTemplate,
) -> PersistentVolumeClaim {
    let given = template.metadata.clone().unwrap_or_default();
    PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(key.namespace.clone()),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![controller_ref(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_made_from_the_template_and_owned_by_the_pod() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {"containers": [],
            "volumes": [{"name": "other", "emptyDir": {}}, {"name": "v", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}}, "spec": {"storageClassName": "fast"}}}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let wanted = wanted(&pod);
        let [(name, "v", template)] = wanted.as_slice() else { panic!("{wanted:?}") };
        let claim = serde_json::to_value(made(&pod, &ObjectKey::of(&pod), name, template)).unwrap();
        assert_eq!(
            claim["metadata"],
            json!({"name": "p-v", "namespace": "ns", "labels": {"a": "b"}, "ownerReferences": [{"apiVersion": "v1",
                "kind": "Pod", "name": "p", "uid": "u", "controller": true, "blockOwnerDeletion": true}]})
        );
        assert_eq!(claim["spec"], json!({"storageClassName": "fast"}));
    }
}
