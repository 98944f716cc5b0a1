//! What a Deployment tells of itself: counts and conditions, in upstream's words.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rolling::{available, max_unavailable, size, wanted};

/// What happened on the way to the status.
#[derive(Debug)]
pub(super) struct Notes {
    /// The new set was there already.
    pub found: bool,
    /// The new set was made.
    pub created: bool,
    /// Whether progress is looked at: not while paused or merely scaled.
    pub rollout: bool,
}

impl Default for Notes {
    fn default() -> Self {
        Self { found: false, created: false, rollout: true }
    }
}

fn counts(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>) -> DeploymentStatus {
    let status = |set: &ReplicaSet| set.status.clone().unwrap_or_default();
    let some = |n: i32| (n > 0).then_some(n);
    let serving: i32 = sets.iter().map(available).sum();
    let asked: i32 = sets.iter().map(size).sum();
    let old = deployment.status.as_ref();
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sets.iter().map(|set| status(set).replicas).sum()),
        updated_replicas: some(new.map_or(0, |at| status(&sets[at]).replicas)),
        ready_replicas: some(sets.iter().map(|set| status(set).ready_replicas.unwrap_or_default()).sum()),
        available_replicas: some(serving),
        unavailable_replicas: some(asked - serving),
        terminating_replicas: Some(
            sets.iter().map(|set| status(set).terminating_replicas.unwrap_or_default()).sum(),
        ),
        collision_count: old.and_then(|old| old.collision_count),
        conditions: old.and_then(|old| old.conditions.clone()),
    }
}

fn complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = Some(wanted(deployment)).filter(|n| *n > 0);
    status.updated_replicas == wanted && status.replicas == wanted && status.available_replicas == wanted
}

/// Whether every pod is of the new set and available.
pub(super) fn is_complete(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>) -> bool {
    complete(deployment, &counts(deployment, sets, new))
}

/// The conditions being put together.
struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_.as_deref() == Some(type_))
    }

    fn remove(&mut self, type_: &str) -> Option<DeploymentCondition> {
        let at = self.list.iter().position(|condition| condition.type_.as_deref() == Some(type_))?;
        Some(self.list.remove(at))
    }

    /// Sets a condition, unless it has this status for this reason already.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let old = self.get(type_);
        if old
            .is_some_and(|old| old.status.as_deref() == Some(status) && old.reason.as_deref() == Some(reason))
        {
            return;
        }
        self.replace(type_, status, reason, message);
    }

    fn replace(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let old = self.remove(type_).filter(|old| old.status.as_deref() == Some(status));
        self.list.push(DeploymentCondition {
            type_: Some(type_.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message),
            last_update_time: Some(Time(self.now)),
            last_transition_time: old.and_then(|old| old.last_transition_time).or(Some(Time(self.now))),
        });
    }

    fn progressing_reason(&self) -> Option<&str> {
        self.get("Progressing")?.reason.as_deref()
    }
}

/// The status, and when the progress deadline must be looked at.
pub(super) fn plan(
    deployment: &Deployment,
    sets: &[ReplicaSet],
    new: Option<usize>,
    notes: Notes,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let mut status = counts(deployment, sets, new);
    let mut conditions = Conditions { list: status.conditions.take().unwrap_or_default(), now };
    let name = new.and_then(|at| sets[at].metadata.name.clone()).unwrap_or_default();
    let spec = &deployment.spec;
    let deadline = spec.progress_deadline_seconds.filter(|s| *s != i32::MAX);
    let paused = spec.paused == Some(true);
    if deadline.is_some() && deployment.metadata.deletion_timestamp.is_none() {
        note_pause(&mut conditions, paused);
        if notes.created {
            let message = format!("Created new replica set {name:?}");
            conditions.set("Progressing", "True", "NewReplicaSetCreated", message);
        } else if notes.found && conditions.get("Progressing").is_none() {
            conditions.set(
                "Progressing",
                "True",
                "FoundNewReplicaSet",
                format!("Found new replica set {name:?}"),
            );
        }
    }
    if status.available_replicas.unwrap_or_default() >= wanted(deployment) - max_unavailable(deployment) {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set("Available", "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set("Available", "False", "MinimumReplicasUnavailable", message);
    }
    let mut again = None;
    if notes.rollout {
        match deadline {
            None => drop(conditions.remove("Progressing")),
            Some(deadline) => again = progress(deployment, &status, &mut conditions, &name, deadline),
        }
        note_failure(&mut conditions, sets, new);
    }
    status.conditions = Some(conditions.list).filter(|list| !list.is_empty());
    (status, again)
}

fn note_pause(conditions: &mut Conditions, paused: bool) {
    match conditions.progressing_reason() {
        // A deadline that has passed is not forgotten by pausing.
        Some("ProgressDeadlineExceeded") => {}
        Some("DeploymentPaused") if !paused => {
            conditions.set("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed".into());
        }
        reason if paused && reason != Some("DeploymentPaused") => {
            conditions.set("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused".into());
        }
        _ => {}
    }
}

fn progress(
    deployment: &Deployment,
    status: &DeploymentStatus,
    conditions: &mut Conditions,
    name: &str,
    deadline: i32,
) -> Option<Duration> {
    let subject = if name.is_empty() {
        format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default())
    } else {
        format!("ReplicaSet {name:?}")
    };
    let reason = conditions.progressing_reason();
    let done = status.replicas == status.updated_replicas && reason == Some("NewReplicaSetAvailable");
    if done {
        return None;
    }
    if complete(deployment, status) {
        let message = format!("{subject} has successfully progressed.");
        conditions.set("Progressing", "True", "NewReplicaSetAvailable", message);
        return None;
    }
    let old = deployment.status.clone().unwrap_or_default();
    let n = Option::unwrap_or_default;
    let left = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    let moved = n(status.updated_replicas) > n(old.updated_replicas)
        || left(status) < left(&old)
        || n(status.ready_replicas) > n(old.ready_replicas)
        || n(status.available_replicas) > n(old.available_replicas);
    if moved {
        conditions.replace("Progressing", "True", "ReplicaSetUpdated", format!("{subject} is progressing."));
    }
    let condition = conditions.get("Progressing")?;
    if condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
        return None;
    }
    let since = condition.last_update_time.as_ref().map_or(conditions.now, |time| time.0);
    let waited = Duration::try_from(conditions.now.duration_since(since)).unwrap_or_default();
    let deadline = Duration::from_secs(u64::try_from(deadline).unwrap_or_default());
    if waited > deadline {
        let message = format!("{subject} has timed out progressing.");
        conditions.set("Progressing", "False", "ProgressDeadlineExceeded", message);
        return None;
    }
    Some(deadline - waited + Duration::from_secs(1))
}

/// Passes on the failure of a ReplicaSet, the new one's first.
fn note_failure(conditions: &mut Conditions, sets: &[ReplicaSet], new: Option<usize>) {
    let failure = |set: &ReplicaSet| {
        let list = set.status.as_ref()?.conditions.as_ref()?;
        list.iter().find(|condition| condition.type_.as_deref() == Some("ReplicaFailure")).cloned()
    };
    let found = new.and_then(|at| failure(&sets[at])).or_else(|| sets.iter().find_map(failure));
    match found {
        None => drop(conditions.remove("ReplicaFailure")),
        Some(found) => conditions.set(
            "ReplicaFailure",
            found.status.as_deref().unwrap_or_default(),
            found.reason.as_deref().unwrap_or_default(),
            found.message.unwrap_or_default(),
        ),
    }
}
