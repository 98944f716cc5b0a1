//! A pod as the scheduler sees it: everything it asks for, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::selector::{Labels, Requirement};
use client::ObjectKey;
use client::placement::{NodeTerm, selected};
use k8s_openapi::api::core::v1::{
    Pod, PodAffinityTerm, PodSpec, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use crate::claims::Mounted;
use crate::resources::{Resources, pod_request};

/// Pods near which, or away from which, a pod wants to be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    selector: Option<Labels>,
    namespaces: Vec<String>,
    /// Namespaces by label; the empty selector is all of them.
    namespace_selector: Option<Labels>,
    pub topology_key: String,
}

impl AffinityTerm {
    fn of(term: &PodAffinityTerm, pod: &Pod) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.extend(pod.metadata.namespace.clone());
        }
        let mut selector = term.label_selector.as_ref().map(Labels::from_label_selector);
        let labels = pod.metadata.labels.as_ref();
        let value = |key: &String| labels.and_then(|labels| labels.get(key)).cloned();
        if let Some(selector) = &mut selector {
            for key in term.match_label_keys.iter().flatten() {
                selector.0.extend(value(key).map(|value| Requirement::In(key.clone(), vec![value])));
            }
            for key in term.mismatch_label_keys.iter().flatten() {
                selector.0.extend(value(key).map(|value| Requirement::NotIn(key.clone(), vec![value])));
            }
        }
        Self {
            selector,
            namespaces,
            namespace_selector: term.namespace_selector.as_ref().map(Labels::from_label_selector),
            topology_key: term.topology_key.clone(),
        }
    }

    /// Whether pods are meant, given the labels of their namespace.
    pub fn matches(&self, pods: &Signature, namespace: Option<&BTreeMap<String, String>>) -> bool {
        let none = BTreeMap::new();
        let there = self.namespaces.contains(&pods.namespace)
            || self.namespace_selector.as_ref().is_some_and(|s| selected(s, namespace.unwrap_or(&none)));
        there && self.selector.as_ref().is_some_and(|selector| selected(selector, &pods.labels))
    }
}

/// One topology spread constraint.
#[derive(Clone, Debug)]
pub struct Spread {
    pub max_skew: i64,
    pub topology_key: String,
    pub required: bool,
    pub selector: Labels,
    pub min_domains: Option<usize>,
    /// Whether nodes with taints the pod does not tolerate are left out of the counting.
    pub honor_taints: bool,
    /// Whether nodes its selector and affinity rule out are left out of the counting.
    pub honor_affinity: bool,
}

impl Spread {
    fn of(from: &TopologySpreadConstraint, labels: &BTreeMap<String, String>) -> Self {
        let mut selector = from.label_selector.as_ref().map(Labels::from_label_selector);
        if let Some(selector) = &mut selector {
            for key in from.match_label_keys.iter().flatten() {
                let value = labels.get(key).cloned();
                selector.0.extend(value.map(|value| Requirement::In(key.clone(), vec![value])));
            }
        }
        // Without a selector no pod is meant: a requirement that nothing can meet.
        let nobody = || Labels(vec![Requirement::In(String::new(), Vec::new())]);
        Self {
            max_skew: from.max_skew.into(),
            topology_key: from.topology_key.clone(),
            required: from.when_unsatisfiable == "DoNotSchedule",
            selector: selector.unwrap_or_else(nobody),
            min_domains: from.min_domains.and_then(|n| usize::try_from(n).ok()),
            honor_taints: from.node_taints_policy.as_deref() == Some("Honor"),
            honor_affinity: from.node_affinity_policy.as_deref() != Some("Ignore"),
        }
    }

    /// Whether the selector selects pods.
    pub fn selects(&self, pods: &Signature) -> bool {
        selected(&self.selector, &pods.labels)
    }

    /// Whether pods that are there count for one that has this constraint.
    pub fn means(&self, pod: &PodInfo, pods: &Signature) -> bool {
        pods.namespace == pod.key.namespace && !pods.leaving && self.selects(pods)
    }
}

/// A port of the host: protocol, address and number.
pub type HostPort = (String, String, i32);

/// What other pods are placed by: pods of the same signature, such as those of one `ReplicaSet`, are all
/// one to them.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Signature {
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// The uid of the controller.
    pub owner: Option<String>,
    /// Asked to end.
    pub leaving: bool,
    /// Pods that they will not have near.
    pub anti_affinity: Vec<AffinityTerm>,
}

