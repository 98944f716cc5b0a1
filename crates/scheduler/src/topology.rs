//! What rules a node out because of where other pods are: inter-pod affinity and topology spread.
//! Both count pods by the value of a node label, once for each pod to be placed.

use std::collections::HashMap;

use crate::filters::{self, Rejection, label, pod_selected};
use crate::pod::{AffinityTerm, Spread};
use crate::{NodeInfo, PodInfo, Snapshot};

/// Pods by topology value, for one term or constraint.
pub(crate) type Counts = HashMap<String, i64>;

/// What was counted for one pod.
#[derive(Clone)]
pub struct State {
    near: Vec<Counts>,
    away: Vec<Counts>,
    /// Places that pods which are there want to be alone in: topology key and value.
    guarded: HashMap<String, Counts>,
    /// Nobody matches the affinity terms yet, and the pod itself does.
    first_of_its_kind: bool,
    spread: Vec<(Counts, i64)>,
}

impl State {
    pub fn new(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let near: Vec<Counts> = pod.affinity.iter().map(|term| count(snapshot, term)).collect();
        let away = pod.anti_affinity.iter().map(|term| count(snapshot, term)).collect();
        let own = snapshot.namespaces.get(&pod.key.namespace);
        let first_of_its_kind =
            near.iter().all(HashMap::is_empty) && pod.affinity.iter().all(|term| term.matches(pod, own));
        let spread = pod.spread.iter().filter(|spread| spread.required);
        let spread = spread.map(|constraint| spread_counts(snapshot, pod, constraint)).collect();
        Self { near, away, guarded: guarded(snapshot, pod), first_of_its_kind, spread }
    }

    /// Counts a pod that came to a node (1) or left it (-1).
    pub fn count(&mut self, snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo, other: &PodInfo, by: i64) {
        let namespace = |key: &client::ObjectKey| snapshot.namespaces.get(&key.namespace);
        let there = |key: &str| label(node, key).map(str::to_owned);
        let near = pod.affinity.iter().zip(&mut self.near);
        for (term, counts) in near.chain(pod.anti_affinity.iter().zip(&mut self.away)) {
            if term.matches(other, namespace(&other.key)) {
                add(counts, there(&term.topology_key), by);
            }
        }
        for term in &other.anti_affinity {
            if term.matches(pod, namespace(&pod.key)) {
                add(
                    self.guarded.entry(term.topology_key.clone()).or_default(),
                    there(&term.topology_key),
                    by,
                );
            }
        }
        self.first_of_its_kind = self.near.iter().all(HashMap::is_empty)
            && pod.affinity.iter().all(|term| term.matches(pod, namespace(&pod.key)));
        let required = pod.spread.iter().filter(|spread| spread.required);
        for (constraint, (counts, least)) in required.zip(&mut self.spread) {
            let Some(count) = label(node, &constraint.topology_key).and_then(|value| counts.get_mut(value))
            else {
                continue;
            };
            if is_spread(constraint, pod, other) {
                *count += by;
                *least = least_of(constraint, counts);
            }
        }
    }

    /// Whether a node may be taken.
    pub fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        self.check_spread(pod, node)?;
        self.check_affinity(pod, node)
    }

    fn check_affinity(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let off = |reason, resolvable| Err(Rejection::new("InterPodAffinity", reason, resolvable));
        for (term, counts) in pod.affinity.iter().zip(&self.near) {
            let there = label(node, &term.topology_key);
            let met = there.is_some_and(|value| counts.contains_key(value) || self.first_of_its_kind);
            if !met {
                return off("node(s) didn't match pod affinity rules", false);
            }
        }
        for (term, counts) in pod.anti_affinity.iter().zip(&self.away) {
            if label(node, &term.topology_key).is_some_and(|value| counts.contains_key(value)) {
                return off("node(s) didn't match pod anti-affinity rules", true);
            }
        }
        for (key, counts) in &self.guarded {
            if label(node, key).is_some_and(|value| counts.contains_key(value)) {
                return off("node(s) didn't satisfy existing pods anti-affinity rules", true);
            }
        }
        Ok(())
    }

    fn check_spread(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let required = pod.spread.iter().filter(|spread| spread.required);
        for (constraint, (counts, least)) in required.zip(&self.spread) {
            let Some(value) = label(node, &constraint.topology_key) else {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::new("PodTopologySpread", reason, false));
            };
            let own = i64::from(pod_selected(&constraint.selector, pod));
            let there = counts.get(value).copied().unwrap_or_default();
            if there + own - least > constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::new("PodTopologySpread", reason, true));
            }
        }
        Ok(())
    }
}

