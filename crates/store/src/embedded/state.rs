//! What readers see, and the one way in which it changes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::RwLock;

use super::config::Config;
use super::gate::Gate;
use super::history::History;
use super::hub::{Hub, Slot};
use super::index::{Index, Version};
use super::log::{Batch, Log};
use super::metrics::Metrics;
use super::row::{self, RowId, RowRef, Summary};
use crate::contract::{Error, Event, EventKind, KeyValue, Keys, LeaseId, Range, RangeAnswer, Revision};
use crate::lease::Leases;
use crate::txn::Space;

pub(crate) struct Shared {
    pub state: RwLock<State>,
    pub config: Config,
    pub metrics: Metrics,
    /// Woken when a lease may be due earlier than the expiry task knows.
    pub lease_changed: tokio::sync::Notify,
    pub gate: Gate,
}

pub(crate) struct State {
    pub index: Index,
    pub history: History,
    pub leases: Leases,
    pub hub: Hub,
    /// The newest revision on disk: the one that readers read at.
    pub durable: Revision,
    pub compacted: Revision,
    pub cluster: u64,
    pub size: u64,
    pub closed: bool,
}

/// What a log holds, ready to serve.
pub(crate) struct Loaded {
    pub state: State,
    pub summary: Summary,
    /// Rows that nothing needs any more: a compaction was cut short.
    pub garbage: Vec<RowRef>,
}

impl State {
    /// Rebuilds the state from a log; `damaged` words what does not fit.
    pub(crate) fn load(log: &mut dyn Log, damaged: &dyn Fn(String) -> Error) -> Result<Loaded, Error> {
        let now = Instant::now();
        let opened = log.opened()?;
        let Summary { revision, compacted, .. } = opened.summary;
        let mut state = State {
            index: Index::default(),
            history: History::default(),
            leases: Leases::default(),
            hub: Hub::default(),
            durable: revision,
            compacted,
            cluster: opened.cluster,
            size: log.size(),
            closed: false,
        };
        let (mut seen, mut garbage) = (Summary::EMPTY, Vec::new());
        // The commit whose rows are being read.
        let mut commit = (Revision(0), Vec::new());
        log.rows(&mut |id, bytes| {
            let (kind, kv, crc) = row::decode(id, bytes).ok_or_else(|| {
                damaged(format!("a row of revision {} is not what was written", id.revision))
            })?;
            seen.add(crc);
            if commit.0 != id.revision {
                let (before, events) = std::mem::replace(&mut commit, (id.revision, Vec::new()));
                state.remember(before, events, &mut garbage);
            }
            let prev = state.index.push(&kv.key, Version::new(&kv, RowRef { id, crc }));
            commit.1.push(Event { kind, kv, prev });
            Ok(())
        })?;
        state.remember(commit.0, commit.1, &mut garbage);
        if (seen.rows, seen.sum) != (opened.summary.rows, opened.summary.sum) {
            return Err(damaged(format!(
                "it holds {} rows where {} were written, or other ones",
                seen.rows, opened.summary.rows
            )));
        }
        opened.leases.into_iter().for_each(|(id, seconds)| state.leases.insert(id, seconds, now));
        let leased: Vec<_> = state
            .index
            .key_values(&Keys::all(), revision)
            .filter(|kv| kv.lease != LeaseId(0))
            .map(|kv| (kv.key, kv.lease))
            .collect();
        leased.iter().for_each(|(key, lease)| state.leases.attach(key, LeaseId(0), *lease));
        Ok(Loaded { state, summary: opened.summary, garbage })
    }

    /// Takes a commit that was read from the log into history, or forgets it where it is compacted.
    fn remember(&mut self, revision: Revision, events: Vec<Event>, garbage: &mut Vec<RowRef>) {
        if revision < self.compacted {
            self.forget(events, garbage);
        } else if !events.is_empty() {
            self.history.push(revision, events);
        }
    }

