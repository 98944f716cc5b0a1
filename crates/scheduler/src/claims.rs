//! The volume claims of pods: one that is not bound and does not wait for its first pod keeps the pod off
//! every node.

use std::collections::{HashMap, HashSet};

use client::ObjectKey;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use k8s_openapi::api::storage::v1::StorageClass;

use crate::PodInfo;

pub(crate) const PLUGIN: &str = "VolumeBinding";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    pub name: String,
    /// Made for this pod alone, which owns it.
    pub ephemeral: bool,
}

/// What counts of a claim.
#[derive(Debug, PartialEq, Eq)]
struct Claim {
    bound: bool,
    going: bool,
    /// The volume that is lost to it.
    lost: Option<String>,
    class: String,
    /// The uid of the object that controls it.
    owner: Option<String>,
}

/// The claims there are, and the classes whose volumes are chosen when a pod is placed.
#[derive(Debug, Default)]
pub struct Claims {
    claims: HashMap<ObjectKey, Claim>,
    late: HashSet<String>,
}

impl Claims {
    pub fn set(&mut self, claim: &PersistentVolumeClaim) {
        let spec = claim.spec.as_ref();
        let volume = spec.and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let annotations = claim.metadata.annotations.as_ref();
        let lost = claim.status.as_ref().is_some_and(|s| s.phase.as_deref() == Some("Lost"));
        let mut owners = claim.metadata.owner_references.iter().flatten();
        let info = Claim {
            bound: volume.is_some() && annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED)),
            going: claim.metadata.deletion_timestamp.is_some(),
            lost: volume.filter(|_| lost),
            class: spec.and_then(|spec| spec.storage_class_name.clone()).unwrap_or_default(),
            owner: owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()),
        };
        self.claims.insert(ObjectKey::of(claim), info);
    }

    pub fn remove(&mut self, key: &ObjectKey) {
        self.claims.remove(key);
    }

    /// Takes up a class; `gone` if it was deleted.
    pub fn set_class(&mut self, class: &StorageClass, gone: bool) {
        let name = class.metadata.name.clone().unwrap_or_default();
        if !gone && class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer") {
            self.late.insert(name);
        } else {
            self.late.remove(&name);
        }
    }

    /// Why a pod cannot be placed anywhere for its claims, in upstream's words.
    pub fn fault(&self, pod: &PodInfo) -> Option<String> {
        let mut unbound = false;
        for mounted in &pod.claims {
            let name = api::field::quote(&mounted.name);
            let key = ObjectKey::new(&pod.key.namespace, &mounted.name);
            let Some(claim) = self.claims.get(&key) else {
                return Some(if mounted.ephemeral {
                    format!(
                        "waiting for ephemeral volume controller to create the persistentvolumeclaim {name}"
                    )
                } else {
                    format!("persistentvolumeclaim {name} not found")
                });
            };
            if let Some(volume) = &claim.lost {
                let volume = api::field::quote(volume);
                return Some(format!(
                    "persistentvolumeclaim {name} bound to non-existent persistentvolume {volume}"
                ));
            }
            if claim.going {
                return Some(format!("persistentvolumeclaim {name} is being deleted"));
            }
            if mounted.ephemeral && claim.owner.as_ref() != Some(&pod.uid) {
                return Some(format!("PVC {key} was not created for pod {} (pod is not owner)", pod.key));
            }
            unbound |= !claim.bound && !self.late.contains(&claim.class);
        }
        unbound.then(|| "pod has unbound immediate PersistentVolumeClaims".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    use super::*;

    fn check(claims: &[Value], volumes: Value, expected: Expect) {
        let mut all = Claims::default();
        let late = json!({"metadata": {"name": "late"}, "provisioner": "p",
            "volumeBindingMode": "WaitForFirstConsumer"});
        all.set_class(&serde_json::from_value(late).unwrap(), false);
        for claim in claims {
            all.set(&serde_json::from_value(claim.clone()).unwrap());
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": volumes}});
        let pod = PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()));
        expected.assert_eq(all.fault(&pod).as_deref().unwrap_or("fits"));
    }

    fn claim(spec: Value) -> Value {
        json!({"metadata": {"name": "c", "namespace": "ns"}, "spec": spec})
    }

    #[test]
    fn claims_are_bound_or_wait_for_their_pod() {
        let mounts = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]);
        check(&[], json!([{"name": "v", "emptyDir": {}}]), expect!["fits"]);
        check(&[], mounts.clone(), expect![[r#"persistentvolumeclaim "c" not found"#]]);
        let unbound = expect!["pod has unbound immediate PersistentVolumeClaims"];
        check(&[claim(json!({}))], mounts.clone(), unbound);
        check(&[claim(json!({"storageClassName": "late"}))], mounts.clone(), expect!["fits"]);
        let mut bound = claim(json!({"volumeName": "v"}));
        bound["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
        check(&[bound.clone()], mounts.clone(), expect!["fits"]);
        bound["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        check(&[bound.clone()], mounts.clone(), expect![[r#"persistentvolumeclaim "c" is being deleted"#]]);
        bound["status"] = json!({"phase": "Lost"});
        let lost = expect![[r#"persistentvolumeclaim "c" bound to non-existent persistentvolume "v""#]];
        check(&[bound], mounts, lost);
    }

    #[test]
    fn a_claim_made_for_a_pod_is_that_pods() {
        let mounts = json!([{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]);
        let waits =
            expect![[r#"waiting for ephemeral volume controller to create the persistentvolumeclaim "p-v""#]];
        check(&[], mounts.clone(), waits);
        let mut made = claim(json!({"storageClassName": "late"}));
        made["metadata"]["name"] = json!("p-v");
        let other = expect!["PVC ns/p-v was not created for pod ns/p (pod is not owner)"];
        check(&[made.clone()], mounts.clone(), other);
        made["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]);
        check(&[made], mounts, expect!["fits"]);
    }
}
