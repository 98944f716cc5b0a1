//! What rules a node out because of where other pods are: inter-pod affinity and topology spread.
//! Both count pods by the value of a node label, once for each pod to be placed.

use crate::filters::{self, Rejection};
use crate::pod::{AffinityTerm, Spread};
use crate::{NodeInfo, PodInfo, Signature, Snapshot};

/// Pods by the value that their nodes have of one label. A value is there once it was counted, if with
/// zero.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// `None`: no node has the label.
    key: Option<u32>,
    /// By number of the value.
    values: Vec<i64>,
    domains: usize,
    sum: i64,
}

const ABSENT: i64 = -1;

impl Counts {
    pub fn new(snapshot: &Snapshot, key: &str) -> Self {
        let key = snapshot.places.key(key);
        let values = key.map_or(0, |key| snapshot.places.bound(key));
        Self { key, values: vec![ABSENT; values], domains: 0, sum: 0 }
    }

    fn place(&self, node: &NodeInfo) -> Option<usize> {
        node.place(self.key?).map(|value| value as usize)
    }

    /// Counts at the value of a node, if it has the label.
    pub fn add(&mut self, node: &NodeInfo, by: i64) {
        let Some(place) = self.place(node) else { return };
        let count = &mut self.values[place];
        if *count == ABSENT {
            *count = 0;
            self.domains += 1;
        }
        *count += by;
        self.sum += by;
    }

    /// What was counted at the value of a node; `None` without the label or where nothing was counted.
    pub fn get(&self, node: &NodeInfo) -> Option<i64> {
        Some(self.values[self.place(node)?]).filter(|count| *count != ABSENT)
    }

    /// How many there are at the value of a node.
    pub fn at(&self, node: &NodeInfo) -> i64 {
        self.get(node).unwrap_or_default()
    }

    /// How many values are there.
    pub fn domains(&self) -> usize {
        self.domains
    }

    fn least(&self) -> i64 {
        self.values.iter().copied().filter(|count| *count != ABSENT).min().unwrap_or_default()
    }
}

/// Which pods something means: asked once for each signature.
pub(crate) struct Meant<'a, F> {
    snapshot: &'a Snapshot,
    ask: F,
    known: Vec<Option<bool>>,
}

impl<'a, F: Fn(&Signature) -> bool> Meant<'a, F> {
    pub fn new(snapshot: &'a Snapshot, ask: F) -> Self {
        Self { snapshot, ask, known: vec![None; snapshot.signatures.bound()] }
    }

    /// How many of the pods on a node are meant.
    pub fn on(&mut self, node: &NodeInfo) -> i64 {
        let mut sum = 0;
        for (number, count) in node.signatures.iter() {
            let ask = || self.snapshot.signatures.value(number).is_some_and(&self.ask);
            if *self.known[number as usize].get_or_insert_with(ask) {
                sum += count;
            }
        }
        sum
    }
}

/// What was counted for one pod.
#[derive(Clone)]
pub struct State {
    near: Vec<Counts>,
    away: Vec<Counts>,
    /// Places that pods which are there want to be alone in, by label.
    guarded: Vec<Counts>,
    /// Nobody matches the affinity terms yet, and the pod itself does.
    first_of_its_kind: bool,
    /// With the least at any value.
    spread: Vec<(Counts, i64)>,
}

impl State {
    pub fn new(snapshot: &Snapshot, pod: &PodInfo) -> Self {
        let near = pod.affinity.iter().map(|term| count(snapshot, term)).collect();
        let away = pod.signature.anti_affinity.iter().map(|term| count(snapshot, term)).collect();
        let spread = pod.spread.iter().filter(|spread| spread.required);
        let spread = spread.map(|constraint| spread_counts(snapshot, pod, constraint)).collect();
        let guarded = guarded(snapshot, &pod.signature);
        let mut state = Self { near, away, guarded, first_of_its_kind: false, spread };
        state.first_of_its_kind = state.is_first(snapshot, pod);
        state
    }

    fn is_first(&self, snapshot: &Snapshot, pod: &PodInfo) -> bool {
        self.near.iter().all(|counts| counts.sum == 0)
            && pod.affinity.iter().all(|term| means(snapshot, term, &pod.signature))
    }

    /// Counts a pod that came to a node (1) or left it (-1).
    pub fn count(&mut self, snapshot: &Snapshot, pod: &PodInfo, node: &NodeInfo, other: &PodInfo, by: i64) {
        let near = pod.affinity.iter().zip(&mut self.near);
        for (term, counts) in near.chain(pod.signature.anti_affinity.iter().zip(&mut self.away)) {
            if means(snapshot, term, &other.signature) {
                counts.add(node, by);
            }
        }
        for term in &other.signature.anti_affinity {
            if means(snapshot, term, &pod.signature) {
                let at = by_label(&mut self.guarded, snapshot, &term.topology_key);
                self.guarded[at].add(node, by);
            }
        }
        self.first_of_its_kind = self.is_first(snapshot, pod);
        let required = pod.spread.iter().filter(|spread| spread.required);
        for (constraint, (counts, least)) in required.zip(&mut self.spread) {
            if counts.get(node).is_some() && constraint.means(pod, &other.signature) {
                counts.add(node, by);
                *least = least_of(constraint, counts);
            }
        }
    }

