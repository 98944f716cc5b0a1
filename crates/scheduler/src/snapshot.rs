//! The nodes and what runs on them, kept up to date change by change.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::Quantity;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::PodInfo;
use crate::pod::HostPort;
use crate::resources::Resources;

/// One node.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: usize,
    /// What the pods on it ask for together.
    pub requested: Resources,
    pub counted: Resources,
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them want to be away from others.
    pub with_anti_affinity: usize,
    pub ports: Vec<HostPort>,
    /// Sizes of the images it has, by name.
    pub images: HashMap<String, i64>,
    /// Whether there is such a node: pods may be known before their node is.
    known: bool,
}

impl NodeInfo {
    fn set(&mut self, node: &Node) {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        self.known = true;
        self.labels = node.metadata.labels.clone().unwrap_or_default();
        self.taints = spec.taints.unwrap_or_default();
        self.unschedulable = spec.unschedulable == Some(true);
        let pods = status.allocatable.as_ref().and_then(|all| all.get("pods"));
        let pods = pods.and_then(|text| Quantity::parse(&text.0).ok()).map_or(0, Quantity::value);
        self.max_pods = usize::try_from(pods).unwrap_or_default();
        self.allocatable = Resources::of(status.allocatable.as_ref());
        let images = status.images.into_iter().flatten();
        self.images = images
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or_default();
                image.names.unwrap_or_default().into_iter().map(move |name| (name, size))
            })
            .collect();
    }

    pub(crate) fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.request);
        self.counted.add(&pod.counted);
        self.with_anti_affinity += usize::from(!pod.anti_affinity.is_empty());
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|pod| pod.uid == uid) else { return };
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.request);
        self.counted.subtract(&pod.counted);
        self.with_anti_affinity -= usize::from(!pod.anti_affinity.is_empty());
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(at);
            }
        }
    }
}

/// All nodes, at one moment. Pods that were decided on count as if they ran.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// The node of each pod, by uid.
    pods: HashMap<String, String>,
    /// How many pods want to be away from others, on all nodes.
    with_anti_affinity: usize,
    /// Pods that room was made for, by uid, and the node where.
    nominated: HashMap<String, (Arc<PodInfo>, String)>,
    /// Labels of the namespaces.
    pub namespaces: HashMap<String, BTreeMap<String, String>>,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).map(|at| &self.nodes[*at]).filter(|node| node.known)
    }

    /// Adds a node or takes up its new state.
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.entry(&name).set(node);
    }

    /// Forgets a node. Pods still on it keep their place, in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.by_name.get(name).copied() else { return };
        self.nodes[at].known = false;
        self.nodes[at].allocatable = Resources::default();
        self.nodes[at].max_pods = 0;
        self.drop_if_empty(at);
    }

    /// Puts a pod on a node, wherever it was before.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        self.nominated.remove(&pod.uid);
        self.pods.insert(pod.uid.clone(), node.to_owned());
        self.with_anti_affinity += usize::from(!pod.anti_affinity.is_empty());
        self.entry(node).add(pod);
    }

    /// Takes a pod away; whether it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.pods.remove(uid) else { return false };
        if let Some(at) = self.by_name.get(&node).copied() {
            let before = self.nodes[at].with_anti_affinity;
            self.nodes[at].remove(uid);
            self.with_anti_affinity -= before - self.nodes[at].with_anti_affinity;
            self.drop_if_empty(at);
        }
        true
    }

    /// Notes that room is made for a pod on a node, or that it is not any more.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<&str>) {
        match node {
            Some(node) => drop(self.nominated.insert(pod.uid.clone(), (pod.clone(), node.to_owned()))),
            None => drop(self.nominated.remove(&pod.uid)),
        }
    }

    /// Whether any pod wants to be away from others.
    pub fn has_anti_affinity(&self) -> bool {
        self.with_anti_affinity > 0
    }

    /// Forgets that room was made for a pod.
    pub fn forget_nominated(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// The node where room was made for a pod.
    pub fn nominated_node(&self, uid: &str) -> Option<&str> {
        self.nominated.get(uid).map(|(_, node)| node.as_str())
    }

    /// Pods that room was made for on a node and that `pod` may not take it from.
    pub fn nominated_to<'a>(
        &'a self,
        node: &'a str,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let there = self.nominated.values().filter(move |(_, at)| at == node).map(|(other, _)| other);
        there.filter(move |other| other.uid != pod.uid && other.priority >= pod.priority)
    }

    /// Pods that room was made for on a node, and that are less important than `pod`.
    pub fn nominated_below<'a>(
        &'a self,
        node: &'a str,
        pod: &'a PodInfo,
    ) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        let there = self.nominated.values().filter(move |(_, at)| at == node).map(|(other, _)| other);
        there.filter(move |other| other.uid != pod.uid && other.priority < pod.priority)
    }

    /// Whether room is made for any pod.
    pub fn has_nominated(&self) -> bool {
        !self.nominated.is_empty()
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let next = self.nodes.len();
        let at = *self.by_name.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.nodes.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
        }
        &mut self.nodes[at]
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].known || !self.nodes[at].pods.is_empty() {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }

    /// The nodes there are.
    pub fn known(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.iter().filter(|node| node.known)
    }

    pub(crate) fn is_known(node: &NodeInfo) -> bool {
        node.known
    }
}