/// What the scheduler knows of a pod.
#[derive(Debug)]
pub struct PodInfo {
    pub pod: Arc<Pod>,
    pub key: ObjectKey,
    pub uid: String,
    pub signature: Arc<Signature>,
    pub priority: i32,
    pub request: Resources,
    /// The request as nodes are compared by it: never nothing.
    pub counted: Resources,
    pub node_name: Option<String>,
    pub node_selector: BTreeMap<String, String>,
    pub node_required: Option<Vec<NodeTerm>>,
    pub node_preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub ports: Vec<HostPort>,
    pub affinity: Vec<AffinityTerm>,
    /// Preferences, those to be away from with a negative weight.
    pub preferred: Vec<(i64, AffinityTerm)>,
    pub spread: Vec<Spread>,
    pub images: Vec<String>,
    pub claims: Vec<Mounted>,
}

impl PodInfo {
    pub fn new(pod: Arc<Pod>) -> Self {
        let absent = PodSpec::default();
        let spec = pod.spec.as_ref().unwrap_or(&absent);
        let affinity = spec.affinity.as_ref();
        let node = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let near = affinity.and_then(|affinity| affinity.pod_affinity.as_ref());
        let away = affinity.and_then(|affinity| affinity.pod_anti_affinity.as_ref());
        let terms = |list: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            list.into_iter().flatten().map(|term| AffinityTerm::of(term, &pod)).collect()
        };
        let wishes = |sign: i64, list: Option<&Vec<WeightedPodAffinityTerm>>| -> Vec<(i64, AffinityTerm)> {
            let wish = |wish: &WeightedPodAffinityTerm| {
                (sign * i64::from(wish.weight), AffinityTerm::of(&wish.pod_affinity_term, &pod))
            };
            list.into_iter().flatten().map(wish).collect()
        };
        let mut preferred = wishes(
            1,
            near.and_then(|near| near.preferred_during_scheduling_ignored_during_execution.as_ref()),
        );
        preferred.extend(wishes(
            -1,
            away.and_then(|away| away.preferred_during_scheduling_ignored_during_execution.as_ref()),
        ));
        let required =
            node.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
        let node_preferred =
            node.and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_ref());
        let key = ObjectKey::of(&*pod);
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let mut owners = pod.metadata.owner_references.iter().flatten();
        Self {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            priority: spec.priority.unwrap_or_default(),
            request: pod_request(spec, false),
            counted: pod_request(spec, true),
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            node_required: required.map(|r| r.node_selector_terms.iter().map(NodeTerm::of).collect()),
            node_preferred: node_preferred
                .into_iter()
                .flatten()
                .map(|p| (p.weight.into(), NodeTerm::of(&p.preference)))
                .collect(),
            tolerations: spec.tolerations.clone().unwrap_or_default(),
            ports: host_ports(spec),
            affinity: terms(
                near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred,
            spread: spec
                .topology_spread_constraints
                .iter()
                .flatten()
                .map(|s| Spread::of(s, &labels))
                .collect(),
            claims: claims(&pod, spec),
            images: spec.containers.iter().filter_map(|container| container.image.clone()).collect(),
            signature: Arc::new(Signature {
                namespace: key.namespace.clone(),
                labels,
                owner: owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.clone()),
                leaving: pod.metadata.deletion_timestamp.is_some(),
                anti_affinity: terms(
                    away.and_then(|away| away.required_during_scheduling_ignored_during_execution.as_ref()),
                ),
            }),
            key,
            pod,
        }
    }
}

/// The claims that a pod mounts: those it names, and those made for it.
fn claims(pod: &Pod, spec: &PodSpec) -> Vec<Mounted> {
    let own = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = spec.volumes.iter().flatten();
    let mounted = volumes.filter_map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(Mounted { name: claim.claim_name.clone(), ephemeral: false }),
        None => volume
            .ephemeral
            .as_ref()
            .map(|_| Mounted { name: format!("{own}-{}", volume.name), ephemeral: true }),
    });
    mounted.collect()
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let asked = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let ip = port.host_ip.clone().filter(|ip| !ip.is_empty()).unwrap_or_else(|| "0.0.0.0".into());
        Some((protocol, ip, number))
    });
    asked.collect()
}
