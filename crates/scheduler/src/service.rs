//! The shell: watches feed the snapshot and the queue, decisions are bound through the API.

use std::sync::Arc;
use std::time::Instant;

use client::events::{Occurrence, Severity, Source, reference};
use client::{Change, Informers, ObjectKey, Recorder, write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::queue::{Event, Queue};
use crate::{FitError, PodInfo, Scheduler, Snapshot, filters};

/// What the one who runs the scheduler decides.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pods whose `schedulerName` is this are ours.
    pub scheduler_name: String,
    /// How many bindings and status writes are under way at most.
    pub writes: usize,
    /// Percentage of the nodes that is enough to choose from; 0 is by the size of the cluster.
    pub percentage_of_nodes_to_score: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { scheduler_name: "default-scheduler".into(), writes: 64, percentage_of_nodes_to_score: 0 }
    }
}

/// What the watches and the loop share.
struct World {
    state: Mutex<State>,
    wake: Notify,
    name: String,
}

#[derive(Default)]
struct State {
    snapshot: Snapshot,
    queue: Queue,
}

/// Schedules until `cancel`, and returns when what was under way has ended.
pub async fn run(config: Config, client: Client, informers: Informers, cancel: CancellationToken) {
    let source = Source { component: config.scheduler_name.clone(), host: instance(&config), series: true };
    let (recorder, events) = Recorder::new(client.clone(), source, cancel.clone());
    let events = tokio::spawn(events);
    let world =
        Arc::new(World { state: Mutex::default(), wake: Notify::new(), name: config.scheduler_name.clone() });
    let (namespaces, nodes, pods) =
        (informers.of::<Namespace>(), informers.of::<Node>(), informers.of::<Pod>());
    let on = world.clone();
    namespaces.on_change(move |change| on.namespace(change));
    let on = world.clone();
    nodes.on_change(move |change| on.node(change));
    let on = world.clone();
    pods.on_change(move |change| on.pod(change));
    tokio::select! {
        () = async { tokio::join!(namespaces.synced(), nodes.synced(), pods.synced()); } => {}
        () = cancel.cancelled() => {}
    }
    decide_all(&config, &client, &world, &recorder, &cancel).await;
    if let Err(error) = events.await {
        tracing::error!(%error, "the event recorder panicked");
    }
}

fn instance(config: &Config) -> String {
    format!("{}-{}", config.scheduler_name, std::process::id())
}

impl World {
    fn namespace(&self, change: &Change<Namespace>) {
        let meta = &change.object().metadata;
        let name = meta.name.clone().unwrap_or_default();
        let mut state = self.state.lock();
        if change.is_deleted() {
            state.snapshot.namespaces.remove(&name);
        } else {
            state.snapshot.namespaces.insert(name, meta.labels.clone().unwrap_or_default());
        }
    }

    fn node(&self, change: &Change<Node>) {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut guard = self.state.lock();
        let State { snapshot, queue } = &mut *guard;
        let event = match change {
            Change::Deleted(_) => {
                snapshot.remove_node(&name);
                return;
            }
            Change::Added(_) => Event::NodeAdded,
            Change::Updated { old, new } if same_offer(old, new) => return,
            Change::Updated { .. } => Event::NodeChanged,
        };
        snapshot.set_node(node);
        let fits = |pod: &PodInfo| snapshot.node(&name).is_some_and(|node| filters::check(pod, node).is_ok());
        queue.happened(event, Instant::now(), fits);
        drop(guard);
        self.wake.notify_one();
    }

    fn pod(&self, change: &Change<Pod>) {
        let pod = change.object();
        let spec = pod.spec.as_ref();
        let node = spec.and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ended = change.is_deleted() || matches!(phase, Some("Succeeded" | "Failed"));
        let now = Instant::now();
        let key = ObjectKey::of(&**pod);
        let mut guard = self.state.lock();
        let State { snapshot, queue } = &mut *guard;
        if ended {
            queue.remove(&key);
            if snapshot.remove_pod(pod.metadata.uid.as_deref().unwrap_or_default()) {
                queue.happened(Event::PodGone, now, |_| true);
            }
        } else if let Some(node) = node {
            queue.remove(&key);
            // Status comes often and changes nothing here.
            if let Change::Updated { old, new } = change
                && old.spec == new.spec
                && old.metadata.labels == new.metadata.labels
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
            {
                return;
            }
            snapshot.set_pod(Arc::new(PodInfo::new(pod.clone())), node);
            queue.happened(Event::PodPlaced, now, |_| true);
        } else if self.is_ours(pod) {
            queue.set(Arc::new(PodInfo::new(pod.clone())), now);
        } else {
            queue.remove(&key);
        }
        drop(guard);
        self.wake.notify_one();
    }

    fn is_ours(&self, pod: &Pod) -> bool {
        let name = pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref());
        pod.metadata.deletion_timestamp.is_none() && name.unwrap_or("default-scheduler") == self.name
    }
}

