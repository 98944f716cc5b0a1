//! What a Job needs next.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::TRACKING;
use super::backoff::{Backoff, finished_at};
use super::conditions::{condition, ensure, find, is_true};
use super::indexes::Indexes;
use super::policy::{self, Verdict};
use super::template::{self, index};
use crate::pod_control::BURST;
use crate::pods;
use crate::replicas::dispensable;

/// What there is.
pub(super) struct View<'a> {
    pub job: &'a Job,
    pub pods: &'a [Arc<Pod>],
    /// The uids of pods that we let go of, though the cache may not show it yet.
    pub released: &'a HashSet<String>,
    pub backoff: Backoff,
    /// Whether all pods that were made and deleted have been seen.
    pub settled: bool,
}

/// What there is to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Pods to delete that still count.
    pub stop: Vec<Arc<Pod>>,
    /// Pods to let go of and delete: they count for nothing.
    pub discard: Vec<Arc<Pod>>,
    pub create: Vec<Pod>,
    /// The status after that.
    pub status: JobStatus,
    /// Pods to let go of once the status notes them.
    pub release: Vec<Arc<Pod>>,
    /// The condition that ends the Job, once nothing is uncounted or terminating.
    pub finish: Option<JobCondition>,
    pub backoff: Backoff,
    /// Reason and message of events.
    pub events: Vec<(&'static str, &'static str)>,
    pub again: Option<Duration>,
}

impl Plan {
    pub(super) fn again_in(&mut self, delay: Duration) {
        self.again = Some(self.again.map_or(delay, |again| again.min(delay)));
    }
}

/// The pods and counts that the steps of the plan share.
pub(super) struct Sync<'a> {
    pub view: &'a View<'a>,
    pub spec: &'a JobSpec,
    pub now: Timestamp,
    pub active: Vec<Arc<Pod>>,
    pub terminating: i32,
    pub ready: i32,
    pub succeeded: i32,
    pub failed: i32,
    /// Indexed Jobs: the indexes that had succeeded before, and those that have now.
    pub before: Indexes,
    pub done: Indexes,
    /// Where failures are counted by index: the indexes that have failed.
    pub lost: Option<Indexes>,
    /// Where failures are counted by index: failed pods kept until they are replaced.
    pub delayed: Vec<Arc<Pod>>,
    /// Why the Job ends.
    pub ending: Option<JobCondition>,
    pub plan: Plan,
}

pub(super) fn plan(view: &View<'_>, now: Timestamp) -> Plan {
    let default = JobSpec::default();
    let spec = view.job.spec.as_ref().unwrap_or(&default);
    let mut sync = Sync::new(view, spec, now);
    sync.ending = sync.ending();
    if sync.ending.is_some() {
        sync.stop();
    } else {
        let managed = view.settled && view.job.metadata.deletion_timestamp.is_none();
        if managed {
            sync.manage();
        }
        sync.complete(managed);
    }
    sync.track();
    let Sync { mut plan, active, ready, terminating, .. } = sync;
    plan.status.active = Some(active.len() as i32 + plan.create.len() as i32).filter(|n| *n > 0);
    plan.status.ready = Some(ready);
    plan.status.terminating = Some(terminating);
    plan
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    spec.completion_mode.as_deref() == Some("Indexed")
}

