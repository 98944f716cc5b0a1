//! The nodes and what runs on them, kept up to date change by change.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::Quantity;
use k8s_openapi::api::core::v1::{Node, Taint};

use crate::numbers::{Numbers, Place, Places, Tally};
use crate::pod::HostPort;
use crate::resources::Resources;
use crate::{PodInfo, Signature};

/// One node.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    /// The labels by number.
    places: Vec<Place>,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub max_pods: usize,
    /// What the pods on it ask for together.
    pub requested: Resources,
    pub counted: Resources,
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of them are of each signature, by its number in the snapshot.
    pub(crate) signatures: Tally,
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
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.request);
        self.counted.subtract(&pod.counted);
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|other| other == port) {
                self.ports.swap_remove(at);
            }
        }
        Some(pod)
    }

    /// The number of the node's value of a label.
    pub(crate) fn place(&self, key: u32) -> Option<u32> {
        self.places.iter().find(|(other, _)| *other == key).map(|(_, value)| *value)
    }
}

/// All nodes, at one moment. Pods that were decided on count as if they ran.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// The node of each pod, by uid.
    pods: HashMap<String, String>,
    /// The labels of the nodes.
    pub(crate) places: Places,
    /// The signatures of the pods on them.
    pub(crate) signatures: Numbers<Signature>,
    /// Those that will not have others near.
    guarding: BTreeSet<u32>,
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
        let at = self.entry(&name);
        let info = &mut self.nodes[at];
        info.set(node);
        // In before out: what stays keeps its number.
        let places = self.places.enter(&info.labels);
        self.places.leave(&std::mem::replace(&mut info.places, places));
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
        let signature = self.signatures.take(&pod.signature, || pod.signature.clone());
        if !pod.signature.anti_affinity.is_empty() {
            self.guarding.insert(signature);
        }
        let at = self.entry(node);
        self.nodes[at].signatures.add(signature);
        self.nodes[at].add(pod);
    }

    /// Takes a pod away; whether it was there.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.pods.remove(uid) else { return false };
        if let Some(at) = self.by_name.get(&node).copied() {
            let node = &mut self.nodes[at];
            let gone = node.remove(uid);
            if let Some(signature) = gone.and_then(|pod| self.signatures.get(&pod.signature)) {
                node.signatures.remove(signature);
                if self.signatures.release(signature) {
                    self.guarding.remove(&signature);
                }
            }
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

    /// The signatures of pods that will not have others near, with their numbers.
    pub(crate) fn guarding(&self) -> impl Iterator<Item = (u32, &Signature)> {
        self.guarding.iter().filter_map(|number| Some((*number, self.signatures.value(*number)?)))
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

    /// The place of a node of this name, which is added if there is none.
    fn entry(&mut self, name: &str) -> usize {
        let next = self.nodes.len();
        let at = *self.by_name.entry(name.to_owned()).or_insert(next);
        if at == next {
            self.nodes.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
        }
        at
    }

    fn drop_if_empty(&mut self, at: usize) {
        if self.nodes[at].known || !self.nodes[at].pods.is_empty() {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.places.leave(&gone.places);
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Pods of application 0 will not have those of application 1 in their zone.
    fn pod(uid: u8, app: u8) -> Arc<PodInfo> {
        let away = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": "1"}}, "topologyKey": "zone"}]}});
        let affinity = Some(away).filter(|_| app == 0);
        let pod = json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid.to_string(),
            "labels": {"app": app.to_string()}}, "spec": {"containers": [], "affinity": affinity}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn node(name: u8, zone: u8) -> Node {
        let (name, zone) = (name.to_string(), zone.to_string());
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"host": name, "zone": zone}}}))
            .unwrap()
    }

    #[derive(Clone, Debug)]
    enum Step {
        Node(u8, u8),
        NodeGone(u8),
        Pod(u8, u8, u8),
        PodGone(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4u8, 0..3u8).prop_map(|(name, zone)| Step::Node(name, zone)),
            (0..4u8).prop_map(Step::NodeGone),
            (0..9u8, 0..3u8, 0..4u8).prop_map(|(uid, app, node)| Step::Pod(uid, app, node)),
            (0..9u8).prop_map(Step::PodGone),
        ]
    }

    /// What is kept by number must say what the nodes and pods themselves say.
    fn check(snapshot: &Snapshot) {
        let mut pods = 0;
        for (at, node) in snapshot.nodes.iter().enumerate() {
            assert_eq!(snapshot.by_name[&node.name], at);
            for key in ["host", "zone"] {
                let number = |node: &NodeInfo| snapshot.places.key(key).and_then(|key| node.place(key));
                for other in &snapshot.nodes {
                    let same = node.labels.get(key) == other.labels.get(key);
                    assert_eq!(number(node) == number(other), same, "{key} of {node:?} and {other:?}");
                }
                assert_eq!(number(node).is_some(), node.labels.contains_key(key));
            }
            let mut counts: HashMap<&Signature, i64> = HashMap::new();
            for (number, count) in node.signatures.iter() {
                counts.insert(snapshot.signatures.value(number).expect("a number in use"), count);
            }
            let mut expected: HashMap<&Signature, i64> = HashMap::new();
            node.pods.iter().for_each(|pod| *expected.entry(&pod.signature).or_default() += 1);
            assert_eq!(counts, expected);
            pods += node.pods.len();
        }
        assert_eq!(snapshot.pods.len(), pods);
        check_counts(snapshot);
    }

    /// What is counted by number is what is counted by text.
    fn check_counts(snapshot: &Snapshot) {
        let (guard, kept_off) = (pod(100, 0), pod(101, 1));
        let term = &guard.signature.anti_affinity[0];
        let meant = crate::topology::count(snapshot, term);
        let state = crate::topology::State::new(snapshot, &kept_off);
        for node in snapshot.known() {
            let zone = |other: &&NodeInfo| other.labels.get("zone") == node.labels.get("zone");
            let there = |app: &str| {
                let pods = snapshot.known().filter(zone).flat_map(|other| &other.pods);
                pods.filter(|pod| pod.signature.labels["app"] == app).count() as i64
            };
            assert_eq!(meant.at(node), there("1"));
            assert_eq!(state.check(&kept_off, node).is_err(), there("0") > 0);
        }
    }

    proptest! {
        #[test]
        fn numbers_follow_nodes_and_pods(steps in proptest::collection::vec(step(), 0..60)) {
            let mut snapshot = Snapshot::default();
            for step in steps {
                match step {
                    Step::Node(name, zone) => snapshot.set_node(&node(name, zone)),
                    Step::NodeGone(name) => snapshot.remove_node(&name.to_string()),
                    Step::Pod(uid, app, node) => snapshot.set_pod(pod(uid, app), &node.to_string()),
                    Step::PodGone(uid) => {
                        snapshot.remove_pod(&uid.to_string());
                    }
                }
                check(&snapshot);
            }
            for uid in 0..9u8 {
                snapshot.remove_pod(&uid.to_string());
            }
            (0..4u8).for_each(|name| snapshot.remove_node(&name.to_string()));
            assert_eq!((snapshot.nodes.len(), snapshot.guarding.len()), (0, 0));
            let used = (0..snapshot.signatures.bound()).filter_map(|n| snapshot.signatures.value(n as u32));
            assert_eq!(used.count(), 0);
            assert_eq!((snapshot.places.key("host"), snapshot.places.key("zone")), (None, None));
        }
    }
}
