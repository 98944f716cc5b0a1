//! The pods that wait: those to be looked at now, those that failed and wait a moment, and those that
//! fit nowhere until something changes.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::ObjectKey;

use crate::{FitError, PodInfo};

/// The wait after a first failure; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that fits nowhere is looked at again after this time, whatever happened or not.
pub const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);

/// Something that may make room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    NodeAdded,
    NodeChanged,
    /// A pod that had a node is gone or has ended.
    PodGone,
    /// A pod was given a node, or one that has a node changed.
    PodPlaced,
    /// A volume claim, or a class of them.
    Claim,
}

impl Event {
    /// Whether a pod that a plugin ruled out could fit now.
    fn helps(self, plugin: &str) -> bool {
        match self {
            Self::NodeAdded | Self::NodeChanged => plugin != crate::claims::PLUGIN,
            Self::PodGone => {
                matches!(plugin, "NodeResourcesFit" | "NodePorts" | "InterPodAffinity" | "PodTopologySpread")
            }
            Self::Claim => plugin == crate::claims::PLUGIN,
            Self::PodPlaced => matches!(plugin, "InterPodAffinity" | "PodTopologySpread"),
        }
    }
}

/// Urgent first, then those that came first.
type Place = (std::cmp::Reverse<i32>, u64);

#[derive(Debug)]
enum State {
    Active(Place),
    Backoff(Instant, u64),
    Unschedulable {
        plugins: BTreeSet<&'static str>,
        since: Instant,
    },
    /// Being decided on, or bound, since so many things had happened.
    Busy {
        happened: u64,
    },
    /// Held by its scheduling gates.
    Gated,
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    failed_at: Instant,
    number: u64,
    state: State,
}

/// The queue. Synchronous: the clock is handed in.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<ObjectKey, Entry>,
    active: BTreeMap<Place, ObjectKey>,
    backoff: BTreeMap<(Instant, u64), ObjectKey>,
    unschedulable: HashSet<ObjectKey>,
    next: u64,
    /// How many things have happened that may make room.
    happened: u64,
}

fn is_gated(pod: &PodInfo) -> bool {
    let gates = pod.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
}

impl Queue {
    /// Adds a pod or takes up its new state. What a pod says of itself having changed, it is looked
    /// at again.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let key = pod.key.clone();
        let gated = is_gated(&pod);
        if let Some(entry) = self.entries.get_mut(&key) {
            let same = entry.pod.uid == pod.uid;
            let spec_changed =
                entry.pod.pod.spec != pod.pod.spec || entry.pod.signature.labels != pod.signature.labels;
            if same {
                entry.pod = pod;
                let waits = matches!(entry.state, State::Unschedulable { .. } | State::Gated);
                if waits && spec_changed && !gated {
                    self.activate(&key, now);
                }
                return;
            }
            self.remove(&key);
        }
        let number = self.next;
        self.next += 1;
        let entry = Entry { pod, attempts: 0, failed_at: now, number, state: State::Gated };
        self.entries.insert(key.clone(), entry);
        if !gated {
            self.activate(&key, now);
        }
    }

    /// Forgets a pod: it is gone or has its node.
    pub fn remove(&mut self, key: &ObjectKey) {
        let Some(entry) = self.entries.remove(key) else { return };
        self.unlink(key, &entry.state);
    }

    fn unlink(&mut self, key: &ObjectKey, state: &State) {
        match state {
            State::Unschedulable { .. } => drop(self.unschedulable.remove(key)),
            State::Active(place) => drop(self.active.remove(place)),
            State::Backoff(until, number) => drop(self.backoff.remove(&(*until, *number))),
            _ => {}
        }
    }

    /// The next pod to decide on. It stays known until it is given back or removed.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.promote(now);
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.state = State::Busy { happened: self.happened };
        entry.attempts += 1;
        Some(entry.pod.clone())
    }

    /// Gives back a pod that fits nowhere.
    pub fn unschedulable(&mut self, key: &ObjectKey, error: &FitError, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let State::Busy { happened } = entry.state else { return };
        entry.failed_at = now;
        entry.state = State::Unschedulable { plugins: error.plugins.clone(), since: now };
        self.unschedulable.insert(key.clone());
        if happened != self.happened {
            self.activate(key, now);
        }
    }

    /// Whether the pod of this uid is still in hand: neither gone, nor seen with a node, nor made again.
    pub fn is_busy(&self, key: &ObjectKey, uid: &str) -> bool {
        let entry = self.entries.get(key);
        entry.is_some_and(|entry| entry.pod.uid == uid && matches!(entry.state, State::Busy { .. }))
    }

    /// Gives back a pod that could not be bound.
    pub fn retry(&mut self, key: &ObjectKey, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.failed_at = now;
            self.activate(key, now);
        }
    }

    /// Tells of something that may make room: pods it could help are looked at again, after their
    /// backoff. `fits` is asked about each of them.
    pub fn happened(&mut self, event: Event, now: Instant, fits: impl Fn(&PodInfo) -> bool) {
        self.happened += 1;
        let mut helped = Vec::new();
        for key in &self.unschedulable {
            let Some(Entry { pod, state: State::Unschedulable { plugins, .. }, .. }) = self.entries.get(key)
            else {
                continue;
            };
            // Without a node there was no plugin to rule one out.
            let helps = plugins.is_empty() || plugins.iter().any(|plugin| event.helps(plugin));
            if helps && fits(pod) {
                helped.push(key.clone());
            }
        }
        for key in helped {
            self.activate(&key, now);
        }
    }

    /// When there is something to do without anything happening.
    pub fn next_deadline(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((until, _), _)| *until);
        let waits = self.unschedulable.iter().filter_map(|key| self.waits_until(key));
        waits.min().into_iter().chain(backoff).min()
    }

    /// When a pod that fits nowhere is looked at again anyway.
    fn waits_until(&self, key: &ObjectKey) -> Option<Instant> {
        match self.entries.get(key)?.state {
            State::Unschedulable { since, .. } => Some(since + LONGEST_WAIT),
            _ => None,
        }
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.backoff.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            self.activate(&key, now);
        }
        if !self.active.is_empty() {
            return;
        }
        let late =
            self.unschedulable.iter().filter(|key| self.waits_until(key).is_some_and(|until| until <= now));
        for key in late.cloned().collect::<Vec<_>>() {
            self.activate(&key, now);
        }
    }

    fn activate(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let until = entry.failed_at + backoff_after(entry.attempts);
        let state = if entry.attempts > 0 && until > now {
            State::Backoff(until, entry.number)
        } else {
            State::Active((std::cmp::Reverse(entry.pod.priority), entry.number))
        };
        match &state {
            State::Active(place) => drop(self.active.insert(*place, key.clone())),
            State::Backoff(until, number) => drop(self.backoff.insert((*until, *number), key.clone())),
            _ => {}
        }
        let old = std::mem::replace(&mut entry.state, state);
        // A pod that backs off already keeps one place only.
        let same = match (&old, &entry.state) {
            (State::Active(a), State::Active(b)) => a == b,
            (State::Backoff(a, n), State::Backoff(b, m)) => a == b && n == m,
            _ => false,
        };
        if !same {
            self.unlink(key, &old);
        }
    }
}

