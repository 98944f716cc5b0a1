//! What a Deployment needs next.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::revision::{self, find_new};
use super::rolling::{self, is_recreate, max_surge, size, wanted};
use super::status;

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    Create { set: Box<ReplicaSet>, message: Option<String> },
    Update { old: Box<ReplicaSet>, new: Box<ReplicaSet>, message: Option<String> },
    Delete(Box<ReplicaSet>),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub actions: Vec<Action>,
    /// The revision to note on the Deployment, if another is there.
    pub revision: Option<String>,
    pub status: DeploymentStatus,
    /// When the progress deadline passes.
    pub again: Option<Duration>,
}

/// The ReplicaSets as they will be once the actions are done.
struct World<'a> {
    deployment: &'a Deployment,
    sets: Vec<ReplicaSet>,
    /// The place of the new one.
    new: Option<usize>,
    actions: Vec<Action>,
}

/// `running` tells whether a ReplicaSet has pods that have not ended.
pub(super) fn plan(
    deployment: &Deployment,
    mut sets: Vec<ReplicaSet>,
    running: impl Fn(&ReplicaSet) -> bool,
    now: Timestamp,
) -> Plan {
    sets.sort_by_cached_key(|set| (set.metadata.creation_timestamp.clone(), set.metadata.name.clone()));
    let new = find_new(deployment, &sets);
    let mut world = World { deployment, sets, new, actions: Vec::new() };
    let paused = deployment.spec.paused == Some(true);
    let deleting = deployment.metadata.deletion_timestamp.is_some();
    let mut notes = status::Notes::default();
    let is_scaling = world
        .sets
        .iter()
        .any(|set| size(set) > 0 && revision::desired(set).is_some_and(|n| n != wanted(deployment)));
    if deleting {
        notes.rollout = false;
    } else if paused || is_scaling {
        notes.rollout = false;
        world.number_new(false, &mut notes);
        world.scale_evenly();
        if paused {
            world.clean_up();
        }
    } else if is_recreate(deployment) {
        let old_running = world.recreate(running, &mut notes);
        if !old_running {
            world.clean_up_if_complete();
        }
    } else {
        world.number_new(true, &mut notes);
        if !world.grow_new() {
            world.shrink_old();
        }
        world.clean_up_if_complete();
    }
    let revision = world.new.filter(|_| !deleting).and_then(|new| {
        let number = revision::annotation(&world.sets[new], revision::REVISION)?.to_owned();
        let noted = deployment.metadata.annotations.as_ref().and_then(|all| all.get(revision::REVISION));
        (noted != Some(&number)).then_some(number)
    });
    let (status, again) = status::plan(deployment, &world.sets, world.new, notes, now);
    Plan { actions: world.actions, revision, status, again }
}

