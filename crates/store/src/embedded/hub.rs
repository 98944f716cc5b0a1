//! Who watches what, and how a watch reads.
//!
//! A watch is a cursor over the shared history and a slot that says "something for you since revision
//! r". Publishing an event looks its key up by each prefix length anyone watches, so a thousand watches
//! of other prefixes cost nothing, and it writes one number per watch that is meant. Reading happens in
//! the reader's own task. A watch that is never read therefore holds a cursor, not events.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::task::AtomicWaker;

use super::state::Shared;
use crate::contract::{Error, Event, Keys, Revision, Watch, WatchBatch};

/// Events after which one batch ends.
const BATCH_EVENTS: usize = 1000;
/// Commits that one poll looks through before it lets others run.
const SCAN_COMMITS: usize = 20_000;

/// What the hub knows of a watch. The numbers change only under the state's lock, so need no order.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    /// The first revision that may have something for it; 0 is none.
    pending: AtomicI64,
    progress_due: AtomicBool,
    waker: AtomicWaker,
}

impl Slot {
    pub(crate) fn wake(&self) {
        self.waker.wake();
    }
}

#[derive(Default)]
pub(crate) struct Hub {
    by_key: HashMap<Bytes, Vec<Arc<Slot>>>,
    by_prefix: HashMap<Bytes, Vec<Arc<Slot>>>,
    /// How many prefixes are watched, by length.
    lengths: BTreeMap<usize, usize>,
    /// Ranges that are no prefix.
    by_range: Vec<(Keys, Arc<Slot>)>,
    progress: Vec<Arc<Slot>>,
}

enum Place<'a> {
    Key(&'a Bytes),
    Prefix(&'a Bytes),
    Range,
}

fn place(keys: &Keys) -> Place<'_> {
    match keys {
        Keys::One(key) => Place::Key(key),
        keys if *keys == Keys::prefix(keys.start().clone()) => Place::Prefix(keys.start()),
        _ => Place::Range,
    }
}

impl Hub {
    fn add(&mut self, watch: &Watch, slot: &Arc<Slot>) {
        match place(&watch.keys) {
            Place::Key(key) => self.by_key.entry(key.clone()).or_default().push(slot.clone()),
            Place::Prefix(prefix) => {
                let slots = self.by_prefix.entry(prefix.clone()).or_default();
                if slots.is_empty() {
                    *self.lengths.entry(prefix.len()).or_default() += 1;
                }
                slots.push(slot.clone());
            }
            Place::Range => self.by_range.push((watch.keys.clone(), slot.clone())),
        }
        if watch.progress {
            self.progress.push(slot.clone());
        }
    }

    fn remove(&mut self, watch: &Watch, slot: &Arc<Slot>) {
        let other = |one: &Arc<Slot>| !Arc::ptr_eq(one, slot);
        match place(&watch.keys) {
            Place::Key(key) => drop_slot(&mut self.by_key, key, other),
            Place::Prefix(prefix) => {
                drop_slot(&mut self.by_prefix, prefix, other);
                if !self.by_prefix.contains_key(prefix)
                    && let Some(count) = self.lengths.get_mut(&prefix.len())
                {
                    *count -= 1;
                    if *count == 0 {
                        self.lengths.remove(&prefix.len());
                    }
                }
            }
            Place::Range => self.by_range.retain(|(_, one)| other(one)),
        }
        if watch.progress {
            self.progress.retain(other);
        }
    }

    /// Marks who is meant by an event and collects whom to wake.
    pub(crate) fn dispatch(&self, key: &Bytes, revision: Revision, wake: &mut Vec<Arc<Slot>>) {
        let mut mark = |slot: &Arc<Slot>| {
            if slot.pending.load(Relaxed) == 0 {
                slot.pending.store(revision.0, Relaxed);
                wake.push(slot.clone());
            }
        };
        self.by_key.get(key).into_iter().flatten().for_each(&mut mark);
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            self.by_prefix.get(&key[..length]).into_iter().flatten().for_each(&mut mark);
        }
        self.by_range.iter().filter(|(keys, _)| keys.contains(key)).for_each(|(_, slot)| mark(slot));
    }

    /// Asks every watch with `progress` to tell where it stands.
    pub(crate) fn ask_progress(&self) -> Vec<Arc<Slot>> {
        self.progress.iter().for_each(|slot| slot.progress_due.store(true, Relaxed));
        self.progress.clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Slot>> {
        let one = self.by_key.values().chain(self.by_prefix.values()).flatten();
        one.chain(self.by_range.iter().map(|(_, slot)| slot)).cloned().collect()
    }
}

