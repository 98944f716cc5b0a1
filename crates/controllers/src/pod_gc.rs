//! Pods nobody else ends: those on nodes that are gone or out of service, those that were never placed and are
//! told to go, and the oldest of those that ended once there are too many.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Change, Informer, ObjectKey, Reconcile, WorkQueue, Workers};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use parking_lot::Mutex;

use crate::context::{Context, Error};
use crate::node_lifecycle;
use crate::pod_ending::{Disruption, Ending};
use crate::pods;

/// How long pods of a node that is not there are left alone: it may be about to come, or made anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Whoever sets it vouches for the node being off: its pods may be made elsewhere at once.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

const ENDED: Ending = Ending { disruption: None, fails: true, grace: Some(0) };
const ORPHANED: Ending = Ending {
    disruption: Some(Disruption { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" }),
    ..ENDED
};

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    missing: Mutex<Missing>,
}

/// Since when nodes that pods name are known not to be there.
#[derive(Default)]
struct Missing(HashMap<String, Instant>);

impl Missing {
    /// How long the pods of a node that is not there are still left alone.
    fn left(&mut self, node: &str, now: Instant) -> Duration {
        let since = *self.0.entry(node.to_owned()).or_insert(now);
        QUARANTINE.saturating_sub(now.duration_since(since))
    }

    /// Forgets all nodes but these.
    fn retain(&mut self, is_missing: impl Fn(&str) -> bool) {
        self.0.retain(|node, _| is_missing(node));
    }
}

/// The one thing there is to look at: all pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct All;

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    let known = nodes.clone();
    pods.enqueue(&queue, move |change| {
        let pod = change.object();
        let node = pods::node(pod);
        let found = node.and_then(|node| known.get(&ObjectKey::cluster(node)));
        let ended = !change.is_deleted() && pods::is_terminal(pod);
        let unplaced = pods::is_deleting(pod) && node.is_none();
        let elsewhere = matches!(change, Change::Added(_)) && node.is_some() && found.is_none();
        let stranded = pods::is_deleting(pod) && found.is_some_and(|node| is_out_of_service(&node));
        (ended || unplaced || elsewhere || stranded).then_some(All)
    });
    let later = queue.clone();
    nodes.on_change(move |change| {
        // The quarantine begins with the look at it.
        if change.is_deleted() || is_out_of_service(change.object()) {
            later.add(All);
        }
    });
    pods.synced().await;
    nodes.synced().await;
    queue.add(All);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, pods, nodes, missing: Mutex::default() });
    client::run("podgc", queue, Workers(1), controller, cancel).await;
}

fn is_out_of_service(node: &Node) -> bool {
    let mut taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.any(|taint| taint.key == OUT_OF_SERVICE) && !node_lifecycle::is_ready(node)
}

/// Pods to end.
#[derive(Default)]
struct Plan {
    /// By the node they name, which is not there.
    orphaned: BTreeMap<String, Vec<Arc<Pod>>>,
    others: Vec<Arc<Pod>>,
}

fn plan(pods: Vec<Arc<Pod>>, threshold: usize, node: impl Fn(&str) -> Option<Arc<Node>>) -> Plan {
    let mut plan = Plan::default();
    let mut ended = Vec::new();
    for pod in pods {
        let found = pods::node(&pod).map(|name| (name, node(name)));
        match found {
            Some((name, None)) => plan.orphaned.entry(name.to_owned()).or_default().push(pod),
            None if pods::is_deleting(&pod) => plan.others.push(pod),
            Some((_, Some(node))) if pods::is_deleting(&pod) && is_out_of_service(&node) => {
                plan.others.push(pod);
            }
            _ if pods::is_terminal(&pod) => ended.push(pod),
            _ => {}
        }
    }
    ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let surplus = if threshold == 0 { 0 } else { ended.len().saturating_sub(threshold) };
    plan.others.extend(ended.into_iter().take(surplus));
    plan
}

impl Reconcile for Controller {
    type Key = All;
    type Error = Error;

