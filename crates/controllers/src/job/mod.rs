//! Runs pods to completion: the Job controller.

mod backoff;
mod conditions;
mod indexes;
mod plan;
mod policy;
mod template;
mod track;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, Error};
use crate::ownership::{self, Owner, controller_of};
use crate::pod_control::PodControl;
use crate::wake;
use backoff::Backoff;
pub(crate) use conditions::finished;
use plan::{Plan, View, is_tracked, plan, uid};

/// The finalizer of pods that a Job has not counted yet.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The value of `managedBy` that means this controller.
const NAME: &str = "kubernetes.io/job-controller";

impl Owner for Job {
    const FINALIZER: Option<&'static str> = Some(TRACKING);

    fn selector(&self) -> Labels {
        let selector = self.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.map(Labels::from_label_selector).unwrap_or_default()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Job(ObjectKey),
    /// A pod that is tracked for a Job that is gone.
    Orphan(ObjectKey),
}

struct Controller {
    context: Context,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    control: PodControl,
    /// The uids of pods that we let go of and that the cache still shows as held.
    released: Arc<Mutex<HashSet<String>>>,
    backoffs: Mutex<HashMap<ObjectKey, Backoff>>,
    written: Written,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    let control = PodControl::new(&context);
    let released = Arc::new(Mutex::new(HashSet::new()));
    let owned = pods.clone();
    jobs.enqueue(&queue, move |change| {
        let job = change.object();
        if !change.is_deleted() {
            return vec![Key::Job(ObjectKey::of(&**job))];
        }
        let left = owned.controlled_by(job.metadata.uid.as_deref().unwrap_or_default());
        let held = left.iter().filter(|pod| is_tracked(pod));
        let orphans = held.map(|pod| Key::Orphan(ObjectKey::of(&**pod)));
        orphans.chain([Key::Job(ObjectKey::of(&**job))]).collect()
    });
    let (expected, known, gone) = (control.expectations.clone(), jobs.clone(), released.clone());
    pods.enqueue(&queue, move |change| {
        wake::observe::<Job>(change, &expected);
        let pod = change.object();
        if change.is_deleted() || !is_tracked(pod) {
            gone.lock().remove(uid(pod));
        }
        let mut keys: Vec<Key> = wake::owners_of(change, &known).into_iter().map(Key::Job).collect();
        if !change.is_deleted() && is_tracked(pod) && is_orphan(pod, &known) {
            keys.push(Key::Orphan(ObjectKey::of(&**pod)));
        }
        keys
    });
    jobs.synced().await;
    pods.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let (backoffs, written) = (Mutex::default(), Written::default());
    let controller = Controller { context, jobs, pods, control, released, backoffs, written };
    client::run("job", queue, workers, Arc::new(controller), cancel).await;
}

/// Whether the Job a pod is tracked for is not there.
fn is_orphan(pod: &Pod, jobs: &Informer<Job>) -> bool {
    let Some(owner) = controller_of(pod) else { return true };
    let Some(key) = wake::owner_key::<Job, Pod>(pod) else { return false };
    jobs.get(&key).is_none_or(|job| job.metadata.uid.as_ref() != Some(&owner.uid))
}

impl Reconcile for Controller {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        match key {
            Key::Job(key) => self.sync(key).await,
            Key::Orphan(key) => {
                if let Some(pod) =
                    self.pods.get(key).filter(|pod| is_tracked(pod) && is_orphan(pod, &self.jobs))
                {
                    self.let_go(&pod).await?;
                }
                Ok(None)
            }
        }
    }
}

impl Controller {
    async fn sync(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let job = self.jobs.get(key).filter(|job| finished(job).is_none());
        let Some(job) = job else {
            self.control.expectations.forget(key);
            self.backoffs.lock().remove(key);
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*job) {
            return Ok(None);
        }
        let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if manager.is_some_and(|manager| manager != NAME) || job.selector().is_empty() {
            return Ok(None);
        }
        // Looked at before the cache is: what is seen in between must not be asked for again.
        let settled = self.control.expectations.satisfied(key);
        let pods = ownership::claim(&self.context.client, &*job, &self.pods).await?;
        let shown: HashSet<String> = pods.iter().map(|pod| uid(pod).to_owned()).collect();
        let released = self.released.lock().intersection(&shown).cloned().collect();
        let backoff = self.backoffs.lock().get(key).copied().unwrap_or_default();
        let view = View { job: &job, pods: &pods, released: &released, backoff, settled };
        let plan = plan(&view, Timestamp::now());
        self.apply(key, &job, &pods, &released, plan).await
    }