    /// Drops what the events of a compacted revision replaced or deleted.
    pub(crate) fn forget(&mut self, events: Vec<Event>, garbage: &mut Vec<RowRef>) {
        for event in events {
            if let Some(prev) = event.prev {
                garbage.extend(self.index.forget(&prev.key, prev.mod_revision));
            }
            if event.kind == EventKind::Delete {
                garbage.extend(self.index.forget(&event.kv.key, event.kv.mod_revision));
            }
        }
    }

    /// Makes commits visible and tells whom to wake.
    pub(crate) fn publish(&mut self, commits: Vec<(Revision, Vec<Event>)>) -> Vec<Arc<Slot>> {
        let mut wake = Vec::new();
        for (revision, events) in commits {
            events.iter().for_each(|event| self.hub.dispatch(&event.kv.key, revision, &mut wake));
            self.history.push(revision, events);
            self.durable = revision;
        }
        wake
    }

    /// Takes commits back that did not become durable, the newest first.
    pub(crate) fn undo(&mut self, events: Vec<Event>) {
        for event in events.into_iter().rev() {
            self.index.pop(&event.kv.key);
            let before = event.prev.map_or(LeaseId(0), |prev| prev.lease);
            self.leases.attach(&event.kv.key, event.kv.lease, before);
        }
    }
}

/// One transaction being applied, ahead of what is durable.
pub(crate) struct Pending<'a> {
    pub state: &'a mut State,
    /// The revision before this transaction.
    pub before: Revision,
    pub events: Vec<Event>,
    /// The batch that will make it durable.
    pub batch: &'a mut Batch,
}

/// Sees every version there is.
const NEWEST: Revision = Revision(i64::MAX);

impl Pending<'_> {
    fn push(&mut self, kind: EventKind, kv: KeyValue, prev: Option<KeyValue>) {
        let sub = u32::try_from(self.events.len()).expect("a transaction's size is bounded");
        let before = prev.as_ref().map_or(LeaseId(0), |prev| prev.lease);
        self.state.leases.attach(&kv.key, before, kv.lease);
        let event = Event { kind, kv, prev };
        let id = RowId { revision: event.kv.mod_revision, sub };
        let (row, crc) = row::encode(id, &event);
        self.batch.summary.add(crc);
        self.batch.add.push((id, row));
        self.state.index.push(&event.kv.key, Version::new(&event.kv, RowRef { id, crc }));
        self.events.push(event);
    }
}

impl Space for Pending<'_> {
    fn before(&self) -> Revision {
        self.before
    }

    fn compacted(&self) -> Revision {
        self.state.compacted
    }

    fn get(&self, key: &Bytes) -> Option<KeyValue> {
        self.state.index.get(key, NEWEST)
    }

    fn range(&self, range: &Range) -> RangeAnswer {
        self.state.index.range(range, range.revision.unwrap_or(NEWEST), self.before)
    }

    fn has_lease(&self, lease: LeaseId) -> bool {
        self.state.leases.has(lease)
    }

    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Option<KeyValue> {
        let prev = self.get(key);
        let revision = Revision(self.before.0 + 1);
        let (create_revision, version) =
            prev.as_ref().map_or((revision, 1), |prev| (prev.create_revision, prev.version + 1));
        let kv =
            KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, version, lease };
        self.push(EventKind::Put, kv, prev.clone());
        prev
    }

    fn delete(&mut self, keys: &Keys) -> Vec<KeyValue> {
        let gone: Vec<_> = self.state.index.key_values(keys, NEWEST).collect();
        for prev in &gone {
            let kv = KeyValue {
                key: prev.key.clone(),
                value: Bytes::new(),
                create_revision: Revision(0),
                mod_revision: Revision(self.before.0 + 1),
                version: 0,
                lease: LeaseId(0),
            };
            self.push(EventKind::Delete, kv, Some(prev.clone()));
        }
        gone
    }
}
