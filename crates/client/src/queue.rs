//! A queue of keys to bring in order: each key at most once, never two workers on one key, failed
//! keys later and later. The rules are those of client-go's workqueue.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// The delay after the first failure of a key; it doubles with each further one.
const FIRST_DELAY: Duration = Duration::from_millis(5);
/// The longest delay after a failure.
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// A queue of keys. Cheap to clone; all clones are one queue.
///
/// A key added while it waits is not added again. A key added while a worker has it is handed out
/// again once the worker says [`done`](Self::done).
pub struct WorkQueue<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for WorkQueue<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Clone + Eq + Hash> Default for WorkQueue<K> {
    fn default() -> Self {
        Self { inner: Arc::new(Inner { state: Mutex::new(State::default()), wake: Notify::new() }) }
    }
}

struct Inner<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys that wait in `ready`, or must be put there once they are not in `busy` any more.
    dirty: HashSet<K>,
    busy: HashSet<K>,
    /// Keys for later, by when. The number keeps keys of one instant apart.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    next_number: u64,
    failures: HashMap<K, u32>,
    closed: bool,
}

impl<K> Default for State<K> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            busy: HashSet::new(),
            later: BTreeMap::new(),
            due: HashMap::new(),
            next_number: 0,
            failures: HashMap::new(),
            closed: false,
        }
    }
}

/// The longest that a key waits: delays come from what users write, and a clock has an end.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    /// Adds a key to be worked on at once.
    pub fn add(&self, key: K) {
        let mut state = self.inner.state.lock();
        if state.add(key) {
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Adds a key after `delay`, or after a day where that is sooner. Of several delays of one key the
    /// shortest counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.inner.state.lock();
        if state.closed {
            return;
        }
        // What is due later than that is looked at in between.
        let when = Instant::now() + delay.min(LONGEST);
        if let Some(due) = state.due.get(&key).copied() {
            if due.0 <= when {
                return;
            }
            state.later.remove(&due);
        }
        let slot = (when, state.next_number);
        state.next_number += 1;
        state.later.insert(slot, key.clone());
        state.due.insert(key, slot);
        drop(state);
        self.inner.wake.notify_one();
    }

    /// Adds a key after a delay that grows with each failure since the last [`forget`](Self::forget).
    pub fn add_rate_limited(&self, key: K) {
        let failures = {
            let mut state = self.inner.state.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            *failures += 1;
            *failures
        };
        self.add_after(key, delay_after(failures));
    }

    /// Forgets the failures of a key.
    pub fn forget(&self, key: &K) {
        self.inner.state.lock().failures.remove(key);
    }

    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.inner.state.lock().failures.get(key).copied().unwrap_or_default()
    }

    /// How many keys wait to be handed out now.
    pub fn len(&self) -> usize {
        self.inner.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key, or `None` once the queue is closed. One caller at a time; safe to cancel.
    pub async fn next(&self) -> Option<K> {
        loop {
            let due = {
                let mut state = self.inner.state.lock();
                if state.closed {
                    return None;
                }
                state.promote(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.busy.insert(key.clone());
                    return Some(key);
                }
                state.later.first_key_value().map(|((when, _), _)| *when)
            };
            match due {
                None => self.inner.wake.notified().await,
                Some(due) => tokio::select! {
                    () = self.inner.wake.notified() => {}
                    () = tokio::time::sleep_until(due) => {}
                },
            }
        }
    }

    /// Says that the worker is through with a key.
    pub fn done(&self, key: &K) {
        let mut state = self.inner.state.lock();
        state.busy.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.inner.wake.notify_one();
        }
    }

    /// Ends the queue: nothing is handed out or taken any more.
    pub fn close(&self) {
        self.inner.state.lock().closed = true;
        self.inner.wake.notify_one();
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether somebody must be woken.
    fn add(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) || self.busy.contains(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn promote(&mut self, now: Instant) {
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            self.add(key);
        }
    }
}

fn delay_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    FIRST_DELAY.saturating_mul(1 << doublings).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_waits_once_and_is_never_with_two_workers() {
        let queue = WorkQueue::default();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.next().await, Some("a"));
        queue.add("a");
        assert_eq!(queue.next().await, Some("b"));
        assert_eq!(queue.len(), 0);
        queue.done(&"a");
        assert_eq!(queue.next().await, Some("a"));
        queue.close();
        assert_eq!(queue.next().await, None);
    }

    #[tokio::test]
    async fn no_delay_is_too_long_for_a_clock() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::MAX);
        queue.add_after("a", Duration::from_millis(1));
        assert_eq!(queue.next().await, Some("a"));
    }

    #[tokio::test]
    async fn of_two_delays_the_shorter_counts() {
        let queue = WorkQueue::default();
        queue.add_after("a", Duration::from_secs(500));
        queue.add_after("b", Duration::from_millis(20));
        queue.add_after("a", Duration::from_millis(10));
        queue.add_after("a", Duration::from_secs(300));
        assert_eq!(queue.next().await, Some("a"));
        assert_eq!(queue.next().await, Some("b"));
        assert!(queue.inner.state.lock().later.is_empty());
    }

    #[tokio::test]
    async fn failures_wait_longer_until_forgotten() {
        let delays = [1, 2, 3, 10, 18, 19, 40].map(|n| delay_after(n).as_millis());
        assert_eq!(delays, [5, 10, 20, 2560, 655_360, 1_000_000, 1_000_000]);
        let queue = WorkQueue::default();
        queue.add_rate_limited("a");
        queue.add_rate_limited("a");
        assert_eq!(queue.failures(&"a"), 2);
        assert_eq!(queue.next().await, Some("a"));
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }
}