    async fn apply(
        &self,
        key: &ObjectKey,
        job: &Job,
        pods: &[Arc<Pod>],
        released: &HashSet<String>,
        plan: Plan,
    ) -> Result<Option<Duration>, Error> {
        let Plan { stop, discard, create, mut status, release, finish, backoff, events, again } = plan;
        for result in join_all(stop.iter().map(|pod| self.control.delete_one(job, pod))).await {
            write::found(result).map_err(Error::api(format!("stopping the pods of {key}")))?;
        }
        for result in join_all(discard.iter().map(|pod| self.let_go(pod))).await {
            result?;
        }
        let made = self.control.apply(key, job, &create, &discard).await;
        if let Err(failure) = &made {
            let missing = create.len().saturating_sub(failure.made) as i32;
            status.active = status.active.map(|active| active - missing).filter(|n| *n > 0);
        }
        let job = self.write(key, job.clone(), status).await?;
        self.backoffs.lock().insert(key.clone(), backoff);
        for (reason, message) in events {
            self.context.recorder.normal(&job, reason, message);
        }
        let mut held: HashSet<String> =
            pods.iter().filter(|pod| is_tracked(pod)).map(|pod| uid(pod).to_owned()).collect();
        held.retain(|uid| !released.contains(uid));
        let mut fault = None;
        for (pod, result) in release.iter().zip(join_all(release.iter().map(|pod| self.let_go(pod))).await) {
            match result {
                Ok(()) => drop(held.remove(uid(pod))),
                Err(error) => fault = Some(error),
            }
        }
        let mut status = job.status.clone().unwrap_or_default();
        track::count_released(&mut status, &held);
        let last =
            finish.filter(|_| track::uncounted(&status) == 0 && status.terminating.unwrap_or_default() == 0);
        if let Some(last) = &last {
            conditions::ensure(status.conditions.get_or_insert_default(), last.clone());
            if last.type_ == "Complete" {
                status.completion_time.clone_from(&last.last_transition_time);
            }
        }
        let job = self.write(key, job, status).await?;
        if let Some(last) = last {
            self.tell_end(&job, &last);
        }
        fault.map_or(Ok(()), Err)?;
        made?;
        Ok(again)
    }

    /// Writes the status unless it is there already, and returns the Job as it is then.
    async fn write(&self, key: &ObjectKey, job: Job, status: JobStatus) -> Result<Job, Error> {
        let mut wanted = job.clone();
        wanted.status = Some(status);
        let api: Api<Job> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &job, &wanted).await;
        let written = written.map_err(Error::api(format!("status of job {key}")))?;
        written.iter().for_each(|job| self.written.note(job));
        Ok(written.unwrap_or(job))
    }

    fn tell_end(&self, job: &Job, last: &JobCondition) {
        let recorder = &self.context.recorder;
        if last.type_ != "Complete" {
            let (reason, message) = (last.reason.as_deref(), last.message.as_deref());
            return recorder.warning(job, reason.unwrap_or_default(), message.unwrap_or_default());
        }
        let completions = job.spec.as_ref().and_then(|spec| spec.completions);
        let succeeded = job.status.as_ref().and_then(|status| status.succeeded).unwrap_or_default();
        if completions.is_some_and(|completions| succeeded > completions) {
            let message = "Too many succeeded pods running after completion count reached";
            recorder.warning(job, "TooManySucceededPods", message);
        }
        recorder.normal(job, "Completed", "Job completed");
    }

    /// Removes the tracking finalizer of a pod.
    async fn let_go(&self, pod: &Pod) -> Result<(), Error> {
        if !is_tracked(pod) {
            return Ok(());
        }
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [TRACKING],
        }});
        // Before the patch: the cache may tell of it before its answer is here.
        self.released.lock().insert(uid(pod).to_owned());
        let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        let result = match patched {
            // Another pod of that name by now.
            Err(error) if write::is_conflict(&error) => Ok(None),
            other => write::found(other),
        };
        if !matches!(result, Ok(Some(_))) {
            self.released.lock().remove(uid(pod));
        }
        result.map(drop).map_err(Error::api(format!("finalizer of pod {key}")))
    }
}

/// When a Job ended.
pub(crate) fn finished_at(job: &Job) -> Option<Timestamp> {
    finished(job)?.last_transition_time.as_ref().map(|Time(at)| *at)
}
