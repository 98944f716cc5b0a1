//! Pods nobody else deletes: those on nodes that are gone, those that were never placed and are told to
//! go, and the oldest of those that ended once there are too many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Change, Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, Preconditions};
use parking_lot::Mutex;

use crate::context::{Context, Error};
use crate::pods;

/// How long pods of a node that is not there are left alone: it may be about to come, or made anew.
const QUARANTINE: Duration = Duration::from_secs(40);

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when nodes that pods name are known not to be there.
    missing: Mutex<HashMap<String, Instant>>,
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
        let ended = !change.is_deleted() && pods::is_terminal(pod);
        let unplaced = pods::is_deleting(pod) && pods::node(pod).is_none();
        let elsewhere = matches!(change, Change::Added(_))
            && pods::node(pod).is_some_and(|node| known.get(&ObjectKey::cluster(node)).is_none());
        (ended || unplaced || elsewhere).then_some(All)
    });
    let later = queue.clone();
    nodes.on_change(move |change| {
        if change.is_deleted() {
            // The quarantine begins with the look at it.
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

/// The pods to delete.
fn plan(pods: &[Arc<Pod>], threshold: usize, has_node: impl Fn(&str) -> bool) -> Vec<Arc<Pod>> {
    let orphaned = |pod: &Pod| match pods::node(pod) {
        Some(node) => !has_node(node),
        None => pods::is_deleting(pod),
    };
    let (mut victims, rest): (Vec<_>, Vec<_>) = pods.iter().cloned().partition(|pod| orphaned(pod));
    let mut ended: Vec<_> = rest.into_iter().filter(|pod| pods::is_terminal(pod)).collect();
    ended.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
    let surplus = if threshold == 0 { 0 } else { ended.len().saturating_sub(threshold) };
    victims.extend(ended.into_iter().take(surplus));
    victims
}

impl Reconcile for Controller {
    type Key = All;
    type Error = Error;

    async fn reconcile(&self, _: &All) -> Result<Option<Duration>, Error> {
        let threshold = self.context.config.terminated_pod_threshold;
        let has_node = |name: &str| self.nodes.get(&ObjectKey::cluster(name)).is_some();
        let live: Api<Node> = Api::all(self.context.client.clone());
        let victims = plan(&self.pods.list(), threshold, has_node);
        let named = |node: &str| victims.iter().any(|pod| pods::node(pod) == Some(node));
        self.missing.lock().retain(|node, _| !has_node(node) && named(node));
        let mut again: Option<Duration> = None;
        for pod in &victims {
            if let Some(node) = pods::node(pod).filter(|node| !has_node(node)) {
                // The cache of pods may be ahead of that of nodes.
                let found =
                    live.get_opt(node).await.map_err(Error::api(format!("looking for node {node}")))?;
                if found.is_some() {
                    continue;
                }
                let since = *self.missing.lock().entry(node.to_owned()).or_insert_with(Instant::now);
                let left = QUARANTINE.saturating_sub(since.elapsed());
                if !left.is_zero() {
                    again = Some(again.map_or(left, |other| other.min(left)));
                    continue;
                }
            }
            let key = ObjectKey::of(&**pod);
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            let deleted = api.delete(&key.name, &params).await;
            write::found(deleted.map(drop)).map_err(Error::api(format!("deleting pod {key}")))?;
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn orphans_and_the_oldest_of_too_many() {
        let pod = |name: &str, node: Option<&str>, phase: &str, minute: u8| {
            let value = json!({"metadata": {"name": name, "creationTimestamp": format!("2025-01-01T00:{minute:02}:00Z")},
                "spec": {"containers": [], "nodeName": node}, "status": {"phase": phase}});
            Arc::new(serde_json::from_value::<Pod>(value).unwrap())
        };
        let pods = [
            pod("lost", Some("gone"), "Running", 0),
            pod("late", Some("n1"), "Failed", 9),
            pod("early", Some("n1"), "Succeeded", 1),
            pod("up", Some("n1"), "Running", 0),
            pod("waiting", None, "Pending", 0),
        ];
        let names = |threshold| -> Vec<String> {
            let victims = plan(&pods, threshold, |node| node == "n1");
            victims.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names(1), ["lost", "early"]);
        assert_eq!(names(0), ["lost"]);
    }
}
