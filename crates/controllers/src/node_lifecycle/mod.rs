//! Watches over nodes: those whose kubelet is silent become unknown, conditions become taints, and
//! pods of nodes that are not ready are told to leave by `NoExecute` taints, zone by zone, slowly.
//!
//! Nothing polls: each node has one timer, its grace period, which is looked at again only when it
//! runs out; heartbeats just move the mark.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Change, Informer, ObjectKey, Reconcile, Selection, WorkQueue, Workers, write};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, Error};
use crate::pods;
pub use plan::is_ready;
use plan::{plan_evictions, plan_no_schedule, plan_silent, ready, taints};

/// How long a kubelet may be silent (upstream's `--node-monitor-grace-period`).
const GRACE: Duration = Duration::from_secs(50);
/// The same for one that never spoke (`--node-startup-grace-period`).
const STARTUP_GRACE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Node(String),
    /// Who is driven out of where: looks at all nodes.
    Evictions,
}

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// When each node was last heard of, by our clock.
    heard: Arc<Mutex<HashMap<String, Instant>>>,
    /// The status of Ready each node was last seen with.
    was_ready: Mutex<HashMap<String, String>>,
    /// By zone, when another node may be emptied.
    next_eviction: Mutex<HashMap<String, Timestamp>>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let in_node_leases = Selection { namespace: Some("kube-node-lease".into()), ..Selection::default() };
    let leases = context.informers.select::<Lease>(in_node_leases);
    pods.add_index(pods::by_node());
    let heard: Arc<Mutex<HashMap<String, Instant>>> = Arc::default();
    let (marks, recorder) = (heard.clone(), context.recorder.clone());
    nodes.enqueue(&queue, move |change| {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let tell = |reason: &str, what: &str| {
            recorder.normal(&**node, reason, format!("Node {name} event: {what}"));
        };
        match change {
            Change::Added(_) => {
                tell("RegisteredNode", &format!("Registered Node {name} in Controller"));
                marks.lock().insert(name.clone(), Instant::now());
            }
            Change::Deleted(_) => {
                tell("RemovingNode", &format!("Removing Node {name} from Controller"));
                marks.lock().remove(&name);
                return vec![Key::Node(name), Key::Evictions];
            }
            Change::Updated { old, new } => {
                let beat = |node: &Node| ready(node).and_then(|ready| ready.last_heartbeat_time.clone());
                if beat(old) != beat(new) {
                    marks.lock().insert(name.clone(), Instant::now());
                }
                if !differ(old, new) {
                    return Vec::new();
                }
            }
        }
        vec![Key::Node(name)]
    });
    let marks = heard.clone();
    leases.on_change(move |change| {
        if let (Change::Updated { .. } | Change::Added(_), Some(name)) =
            (change, &change.object().metadata.name)
            && let Some(mark) = marks.lock().get_mut(name)
        {
            *mark = Instant::now();
        }
    });
    nodes.synced().await;
    pods.synced().await;
    leases.synced().await;
    let cancel = context.cancel.clone();
    let workers = Workers(context.config.workers);
    let controller = Controller {
        context,
        nodes,
        pods,
        heard,
        was_ready: Mutex::default(),
        next_eviction: Mutex::default(),
    };
    client::run("node-lifecycle", queue.clone(), workers, Arc::new(Queued { controller, queue }), cancel)
        .await;
}

/// Whether anything but times differs that this controller looks at.
fn differ(old: &Node, new: &Node) -> bool {
    let told = |node: &Node| {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        conditions.map(|c| (c.type_.clone(), c.status.clone())).collect::<Vec<_>>()
    };
    let cordoned = |node: &Node| node.spec.as_ref().and_then(|spec| spec.unschedulable);
    told(old) != told(new) || taints(old) != taints(new) || cordoned(old) != cordoned(new)
}

/// The controller, and the queue on which it asks for a look at all nodes.
struct Queued {
    controller: Controller,
    queue: WorkQueue<Key>,
}

impl Reconcile for Queued {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        match key {
            Key::Node(name) => {
                let (again, turned) = self.controller.sync(name).await?;
                if turned {
                    self.queue.add(Key::Evictions);
                }
                Ok(again)
            }
            Key::Evictions => self.controller.evict().await,
        }
    }
}

impl Controller {
    /// Brings one node in order. Tells when to look again, and whether its readiness turned.
    async fn sync(&self, name: &str) -> Result<(Option<Duration>, bool), Error> {
        let Some(node) = self.nodes.get(&ObjectKey::cluster(name)) else {
            self.was_ready.lock().remove(name);
            return Ok((None, false));
        };
        let silent = self.heard.lock().get(name).map(Instant::elapsed).unwrap_or_default();
        let grace = if ready(&node).is_some() { GRACE } else { STARTUP_GRACE };
        let now = Timestamp::now();
        let api: Api<Node> = Api::all(self.context.client.clone());
        if silent >= grace
            && let Some(conditions) = plan_silent(&node, now)
        {
            let mut wanted = Node::clone(&node);
            wanted.status.get_or_insert_default().conditions = Some(conditions);
            let written = write::replace_status(&api, &*node, &wanted).await;
            write::found(written).map_err(Error::api(format!("status of node {name}")))?;
            // The watch brings it back, and the taints follow.
            return Ok((None, false));
        }
        if let Some(taints) = plan_no_schedule(&node, now) {
            self.set_taints(&node, taints).await?;
        }
        let status = ready(&node).map(|ready| ready.status.clone()).unwrap_or_default();
        let before = self.was_ready.lock().get(name).cloned();
        let turned = before.as_ref() != Some(&status);
        if turned && matches!(status.as_str(), "False" | "Unknown") {
            if before.as_deref() == Some("True") {
                let message = format!("Node {name} status is now: NodeNotReady");
                self.context.recorder.normal(&*node, "NodeNotReady", message);
            }
            self.pods_not_ready(name).await?;
        }
        self.was_ready.lock().insert(name.to_owned(), status);
        Ok((grace.checked_sub(silent).filter(|left| !left.is_zero()), turned))
    }

    async fn evict(&self) -> Result<Option<Duration>, Error> {
        let (changes, again) =
            plan_evictions(&self.nodes.list(), &mut self.next_eviction.lock(), Timestamp::now());
        for (node, taints) in changes {
            self.set_taints(&node, taints).await?;
        }
        Ok(again)
    }

    async fn set_taints(&self, node: &Node, taints: Vec<Taint>) -> Result<(), Error> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Node> = Api::all(self.context.client.clone());
        let taints = Some(taints).filter(|taints| !taints.is_empty());
        let patch = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
        });
        let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        write::found(patched).map(drop).map_err(Error::api(format!("taints of node {name}")))
    }

    /// Pods of a node that is not ready are not ready either.
    async fn pods_not_ready(&self, node: &str) -> Result<(), Error> {
        for pod in self.pods.by(pods::by_node(), node).iter().filter(|pod| pods::is_ready(pod)) {
            let key = ObjectKey::of(&**pod);
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [
                {"type": "Ready", "status": "False", "lastTransitionTime": Timestamp::now()},
            ]}});
            let patched =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            let found = write::found(patched).map_err(Error::api(format!("status of pod {key}")))?;
            if found.is_some() {
                self.context.recorder.warning(&**pod, "NodeNotReady", "Node is not ready");
            }
        }
        Ok(())
    }
}
