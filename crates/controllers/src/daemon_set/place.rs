//! On which nodes a DaemonSet's pods belong, and the pods it makes for them.

use client::placement::{chooses, tolerates_all};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use super::HASH;
use crate::ownership::controller_ref;
use crate::pod_control::pod_from;
use crate::pods;

const GENERATION: &str = "pod-template-generation";
const GENERATION_OF: &str = "deprecated.daemonset.template.generation";
/// The field that ties a pod to its node before it is placed.
const NODE_NAME: &str = "metadata.name";

/// What a pod of the set may do on a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit {
    /// Be started there.
    pub run: bool,
    /// Go on if it is there.
    pub stay: bool,
}

/// A pod as it would be on a node, as far as nodes look at it.
pub(super) fn simulated(set: &DaemonSet) -> Pod {
    let mut pod = Pod { spec: set.spec.template.spec.clone(), ..Pod::default() };
    add_tolerations(pod.spec.get_or_insert_default());
    pod
}

pub(super) fn fit(simulated: &Pod, node: &Node) -> Fit {
    let nowhere = Fit { run: false, stay: false };
    let spec = simulated.spec.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if spec.node_name.as_deref().is_some_and(|wanted| !wanted.is_empty() && wanted != name) {
        return nowhere;
    }
    let none = std::collections::BTreeMap::new();
    if !chooses(simulated, name, node.metadata.labels.as_ref().unwrap_or(&none)) {
        return nowhere;
    }
    let tolerations = spec.tolerations.unwrap_or_default();
    let taints = |effects: &'static [&str]| {
        let all = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        all.filter(move |taint| effects.contains(&taint.effect.as_str()))
    };
    Fit {
        run: tolerates_all(&tolerations, taints(&["NoSchedule", "NoExecute"])),
        stay: tolerates_all(&tolerations, taints(&["NoExecute"])),
    }
}

/// Daemons stay where others must not.
fn add_tolerations(spec: &mut PodSpec) {
    let mut wanted = vec![
        ("node.kubernetes.io/not-ready", "NoExecute"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/memory-pressure", "NoSchedule"),
        ("node.kubernetes.io/pid-pressure", "NoSchedule"),
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ];
    if spec.host_network == Some(true) {
        wanted.push(("node.kubernetes.io/network-unavailable", "NoSchedule"));
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// The generation of a set's template, as its pods carry it.
fn generation(set: &DaemonSet) -> Option<&String> {
    set.metadata.annotations.as_ref()?.get(GENERATION_OF)
}

/// A pod for a node. The scheduler binds it; its affinity leaves no other choice.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let name = set.metadata.name.as_deref().unwrap_or_default();
    let mut pod = pod_from(Some(&set.spec.template), controller_ref(set), name);
    let labels = pod.metadata.labels.get_or_insert_default();
    if let Some(generation) = generation(set) {
        labels.insert(GENERATION.into(), generation.clone());
    }
    labels.insert(HASH.into(), hash.into());
    let spec = pod.spec.get_or_insert_default();
    let term = NodeSelectorTerm {
        match_fields: Some(vec![NodeSelectorRequirement {
            key: NODE_NAME.into(),
            operator: "In".into(),
            values: Some(vec![node.into()]),
        }]),
        match_expressions: None,
    };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let affinity: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    affinity.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    add_tolerations(spec);
    pod
}

/// Whether a pod is of the set's current template.
pub(super) fn is_updated(set: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let same_generation = generation(set).is_some_and(|generation| label(GENERATION) == Some(generation));
    same_generation || (!hash.is_empty() && label(HASH).is_some_and(|label| label == hash))
}

/// The node a pod is on or meant for.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    if let Some(node) = pods::node(pod) {
        return Some(node);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required.node_selector_terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut named = fields.filter(|field| field.key == NODE_NAME && field.operator == "In");
    named.find_map(|field| field.values.as_ref()?.first().map(String::as_str))
}
