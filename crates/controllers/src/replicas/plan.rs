//! How many pods to make, which to delete, and what to tell.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Replicated, Status};
use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

#[derive(Debug)]
pub(super) struct Plan {
    /// Pods to make.
    pub create: usize,
    /// Pods to delete, the most dispensable first.
    pub delete: Vec<Arc<Pod>>,
    pub status: Status,
    /// When a ready pod will have been ready for long enough to be available.
    pub again: Option<Duration>,
}

/// `ranks` is the number of pods of the same deployment by node.
pub(super) fn plan<K: Replicated>(
    owner: &K,
    claimed: &[Arc<Pod>],
    ranks: &HashMap<String, usize>,
    now: Timestamp,
) -> Plan {
    let active: Vec<Arc<Pod>> = claimed.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
    let terminating = claimed.iter().filter(|pod| pods::is_deleting(pod) && !pods::is_terminal(pod)).count();
    let wanted = owner.replicas();
    let create = wanted.saturating_sub(active.len());
    let surplus = active.len().saturating_sub(wanted);
    let (status, again) = status(owner, &active, terminating, now);
    let mut delete = active;
    if surplus > 0 {
        delete.sort_by(|a, b| dispensable(a, b, ranks, now));
    }
    delete.truncate(surplus);
    Plan { create, delete, status, again }
}

fn status<K: Replicated>(
    owner: &K,
    active: &[Arc<Pod>],
    terminating: usize,
    now: Timestamp,
) -> (Status, Option<Duration>) {
    let template = owner.template().and_then(|template| template.metadata.as_ref());
    let labels: Vec<_> = template.iter().flat_map(|meta| meta.labels.iter().flatten()).collect();
    let min_ready = Duration::from_secs(owner.min_ready_seconds());
    let mut status = Status {
        replicas: active.len(),
        terminating,
        observed_generation: owner.meta().generation,
        conditions: owner.status().conditions,
        ..Status::default()
    };
    let mut again: Option<Duration> = None;
    for pod in active {
        let has = pod.metadata.labels.as_ref();
        if labels.iter().all(|(key, value)| has.and_then(|has| has.get(*key)) == Some(value)) {
            status.fully_labeled += 1;
        }
        match pods::available_in(pod, min_ready, now) {
            None => {}
            Some(left) => {
                status.ready += 1;
                if left.is_zero() {
                    status.available += 1;
                } else {
                    again = Some(again.map_or(left, |again| again.min(left)));
                }
            }
        }
    }
    (status, again)
}

/// Orders pods for deletion as upstream's `ActivePodsWithRanks`: what is least of a loss first.
pub(crate) fn dispensable(a: &Pod, b: &Pod, ranks: &HashMap<String, usize>, now: Timestamp) -> Ordering {
    let phase = |pod: &Pod| match pods::phase(pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let rank = |pod: &Pod| pods::node(pod).and_then(|node| ranks.get(node)).copied().unwrap_or_default();
    pods::node(a)
        .is_some()
        .cmp(&pods::node(b).is_some())
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| pods::is_ready(a).cmp(&pods::is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank(b).cmp(&rank(a)))
        .then_with(|| newer_first(pods::ready_since(a), pods::ready_since(b), now))
        .then_with(|| pods::restarts(b).cmp(&pods::restarts(a)))
        .then_with(|| {
            let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
            newer_first(created(a), created(b), now)
        })
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DELETION_COST)).and_then(|cost| cost.parse().ok()).unwrap_or_default()
}

/// By age, on a logarithmic scale: among pods of about one age chance (the uid) decides.
fn newer_first(a: Option<Timestamp>, b: Option<Timestamp>, now: Timestamp) -> Ordering {
    let magnitude = |time: Option<Timestamp>| {
        time.map(|time| {
            let age = now.duration_since(time).as_nanos().max(1);
            age.ilog2()
        })
    };
    magnitude(a).cmp(&magnitude(b))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2025-01-01T01:00:00Z";

    fn check(spec: Value, pods: Value) -> String {
        let owner: ReplicaSet =
            serde_json::from_value(json!({"metadata": {"generation": 3}, "spec": spec})).unwrap();
        let pods: Vec<Pod> = serde_json::from_value(pods).unwrap();
        let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
        let ranks = HashMap::from([("crowded".to_string(), 3), ("quiet".to_string(), 1)]);
        let Plan { create, delete, status, again } = plan(&owner, &pods, &ranks, NOW.parse().unwrap());
        let delete: Vec<_> = delete.iter().map(|pod| pod.metadata.name.as_deref().unwrap()).collect();
        let Status { replicas, fully_labeled, ready, available, terminating, .. } = status;
        let again = again.map(|d| d.as_secs());
        format!(
            "create {create} delete {delete:?} replicas {replicas} labeled {fully_labeled} ready {ready} \
             available {available} terminating {terminating} again {again:?}"
        )
    }

    fn pod(name: &str, node: Option<&str>, phase: &str, ready_since: Option<&str>) -> Value {
        let ready =
            ready_since.map(|t| json!([{"type": "Ready", "status": "True", "lastTransitionTime": t}]));
        json!({
            "metadata": {"name": name, "uid": name, "labels": {"app": "web"},
                         "creationTimestamp": "2025-01-01T00:00:00Z"},
            "spec": {"containers": [], "nodeName": node},
            "status": {"phase": phase, "conditions": ready},
        })
    }

    fn spec(replicas: i32, min_ready: i32) -> Value {
        json!({"replicas": replicas, "minReadySeconds": min_ready,
               "selector": {"matchLabels": {"app": "web"}},
               "template": {"metadata": {"labels": {"app": "web", "x": "y"}}}})
    }

    #[test]
    fn makes_what_is_missing_and_counts_only_active_pods() {
        let mut going = pod("going", Some("quiet"), "Running", None);
        going["metadata"]["deletionTimestamp"] = json!("2025-01-01T00:30:00Z");
        let pods = json!([
            pod("done", Some("quiet"), "Failed", None),
            going,
            pod("up", Some("quiet"), "Running", Some("2025-01-01T00:59:50Z")),
        ]);
        expect_test::expect![
            "create 2 delete [] replicas 1 labeled 0 ready 1 available 0 terminating 1 again Some(20)"
        ]
        .assert_eq(&check(spec(3, 30), pods));
    }

    #[test]
    fn deletes_the_most_dispensable() {
        let old = Some("2025-01-01T00:00:00Z");
        let mut cheap = pod("cheap", Some("quiet"), "Running", old);
        cheap["metadata"]["annotations"] = json!({DELETION_COST: "-1"});
        let pods = json!([
            pod("best", Some("quiet"), "Running", old),
            pod("crowded", Some("crowded"), "Running", old),
            pod("young", Some("quiet"), "Running", Some("2025-01-01T00:59:00Z")),
            cheap,
            pod("unready", Some("quiet"), "Running", None),
            pod("pending", Some("quiet"), "Pending", None),
            pod("nowhere", None, "Pending", None),
        ]);
        expect_test::expect![[r#"create 0 delete ["nowhere", "pending", "unready", "cheap", "crowded", "young"] replicas 7 labeled 0 ready 4 available 4 terminating 0 again None"#]]
            .assert_eq(&check(spec(1, 0), pods));
    }
}