fn drop_slot(slots: &mut HashMap<Bytes, Vec<Arc<Slot>>>, key: &Bytes, keep: impl Fn(&Arc<Slot>) -> bool) {
    if let Some(held) = slots.get_mut(key) {
        held.retain(keep);
        if held.is_empty() {
            slots.remove(key);
        }
    }
}

/// One watch, as its reader holds it.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
    watch: Watch,
    /// The first revision to tell.
    from: Revision,
    /// Whether it has once been told everything there was: only then can it be slow.
    caught_up: bool,
    done: bool,
}

impl Watcher {
    pub(crate) fn open(shared: Arc<Shared>, watch: Watch) -> Watcher {
        let slot = Arc::new(Slot::default());
        let mut state = shared.state.write();
        let next = Revision(state.durable.0 + 1);
        let from = watch.from.filter(|from| from.0 > 0).unwrap_or(next);
        if from < next {
            slot.pending.store(from.0, Relaxed);
        }
        state.hub.add(&watch, &slot);
        drop(state);
        shared.metrics.watchers.fetch_add(1, Relaxed);
        Watcher { shared, slot, watch, from, caught_up: from >= next, done: false }
    }

    /// What there is to tell now; `None` is nothing.
    fn read(&mut self) -> Option<Result<WatchBatch, Error>> {
        let state = self.shared.state.read();
        let progress = self.slot.progress_due.swap(false, Relaxed);
        let pending = Revision(self.slot.pending.load(Relaxed)).max(self.from);
        if self.slot.pending.load(Relaxed) == 0 || pending > state.durable {
            self.slot.pending.store(0, Relaxed);
            if state.closed {
                return Some(Err(Error::Unavailable("it is shut down".into())));
            }
            return progress.then(|| Ok(WatchBatch { revision: state.durable, events: Vec::new() }));
        }
        let lag = self.shared.config.watch_lag;
        if pending < state.compacted && !self.caught_up {
            return Some(Err(Error::Compacted { asked: pending, oldest: state.compacted }));
        }
        if self.caught_up && (pending < state.compacted || state.history.events_from(pending) > lag) {
            self.shared.metrics.slow_watchers.fetch_add(1, Relaxed);
            return Some(Err(Error::SlowWatcher { events: lag }));
        }
        let mut events = Vec::new();
        let mut told = state.durable;
        for (scanned, commit) in state.history.from(pending).enumerate() {
            if events.len() >= BATCH_EVENTS || scanned >= SCAN_COMMITS {
                told = Revision(commit.revision.0 - 1);
                break;
            }
            let meant = commit.events.iter().filter(|event| self.watch.keys.contains(&event.kv.key));
            events.extend(meant.map(|event| Event {
                kind: event.kind,
                kv: event.kv.clone(),
                prev: event.prev.clone().filter(|_| self.watch.prev),
            }));
        }
        let all = told == state.durable;
        self.caught_up |= all;
        self.from = Revision(told.0 + 1);
        self.slot.pending.store(if all { 0 } else { self.from.0 }, Relaxed);
        if !all && progress {
            self.slot.progress_due.store(true, Relaxed);
        }
        self.shared.metrics.watch_events.fetch_add(events.len() as u64, Relaxed);
        let tell = !events.is_empty() || (all && progress);
        if !tell && !all {
            self.slot.wake();
        }
        tell.then_some(Ok(WatchBatch { revision: told, events }))
    }
}

impl Stream for Watcher {
    type Item = Result<WatchBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            return Poll::Ready(None);
        }
        self.slot.waker.register(cx.waker());
        let read = self.read();
        self.done = matches!(read, Some(Err(_)));
        read.map_or(Poll::Pending, |read| Poll::Ready(Some(read)))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.shared.state.write().hub.remove(&self.watch, &self.slot);
        self.shared.metrics.watchers.fetch_sub(1, Relaxed);
    }
}