fn backoff_after(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(LONGEST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "ns", "uid": name},
                         "spec": {"containers": [], "priority": priority}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn ruled_out(plugin: &'static str) -> FitError {
        FitError { nodes: 1, plugins: [plugin].into(), ..FitError::default() }
    }

    fn names(queue: &mut Queue, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.pop(now)).map(|pod| pod.key.name.clone()).collect()
    }

    #[test]
    fn urgent_pods_go_first_and_then_the_older() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (name, priority) in [("a", 0), ("b", 10), ("c", 0)] {
            queue.set(pod(name, priority), now);
        }
        assert_eq!(names(&mut queue, now), ["b", "a", "c"]);
    }

    #[test]
    fn a_pod_that_fits_nowhere_waits_for_what_helps_and_its_backoff() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        let a = queue.pop(now).unwrap();
        queue.unschedulable(&a.key, &ruled_out("NodeAffinity"), now);
        queue.happened(Event::PodGone, now, |_| true);
        assert!(queue.pop(now + Duration::from_secs(60)).is_none());
        queue.happened(Event::NodeChanged, now, |_| false);
        assert!(queue.pop(now + Duration::from_secs(60)).is_none());
        queue.happened(Event::NodeChanged, now, |_| true);
        assert!(queue.pop(now).is_none());
        assert_eq!(queue.next_deadline(), Some(now + FIRST_BACKOFF));
        assert!(queue.pop(now + FIRST_BACKOFF).is_some());
    }

    #[test]
    fn what_happens_while_a_pod_is_decided_on_is_not_lost() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        let a = queue.pop(now).unwrap();
        queue.happened(Event::NodeAdded, now, |_| true);
        queue.unschedulable(&a.key, &ruled_out("NodeResourcesFit"), now);
        assert!(queue.pop(now + FIRST_BACKOFF).is_some());
        queue.remove(&a.key);
        assert!(queue.pop(now + LONGEST_WAIT * 2).is_none());
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.set(pod("a", 0), now);
        let a = queue.pop(now).unwrap();
        queue.unschedulable(&a.key, &ruled_out("NodeAffinity"), now);
        assert_eq!(queue.next_deadline(), Some(now + LONGEST_WAIT));
        assert!(queue.pop(now + LONGEST_WAIT).is_some());
    }
}
