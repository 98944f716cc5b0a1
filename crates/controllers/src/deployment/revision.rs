//! Which ReplicaSet is a Deployment's new one, and the annotations that number them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::api::ObjectMeta;

use crate::history::hash;
use crate::ownership::controller_ref;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations of a Deployment that are not its ReplicaSets'.
const NOT_COPIED: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

pub(super) fn annotation<'a>(set: &'a ReplicaSet, key: &str) -> Option<&'a str> {
    set.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn revision(set: &ReplicaSet) -> i64 {
    annotation(set, REVISION).and_then(|text| text.parse().ok()).unwrap_or_default()
}

pub(super) fn desired(set: &ReplicaSet) -> Option<i32> {
    annotation(set, DESIRED)?.parse().ok()
}

pub(super) fn max(set: &ReplicaSet) -> Option<i32> {
    annotation(set, MAX)?.parse().ok()
}

fn without_hash(template: Option<&PodTemplateSpec>) -> PodTemplateSpec {
    let mut template = template.cloned().unwrap_or_default();
    if let Some(meta) = &mut template.metadata {
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|all| !all.is_empty());
    }
    template.metadata.get_or_insert_default();
    template
}

/// Whether a ReplicaSet makes pods as the Deployment now describes them.
pub(super) fn same_template(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let theirs = set.spec.template.as_ref();
    without_hash(Some(&deployment.spec.template)) == without_hash(theirs)
}

/// The place of the new ReplicaSet: the oldest of those with the Deployment's template.
pub(super) fn find_new(deployment: &Deployment, sets: &[ReplicaSet]) -> Option<usize> {
    let fitting = (0..sets.len()).filter(|at| same_template(deployment, &sets[*at]));
    fitting.min_by_key(|at| (sets[*at].metadata.creation_timestamp.clone(), sets[*at].metadata.name.clone()))
}

/// Sets an annotation, and tells whether that changed anything.
fn set_annotation(annotations: &mut BTreeMap<String, String>, key: &str, value: String) -> bool {
    if annotations.get(key) == Some(&value) {
        return false;
    }
    annotations.insert(key.into(), value);
    true
}

/// Notes how many replicas the Deployment asked for, for the next proportional scaling.
pub(super) fn note_replicas(set: &mut ReplicaSet, wanted: i32, most: i32) -> bool {
    let annotations = set.metadata.annotations.get_or_insert_default();
    let desired = set_annotation(annotations, DESIRED, wanted.to_string());
    set_annotation(annotations, MAX, most.to_string()) || desired
}

/// Carries over the Deployment's annotations and gives the set its revision.
fn annotate(deployment: &Deployment, set: &mut ReplicaSet, number: i64) {
    let from = deployment.metadata.annotations.iter().flatten();
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (key, value) in from.filter(|(key, _)| !NOT_COPIED.contains(&key.as_str())) {
        set_annotation(annotations, key, value.clone());
    }
    let old = annotations.get(REVISION).cloned();
    let old_number = old.as_ref().and_then(|old| old.parse::<i64>().ok()).unwrap_or_default();
    if old_number >= number {
        return;
    }
    annotations.insert(REVISION.into(), number.to_string());
    if let Some(old) = old {
        let history = annotations.get(REVISION_HISTORY).filter(|history| !history.is_empty());
        let history = history.map_or(old.clone(), |history| format!("{history},{old}"));
        annotations.insert(REVISION_HISTORY.into(), history);
    }
}

/// An existing set as the new one: annotated and numbered.
pub(super) fn renewed(deployment: &Deployment, set: &ReplicaSet, number: i64) -> ReplicaSet {
    let mut set = set.clone();
    annotate(deployment, &mut set, number);
    let wanted = deployment.spec.min_ready_seconds;
    if set.spec.min_ready_seconds.unwrap_or_default() != wanted.unwrap_or_default() {
        set.spec.min_ready_seconds = wanted;
    }
    set
}

/// A new set for the Deployment's template, without replicas yet.
pub(super) fn new_set(deployment: &Deployment, number: i64) -> ReplicaSet {
    let spec = deployment.spec.clone();
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template;
    template
        .metadata
        .get_or_insert_default()
        .labels
        .get_or_insert_default()
        .insert(HASH_LABEL.into(), hash.clone());
    let mut selector = spec.selector;
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
    let name = deployment.metadata.name.as_deref().unwrap_or_default();
    let mut set = ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{hash}")),
            namespace: deployment.metadata.namespace.clone(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            owner_references: Some(vec![controller_ref(deployment)]),
            ..Default::default()
        },
        spec: ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: Some(0),
            selector,
            template: Some(template),
        },
        status: None,
    };
    annotate(deployment, &mut set, number);
    set
}
