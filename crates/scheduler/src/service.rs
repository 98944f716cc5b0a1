//! The shell: watches feed the snapshot and the queue, decisions are bound through the API.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use client::events::{Occurrence, Severity, Source, reference};
use client::{Change, Informers, ObjectKey, Recorder, write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::claims::{self, Claims};
use crate::preemption::{self, Budget, Choice};
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
    budgets: HashMap<ObjectKey, Budget>,
    claims: Claims,
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
    let budgets = informers.of::<PodDisruptionBudget>();
    let on = world.clone();
    budgets.on_change(move |change| on.budget(change));
    let claims = informers.of::<PersistentVolumeClaim>();
    let on = world.clone();
    claims.on_change(move |change| on.claim(change));
    let classes = informers.of::<StorageClass>();
    let on = world.clone();
    classes.on_change(move |change| on.class(change));
    let synced = async {
        tokio::join!(namespaces.synced(), nodes.synced(), pods.synced(), budgets.synced());
        tokio::join!(claims.synced(), classes.synced());
    };
    tokio::select! {
        () = synced => {}
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

    fn budget(&self, change: &Change<PodDisruptionBudget>) {
        let key = ObjectKey::of(&**change.object());
        let mut state = self.state.lock();
        if change.is_deleted() {
            state.budgets.remove(&key);
        } else {
            state.budgets.insert(key, Budget::of(change.object()));
        }
    }

    fn claim(&self, change: &Change<PersistentVolumeClaim>) {
        let key = ObjectKey::of(&**change.object());
        let mut guard = self.state.lock();
        let State { claims, queue, .. } = &mut *guard;
        if change.is_deleted() {
            claims.remove(&key);
        } else {
            claims.set(change.object());
        }
        let mounts = |pod: &PodInfo| {
            pod.key.namespace == key.namespace && pod.claims.iter().any(|claim| claim.name == key.name)
        };
        queue.happened(Event::Claim, Instant::now(), mounts);
        drop(guard);
        self.wake.notify_one();
    }

    fn class(&self, change: &Change<StorageClass>) {
        let mut guard = self.state.lock();
        let State { claims, queue, .. } = &mut *guard;
        claims.set_class(change.object(), change.is_deleted());
        queue.happened(Event::Claim, Instant::now(), |_| true);
        drop(guard);
        self.wake.notify_one();
    }

    fn node(&self, change: &Change<Node>) {
        let node = change.object();
        let name = node.metadata.name.clone().unwrap_or_default();
        let mut guard = self.state.lock();
        let State { snapshot, queue, .. } = &mut *guard;
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
        let State { snapshot, queue, .. } = &mut *guard;
        if ended {
            queue.remove(&key);
            snapshot.forget_nominated(pod.metadata.uid.as_deref().unwrap_or_default());
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
            let info = Arc::new(PodInfo::new(pod.clone()));
            // What we noted ourselves may not have come back yet: only what changed counts.
            let nominated = |pod: &Pod| {
                let status = pod.status.as_ref();
                status.and_then(|status| status.nominated_node_name.clone()).filter(|name| !name.is_empty())
            };
            let told = nominated(pod);
            if told.is_some() || change.old().is_some_and(|old| nominated(old).is_some()) {
                snapshot.nominate(&info, told.as_deref());
            }
            queue.set(info, now);
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
        let Some((pod, verdict)) = decided else {
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
            match verdict {
                Verdict::Bind(node) => bind(&client, &world, &recorder, &pod, &node).await,
                Verdict::Wait(error, choice) => {
                    tell(&client, &recorder, &pod, &error, choice.as_ref()).await;
                    if let Some(choice) = choice {
                        make_room(&client, &world, &recorder, &pod, &choice).await;
                    }
                }
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

/// What was decided on a pod.
enum Verdict {
    Bind(String),
    /// It fits nowhere; room is made where there is a choice.
    Wait(FitError, Option<Choice>),
}

/// Decides on one pod and assumes the decision.
fn decide(scheduler: &mut Scheduler, world: &World) -> (Option<(Arc<PodInfo>, Verdict)>, Option<Instant>) {
    let mut guard = world.state.lock();
    let State { snapshot, queue, budgets, claims } = &mut *guard;
    let Some(pod) = queue.pop(Instant::now()) else { return (None, queue.next_deadline()) };
    let placed = match claims.fault(&pod) {
        Some(why) => Err(FitError::everywhere(snapshot, claims::PLUGIN, why)),
        None => scheduler.schedule(snapshot, &pod),
    };
    let verdict = match placed {
        Ok(node) => {
            snapshot.set_pod(pod.clone(), &node);
            Verdict::Bind(node)
        }
        Err(mut error) => {
            let budgets: Vec<Budget> = budgets.values().cloned().collect();
            let choice = preemption::plan(snapshot, &pod, &mut error, &budgets);
            if let Some(choice) = &choice {
                snapshot.nominate(&pod, Some(&choice.node));
            }
            queue.unschedulable(&pod.key, &error, Instant::now());
            Verdict::Wait(error, choice)
        }
    };
    (Some((pod, verdict)), None)
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
            tracing::debug!(pod = %pod.key, node, %error, "not bound");
            let mut guard = world.state.lock();
            let State { snapshot, queue, .. } = &mut *guard;
            if !queue.is_busy(&pod.key, &pod.uid) {
                // The watch knows more: the pod is bound though the answer was lost, or gone.
                return;
            }
            snapshot.remove_pod(&pod.uid);
            if write::is_not_found(&error) {
                queue.remove(&pod.key);
            } else {
                queue.retry(&pod.key, Instant::now());
            }
            queue.happened(Event::PodGone, Instant::now(), |_| true);
            drop(guard);
            world.wake.notify_one();
            let message = format!("binding rejected: {error}");
            recorder.record(occurrence(pod, Severity::Warning, "FailedScheduling", "Scheduling", message));
        }
    }
}

/// Takes away the pods of a choice, gracefully, and lets lesser pods that waited for that node look
/// elsewhere.
async fn make_room(client: &Client, world: &World, recorder: &Recorder, pod: &Arc<PodInfo>, choice: &Choice) {
    let lesser: Vec<Arc<PodInfo>> = {
        let mut guard = world.state.lock();
        let lesser: Vec<_> = guard.snapshot.nominated_below(&choice.node, pod).cloned().collect();
        lesser.iter().for_each(|other| guard.snapshot.nominate(other, None));
        lesser
    };
    for other in lesser {
        let patch = json!({"metadata": {"uid": other.uid}, "status": {"nominatedNodeName": null}});
        patch_status(client, &other, patch).await;
    }
    for victim in &choice.victims {
        if victim.pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = pod.pod.spec.as_ref().and_then(|spec| spec.scheduler_name.clone()).unwrap_or_default();
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{name}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": Timestamp::now(),
        });
        patch_status(
            client,
            victim,
            json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}),
        )
        .await;
        let api: Api<Pod> = Api::namespaced(client.clone(), &victim.key.namespace);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(victim.uid.clone()), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&victim.key.name, &params).await {
            Err(error) if !write::is_not_found(&error) => {
                tracing::warn!(pod = %victim.key, %error, "not preempted");
                // Without that room it waits like any other.
                world.state.lock().snapshot.nominate(pod, None);
                return;
            }
            _ => {
                let message = format!("Preempted by pod {} on node {}", pod.uid, choice.node);
                recorder.record(occurrence(victim, Severity::Normal, "Preempted", "Preempting", message));
            }
        }
    }
}

