//! The decision: filter, score, choose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rand::RngExt as _;

use crate::filters::{self, Rejection};
use crate::{NodeInfo, PodInfo, Snapshot, scores, topology};

/// Fewer nodes than this are all looked at.
const FEW_NODES: usize = 100;

/// Why a pod fits nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FitError {
    pub nodes: usize,
    /// How many nodes were ruled out for each reason.
    pub reasons: BTreeMap<String, usize>,
    /// The plugins that ruled nodes out: what must change for another try to make sense.
    pub plugins: BTreeSet<&'static str>,
    /// The places, among the snapshot's nodes, of those where removing pods may help.
    pub resolvable: Vec<usize>,
    /// Why it fits nowhere, whatever the nodes are like: they were not looked at.
    pub everywhere: Option<String>,
    /// Why removing pods does not help; `None` when it was not tried or does.
    pub preemption: Option<String>,
}

impl FitError {
    /// A pod that no node can take, and why.
    pub fn everywhere(snapshot: &Snapshot, plugin: &'static str, reason: String) -> Self {
        let nodes = snapshot.nodes().iter().filter(|node| Snapshot::is_known(node)).count();
        Self { nodes, everywhere: Some(reason), plugins: [plugin].into(), ..Self::default() }
    }

    fn add(&mut self, rejection: Rejection, at: usize) {
        self.plugins.insert(rejection.plugin);
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if rejection.resolvable {
            self.resolvable.push(at);
        }
    }
}

impl std::error::Error for FitError {}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let all = self.nodes;
        let why = match &self.everywhere {
            Some(why) => why.clone(),
            None => histogram(self.reasons.iter().map(|(r, n)| (r.as_str(), *n))),
        };
        write!(f, "0/{all} nodes are available: {why}.")?;
        match &self.preemption {
            // The step before preemption looks for devices to be freed, of which there are none.
            Some(why) => write!(f, " no new claims to deallocate, preemption: {why}"),
            None => Ok(()),
        }
    }
}

pub(crate) fn histogram<'a>(reasons: impl Iterator<Item = (&'a str, usize)>) -> String {
    let mut parts: Vec<String> = reasons.map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
    parts.sort();
    parts.join(", ")
}

/// Decides. Remembers only where it stopped looking, so that all nodes get their turn.
#[derive(Debug, Default)]
pub struct Scheduler {
    start: usize,
    percentage_of_nodes_to_score: usize,
}

impl Scheduler {
    /// A scheduler to which `percentage_of_nodes_to_score` of the nodes are enough to choose from; 0 is
    /// by the size of the cluster.
    pub fn new(percentage_of_nodes_to_score: usize) -> Self {
        Self { start: 0, percentage_of_nodes_to_score }
    }

    /// The node a pod goes to.
    pub fn schedule(&mut self, snapshot: &Snapshot, pod: &PodInfo) -> Result<String, FitError> {
        let nodes = snapshot.nodes();
        let state = topology::State::new(snapshot, pod);
        // Where room was made for it, it goes without further ado.
        let nominated = snapshot.nominated_node(&pod.uid).and_then(|name| snapshot.node(name));
        if let Some(node) = nominated.filter(|node| check(snapshot, pod, node, &state).is_ok()) {
            return Ok(node.name.clone());
        }
        let mut error = FitError::default();
        let enough = self.enough(nodes.len());
        let mut feasible: Vec<&NodeInfo> = Vec::with_capacity(enough.min(nodes.len()));
        let mut looked_at = 0;
        let start = if nodes.is_empty() { 0 } else { self.start % nodes.len() };
        for at in (start..nodes.len()).chain(0..start) {
            if feasible.len() >= enough {
                break;
            }
            looked_at += 1;
            let node = &nodes[at];
            if !Snapshot::is_known(node) {
                continue;
            }
            error.nodes += 1;
            match check(snapshot, pod, node, &state) {
                Ok(()) => feasible.push(node),
                Err(rejection) => error.add(rejection, at),
            }
        }
        self.start = start + looked_at;
        match feasible.as_slice() {
            [] => Err(error),
            [only] => Ok(only.name.clone()),
            _ => Ok(best(snapshot, pod, &feasible)),
        }
    }

    /// How many nodes that fit are enough, as upstream: all of up to a hundred, and in larger clusters
    /// 50 % less one for each 125 nodes, but not under 5 %.
    fn enough(&self, nodes: usize) -> usize {
        let percent = match self.percentage_of_nodes_to_score {
            0 => 50usize.saturating_sub(nodes / 125).max(5),
            percent => percent.min(100),
        };
        if nodes < FEW_NODES { nodes.max(1) } else { (nodes * percent / 100).max(FEW_NODES) }
    }
}

/// Whether a node may be taken, both as it is and with the pods that room was made for on it.
fn check(
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
    state: &topology::State,
) -> Result<(), Rejection> {
    if snapshot.has_nominated() && snapshot.nominated_to(&node.name, pod).next().is_some() {
        let (mut full, mut state) = (node.clone(), state.clone());
        for other in snapshot.nominated_to(&node.name, pod) {
            full.add(other.clone());
            state.count(snapshot, pod, &full, other, 1);
        }
        filters::check(pod, &full).and_then(|()| state.check(pod, &full))?;
    }
    filters::check(pod, node).and_then(|()| state.check(pod, node))
}

/// The best, and among several best any.
fn best(snapshot: &Snapshot, pod: &PodInfo, feasible: &[&NodeInfo]) -> String {
    let scores = scores::score(snapshot, pod, feasible);
    let mut rng = rand::rng();
    let (mut chosen, mut ties) = (0, 1);
    for at in 1..scores.len() {
        if scores[at] > scores[chosen] {
            (chosen, ties) = (at, 1);
        } else if scores[at] == scores[chosen] {
            ties += 1;
            if rng.random_range(0..ties) == 0 {
                chosen = at;
            }
        }
    }
    feasible[chosen].name.clone()
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
