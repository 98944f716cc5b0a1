//! What a StatefulSet does next with its pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};

use super::template::{self, is_identified, ordinal, revision};
use crate::{amount, pods};

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    /// Makes the claims of a pod that are missing, then the pod.
    Create {
        pod: Box<Pod>,
        ordinal: i32,
    },
    /// Makes the claims that are missing of a pod that waits for them.
    Claim {
        ordinal: i32,
    },
    /// Gives a pod its identity back.
    Identify {
        pod: Arc<Pod>,
        ordinal: i32,
    },
    Delete(Arc<Pod>),
}

/// A template and the name of its revision.
#[derive(Clone, Copy)]
pub(super) struct Version<'a> {
    pub template: &'a PodTemplateSpec,
    pub name: &'a str,
}

/// What there is.
pub(super) struct View<'a> {
    pub set: &'a StatefulSet,
    /// The set's own.
    pub pods: &'a [Arc<Pod>],
    pub current: Version<'a>,
    pub update: Version<'a>,
    pub now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub actions: Vec<Action>,
    pub status: StatefulSetStatus,
    /// Pods that are to go, by ordinal: their claims may go with them.
    pub condemned: Vec<Arc<Pod>>,
    pub again: Option<Duration>,
}

fn wanted(set: &StatefulSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn start(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or_default()
}

/// Whether pods come and go one by one.
fn is_ordered(set: &StatefulSet) -> bool {
    set.spec.pod_management_policy.as_deref() != Some("Parallel")
}

fn rolls(set: &StatefulSet) -> bool {
    let strategy = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    strategy != Some("OnDelete")
}

fn partition(set: &StatefulSet) -> Option<i32> {
    let rolling = set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
    Some(rolling.partition.unwrap_or_default())
}

fn most_unavailable(set: &StatefulSet) -> usize {
    let rolling = set.spec.update_strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let most = rolling.and_then(|rolling| rolling.max_unavailable.as_ref());
    let most = most.map_or(1, |most| amount::resolve(most, wanted(set), true));
    usize::try_from(most).unwrap_or_default().max(1)
}

impl View<'_> {
    fn min_ready(&self) -> Duration {
        Duration::from_secs(self.set.spec.min_ready_seconds.unwrap_or_default().unsigned_abs().into())
    }

    /// How long until a pod is available; `None` when it is not ready.
    fn available_in(&self, pod: &Pod) -> Option<Duration> {
        if pods::phase(pod) != "Running" {
            return None;
        }
        pods::available_in(pod, self.min_ready(), self.now)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        self.available_in(pod) == Some(Duration::ZERO)
    }

    fn is_healthy(&self, pod: &Pod) -> bool {
        self.is_available(pod) && !pods::is_deleting(pod)
    }

    /// Which version a new pod is of. Until a rollout is through, what is below its partition, or was
    /// there before, comes back as it was.
    fn version(&self, ordinal: i32) -> Version<'_> {
        let set = self.set;
        let current = set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or_default();
        let keeps = match partition(set) {
            _ if !rolls(set) => false,
            None => ordinal < start(set) + current,
            Some(partition) => ordinal < start(set) + partition,
        };
        if keeps { self.current } else { self.update }
    }
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let set = view.set;
    let mut plan = Plan { status: status(view), ..Plan::default() };
    let range = start(set)..start(set) + wanted(set);
    let mut here: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
    for pod in view.pods {
        match ordinal(set, pod) {
            Some(at) if range.contains(&at) => drop(here.insert(at, pod.clone())),
            Some(_) => plan.condemned.push(pod.clone()),
            None => {}
        }
    }
    plan.condemned.sort_by_key(|pod| std::cmp::Reverse(ordinal(set, pod)));
    let waits = view.pods.iter().filter_map(|pod| view.available_in(pod)).filter(|left| !left.is_zero());
    plan.again = waits.min();
    if set.metadata.deletion_timestamp.is_none() {
        let through = plan.fill(view, range.clone(), &here);
        if through && plan.shrink(view, &here) && rolls(set) {
            plan.roll(view, range, &here);
        }
    }
    plan.settle(view);
    plan
}

fn status(view: &View<'_>) -> StatefulSetStatus {
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        current_revision: Some(view.current.name.into()),
        update_revision: Some(view.update.name.into()),
        collision_count: old.collision_count.or(Some(0)),
        conditions: old.conditions,
        ..StatefulSetStatus::default()
    };
    let add = |count: &mut Option<i32>| *count = Some(count.unwrap_or_default() + 1);
    status.available_replicas = Some(0);
    for pod in view.pods {
        status.replicas += 1;
        if pods::phase(pod) == "Running" && pods::is_ready(pod) {
            add(&mut status.ready_replicas);
            if view.is_available(pod) {
                add(&mut status.available_replicas);
            }
        }
        if !pods::is_deleting(pod) {
            if revision(pod) == view.current.name {
                add(&mut status.current_replicas);
            }
            if revision(pod) == view.update.name {
                add(&mut status.updated_replicas);
            }
        }
    }
    status
}

