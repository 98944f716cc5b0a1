//! The naive engine: one ordered map and the list of all events, under one lock.
//!
//! It is the model that the durable engine is tested against, and a store for tests that need none on
//! disk. A read of the past undoes events from the present backwards; a watch walks the list. History
//! goes only when [`Store::compact`] is called.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::contract::{
    Error, Event, EventKind, KeyValue, Keys, LeaseId, LeaseInfo, Range, RangeAnswer, Revision, Snapshot,
    Status, Store, Txn, TxnAnswer, Watch, WatchBatch, Watching,
};
use crate::lease::Leases;
use crate::txn::{self, Space};

/// As etcd's `--max-request-bytes`.
const REQUEST_LIMIT: usize = 1_572_864;

/// A store that is gone when it is dropped.
pub struct Engine {
    shared: Arc<Shared>,
    _expiry: AbortOnDropHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    /// Woken when a lease may be due earlier than the expiry task knows.
    lease_changed: Notify,
    heard: watch::Sender<Heard>,
}

/// What wakes a watch.
#[derive(Clone, Copy)]
struct Heard {
    revision: Revision,
    /// How often progress was asked for.
    progress: u64,
}

struct State {
    cluster: u64,
    revision: Revision,
    compacted: Revision,
    keys: BTreeMap<Bytes, KeyValue>,
    log: BTreeMap<Revision, Vec<Event>>,
    leases: Leases,
}

impl Engine {
    /// Makes an empty store. Needs a tokio runtime: leases end by its clock.
    pub fn new() -> Arc<Engine> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                cluster: rand::random_range(1..=u64::MAX),
                revision: Revision(1),
                compacted: Revision(0),
                keys: BTreeMap::new(),
                log: BTreeMap::new(),
                leases: Leases::default(),
            }),
            lease_changed: Notify::new(),
            heard: watch::Sender::new(Heard { revision: Revision(1), progress: 0 }),
        });
        let expiry = AbortOnDropHandle::new(tokio::spawn(expire(shared.clone())));
        Arc::new(Engine { shared, _expiry: expiry })
    }
}

/// Ends leases when their time has come, for as long as it is polled.
async fn expire(shared: Arc<Shared>) {
    loop {
        let changed = shared.lease_changed.notified();
        let next = shared.state.lock().leases.next_deadline();
        match next {
            None => changed.await,
            Some(deadline) => {
                tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(deadline.into()) => {
                        let due = shared.state.lock().leases.expired(Instant::now());
                        due.into_iter().for_each(|id| shared.revoke(id).unwrap_or_default());
                    }
                }
            }
        }
    }
}

impl Shared {
    fn revoke(&self, id: LeaseId) -> Result<(), Error> {
        let mut state = self.state.lock();
        let keys = state.leases.remove(id).ok_or(Error::LeaseNotFound)?;
        let mut pending = Pending { state: &mut state, events: Vec::new() };
        keys.into_iter().for_each(|key| drop(pending.delete(&Keys::One(key))));
        let events = pending.events;
        self.publish(&mut state, events);
        Ok(())
    }

    fn publish(&self, state: &mut State, events: Vec<Event>) {
        if !events.is_empty() {
            state.revision.0 += 1;
            state.log.insert(state.revision, events);
            self.heard.send_modify(|heard| heard.revision = state.revision);
        }
    }
}

/// One transaction in the making.
struct Pending<'a> {
    state: &'a mut State,
    events: Vec<Event>,
}

impl Space for Pending<'_> {
    fn before(&self) -> Revision {
        self.state.revision
    }

    fn compacted(&self) -> Revision {
        self.state.compacted
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.state.keys.get(key).cloned()
    }

    fn range(&self, range: &Range) -> RangeAnswer {
        self.state.range(range)
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        self.state.leases.has(lease)
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Option<KeyValue> {
        let prev = self.state.keys.get(key).cloned();
        let revision = Revision(self.state.revision.0 + 1);
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: prev.as_ref().map_or(revision, |prev| prev.create_revision),
            mod_revision: revision,
            version: prev.as_ref().map_or(1, |prev| prev.version + 1),
            lease,
        };
        self.state.leases.attach(key, prev.as_ref().map_or(LeaseId(0), |prev| prev.lease), lease);
        self.state.keys.insert(key.clone(), kv.clone());
        self.events.push(Event { kind: EventKind::Put, kv, prev: prev.clone() });
        prev
    }

    fn delete(&mut self, keys: &Keys) -> Vec<KeyValue> {
        let within = self.state.keys.range::<[u8], _>(keys.bounds());
        let gone: Vec<KeyValue> = within.map(|(_, kv)| kv.clone()).collect();
        for prev in &gone {
            self.state.keys.remove(&prev.key);
            self.state.leases.attach(&prev.key, prev.lease, LeaseId(0));
            let kv = tombstone(prev.key.clone(), Revision(self.state.revision.0 + 1));
            self.events.push(Event { kind: EventKind::Delete, kv, prev: Some(prev.clone()) });
        }
        gone
    }
}

fn tombstone(key: Bytes, revision: Revision) -> KeyValue {
    KeyValue {
        key,
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: revision,
        version: 0,
        lease: LeaseId(0),
    }
}