async fn patch_status(client: &Client, pod: &PodInfo, patch: serde_json::Value) {
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.key.namespace);
    if let Err(error) =
        api.patch_status(&pod.key.name, &PatchParams::default(), &Patch::Strategic(patch)).await
    {
        tracing::debug!(pod = %pod.key, %error, "status not written");
    }
}

/// Tells why a pod fits nowhere: an event, and the condition unless it says so already; and where room
/// is made for it.
async fn tell(
    client: &Client,
    recorder: &Recorder,
    pod: &PodInfo,
    error: &FitError,
    choice: Option<&Choice>,
) {
    let message = error.to_string();
    recorder.record(occurrence(pod, Severity::Warning, "FailedScheduling", "Scheduling", message.clone()));
    let conditions = pod.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let current = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    let said = |c: &k8s_openapi::api::core::v1::PodCondition| {
        c.status == "False"
            && c.message.as_ref() == Some(&message)
            && c.reason.as_deref() == Some("Unschedulable")
    };
    if current.is_some_and(said) && choice.is_none() {
        return;
    }
    let since = current.filter(|condition| condition.status == "False");
    let since = since.and_then(|condition| condition.last_transition_time.as_ref());
    let since = since.map_or_else(Timestamp::now, |time| time.0);
    let mut patch = json!({
        "metadata": {"uid": pod.uid},
        "status": {"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
            "lastProbeTime": null,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(since),
        }]},
    });
    if let Some(choice) = choice {
        patch["status"]["nominatedNodeName"] = json!(choice.node);
    }
    patch_status(client, pod, patch).await;
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