    /// Whether a node may be taken.
    pub fn check(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        self.check_spread(pod, node)?;
        self.check_affinity(node)
    }

    fn check_affinity(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let off = |reason, resolvable| Err(Rejection::new("InterPodAffinity", reason, resolvable));
        for counts in &self.near {
            if counts.place(node).is_none() || counts.at(node) == 0 && !self.first_of_its_kind {
                return off("node(s) didn't match pod affinity rules", false);
            }
        }
        if self.away.iter().any(|counts| counts.at(node) > 0) {
            return off("node(s) didn't match pod anti-affinity rules", true);
        }
        if self.guarded.iter().any(|counts| counts.at(node) > 0) {
            return off("node(s) didn't satisfy existing pods anti-affinity rules", true);
        }
        Ok(())
    }

    fn check_spread(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
        let required = pod.spread.iter().filter(|spread| spread.required);
        for (constraint, (counts, least)) in required.zip(&self.spread) {
            if counts.place(node).is_none() {
                let reason = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Rejection::new("PodTopologySpread", reason, false));
            }
            let own = i64::from(constraint.selects(&pod.signature));
            if counts.at(node) + own - least > constraint.max_skew {
                let reason = "node(s) didn't match pod topology spread constraints";
                return Err(Rejection::new("PodTopologySpread", reason, true));
            }
        }
        Ok(())
    }
}

/// Whether a term means pods.
fn means(snapshot: &Snapshot, term: &AffinityTerm, pods: &Signature) -> bool {
    term.matches(pods, snapshot.namespaces.get(&pods.namespace))
}

/// Pods a term means, by the topology value of their node.
pub(crate) fn count(snapshot: &Snapshot, term: &AffinityTerm) -> Counts {
    let mut counts = Counts::new(snapshot, &term.topology_key);
    let mut meant = Meant::new(snapshot, |signature| means(snapshot, term, signature));
    for node in snapshot.known() {
        let here = meant.on(node);
        if here > 0 {
            counts.add(node, here);
        }
    }
    counts
}

/// Where the pods that are there want to be alone, as far as `pods` are concerned.
fn guarded(snapshot: &Snapshot, pods: &Signature) -> Vec<Counts> {
    let mut guarded = Vec::new();
    // The places in `guarded`, by number of the signature.
    let mut guards: Vec<Vec<usize>> = Vec::new();
    for (number, signature) in snapshot.guarding() {
        for term in signature.anti_affinity.iter().filter(|term| means(snapshot, term, pods)) {
            guards.resize_with(snapshot.signatures.bound(), Vec::new);
            guards[number as usize].push(by_label(&mut guarded, snapshot, &term.topology_key));
        }
    }
    if guarded.is_empty() {
        return guarded;
    }
    for node in snapshot.known() {
        for (number, count) in node.signatures.iter() {
            guards[number as usize].iter().for_each(|at| guarded[*at].add(node, count));
        }
    }
    guarded
}

/// The place of the counts by a label, which are added if there are none.
fn by_label(all: &mut Vec<Counts>, snapshot: &Snapshot, key: &str) -> usize {
    let key_number = snapshot.places.key(key);
    all.iter().position(|counts| counts.key == key_number).unwrap_or_else(|| {
        all.push(Counts::new(snapshot, key));
        all.len() - 1
    })
}

/// Pods a constraint means by topology value, and the least of them. Every value of a node that counts
/// is there, if with zero.
fn spread_counts(snapshot: &Snapshot, pod: &PodInfo, constraint: &Spread) -> (Counts, i64) {
    let required = pod.spread.iter().filter(|spread| spread.required);
    let keys: Vec<Option<u32>> = required.map(|spread| snapshot.places.key(&spread.topology_key)).collect();
    let counted = |node: &&NodeInfo| {
        keys.iter().all(|key| key.is_some_and(|key| node.place(key).is_some()))
            && (!constraint.honor_affinity || filters::affinity_fits(pod, node))
            && (!constraint.honor_taints || filters::keeping_off(pod, node).is_none())
    };
    let mut counts = Counts::new(snapshot, &constraint.topology_key);
    let mut meant = Meant::new(snapshot, |signature| constraint.means(pod, signature));
    for node in snapshot.known().filter(counted) {
        counts.add(node, meant.on(node));
    }
    let least = least_of(constraint, &counts);
    (counts, least)
}

fn least_of(constraint: &Spread, counts: &Counts) -> i64 {
    let few = constraint.min_domains.is_some_and(|domains| counts.domains < domains);
    if few { 0 } else { counts.least() }
}
