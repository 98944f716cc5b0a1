//! One pod on each node: the DaemonSet controller.

mod place;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Change, Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use parking_lot::Mutex;

use crate::context::{Context, Error};
use crate::history::{self, History, Outcome};
use crate::ownership::{self, Owner};
use crate::pod_control::PodControl;
use crate::wake;
use place::{fit, simulated};
use plan::{Plan, View, plan_pods, plan_rollout, plan_status};

/// The label of pods and revisions that tells the template.
const HASH: &str = "controller-revision-hash";
/// The rest after a first failed pod on a node; it doubles up to the longest.
const FIRST_REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(15 * 60);

impl Owner for DaemonSet {
    fn selector(&self) -> Labels {
        Labels::from_label_selector(&self.spec.selector)
    }
}

/// Failures of a set's pods on one node.
#[derive(Clone, Copy)]
struct Failures {
    count: u32,
    last: Timestamp,
}

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
    failures: Mutex<HashMap<ObjectKey, HashMap<String, Failures>>>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let sets = context.informers.of::<DaemonSet>();
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let revisions = context.informers.of::<ControllerRevision>();
    let control = PodControl::new(&context);
    let forget = control.expectations.clone();
    sets.enqueue(&queue, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            forget.forget(&key);
        }
        [key]
    });
    let known = sets.clone();
    revisions.enqueue(&queue, move |change| wake::owners_of(change, &known));
    let (expected, known) = (control.expectations.clone(), sets.clone());
    pods.enqueue(&queue, move |change| {
        wake::observe::<DaemonSet>(change, &expected);
        wake::owners_of(change, &known)
    });
    let known = sets.clone();
    nodes.enqueue(&queue, move |change| {
        let all = if matters(change) { known.list() } else { Vec::new() };
        let moved = all.into_iter().filter(|set| fits_differently(set, change));
        moved.map(|set| ObjectKey::of(&*set)).collect::<Vec<_>>()
    });
    tokio::join!(sets.synced(), nodes.synced(), pods.synced(), revisions.synced());
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller =
        Controller { context, sets, nodes, pods, revisions, control, failures: Mutex::default() };
    client::run("daemonset", queue, workers, Arc::new(controller), cancel).await;
}

/// Whether anything of a node changed that daemons look at.
fn matters(change: &Change<Node>) -> bool {
    let Change::Updated { old, new } = change else { return true };
    let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
    old.metadata.labels != new.metadata.labels || taints(old) != taints(new)
}

fn fits_differently(set: &DaemonSet, change: &Change<Node>) -> bool {
    let simulated = simulated(set);
    match change {
        Change::Updated { old, new } => fit(&simulated, old) != fit(&simulated, new),
        other => fit(&simulated, other.object()).run || other.is_deleted(),
    }
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.control.expectations.forget(key);
            self.failures.lock().remove(key);
            return Ok(None);
        };
        if set.selector().is_empty() {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.context.recorder.warning(&*set, "SelectingAll", message);
            return Ok(None);
        }
        let settled = self.control.expectations.satisfied(key);
        let pods = ownership::claim(&self.context.client, &*set, &self.pods).await?;
        let history = History { client: &self.context.client, revisions: &self.revisions };
        let revisions = history.claim(&*set).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let wanted = history::revision_of(&*set, &set.spec.template, HASH, collisions);
        let deleting = set.metadata.deletion_timestamp.is_some();
        let current = match history.apply(&*set, history::plan(&revisions, wanted)).await? {
            Outcome::Current(revision) => revision,
            Outcome::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or_default() + 1);
                self.write(key, &set, status).await?;
                return Ok(None);
            }
        };
        let hash = current.metadata.labels.as_ref().and_then(|labels| labels.get(HASH)).cloned();
        let hash = hash.unwrap_or_default();
        let now = Timestamp::now();
        let (resting, nodes) = (self.resting(key, now), self.nodes.list());
        let view = View { set: &set, nodes: &nodes, pods: &pods, hash: &hash, resting: &resting, now };
        let (status, mut again) = plan_status(&view);
        let mut made = Ok(());
        if settled && !deleting {
            let mut plan = plan_pods(&view);
            if plan.create.is_empty() && plan.delete.is_empty() {
                let rest = plan.again;
                plan = plan_rollout(&view);
                plan.again = plan.again.into_iter().chain(rest).min();
            }
            again = again.into_iter().chain(plan.again).min();
            self.tell(key, &set, &plan, now);
            made = self.control.apply(key, &*set, &plan.create, &plan.delete).await;
            self.clean_history(&history, &set, &revisions, &current, &pods).await?;
        }
        self.write(key, &set, status).await?;
        made?;
        Ok(again)
    }
}

impl Controller {
    async fn write(&self, key: &ObjectKey, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), Error> {
        let mut wanted = set.clone();
        wanted.status = Some(status);
        let api: Api<DaemonSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, set, &wanted).await;
        write::found(written).map(drop).map_err(Error::api(format!("status of daemon set {key}")))
    }

    /// The nodes whose failed pod is left alone for a while yet.
    fn resting(&self, key: &ObjectKey, now: Timestamp) -> HashMap<String, Duration> {
        let failures = self.failures.lock();
        let of_set = failures.get(key).into_iter().flatten();
        let left = of_set.filter_map(|(node, failures)| {
            let rest =
                FIRST_REST.saturating_mul(1 << failures.count.saturating_sub(1).min(20)).min(LONGEST_REST);
            let rested = Duration::try_from(now.duration_since(failures.last)).unwrap_or_default();
            let left = rest.saturating_sub(rested);
            (!left.is_zero()).then(|| (node.clone(), left))
        });
        left.collect()
    }

    /// Tells of pods that ended, and notes those that failed.
    fn tell(&self, key: &ObjectKey, set: &DaemonSet, plan: &Plan, now: Timestamp) {
        for (node, pod) in &plan.failed {
            let name = ObjectKey::of(&**pod);
            let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
            self.context.recorder.warning(set, "FailedDaemonPod", message);
            let mut failures = self.failures.lock();
            let nodes = failures.entry(key.clone()).or_default();
            let known = nodes.get(node).filter(|known| {
                // Long without a failure is as good as none.
                Duration::try_from(now.duration_since(known.last)).unwrap_or_default() < LONGEST_REST * 2
            });
            let count = known.map_or(0, |known| known.count) + 1;
            nodes.insert(node.clone(), Failures { count, last: now });
        }
        for (node, pod) in &plan.succeeded {
            let name = ObjectKey::of(&**pod);
            let message = format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
            self.context.recorder.normal(set, "SucceededDaemonPod", message);
        }
    }

    /// Deletes revisions that no pod is of, beyond the limit.
    async fn clean_history(
        &self,
        history: &History<'_>,
        set: &DaemonSet,
        revisions: &[Arc<ControllerRevision>],
        current: &ControllerRevision,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let label = |labels: Option<&std::collections::BTreeMap<String, String>>| labels?.get(HASH).cloned();
        let hashes: HashSet<String> =
            pods.iter().filter_map(|pod| label(pod.metadata.labels.as_ref())).collect();
        let used = |revision: &&Arc<ControllerRevision>| {
            label(revision.metadata.labels.as_ref()).is_some_and(|hash| hashes.contains(&hash))
        };
        let mut live: HashSet<String> =
            revisions.iter().filter(used).map(|revision| history::name(revision).to_owned()).collect();
        live.insert(history::name(current).to_owned());
        let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or_default();
        history.delete(set, history::surplus(revisions, limit, &live)).await
    }
}
