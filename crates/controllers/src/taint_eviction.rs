//! Makes pods leave nodes with `NoExecute` taints: those that do not tolerate them at once, the others
//! when their patience (`tolerationSeconds`) ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::placement::tolerates;
use client::{Change, Informer, ObjectKey, Reconcile, WorkQueue, Workers};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use parking_lot::Mutex;

use crate::context::{Context, Error};
use crate::pod_ending::{Disruption, Ending};
use crate::pods;

const EVICTED: Ending = Ending {
    disruption: Some(Disruption {
        reason: "DeletionByTaintManager",
        message: "Taint manager: deleting due to NoExecute taint",
    }),
    fails: false,
    grace: None,
};

struct Controller {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    /// Since when each pod that is to leave has known it.
    since: Mutex<HashMap<ObjectKey, Timestamp>>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let pods = context.informers.of::<Pod>();
    let nodes = context.informers.of::<Node>();
    pods.add_index(pods::by_node());
    let placed = nodes.clone();
    pods.enqueue(&queue, move |change| {
        let pod = change.object();
        let moved = match change {
            Change::Updated { old, new } => {
                pods::node(old) != pods::node(new) || patience(old) != patience(new)
            }
            _ => true,
        };
        let node = pods::node(pod).filter(|_| moved);
        let node = node.and_then(|node| placed.get(&ObjectKey::cluster(node)));
        node.is_some_and(|node| driving_out(&node).next().is_some()).then(|| ObjectKey::of(&**pod))
    });
    let running = pods.clone();
    nodes.enqueue(&queue, move |change| {
        let taints = |node: &Node| driving_out(node).cloned().collect::<Vec<_>>();
        let before = change.old().map(|old| taints(old)).unwrap_or_default();
        let name = change.object().metadata.name.as_deref().unwrap_or_default();
        let pods =
            if before == taints(change.object()) { Vec::new() } else { running.by(pods::by_node(), name) };
        pods.into_iter().map(|pod| ObjectKey::of(&*pod)).collect::<Vec<_>>()
    });
    pods.synced().await;
    nodes.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Controller { context, pods, nodes, since: Mutex::default() };
    client::run("taint-eviction", queue, workers, Arc::new(controller), cancel).await;
}

fn driving_out(node: &Node) -> impl Iterator<Item = &Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute")
}

fn patience(pod: &Pod) -> &[Toleration] {
    pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

/// How long a pod stays with the taints; `None` for ever.
fn plan(tolerations: &[Toleration], taints: &[&Taint]) -> Option<Duration> {
    let mut least: Option<Duration> = None;
    for taint in taints {
        let mut used = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
        if used.peek().is_none() {
            return Some(Duration::ZERO);
        }
        for seconds in used.filter_map(|toleration| toleration.toleration_seconds) {
            let stays = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            least = Some(least.map_or(stays, |least| least.min(stays)));
        }
    }
    least
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(pod) = self.pods.get(key) else {
            self.since.lock().remove(key);
            return Ok(None);
        };
        let node = pods::node(&pod).and_then(|node| self.nodes.get(&ObjectKey::cluster(node)));
        let taints: Vec<&Taint> = node.iter().flat_map(|node| driving_out(node)).collect();
        let Some(stays) = plan(patience(&pod), &taints).filter(|_| !pods::is_deleting(&pod)) else {
            if self.since.lock().remove(key).is_some() && !pods::is_deleting(&pod) {
                let message = format!("Cancelling deletion of Pod {key}");
                self.context.recorder.normal(&*pod, "TaintManagerEviction", message);
            }
            return Ok(None);
        };
        let now = Timestamp::now();
        let since = *self.since.lock().entry(key.clone()).or_insert(now);
        let waited = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = stays.saturating_sub(waited);
        if !left.is_zero() {
            return Ok(Some(left));
        }
        self.evict(key, &pod).await?;
        self.since.lock().remove(key);
        Ok(None)
    }
}

impl Controller {
    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Error> {
        let message = format!("Marking for deletion Pod {key}");
        self.context.recorder.normal(pod, "TaintManagerEviction", message);
        EVICTED.apply(&self.context.client, pod).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(tolerations: Value, taints: Value) -> Option<u64> {
        let tolerations: Vec<Toleration> = serde_json::from_value(tolerations).unwrap();
        let taints: Vec<Taint> = serde_json::from_value(taints).unwrap();
        plan(&tolerations, &taints.iter().collect::<Vec<_>>()).map(|stays| stays.as_secs())
    }

    #[test]
    fn the_shortest_patience_counts() {
        let taint = |key| json!({"key": key, "effect": "NoExecute"});
        let tolerate = |key, seconds: Option<i64>| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
        assert_eq!(check(json!([]), json!([])), None);
        assert_eq!(check(json!([]), json!([taint("a")])), Some(0));
        assert_eq!(check(json!([tolerate("a", None)]), json!([taint("a")])), None);
        assert_eq!(check(json!([tolerate("a", Some(300))]), json!([taint("a"), taint("b")])), Some(0));
        let both = json!([tolerate("a", Some(300)), tolerate("b", Some(5))]);
        assert_eq!(check(both.clone(), json!([taint("a"), taint("b")])), Some(5));
        assert_eq!(check(both, json!([taint("a")])), Some(300));
        assert_eq!(check(json!([tolerate("a", Some(-1))]), json!([taint("a")])), Some(0));
    }
}