impl Plan {
    /// Makes what is missing. Whether all are as they should be, so that others may go.
    fn fill(&mut self, view: &View<'_>, range: std::ops::Range<i32>, here: &BTreeMap<i32, Arc<Pod>>) -> bool {
        let ordered = is_ordered(view.set);
        let mut through = true;
        for at in range {
            let Some(pod) = here.get(&at) else {
                let version = view.version(at);
                let pod = template::pod(view.set, version.template, version.name, at);
                self.count_new(view, &pod);
                self.actions.push(Action::Create { pod: Box::new(pod), ordinal: at });
                if ordered {
                    return false;
                }
                continue;
            };
            if pods::is_terminal(pod) {
                if !pods::is_deleting(pod) {
                    self.delete(view, pod);
                }
                // A new one is made when this one is gone.
                if ordered {
                    return false;
                }
                through = false;
                continue;
            }
            if pods::phase(pod) == "Pending" {
                self.actions.push(Action::Claim { ordinal: at });
            }
            if ordered && !view.is_healthy(pod) {
                return false;
            }
            if !pods::is_deleting(pod) && !is_identified(view.set, pod, at) {
                self.actions.push(Action::Identify { pod: pod.clone(), ordinal: at });
            }
        }
        through
    }

    /// Deletes what is too many, from the last. Whether nothing is.
    fn shrink(&mut self, view: &View<'_>, here: &BTreeMap<i32, Arc<Pod>>) -> bool {
        let ordered = is_ordered(view.set);
        let condemned = self.condemned.clone();
        let all = here.values().chain(condemned.iter().rev());
        let first_unhealthy =
            all.into_iter().find(|pod| !view.is_healthy(pod)).map(|pod| pod.metadata.uid.clone());
        for pod in &condemned {
            if pods::is_deleting(pod) {
                if ordered {
                    return false;
                }
                continue;
            }
            // One that fails may go, but not past another that does.
            if ordered && !view.is_available(pod) && Some(&pod.metadata.uid) != first_unhealthy.as_ref() {
                return false;
            }
            self.delete(view, pod);
            if ordered {
                return false;
            }
        }
        true
    }

    /// Replaces pods of other revisions, from the last down to the partition.
    fn roll(&mut self, view: &View<'_>, range: std::ops::Range<i32>, here: &BTreeMap<i32, Arc<Pod>>) {
        let lowest = start(view.set) + partition(view.set).unwrap_or_default();
        let most = most_unavailable(view.set);
        let missing = range.clone().filter(|at| !here.contains_key(at)).count();
        let mut unavailable = missing + here.values().filter(|pod| !view.is_healthy(pod)).count();
        for at in range.filter(|at| *at >= lowest).rev() {
            let Some(pod) = here.get(&at) else { continue };
            if revision(pod) == view.update.name || pods::is_deleting(pod) {
                continue;
            }
            // What does not serve is no loss, and is counted already.
            let healthy = view.is_healthy(pod);
            if healthy && unavailable >= most {
                return;
            }
            unavailable += usize::from(healthy);
            self.delete(view, pod);
            if !healthy && most == 1 {
                return;
            }
        }
    }

    fn count_new(&mut self, view: &View<'_>, pod: &Pod) {
        self.status.replicas += 1;
        self.count(view, pod, 1);
    }

    fn delete(&mut self, view: &View<'_>, pod: &Arc<Pod>) {
        self.count(view, pod, -1);
        self.actions.push(Action::Delete(pod.clone()));
    }

    fn count(&mut self, view: &View<'_>, pod: &Pod, by: i32) {
        let change =
            |count: &mut Option<i32>| *count = Some(count.unwrap_or_default() + by).filter(|n| *n > 0);
        if revision(pod) == view.current.name {
            change(&mut self.status.current_replicas);
        }
        if revision(pod) == view.update.name {
            change(&mut self.status.updated_replicas);
        }
    }

    /// Once all are of the new revision and ready, it is the current one.
    fn settle(&mut self, view: &View<'_>) {
        let status = &mut self.status;
        let all = Some(status.replicas).filter(|n| *n > 0);
        if rolls(view.set)
            && status.replicas == wanted(view.set)
            && status.updated_replicas == all
            && status.ready_replicas == all
        {
            status.current_replicas = status.updated_replicas;
            status.current_revision = status.update_revision.clone();
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
