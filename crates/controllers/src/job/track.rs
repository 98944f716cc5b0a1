//! Accounting. A pod that ends is noted by uid in `.status.uncountedTerminatedPods`, then let go of,
//! then counted: so none is counted twice or lost, whenever the controller stops.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::JobStatus;
use k8s_openapi::api::core::v1::Pod;

use super::conditions::{condition, ensure, find};
use super::plan::{Sync, is_failed, is_indexed, is_tracked, uid};
use super::policy::{self, Verdict};
use super::template::index;
use crate::pods;

/// The most pods noted in one status.
const MOST_UNCOUNTED: usize = 500;

/// Counts the noted pods that are not held any more.
pub(super) fn count_released(status: &mut JobStatus, held: &HashSet<String>) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let count = |uids: &mut Option<Vec<String>>, count: &mut Option<i32>| {
        let all = uids.take().unwrap_or_default();
        let before = all.len();
        let left: Vec<String> = all.into_iter().filter(|uid| held.contains(uid)).collect();
        *count = Some(count.unwrap_or_default() + (before - left.len()) as i32).filter(|n| *n > 0);
        *uids = Some(left).filter(|left| !left.is_empty());
    };
    count(&mut uncounted.succeeded, &mut status.succeeded);
    count(&mut uncounted.failed, &mut status.failed);
}

/// How many pods are noted and not counted.
pub(super) fn uncounted(status: &JobStatus) -> usize {
    let lists = status.uncounted_terminated_pods.iter().flat_map(|all| [&all.succeeded, &all.failed]);
    lists.flatten().map(Vec::len).sum()
}

impl Sync<'_> {
    fn holds(&self, pod: &Pod) -> bool {
        is_tracked(pod) && !self.view.released.contains(uid(pod))
    }

    /// Whether a pod's end, or the Job's, lets it go.
    fn may_release(&self, pod: &Pod) -> bool {
        if self.view.job.metadata.deletion_timestamp.is_some() || self.ending.is_some() {
            return true;
        }
        let delayed = || self.delayed.iter().any(|kept| uid(kept) == uid(pod));
        pods::phase(pod) == "Succeeded" || (is_failed(self.spec, pod) && !delayed())
    }

    /// Notes the pods that ended, and what the Job ends with.
    pub fn track(&mut self) {
        let held = self.view.pods.iter().filter(|pod| self.holds(pod));
        let held: HashSet<String> = held.map(|pod| uid(pod).to_owned()).collect();
        let noted = self.plan.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let (succeeded_before, failed_before) =
            (noted.succeeded.unwrap_or_default(), noted.failed.unwrap_or_default());
        count_released(&mut self.plan.status, &held);
        let discarded: HashSet<&str> = self.plan.discard.iter().map(|pod| uid(pod)).collect();
        let mut candidates: Vec<&Arc<Pod>> =
            self.view.pods.iter().filter(|pod| self.holds(pod) && !discarded.contains(uid(pod))).collect();
        if is_indexed(self.spec) {
            candidates.sort_by_key(|pod| index(pod));
        }
        let failing = self.ending.as_ref().is_some_and(|ending| ending.type_ != "SuccessCriteriaMet");
        let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
        let mut indexes = BTreeSet::new();
        let mut release = Vec::new();
        let mut all = true;
        for pod in candidates {
            if !self.may_release(pod) {
                continue;
            }
            release.push(pod.clone());
            let was_failed = failed_before.iter().any(|known| known == uid(pod));
            if pods::phase(pod) == "Succeeded" && !was_failed {
                if is_indexed(self.spec) {
                    let new = index(pod).filter(|at| self.has_place(pod) && !self.before.has(*at));
                    indexes.extend(new);
                } else if !succeeded_before.iter().any(|known| known == uid(pod)) {
                    succeeded.push(uid(pod).to_owned());
                }
            } else if (is_failed(self.spec, pod) || failing) && !was_failed && self.has_place(pod) {
                let counts = policy::verdict(self.spec, pod) != Verdict::Ignore;
                failed.extend(counts.then(|| uid(pod).to_owned()));
            }
            if indexes.len() + succeeded.len() + failed.len() + uncounted(&self.plan.status) >= MOST_UNCOUNTED
            {
                all = false;
                break;
            }
        }
        self.plan.release = release;
        let noted = self.plan.status.uncounted_terminated_pods.get_or_insert_default();
        for (list, new) in [(&mut noted.succeeded, succeeded), (&mut noted.failed, failed)] {
            if !new.is_empty() {
                list.get_or_insert_default().extend(new);
            }
        }
        if is_indexed(self.spec) {
            let done = self.before.with(&indexes);
            self.plan.status.succeeded = Some(done.count()).filter(|n| *n > 0);
            self.plan.status.completed_indexes = Some(done.to_string()).filter(|text| !text.is_empty());
            self.plan.status.failed_indexes = self.lost.as_ref().map(ToString::to_string);
        }
        self.note_ending(all);
    }

    /// Tells what the Job will end with before the pods are let go of.
    fn note_ending(&mut self, all: bool) {
        let Some(ending) = self.ending.take() else { return };
        let list = self.plan.status.conditions.get_or_insert_default();
        let last = match ending.type_.as_str() {
            "SuccessCriteriaMet" => "Complete",
            _ => "Failed",
        };
        if ending.type_ != last && find(list, &ending.type_).is_none() {
            ensure(list, ending.clone());
        }
        let (reason, message) = (ending.reason.unwrap_or_default(), ending.message.unwrap_or_default());
        self.plan.finish = all.then(|| condition(last, "True", &reason, &message, self.now));
    }
}
