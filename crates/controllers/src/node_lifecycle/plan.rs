//! What the state of nodes asks for: conditions of those that are silent, and taints.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CORDONED: &str = "node.kubernetes.io/unschedulable";
/// Taints by condition: type, status, key.
const BY_CONDITION: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// The conditions a kubelet tells, which are unknown when it is silent.
const TOLD: &[&str] = &["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// How much of a zone must be unhealthy for evictions to slow down, and how many nodes at least.
const UNHEALTHY_SHARE: f64 = 0.55;
const UNHEALTHY_LEAST: usize = 3;
/// A zone of more nodes than this still evicts, slowly, when much of it is unhealthy.
const LARGE_ZONE: usize = 50;
/// The time between two nodes of a zone whose pods are told to leave, and the same when slowed down.
const EVICTION_EVERY: Duration = Duration::from_secs(10);
const EVICTION_EVERY_SLOWLY: Duration = Duration::from_secs(100);

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// The Ready condition.
pub(super) fn ready(node: &Node) -> Option<&NodeCondition> {
    conditions(node).iter().find(|condition| condition.type_ == "Ready")
}

pub fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|ready| ready.status == "True")
}

/// The conditions of a node whose kubelet is silent; `None` when they say so already.
pub(super) fn plan_silent(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let old = conditions(node);
    let mut new = old.to_vec();
    for type_ in TOLD {
        let Some(condition) = new.iter_mut().find(|condition| condition.type_ == *type_) else {
            new.push(NodeCondition {
                type_: (*type_).into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            });
            continue;
        };
        if condition.status != "Unknown" {
            condition.status = "Unknown".into();
            condition.reason = Some("NodeStatusUnknown".into());
            condition.message = Some("Kubelet stopped posting node status.".into());
            condition.last_transition_time = Some(Time(now));
        }
    }
    (new != old).then_some(new)
}

/// The taints of a node after those that `owned` speaks of are made to be `wanted`; `None` when they
/// are.
fn retaint(
    node: &Node,
    owned: impl Fn(&Taint) -> bool,
    effect: &str,
    wanted: &[&str],
    now: Timestamp,
) -> Option<Vec<Taint>> {
    let old = taints(node);
    let kept = old.iter().filter(|taint| !owned(taint) || wanted.contains(&taint.key.as_str()));
    let mut new: Vec<Taint> = kept.cloned().collect();
    for key in wanted {
        if !new.iter().any(|taint| taint.key == *key && taint.effect == effect) {
            let time_added = Some(Time(now));
            new.push(Taint { key: (*key).into(), effect: effect.into(), value: None, time_added });
        }
    }
    (new != old).then_some(new)
}

/// The taints that keep new pods off a node, by its conditions and whether it is cordoned.
pub(super) fn plan_no_schedule(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted: Vec<&str> = Vec::new();
    for (type_, status, key) in BY_CONDITION {
        if conditions(node).iter().any(|c| c.type_ == *type_ && c.status == *status) {
            wanted.push(key);
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        wanted.push(CORDONED);
    }
    // The taint that a node comes with stays until it is known whether the node is ready.
    let kept = |key: &str| key == NOT_READY && ready(node).is_none();
    let owned = |taint: &Taint| {
        taint.effect == "NoSchedule"
            && (taint.key == CORDONED
                || BY_CONDITION.iter().any(|(_, _, key)| taint.key == *key && !kept(key)))
    };
    retaint(node, owned, "NoSchedule", &wanted, now)
}

/// The taints that make pods leave a node: `key` or none.
fn plan_no_execute(node: &Node, key: Option<&str>, now: Timestamp) -> Option<Vec<Taint>> {
    let owned =
        |taint: &Taint| taint.effect == "NoExecute" && (taint.key == NOT_READY || taint.key == UNREACHABLE);
    retaint(node, owned, "NoExecute", key.as_slice(), now)
}

fn drives_out(node: &Node) -> bool {
    let ours = |taint: &Taint| taint.key == NOT_READY || taint.key == UNREACHABLE;
    taints(node).iter().any(|taint| taint.effect == "NoExecute" && ours(taint))
}

fn zone(node: &Node) -> String {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    let region = label("topology.kubernetes.io/region").unwrap_or_default();
    let zone = label("topology.kubernetes.io/zone").unwrap_or_default();
    format!("{region}:\0:{zone}")
}

/// How often nodes of a zone may be emptied; `None` for not at all.
fn pace(ready: usize, not_ready: usize) -> Option<Duration> {
    let share = not_ready as f64 / (ready + not_ready).max(1) as f64;
    if ready > 0 && not_ready >= UNHEALTHY_LEAST && share >= UNHEALTHY_SHARE {
        return (ready + not_ready > LARGE_ZONE).then_some(EVICTION_EVERY_SLOWLY);
    }
    Some(EVICTION_EVERY)
}

/// Nodes with the taints they are to have, and when to look again.
type Evictions = (Vec<(Arc<Node>, Vec<Taint>)>, Option<Duration>);

/// Which nodes get other `NoExecute` taints, and when to look again. `next` holds by zone when
/// another node may be emptied.
///
/// When no node of any zone is ready the fault is more likely ours: then nobody is driven out.
pub(super) fn plan_evictions(
    nodes: &[Arc<Node>],
    next: &mut HashMap<String, Timestamp>,
    now: Timestamp,
) -> Evictions {
    let mut zones: HashMap<String, (usize, usize)> = HashMap::new();
    for node in nodes {
        let (ready_nodes, not_ready) = zones.entry(zone(node)).or_default();
        *(if is_ready(node) { ready_nodes } else { not_ready }) += 1;
    }
    next.retain(|zone, _| zones.contains_key(zone));
    let lost = zones.values().all(|(ready, _)| *ready == 0);
    let mut changes = Vec::new();
    let mut again: Option<Duration> = None;
    for node in nodes {
        let key = match ready(node).map(|ready| ready.status.as_str()) {
            Some("False") => Some(NOT_READY),
            Some("Unknown") => Some(UNREACHABLE),
            _ => None,
        };
        let key = key.filter(|_| !lost);
        if key.is_some() && !drives_out(node) {
            let zone = zone(node);
            let (ready, not_ready) = zones.get(&zone).copied().unwrap_or_default();
            let Some(pace) = pace(ready, not_ready) else { continue };
            let due = next.get(&zone).copied().unwrap_or(now);
            if due > now {
                let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
                again = Some(again.map_or(left, |again| again.min(left)));
                continue;
            }
            next.insert(zone, now.checked_add(pace).unwrap_or(now));
        }
        if let Some(taints) = plan_no_execute(node, key, now) {
            changes.push((node.clone(), taints));
        }
    }
    (changes, again)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
