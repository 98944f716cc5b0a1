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
    /// Nodes where removing pods would not help.
    pub unresolvable: usize,
    /// Whether there are pods of lower priority where removing some could help.
    pub has_lower_priority: bool,
}

impl FitError {
    fn add(&mut self, rejection: Rejection, pod: &PodInfo, node: &NodeInfo) {
        self.plugins.insert(rejection.plugin);
        for reason in rejection.reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
        if rejection.resolvable {
            self.has_lower_priority |= node.pods.iter().any(|other| other.priority < pod.priority);
        } else {
            self.unresolvable += 1;
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
        write!(
            f,
            "0/{all} nodes are available: {}.",
            histogram(self.reasons.iter().map(|(r, n)| (r.as_str(), *n)))
        )?;
        if self.has_lower_priority {
            // Nothing is known of what preemption would find.
            return Ok(());
        }
        let why = [
            ("No preemption victims found for incoming pod", all - self.unresolvable),
            ("Preemption is not helpful for scheduling", self.unresolvable),
        ];
        let why = why.into_iter().filter(|(_, nodes)| *nodes > 0);
        write!(f, " preemption: 0/{all} nodes are available: {}.", histogram(why))
    }
}

fn histogram<'a>(reasons: impl Iterator<Item = (&'a str, usize)>) -> String {
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
        let mut error = FitError::default();
        let state = topology::State::new(snapshot, pod);
        let enough = self.enough(nodes.len());
        let mut feasible: Vec<&NodeInfo> = Vec::with_capacity(enough.min(nodes.len()));
        let mut looked_at = 0;
        let start = if nodes.is_empty() { 0 } else { self.start % nodes.len() };
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            if feasible.len() >= enough {
                break;
            }
            looked_at += 1;
            if !Snapshot::is_known(node) {
                continue;
            }
            error.nodes += 1;
            match filters::check(pod, node).and_then(|()| state.check(pod, node)) {
                Ok(()) => feasible.push(node),
                Err(rejection) => error.add(rejection, pod, node),
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