/// Whether two states of a node offer pods the same.
fn same_offer(old: &Node, new: &Node) -> bool {
    let offer = |node: &Node| {
        let status = node.status.as_ref();
        (
            node.metadata.labels.clone(),
            node.spec.clone(),
            status.and_then(|status| status.allocatable.clone()),
            status.and_then(|status| status.images.clone()),
        )
    };
    offer(old) == offer(new)
}

async fn decide_all(
    config: &Config,
    client: &Client,
    world: &Arc<World>,
    recorder: &Recorder,
    cancel: &CancellationToken,
) {
    let mut scheduler = Scheduler::new(config.percentage_of_nodes_to_score);
    let mut writes = JoinSet::new();
    while !cancel.is_cancelled() {
        while let Some(ended) = writes.try_join_next() {
            log_panic(ended);
        }
        if writes.len() >= config.writes {
            if let Some(ended) = writes.join_next().await {
                log_panic(ended);
            }
            continue;
        }
        let (decided, deadline) = decide(&mut scheduler, world);
        let Some((pod, result)) = decided else {
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = world.wake.notified() => {}
                () = timer => {}
                () = cancel.cancelled() => break,
            }
            continue;
        };
        let (client, world, recorder) = (client.clone(), world.clone(), recorder.clone());
        writes.spawn(async move {
            match result {
                Ok(node) => bind(&client, &world, &recorder, &pod, &node).await,
                Err(error) => tell(&client, &recorder, &pod, &error).await,
            }
        });
        // Those who write get their turn between decisions.
        tokio::task::yield_now().await;
    }
    while let Some(ended) = writes.join_next().await {
        log_panic(ended);
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a binding panicked");
    }
}

type Decided = (Arc<PodInfo>, Result<String, FitError>);

/// Decides on one pod and assumes the decision.
fn decide(scheduler: &mut Scheduler, world: &World) -> (Option<Decided>, Option<Instant>) {
    let mut guard = world.state.lock();
    let State { snapshot, queue } = &mut *guard;
    let Some(pod) = queue.pop(Instant::now()) else { return (None, queue.next_deadline()) };
    let result = scheduler.schedule(snapshot, &pod);
    match &result {
        Ok(node) => snapshot.set_pod(pod.clone(), node),
        Err(error) => queue.unschedulable(&pod.key, error, Instant::now()),
    }
    (Some((pod, result)), None)
}

async fn bind(client: &Client, world: &World, recorder: &Recorder, pod: &PodInfo, node: &str) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.key.name.clone()),
            namespace: Some(pod.key.namespace.clone()),
            uid: Some(pod.uid.clone()),
            ..Default::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.into()),
            ..Default::default()
        },
    };
    let bound: kube::Result<serde_json::Value> =
        api.create_subresource("binding", &pod.key.name, &PostParams::default(), &binding).await;
    match bound {
        Ok(_) => {
            let message = format!("Successfully assigned {} to {node}", pod.key);
            recorder.record(occurrence(pod, Severity::Normal, "Scheduled", "Binding", message));
        }
        Err(error) => {
            let mut guard = world.state.lock();
            let State { snapshot, queue } = &mut *guard;
            snapshot.remove_pod(&pod.uid);
            if write::is_not_found(&error) {
                queue.remove(&pod.key);
            } else {
                queue.retry(&pod.key, Instant::now());
            }
            queue.happened(Event::PodGone, Instant::now(), |_| true);
            drop(guard);
            world.wake.notify_one();
            tracing::debug!(pod = %pod.key, node, %error, "not bound");
            let message = format!("binding rejected: {error}");
            recorder.record(occurrence(pod, Severity::Warning, "FailedScheduling", "Scheduling", message));
        }
    }
}

/// Tells why a pod fits nowhere: an event, and the condition unless it says so already.
async fn tell(client: &Client, recorder: &Recorder, pod: &PodInfo, error: &FitError) {
    let message = error.to_string();
    recorder.record(occurrence(pod, Severity::Warning, "FailedScheduling", "Scheduling", message.clone()));
    let conditions = pod.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let current = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let said = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.status == "False"
            && c.message.as_ref() == Some(&message)
            && c.reason.as_deref() == Some("Unschedulable")
    };
    if current.is_some_and(said) {
        return;
    }
    let since = current.filter(|condition| condition.status == "False");
    let since = since.and_then(|condition| condition.last_transition_time.as_ref());
    let since = since.map_or_else(Timestamp::now, |time| time.0);
    let patch = json!({
        "metadata": {"uid": pod.uid},
        "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since),
        }]},
    });
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    let params = PatchParams::default();
    if let Err(error) = api.patch_status(&pod.key.name, &params, &Patch::Strategic(patch)).await {
        tracing::debug!(pod = %pod.key, %error, "condition not written");
    }
}

fn occurrence(pod: &PodInfo, severity: Severity, reason: &str, action: &str, message: String) -> Occurrence {
    Occurrence {
        about: reference(&*pod.pod),
        severity,
        reason: reason.into(),
        message,
        action: Some(action.into()),
    }
}