/// Pods a term means, by the topology value of their node.
pub(crate) fn count(snapshot: &Snapshot, term: &AffinityTerm) -> Counts {
    let mut counts = Counts::new();
    for node in snapshot.known() {
        let Some(value) = label(node, &term.topology_key) else { continue };
        let meant = node
            .pods
            .iter()
            .filter(|other| term.matches(other, snapshot.namespaces.get(&other.key.namespace)));
        let meant = meant.count() as i64;
        if meant > 0 {
            *counts.entry(value.to_owned()).or_default() += meant;
        }
    }
    counts
}

fn guarded(snapshot: &Snapshot, pod: &PodInfo) -> HashMap<String, Counts> {
    let own = snapshot.namespaces.get(&pod.key.namespace);
    let mut guarded: HashMap<String, Counts> = HashMap::new();
    if !snapshot.has_anti_affinity() {
        return guarded;
    }
    for node in snapshot.known().filter(|node| node.with_anti_affinity > 0) {
        for term in node.pods.iter().flat_map(|other| &other.anti_affinity) {
            let Some(value) = label(node, &term.topology_key) else { continue };
            if term.matches(pod, own) {
                let counts = guarded.entry(term.topology_key.clone()).or_default();
                *counts.entry(value.to_owned()).or_default() += 1;
            }
        }
    }
    guarded
}

/// Pods a constraint means by topology value, and the least of them. Every value of a node that counts
/// is there, if with zero.
fn spread_counts(snapshot: &Snapshot, pod: &PodInfo, constraint: &Spread) -> (Counts, i64) {
    let keys: Vec<&str> = pod
        .spread
        .iter()
        .filter(|spread| spread.required)
        .map(|spread| spread.topology_key.as_str())
        .collect();
    let counted = |node: &&NodeInfo| {
        (!constraint.honor_affinity || filters::affinity_fits(pod, node))
            && (!constraint.honor_taints || filters::keeping_off(pod, node).is_none())
            && keys.iter().all(|key| label(node, key).is_some())
    };
    let mut counts = Counts::new();
    for node in snapshot.known().filter(counted) {
        let Some(value) = label(node, &constraint.topology_key) else { continue };
        *counts.entry(value.to_owned()).or_default() += spread_here(node, pod, constraint);
    }
    let least = least_of(constraint, &counts);
    (counts, least)
}

fn least_of(constraint: &Spread, counts: &Counts) -> i64 {
    let few = constraint.min_domains.is_some_and(|domains| counts.len() < domains);
    if few { 0 } else { counts.values().copied().min().unwrap_or_default() }
}

/// Adds to the count of a value; none is left at zero.
fn add(counts: &mut Counts, value: Option<String>, by: i64) {
    let Some(value) = value else { return };
    let count = counts.entry(value.clone()).or_default();
    *count += by;
    if *count <= 0 {
        counts.remove(&value);
    }
}

/// Pods on a node that a constraint means.
pub(crate) fn spread_here(node: &NodeInfo, pod: &PodInfo, constraint: &Spread) -> i64 {
    node.pods.iter().filter(|other| is_spread(constraint, pod, other)).count() as i64
}

/// Whether a constraint of `pod` means another.
fn is_spread(constraint: &Spread, pod: &PodInfo, other: &PodInfo) -> bool {
    other.key.namespace == pod.key.namespace
        && other.pod.metadata.deletion_timestamp.is_none()
        && pod_selected(&constraint.selector, other)
}
