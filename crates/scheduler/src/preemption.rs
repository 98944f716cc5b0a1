//! Room made by taking away pods that are less important.
//!
//! On each node that this could help, the fewest and least important pods are sought whose going lets
//! the pod in; of the nodes the one is taken where least is lost. As upstream's `DefaultPreemption`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use api::selector::Labels;
use client::placement::selected;
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use crate::schedule::histogram;
use crate::topology::State;
use crate::{FitError, NodeInfo, PodInfo, Snapshot, filters};

/// No more nodes are looked at than these, or a tenth of all, whichever is more.
const CANDIDATES: usize = 100;
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";

/// How many more of some pods may be disrupted.
#[derive(Clone, Debug)]
pub struct Budget {
    namespace: String,
    selector: Option<Labels>,
    allowed: i32,
    /// Pods whose disruption is counted already.
    disrupted: HashSet<String>,
}

impl Budget {
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let spec = budget.spec.as_ref();
        let status = budget.status.clone().unwrap_or_default();
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: spec.and_then(|spec| spec.selector.as_ref()).map(Labels::from_label_selector),
            allowed: status.disruptions_allowed.unwrap_or_default(),
            disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
        }
    }

    fn covers(&self, pod: &PodInfo) -> bool {
        let selector = self.selector.as_ref().filter(|selector| !selector.is_empty());
        self.namespace == pod.key.namespace
            && selector.is_some_and(|selector| selected(selector, &pod.signature.labels))
            && !self.disrupted.contains(&pod.key.name)
    }
}

/// A node, and the pods to take away from it.
#[derive(Clone, Debug)]
pub struct Choice {
    pub node: String,
    /// The most important first.
    pub victims: Vec<Arc<PodInfo>>,
    /// How many of them a disruption budget would have kept.
    pub violations: usize,
}

/// Looks for room. Without any the reason is noted in `error`.
pub fn plan(snapshot: &Snapshot, pod: &PodInfo, error: &mut FitError, budgets: &[Budget]) -> Option<Choice> {
    if let Some(why) = not_eligible(snapshot, pod) {
        error.preemption = Some(why.to_owned());
        return None;
    }
    let unhelpful = error.nodes - error.resolvable.len();
    let most = CANDIDATES.max(error.nodes / 10);
    let state = State::new(snapshot, pod);
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut choices = Vec::new();
    for node in error.resolvable.iter().map(|at| &snapshot.nodes()[*at]) {
        if choices.len() >= most {
            break;
        }
        match victims(snapshot, pod, node, &state, budgets) {
            Ok(choice) => choices.push(choice),
            Err(why) => why.into_iter().for_each(|why| *reasons.entry(why).or_default() += 1),
        }
    }
    let chosen = choices.into_iter().min_by_key(loss);
    if chosen.is_none() {
        if unhelpful > 0 {
            reasons.insert(NOT_HELPFUL.into(), unhelpful);
        }
        let reasons = histogram(reasons.iter().map(|(reason, nodes)| (reason.as_str(), *nodes)));
        error.preemption = Some(format!("0/{} nodes are available: {reasons}.", error.nodes));
    }
    chosen
}

fn not_eligible(snapshot: &Snapshot, pod: &PodInfo) -> Option<&'static str> {
    let policy = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Some("not eligible due to preemptionPolicy=Never.");
    }
    let nominated = snapshot.nominated_node(&pod.uid).and_then(|node| snapshot.node(node));
    let leaving = |other: &Arc<PodInfo>| {
        other.priority < pod.priority && other.pod.metadata.deletion_timestamp.is_some()
    };
    nominated
        .is_some_and(|node| node.pods.iter().any(leaving))
        .then_some("not eligible due to a terminating pod on the nominated node.")
}

fn started(pod: &PodInfo) -> Option<Timestamp> {
    pod.pod.status.as_ref()?.start_time.as_ref().map(|time| time.0)
}

/// What is lost by a choice: budgets, then importance, then numbers, then the time pods have run.
fn loss(choice: &Choice) -> (usize, i32, i64, usize, Reverse<Option<Timestamp>>) {
    let highest = choice.victims.first().map_or(i32::MIN, |victim| victim.priority);
    // Shifted, so that more pods of negative priority are more.
    let sum = choice.victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let important = choice.victims.iter().filter(|victim| victim.priority == highest);
    let earliest = important.filter_map(|victim| started(victim)).min();
    (choice.violations, highest, sum, choice.victims.len(), Reverse(earliest))
}

/// A node as it would be, for one pod.
struct Trial<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    node: NodeInfo,
    state: State,
}

impl Trial<'_> {
    fn remove(&mut self, other: &PodInfo) {
        self.node.remove(&other.uid);
        self.state.count(self.snapshot, self.pod, &self.node, other, -1);
    }

    fn add(&mut self, other: &Arc<PodInfo>) {
        self.node.add(other.clone());
        self.state.count(self.snapshot, self.pod, &self.node, other, 1);
    }

    fn check(&self) -> Result<(), filters::Rejection> {
        filters::check(self.pod, &self.node).and_then(|()| self.state.check(self.pod, &self.node))
    }
}

/// The pods whose going lets the pod in, or why there are none.
fn victims(
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
    state: &State,
    budgets: &[Budget],
) -> Result<Choice, Vec<String>> {
    let mut lesser: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|other| other.priority < pod.priority).cloned().collect();
    if lesser.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    let mut trial = Trial { snapshot, pod, node: node.clone(), state: state.clone() };
    for nominated in snapshot.nominated_to(&node.name, pod) {
        trial.add(nominated);
    }
    for other in &lesser {
        trial.remove(other);
    }
    trial.check().map_err(|rejection| rejection.reasons)?;
    // The important are spared first, those of budgets that are used up before all others.
    lesser.sort_by_key(|other| (Reverse(other.priority), started(other)));
    let mut left: Vec<i32> = budgets.iter().map(|budget| budget.allowed).collect();
    let mut violates = |other: &PodInfo| {
        let mut violates = false;
        for (_, left) in budgets.iter().zip(&mut left).filter(|(budget, _)| budget.covers(other)) {
            *left -= 1;
            violates |= *left < 0;
        }
        violates
    };
    let (violating, harmless): (Vec<_>, Vec<_>) = lesser.into_iter().partition(|other| violates(other));
    let kept = violating.len();
    let (mut victims, mut violations) = (Vec::new(), 0);
    for (at, other) in violating.into_iter().chain(harmless).enumerate() {
        trial.add(&other);
        if trial.check().is_err() {
            trial.remove(&other);
            violations += usize::from(at < kept);
            victims.push(other);
        }
    }
    victims.sort_by_key(|other| (Reverse(other.priority), started(other)));
    if victims.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    Ok(Choice { node: node.name.clone(), victims, violations })
}

#[cfg(test)]
#[path = "preemption_tests.rs"]
mod tests;