    async fn reconcile(&self, _: &All) -> Result<Option<Duration>, Error> {
        let client = &self.context.client;
        let threshold = self.context.config.terminated_pod_threshold;
        let plan = plan(self.pods.list(), threshold, |name| self.nodes.get(&ObjectKey::cluster(name)));
        self.missing.lock().retain(|node| plan.orphaned.contains_key(node));
        let live: Api<Node> = Api::all(client.clone());
        let mut again: Option<Duration> = None;
        for (node, pods) in &plan.orphaned {
            // The cache of pods may be ahead of that of nodes.
            let found = live.get_opt(node).await.map_err(Error::api(format!("looking for node {node}")))?;
            if found.is_some() {
                continue;
            }
            let left = self.missing.lock().left(node, Instant::now());
            if !left.is_zero() {
                again = Some(again.map_or(left, |other| other.min(left)));
                continue;
            }
            for pod in pods {
                ORPHANED.apply(client, pod).await?;
            }
        }
        for pod in &plan.others {
            ENDED.apply(client, pod).await?;
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, node: Option<&str>, phase: &str, minute: u8) -> Value {
        json!({"metadata": {"name": name, "creationTimestamp": format!("2025-01-01T00:{minute:02}:00Z")},
            "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}})
    }

    fn deleting(mut pod: Value) -> Value {
        pod["metadata"]["deletionTimestamp"] = "2025-01-01T01:00:00Z".into();
        pod
    }

    /// Nodes are `n1`, and `off`, which is out of service.
    fn node(name: &str) -> Option<Arc<Node>> {
        let taints = match name {
            "n1" => json!([]),
            "off" => json!([{"key": OUT_OF_SERVICE, "value": "nodeshutdown", "effect": "NoExecute"}]),
            _ => return None,
        };
        let status = if name == "off" { "Unknown" } else { "True" };
        let conditions = json!([{"type": "Ready", "status": status}]);
        let node = json!({"spec": {"taints": taints}, "status": {"conditions": conditions}});
        Some(Arc::new(serde_json::from_value(node).unwrap()))
    }

    fn check(threshold: usize, orphaned: &[&str], others: &[&str]) {
        let pods = [
            pod("lost", Some("gone"), "Running", 0),
            pod("late", Some("n1"), "Failed", 9),
            pod("early", Some("n1"), "Succeeded", 1),
            pod("up", Some("n1"), "Running", 0),
            pod("waiting", None, "Pending", 0),
            deleting(pod("unplaced", None, "Pending", 0)),
            deleting(pod("refused", None, "Failed", 0)),
            deleting(pod("ending", Some("n1"), "Running", 0)),
            deleting(pod("stranded", Some("off"), "Running", 0)),
            pod("silent", Some("off"), "Running", 0),
        ];
        let pods = pods.map(|pod| Arc::new(serde_json::from_value::<Pod>(pod).unwrap()));
        let plan = plan(pods.to_vec(), threshold, node);
        let names = |pods: &[Arc<Pod>]| -> Vec<String> {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        let lost: Vec<Arc<Pod>> = plan.orphaned.into_values().flatten().collect();
        assert_eq!((names(&lost), names(&plan.others)), (names_of(orphaned), names_of(others)));
    }

    fn names_of(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn orphans_the_stranded_and_the_oldest_of_too_many() {
        check(1, &["lost"], &["unplaced", "refused", "stranded", "early"]);
        check(0, &["lost"], &["unplaced", "refused", "stranded"]);
    }

    #[test]
    fn a_missing_node_has_time_to_come() {
        let mut missing = Missing::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(missing.left("n1", at(0)), QUARANTINE);
        assert_eq!(missing.left("n2", at(30)), QUARANTINE);
        assert_eq!(missing.left("n1", at(39)), Duration::from_secs(1));
        assert_eq!(missing.left("n1", at(41)), Duration::ZERO);
        // It has come, and goes again.
        missing.retain(|node| node == "n2");
        assert_eq!(missing.left("n1", at(42)), QUARANTINE);
        assert_eq!(missing.left("n2", at(42)), Duration::from_secs(28));
    }
}