impl State {
    fn range(&self, range: &Range) -> RangeAnswer {
        let mut past;
        let mut keys = &self.keys;
        if let Some(revision) = range.revision.filter(|revision| *revision < self.revision) {
            past = self.keys.clone();
            for event in self.log.range(Revision(revision.0 + 1)..).rev().flat_map(|(_, events)| events) {
                match &event.prev {
                    Some(prev) => past.insert(prev.key.clone(), prev.clone()),
                    None => past.remove(&event.kv.key),
                };
            }
            keys = &past;
        }
        let count = match &range.keys {
            Keys::From(start) if start.is_empty() => keys.len(),
            some => keys.range::<[u8], _>(some.bounds()).count(),
        };
        let wanted = match range.limit {
            _ if range.count_only => 0,
            0 => count,
            limit => limit,
        };
        let within = keys.range::<[u8], _>(range.keys.bounds()).map(|(_, kv)| kv).take(wanted);
        let mut kvs: Vec<KeyValue> = within.cloned().collect();
        if range.keys_only {
            kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        let more = !range.count_only && kvs.len() < count;
        RangeAnswer { revision: self.revision, kvs, more, count }
    }

    /// The events that a watch has not been told, and where it stands then.
    fn told_since(&self, watch: &Watch, from: Revision) -> Result<WatchBatch, Error> {
        if from < self.compacted {
            return Err(Error::Compacted { asked: from, oldest: self.compacted });
        }
        let mut events: Vec<Event> = self
            .log
            .range(from..)
            .flat_map(|(_, events)| events)
            .filter(|event| watch.keys.contains(&event.kv.key))
            .cloned()
            .collect();
        if !watch.prev {
            events.iter_mut().for_each(|event| event.prev = None);
        }
        Ok(WatchBatch { revision: self.revision, events })
    }
}

#[async_trait]
impl Store for Engine {
    async fn range(&self, range: Range) -> Result<RangeAnswer, Error> {
        txn::check_keys(&range.keys)?;
        let state = self.shared.state.lock();
        txn::readable(&range, state.compacted, state.revision)?;
        Ok(state.range(&range))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        txn::check(&txn, REQUEST_LIMIT)?;
        let mut state = self.shared.state.lock();
        let mut pending = Pending { state: &mut state, events: Vec::new() };
        let answer = txn::run(&mut pending, &txn)?;
        let events = pending.events;
        self.shared.publish(&mut state, events);
        Ok(answer)
    }

    async fn watch(&self, watch: Watch) -> Result<Watching, Error> {
        txn::check_keys(&watch.keys)?;
        let mut heard = self.shared.heard.subscribe();
        heard.mark_unchanged();
        let now = self.shared.state.lock().revision;
        let from = watch.from.filter(|from| from.0 > 0).unwrap_or(Revision(now.0 + 1));
        let progress = heard.borrow().progress;
        // The first look is at once, the others when something is heard.
        if from <= now {
            heard.mark_changed();
        }
        let cursor = Cursor { shared: self.shared.clone(), heard, watch, from, progress, done: false };
        Ok(stream::unfold(cursor, |mut cursor| async { Some((cursor.next().await?, cursor)) }).boxed())
    }

    async fn progress(&self) -> Result<(), Error> {
        self.shared.heard.send_modify(|heard| heard.progress += 1);
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut state = self.shared.state.lock();
        if revision <= state.compacted {
            return Err(Error::Compacted { asked: revision, oldest: state.compacted });
        }
        if revision > state.revision {
            return Err(Error::FutureRevision { asked: revision, current: state.revision });
        }
        state.compacted = revision;
        state.log = state.log.split_off(&revision);
        Ok(())
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), Error> {
        let mut state = self.shared.state.lock();
        let (id, ttl) = state.leases.plan_grant(id, ttl_seconds, 1)?;
        state.leases.insert(id, ttl, Instant::now());
        self.shared.lease_changed.notify_one();
        Ok((id, ttl))
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.shared.revoke(id)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        self.shared.state.lock().leases.renew(id, Instant::now())
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, Error> {
        self.shared.state.lock().leases.info(id, keys, Instant::now())
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Ok(self.shared.state.lock().leases.ids())
    }

    async fn status(&self) -> Result<Status, Error> {
        let state = self.shared.state.lock();
        let (cluster, revision, compacted) = (state.cluster, state.revision, state.compacted);
        Ok(Status { cluster, revision, compacted, size: 0, size_in_use: 0 })
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Err(Error::Unsupported { what: "a snapshot of a store in memory" })
    }

    async fn defragment(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Where one watch stands.
struct Cursor {
    shared: Arc<Shared>,
    heard: watch::Receiver<Heard>,
    watch: Watch,
    /// The first revision not told yet.
    from: Revision,
    /// Requests for progress that were answered.
    progress: u64,
    done: bool,
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<WatchBatch, Error>> {
        while !self.done {
            self.heard.changed().await.ok()?;
            let asked = self.heard.borrow_and_update().progress;
            match self.shared.state.lock().told_since(&self.watch, self.from) {
                Err(error) => {
                    self.done = true;
                    return Some(Err(error));
                }
                Ok(batch) => {
                    self.from = self.from.max(Revision(batch.revision.0 + 1));
                    let due = self.watch.progress && asked > self.progress;
                    self.progress = asked;
                    if due || !batch.events.is_empty() {
                        return Some(Ok(batch));
                    }
                }
            }
        }
        None
    }
}