impl World<'_> {
    fn old(&self) -> impl Iterator<Item = usize> {
        let new = self.new;
        (0..self.sets.len()).filter(move |at| Some(*at) != new)
    }

    fn total(&self) -> i32 {
        self.sets.iter().map(size).sum()
    }

    /// Numbers the new set, making it if it is missing and `make` says so.
    fn number_new(&mut self, make: bool, notes: &mut status::Notes) {
        let number = self.old().map(|at| revision::revision(&self.sets[at])).max().unwrap_or_default() + 1;
        if let Some(at) = self.new {
            let renewed = revision::renewed(self.deployment, &self.sets[at], number);
            if renewed != self.sets[at] {
                let old = std::mem::replace(&mut self.sets[at], renewed.clone());
                self.update(old, renewed, None);
            }
            notes.found = true;
            return;
        }
        if !make {
            return;
        }
        let mut set = revision::new_set(self.deployment, number);
        let replicas = rolling::new_size(self.deployment, self.total(), 0);
        set.spec.replicas = Some(replicas);
        let wanted = wanted(self.deployment);
        revision::note_replicas(&mut set, wanted, wanted + max_surge(self.deployment));
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = (replicas > 0).then(|| format!("Scaled up replica set {name} from 0 to {replicas}"));
        self.actions.push(Action::Create { set: Box::new(set.clone()), message });
        self.sets.push(set);
        self.new = Some(self.sets.len() - 1);
        notes.created = true;
    }

    /// Gives a set another size and notes what the Deployment wants; whether anything changes.
    fn scale(&mut self, at: usize, to: i32) -> bool {
        let old = self.sets[at].clone();
        let from = size(&old);
        let set = &mut self.sets[at];
        let wanted = wanted(self.deployment);
        let noted = revision::note_replicas(set, wanted, wanted + max_surge(self.deployment));
        if from == to && !noted {
            return false;
        }
        set.spec.replicas = Some(to);
        let new = set.clone();
        let name = new.metadata.name.as_deref().unwrap_or_default();
        let way = if to > from { "up" } else { "down" };
        let message = (to != from).then(|| format!("Scaled {way} replica set {name} from {from} to {to}"));
        self.update(old, new, message);
        from != to
    }

    /// Notes an update; a second one of the same set becomes one write with the first.
    fn update(&mut self, before: ReplicaSet, after: ReplicaSet, text: Option<String>) {
        for action in &mut self.actions {
            if let Action::Update { new, message, .. } = action
                && new.metadata.uid == after.metadata.uid
            {
                **new = after;
                *message = text;
                return;
            }
        }
        self.actions.push(Action::Update { old: Box::new(before), new: Box::new(after), message: text });
    }

    fn grow_new(&mut self) -> bool {
        let Some(at) = self.new else { return false };
        let (now, wanted) = (size(&self.sets[at]), wanted(self.deployment));
        if self.actions.iter().any(|action| matches!(action, Action::Create { .. })) {
            return false;
        }
        let to = match now.cmp(&wanted) {
            std::cmp::Ordering::Equal => return false,
            std::cmp::Ordering::Greater => wanted,
            std::cmp::Ordering::Less => rolling::new_size(self.deployment, self.total(), now),
        };
        to != now && self.scale(at, to)
    }

    fn shrink_old(&mut self) -> bool {
        let Some(new) = self.new else { return false };
        let old: Vec<usize> = self.old().filter(|at| size(&self.sets[*at]) > 0).collect();
        let sets: Vec<&ReplicaSet> = old.iter().map(|at| &self.sets[*at]).collect();
        let sizes = rolling::old_sizes(self.deployment, &self.sets[new], &sets);
        let mut scaled = false;
        for (at, to) in old.into_iter().zip(sizes) {
            if to != size(&self.sets[at]) {
                scaled |= self.scale(at, to);
            }
        }
        scaled
    }

    /// Recreate: all the old to nothing, and when their pods have ended, the new one. Whether there
    /// are old ones yet.
    fn recreate(&mut self, running: impl Fn(&ReplicaSet) -> bool, notes: &mut status::Notes) -> bool {
        self.number_new(false, notes);
        let mut waiting = false;
        for at in self.old().collect::<Vec<_>>() {
            if size(&self.sets[at]) > 0 {
                self.scale(at, 0);
                waiting = true;
            }
            waiting |= running(&self.sets[at]);
        }
        if waiting {
            return true;
        }
        if self.new.is_none() {
            self.number_new(true, notes);
        } else if let Some(at) = self.new {
            let wanted = wanted(self.deployment);
            if size(&self.sets[at]) != wanted {
                self.scale(at, wanted);
            }
        }
        false
    }

    /// After a change of the wanted number: the one set with replicas takes it all; in the midst of a
    /// rollout each takes its share.
    fn scale_evenly(&mut self) {
        let wanted = wanted(self.deployment);
        let active: Vec<usize> = (0..self.sets.len()).filter(|at| size(&self.sets[*at]) > 0).collect();
        let single = match active.len() {
            0 => self.new.or_else(|| self.sets.len().checked_sub(1)),
            1 => Some(active[0]),
            _ => None,
        };
        if let Some(at) = single {
            self.scale(at, wanted);
            return;
        }
        if active.is_empty() {
            return;
        }
        let saturated = self.new.is_some_and(|at| {
            let set = &self.sets[at];
            size(set) == wanted && revision::desired(set) == Some(wanted) && rolling::available(set) == wanted
        });
        if saturated {
            for at in active.into_iter().filter(|at| Some(*at) != self.new).collect::<Vec<_>>() {
                self.scale(at, 0);
            }
        } else if !is_recreate(self.deployment) {
            let sets: Vec<&ReplicaSet> = active.iter().map(|at| &self.sets[*at]).collect();
            let sizes = rolling::proportional(self.deployment, &sets);
            for (at, to) in active.into_iter().zip(sizes) {
                self.scale(at, to);
            }
        }
    }

    fn clean_up_if_complete(&mut self) {
        if status::is_complete(self.deployment, &self.sets, self.new) {
            self.clean_up();
        }
    }

    /// Deletes the oldest of the old sets that the history has no room for.
    fn clean_up(&mut self) {
        let Some(limit) = self.deployment.spec.revision_history_limit else {
            return;
        };
        let mut old: Vec<usize> =
            self.old().filter(|at| self.sets[*at].metadata.deletion_timestamp.is_none()).collect();
        old.sort_by_key(|at| revision::revision(&self.sets[*at]));
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        for at in old.into_iter().take(surplus) {
            let set = &self.sets[at];
            let status = set.status.clone().unwrap_or_default();
            let seen = status.observed_generation.unwrap_or_default();
            if status.replicas == 0 && size(set) == 0 && set.metadata.generation.unwrap_or_default() <= seen {
                self.actions.push(Action::Delete(Box::new(set.clone())));
            }
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
