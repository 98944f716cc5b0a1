//! Which pods a DaemonSet makes and which it deletes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus, RollingUpdateDaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::place::{Fit, fit, is_updated, pod_for, simulated, target};
use crate::{amount, pods};

/// What there is.
pub(super) struct View<'a> {
    pub set: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    /// The set's own.
    pub pods: &'a [Arc<Pod>],
    /// The hash of the current template.
    pub hash: &'a str,
    /// Nodes whose failed pod is left alone for a while yet.
    pub resting: &'a HashMap<String, Duration>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<Pod>,
    pub delete: Vec<Arc<Pod>>,
    /// Failed pods among those to delete, by node.
    pub failed: Vec<(String, Arc<Pod>)>,
    /// Succeeded pods among those to delete.
    pub succeeded: Vec<(String, Arc<Pod>)>,
    pub again: Option<Duration>,
}

impl Plan {
    fn again_in(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |again| again.min(delay)));
    }
}

type ByNode<'a> = BTreeMap<&'a str, Vec<&'a Arc<Pod>>>;

fn rolling(set: &DaemonSet) -> RollingUpdateDaemonSet {
    let strategy = set.spec.update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default()
}

fn limit(value: Option<&IntOrString>, default: i32, of: usize) -> usize {
    let of = i32::try_from(of).unwrap_or(i32::MAX);
    let number = value.map_or(default, |value| amount::resolve(value, of, true));
    usize::try_from(number).unwrap_or_default()
}

fn surges(set: &DaemonSet) -> bool {
    limit(rolling(set).max_surge.as_ref(), 0, 100) > 0
}

fn min_ready(set: &DaemonSet) -> Duration {
    Duration::from_secs(set.spec.min_ready_seconds.unwrap_or_default().unsigned_abs().into())
}

fn by_node<'a>(view: &View<'a>) -> ByNode<'a> {
    let mut by_node = ByNode::new();
    for pod in view.pods {
        if let Some(node) = target(pod) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        pods.sort_by_key(|pod| {
            let created = pod.metadata.creation_timestamp.clone();
            (pods::node(pod).is_none(), pods::phase(pod) == "Pending", created, pod.metadata.name.clone())
        });
    }
    by_node
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}

fn available(view: &View<'_>, pod: &Pod) -> Option<Duration> {
    pods::available_in(pod, min_ready(view.set), view.now)
}

fn is_available(view: &View<'_>, pod: &Pod) -> bool {
    available(view, pod) == Some(Duration::ZERO)
}

/// Brings the right number of pods to each node.
pub(super) fn plan_pods(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let (by_node, simulated) = (by_node(view), simulated(view.set));
    let known: HashSet<&str> = view.nodes.iter().map(|node| name(node)).collect();
    for node in view.nodes {
        let there = by_node.get(name(node)).map(Vec::as_slice).unwrap_or_default();
        plan.on_node(view, name(node), fit(&simulated, node), there);
    }
    // Waiting for a node that is gone.
    for (_, pods) in by_node.iter().filter(|(node, _)| !known.contains(*node)) {
        let unplaced = pods.iter().filter(|pod| pods::node(pod).is_none() && !pods::is_deleting(pod));
        plan.delete.extend(unplaced.map(|pod| (*pod).clone()));
    }
    plan
}

impl Plan {
    fn on_node(&mut self, view: &View<'_>, node: &str, fit: Fit, there: &[&Arc<Pod>]) {
        let live = there.iter().copied().filter(|pod| !pods::is_deleting(pod));
        if fit.run && there.is_empty() {
            self.create.push(pod_for(view.set, node, view.hash));
            return;
        }
        if !fit.stay {
            self.delete.extend(live.cloned());
            return;
        }
        let mut running = Vec::new();
        for pod in live {
            match pods::phase(pod) {
                "Failed" => match view.resting.get(node) {
                    Some(left) => self.again_in(*left),
                    None => {
                        self.failed.push((node.to_owned(), pod.clone()));
                        self.delete.push(pod.clone());
                    }
                },
                "Succeeded" => {
                    self.succeeded.push((node.to_owned(), pod.clone()));
                    self.delete.push(pod.clone());
                }
                _ => running.push(pod),
            }
        }
        if running.len() <= 1 {
            return;
        }
        if !surges(view.set) {
            self.delete.extend(running[1..].iter().map(|pod| (*pod).clone()));
            return;
        }
        // One old and one new may be there at once, until the new one serves.
        let (new, old): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|pod| is_updated(view.set, pod, view.hash));
        self.delete.extend(new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (*pod).clone()));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!pods::is_ready(old) || is_available(view, new))
        {
            self.delete.push((*old).clone());
        }
    }
}