fn replaces_only_failed(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether a pod counts as failed: one being deleted does too, unless its end is waited for.
pub(super) fn is_failed(spec: &JobSpec, pod: &Pod) -> bool {
    pods::phase(pod) == "Failed"
        || (!replaces_only_failed(spec) && pods::is_deleting(pod) && pods::phase(pod) != "Succeeded")
}

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn n(value: Option<i32>) -> i32 {
    value.unwrap_or_default()
}

impl<'a> Sync<'a> {
    fn new(view: &'a View<'a>, spec: &'a JobSpec, now: Timestamp) -> Self {
        let mut status = view.job.status.clone().unwrap_or_default();
        status.uncounted_terminated_pods.get_or_insert_default();
        if status.start_time.is_none() && spec.suspend != Some(true) {
            status.start_time = Some(Time(now));
        }
        let active: Vec<_> = view.pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let terminating = view.pods.iter().filter(|pod| pods::is_deleting(pod) && !pods::is_terminal(pod));
        let mut sync = Self {
            terminating: terminating.count() as i32,
            ready: active.iter().filter(|pod| pods::is_ready(pod)).count() as i32,
            plan: Plan { status, ..Plan::default() },
            succeeded: 0,
            failed: 0,
            before: Indexes::default(),
            done: Indexes::default(),
            lost: None,
            delayed: Vec::new(),
            ending: None,
            view,
            spec,
            now,
            active,
        };
        sync.count();
        if is_indexed(spec) {
            sync.count_indexes();
        }
        sync
    }

    /// A pod that we hold and that belongs to a valid index, if there are indexes.
    pub fn is_held(&self, pod: &Pod) -> bool {
        is_tracked(pod) && !self.view.released.contains(uid(pod)) && self.has_place(pod)
    }

    pub fn has_place(&self, pod: &Pod) -> bool {
        !is_indexed(self.spec) || index(pod).is_some_and(|index| index < n(self.spec.completions))
    }

    fn counts(&self, pod: &Pod) -> bool {
        policy::verdict(self.spec, pod) != Verdict::Ignore
    }

    fn count(&mut self) {
        let status = &self.plan.status;
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let succeeded = uncounted.succeeded.unwrap_or_default();
        let failed = uncounted.failed.unwrap_or_default();
        let fresh = |known: &[String], pod: &Pod| self.is_held(pod) && !known.iter().any(|k| k == uid(pod));
        let pods = || self.view.pods.iter().map(|pod| &**pod);
        let new_succeeded: Vec<&Pod> =
            pods().filter(|pod| fresh(&succeeded, pod) && pods::phase(pod) == "Succeeded").collect();
        let new_failed: Vec<&Pod> =
            pods().filter(|pod| fresh(&failed, pod) && is_failed(self.spec, pod)).collect();
        let counted = new_failed.iter().filter(|pod| self.counts(pod)).count();
        let backoff = self.view.backoff.with(&new_succeeded, &new_failed);
        self.succeeded = n(status.succeeded) + (new_succeeded.len() + succeeded.len()) as i32;
        self.failed = n(status.failed) + (counted + failed.len()) as i32;
        self.plan.backoff = backoff;
    }

    fn count_indexes(&mut self) {
        let completions = n(self.spec.completions);
        let valid = |pod: &&Arc<Pod>| is_tracked(pod) && self.has_place(pod);
        let of = |text: Option<&String>| Indexes::parse(text.map_or("", String::as_str), completions);
        let before = of(self.plan.status.completed_indexes.as_ref());
        let newly = self.view.pods.iter().filter(valid).filter(|pod| pods::phase(pod) == "Succeeded");
        let done = before.with(&newly.filter_map(|pod| index(pod)).collect());
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let newly = self.view.pods.iter().filter(valid).filter(|pod| self.is_index_lost(pod, limit));
            let lost = of(self.plan.status.failed_indexes.as_ref());
            let lost = lost.with(&newly.filter_map(|pod| index(pod)).collect());
            self.delayed = self.delayed(&done.union(&lost));
            self.lost = Some(lost);
        }
        self.succeeded = done.count();
        (self.before, self.done) = (before, done);
    }

    fn is_index_lost(&self, pod: &Pod, limit: i32) -> bool {
        is_failed(self.spec, pod)
            && match policy::verdict(self.spec, pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                Verdict::Count | Verdict::FailJob(_) => template::failures(pod) >= limit,
            }
    }

    /// For each index that neither runs nor has ended (`ended`): the failed pod with the most failures,
    /// which hands its count on to the one that replaces it.
    fn delayed(&self, ended: &Indexes) -> Vec<Arc<Pod>> {
        let running = template::indexes(self.active.iter().map(|pod| &**pod));
        let mut kept: Vec<Arc<Pod>> = Vec::new();
        for pod in self.view.pods.iter().filter(|pod| self.is_held(pod) && is_failed(self.spec, pod)) {
            let Some(at) = index(pod).filter(|at| !ended.has(*at) && !running.has(*at)) else { continue };
            let rank = |pod: &Pod| (template::all_failures(pod), finished_at(pod));
            match kept.iter_mut().find(|other| index(other) == Some(at)) {
                None => kept.push(pod.clone()),
                Some(other) if rank(pod) >= rank(other) => *other = pod.clone(),
                Some(_) => {}
            }
        }
        kept
    }

    /// Why the Job ends now, if it does.
    fn ending(&mut self) -> Option<JobCondition> {
        let job_failed =
            |reason: &str, message: &str| Some(condition("FailureTarget", "True", reason, message, self.now));
        let list = self.plan.status.conditions.as_deref().unwrap_or_default();
        if let Some(met) = find(list, "SuccessCriteriaMet").filter(|met| is_true(met)) {
            return Some(met.clone());
        }
        if let Some(target) = find(list, "FailureTarget").filter(|target| is_true(target)) {
            let (reason, message) = (target.reason.as_deref(), target.message.as_deref());
            let (reason, message) = (reason.unwrap_or_default(), message.unwrap_or_default());
            return Some(condition("Failed", "True", reason, message, self.now));
        }
        let mut verdicts = self
            .view
            .pods
            .iter()
            .filter(|pod| is_failed(self.spec, pod))
            .map(|pod| policy::verdict(self.spec, pod));
        if let Some(message) = verdicts.find_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        }) {
            return job_failed("PodFailurePolicy", &message);
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        if self.failed > limit || self.restarts_exceed(limit) {
            return job_failed("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        let suspended = self.spec.suspend == Some(true);
        if let Some(seconds) = self.spec.active_deadline_seconds.filter(|_| !suspended) {
            let started = self.plan.status.start_time.as_ref().map_or(self.now, |time| time.0);
            let ran = Duration::try_from(self.now.duration_since(started)).unwrap_or_default();
            let deadline = Duration::from_secs(seconds.unsigned_abs());
            if ran >= deadline {
                return job_failed("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            self.plan.again_in(deadline - ran);
        }
        self.indexed_ending()
    }

    fn indexed_ending(&self) -> Option<JobCondition> {
        if !is_indexed(self.spec) {
            return None;
        }
        if let Some(lost) = self.lost.as_ref().map(Indexes::count) {
            let target =
                |reason, message| Some(condition("FailureTarget", "True", reason, message, self.now));
            if self.spec.max_failed_indexes.is_some_and(|most| lost > most) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return target("MaxFailedIndexesExceeded", message);
            }
            if lost > 0 && lost + self.done.count() >= n(self.spec.completions) {
                return target("FailedIndexes", "Job has failed indexes");
            }
        }
        let message = policy::success(self.spec, &self.done)?;
        Some(condition("SuccessCriteriaMet", "True", "SuccessPolicy", &message, self.now))
    }

    /// Whether containers that restart in their pods did so too often.
    fn restarts_exceed(&self, limit: i32) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
        let statuses = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
            let own = status.container_statuses.iter().flatten();
            own.chain(status.init_container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|status| status.restart_count).sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// The Job ends: what runs is stopped.
    fn stop(&mut self) {
        self.plan.stop = std::mem::take(&mut self.active);
        self.terminating += self.plan.stop.len() as i32;
        self.ready = 0;
        if !self.view.settled {
            // There may be pods that the cache does not show yet.
            self.ending = None;
        }
    }

    fn manage(&mut self) {
        let active = self.active.len() as i32;
        let parallelism = self.spec.parallelism.unwrap_or(1);
        if self.spec.suspend == Some(true) {
            return self.discard(active);
        }
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).clamp(0, parallelism.max(0)),
        };
        self.discard((active - wanted).max(0));
        if self.plan.discard.is_empty() {
            let waited_for = if replaces_only_failed(self.spec) { self.terminating } else { 0 };
            self.create(usize::try_from(wanted - waited_for - active).unwrap_or_default());
        }
    }

    /// Removes at least `least` of the active pods, and all that share their index with another.
    fn discard(&mut self, least: i32) {
        let least = usize::try_from(least).unwrap_or_default();
        let (now, ranks) = (self.now, std::collections::HashMap::new());
        let mut left = std::mem::take(&mut self.active);
        left.sort_by(|a, b| dispensable(a, b, &ranks, now));
        let mut victims = Vec::new();
        if is_indexed(self.spec) {
            // The least dispensable of an index stays.
            let mut kept = HashSet::new();
            for pod in std::mem::take(&mut left).into_iter().rev() {
                let stays = self.has_place(&pod) && index(&pod).is_some_and(|index| kept.insert(index));
                if stays { left.push(pod) } else { victims.push(pod) }
            }
            left.reverse();
        }
        let more = least.saturating_sub(victims.len()).min(left.len());
        victims.extend(left.drain(..more));
        let suspended = self.spec.suspend == Some(true);
        if !suspended && victims.len() > BURST {
            left.extend(victims.split_off(BURST));
        }
        self.ready -= victims.iter().filter(|pod| pods::is_ready(pod)).count() as i32;
        self.terminating += victims.len() as i32;
        (self.active, self.plan.discard) = (left, victims);
    }

    fn create(&mut self, missing: usize) {
        let missing = missing.min(BURST);
        if missing == 0 {
            return;
        }
        if self.spec.backoff_limit_per_index.is_none() {
            let left = self.plan.backoff.left(self.now);
            if !left.is_zero() {
                return self.plan.again_in(left);
            }
        }
        if !is_indexed(self.spec) {
            self.plan.create = vec![template::pod(self.view.job); missing];
            return;
        }
        let mut taken = self.done.union(&template::indexes(self.active.iter().map(|pod| &**pod)));
        if replaces_only_failed(self.spec) {
            let ending =
                self.view.pods.iter().filter(|pod| pods::is_deleting(pod) && !pods::is_terminal(pod));
            taken = taken.union(&template::indexes(ending.map(|pod| &**pod)));
        }
        if let Some(lost) = &self.lost {
            taken = taken.union(lost);
        }
        for at in taken.missing(missing, n(self.spec.completions)) {
            let replaced = self.delayed.iter().find(|pod| index(pod) == Some(at));
            if let Some(replaced) = replaced {
                let failures = u32::try_from(template::all_failures(replaced)).unwrap_or_default() + 1;
                let left = Backoff { failures, last: Some(finished_at(replaced)) }.left(self.now);
                if !left.is_zero() {
                    self.plan.again_in(left);
                    continue;
                }
            }
            let pod = template::indexed_pod(self.view.job, at, replaced.map(|pod| &**pod));
            self.plan.create.push(pod);
        }
    }

    /// Ends the Job if enough has succeeded, else tells whether it is suspended.
    fn complete(&mut self, managed: bool) {
        let idle = self.active.is_empty() && self.plan.create.is_empty();
        let enough = match self.spec.completions {
            None => self.succeeded > 0,
            Some(completions) => self.succeeded >= completions,
        };
        if enough && idle {
            let message = "Reached expected number of succeeded pods";
            let met = condition("SuccessCriteriaMet", "True", "CompletionsReached", message, self.now);
            self.ending = Some(met);
        } else if managed {
            let conditions = self.plan.status.conditions.get_or_insert_default();
            if self.spec.suspend == Some(true) {
                let new = condition("Suspended", "True", "JobSuspended", "Job suspended", self.now);
                if ensure(conditions, new) {
                    self.plan.events.push(("Suspended", "Job suspended"));
                }
                // What it runs next time is another run, of a template that may change until then.
                self.plan.status.start_time = None;
            } else {
                let new = condition("Suspended", "False", "JobResumed", "Job resumed", self.now);
                if ensure(conditions, new) {
                    self.plan.events.push(("Resumed", "Job resumed"));
                    // The deadline counts from when the Job last began to run.
                    self.plan.status.start_time = Some(Time(self.now));
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
