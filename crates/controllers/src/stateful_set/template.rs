//! The pods and claims of a StatefulSet, each with its ordinal.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;

use crate::ownership::controller_ref;
use crate::pod_control::pod_from;

/// The label of pods that names their revision.
pub(super) const REVISION: &str = "controller-revision-hash";
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(super) fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The ordinal of a pod of the set; `None` for one whose name is not of the set.
pub(super) fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let digits = pod.metadata.name.as_deref()?.strip_prefix(name(set))?.strip_prefix('-')?;
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    digits.parse().ok().filter(|_| plain)
}

pub(super) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION)).map_or("", String::as_str)
}

fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template.metadata.name.as_deref().unwrap_or_default(), name(set))
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.volume_claim_templates.as_deref().unwrap_or_default()
}

/// The claims of an ordinal. `pod` owns them in time where they go when it is scaled away.
pub(super) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let claims = templates(set).iter().map(|template| {
        let mut labels = template.metadata.labels.clone().unwrap_or_default();
        labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
        PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(claim_name(set, template, ordinal)),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: template.metadata.annotations.clone(),
                ..ObjectMeta::default()
            },
            spec: template.spec.clone(),
            status: None,
        }
    });
    claims.collect()
}

/// The pod of an ordinal, of a template whose revision has this name.
pub(super) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let mut pod = pod_from(Some(template), controller_ref(set), name(set));
    pod.metadata.namespace.clone_from(&set.metadata.namespace);
    pod.metadata.labels.get_or_insert_default().insert(REVISION.into(), revision.into());
    identify(set, &mut pod, ordinal);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname.clone_from(&pod.metadata.name);
    spec.subdomain.clone_from(&set.spec.service_name);
    pod
}

/// Gives a pod its name, the labels that tell it, and the volumes of its claims.
pub(super) fn identify(set: &StatefulSet, pod: &mut Pod, ordinal: i32) {
    let name = format!("{}-{ordinal}", name(set));
    pod.metadata.generate_name = None;
    let labels: &mut BTreeMap<String, String> = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.into(), name.clone());
    labels.insert(POD_INDEX.into(), ordinal.to_string());
    pod.metadata.name = Some(name);
    if templates(set).is_empty() {
        return;
    }
    let volumes = pod.spec.get_or_insert_default().volumes.get_or_insert_default();
    let own = templates(set).iter().map(|template| Volume {
        name: template.metadata.name.clone().unwrap_or_default(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, template, ordinal),
            read_only: None,
        }),
        ..Volume::default()
    });
    let own: Vec<Volume> = own.collect();
    volumes.retain(|volume| !own.iter().any(|mine| mine.name == volume.name));
    volumes.extend(own);
}

/// Whether a pod has the identity of its ordinal.
pub(super) fn is_identified(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let mut wanted = pod.clone();
    identify(set, &mut wanted, ordinal);
    let labels = |pod: &Pod| pod.metadata.labels.clone();
    let same_volumes = templates(set).iter().all(|template| {
        let name = claim_name(set, template, ordinal);
        let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        volumes.into_iter().any(|volume| {
            Some(&volume.name) == template.metadata.name.as_ref()
                && volume.persistent_volume_claim.as_ref().is_some_and(|claim| claim.claim_name == name)
        })
    });
    labels(pod) == labels(&wanted) && same_volumes
}

/// The owners a claim has under the set's retention policy: the set, where claims go with it; the pod
/// (`condemned`), where claims go with a pod that is scaled away. `None` when they are as they should
/// be, or when somebody else controls the claim.
pub(super) fn claim_owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: Option<&Arc<Pod>>,
    condemned: bool,
) -> Option<Vec<OwnerReference>> {
    let policy = set.spec.persistent_volume_claim_retention_policy.clone().unwrap_or_default();
    let deletes = |value: Option<&String>| value.is_some_and(|value| value == "Delete");
    let with_set = deletes(policy.when_deleted.as_ref());
    let with_pod = deletes(policy.when_scaled.as_ref()) && condemned;
    let owners = claim.metadata.owner_references.clone().unwrap_or_default();
    let set_uid = set.metadata.uid.as_ref();
    let is_ours = |owner: &OwnerReference| {
        Some(&owner.uid) == set_uid || (owner.kind == "Pod" && owner.api_version == "v1")
    };
    if owners.iter().any(|owner| owner.controller == Some(true) && !is_ours(owner)) {
        return None;
    }
    let loose = |mut owner: OwnerReference| {
        owner.controller = None;
        owner.block_owner_deletion = None;
        owner
    };
    let mut wanted: Vec<_> = owners.iter().filter(|owner| !is_ours(owner)).cloned().collect();
    match pod.filter(|_| with_pod) {
        Some(pod) => wanted.push(loose(controller_ref(&**pod))),
        None if with_set => wanted.push(loose(controller_ref(set))),
        None => {}
    }
    let uids = |owners: &[OwnerReference]| owners.iter().map(|owner| owner.uid.clone()).collect::<Vec<_>>();
    (uids(&owners) != uids(&wanted)).then_some(wanted)
}