/// The new and the old pod of a node.
type Pair<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// The one new and the one old pod of a node; `None` where there are more.
fn pair<'a>(view: &View<'_>, there: &[&'a Arc<Pod>]) -> Option<Pair<'a>> {
    let (mut new, mut old) = (None, None);
    for pod in there.iter().copied().filter(|pod| !pods::is_deleting(pod)) {
        let slot = if is_updated(view.set, pod, view.hash) { &mut new } else { &mut old };
        if slot.replace(pod).is_some() {
            return None;
        }
    }
    Some((new, old))
}

/// Replaces pods of older templates, as far as the strategy allows.
pub(super) fn plan_rollout(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let strategy = view.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    if strategy == Some("OnDelete") {
        return plan;
    }
    let simulated = simulated(view.set);
    let wanted = view.nodes.iter().filter(|node| fit(&simulated, node).run).count();
    let by_node = by_node(view);
    let rolling = rolling(view.set);
    if surges(view.set) {
        plan.roll_by_surge(view, &by_node, limit(rolling.max_surge.as_ref(), 0, wanted));
    } else {
        plan.roll_by_replacing(view, &by_node, limit(rolling.max_unavailable.as_ref(), 1, wanted));
    }
    plan
}

impl Plan {
    fn roll_by_replacing(&mut self, view: &View<'_>, by_node: &ByNode<'_>, most: usize) {
        let mut unavailable = 0;
        let mut candidates = Vec::new();
        for there in by_node.values() {
            match pair(view, there) {
                Some((None, Some(old))) if !is_available(view, old) => {
                    // Nothing is lost by replacing what does not serve.
                    unavailable += 1;
                    self.delete.push(old.clone());
                }
                Some((None, Some(old))) => candidates.push(old.clone()),
                Some((Some(new), None)) if is_available(view, new) => {}
                // Being made or cleaned up.
                _ => unavailable += 1,
            }
        }
        self.delete.extend(candidates.into_iter().take(most.saturating_sub(unavailable)));
    }

    fn roll_by_surge(&mut self, view: &View<'_>, by_node: &ByNode<'_>, most: usize) {
        let mut surging = 0;
        let (mut allowed, mut candidates) = (Vec::new(), Vec::new());
        for (node, there) in by_node {
            match pair(view, there) {
                None => surging += 1,
                Some((_, None)) => {}
                Some((None, Some(old))) if !is_available(view, old) => allowed.push(*node),
                Some((None, Some(_))) => candidates.push(*node),
                Some((Some(new), Some(old))) if is_available(view, new) => self.delete.push(old.clone()),
                Some((Some(new), Some(_))) => {
                    surging += 1;
                    if let Some(left) = available(view, new) {
                        self.again_in(left);
                    }
                }
            }
        }
        let known: HashSet<&str> = view.nodes.iter().map(|node| name(node)).collect();
        allowed.extend(candidates.into_iter().take(most.saturating_sub(surging)));
        let on = allowed.into_iter().filter(|node| known.contains(node));
        self.create = on.map(|node| pod_for(view.set, node, view.hash)).collect();
    }
}

/// The status, and when a ready pod becomes available.
pub(super) fn plan_status(view: &View<'_>) -> (DaemonSetStatus, Option<Duration>) {
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: view.set.metadata.generation,
        collision_count: old.collision_count,
        conditions: old.conditions,
        ..DaemonSetStatus::default()
    };
    let (by_node, simulated) = (by_node(view), simulated(view.set));
    let mut again: Option<Duration> = None;
    let (mut available_here, mut updated) = (0, 0);
    for node in view.nodes {
        let there = by_node.get(name(node)).map(Vec::as_slice).unwrap_or_default();
        if !fit(&simulated, node).run {
            status.number_misscheduled += i32::from(!there.is_empty());
            continue;
        }
        status.desired_number_scheduled += 1;
        let Some(pod) = there.first() else { continue };
        status.current_number_scheduled += 1;
        if let Some(left) = available(view, pod) {
            status.number_ready += 1;
            if left.is_zero() {
                available_here += 1;
            } else {
                again = Some(again.map_or(left, |again| again.min(left)));
            }
        }
        updated += i32::from(is_updated(view.set, pod, view.hash));
    }
    let some = |n: i32| (n > 0).then_some(n);
    status.number_available = some(available_here);
    status.number_unavailable = some(status.desired_number_scheduled - available_here);
    status.updated_number_scheduled = some(updated);
    (status, again)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
