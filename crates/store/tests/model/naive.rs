//! The contract, as simply as it can be said.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::sample::Index;
use store::{
    Compare, Error, Event, EventKind, KeyValue, Keys, LeaseId, Op, OpAnswer, Ordering, Put, Range,
    RangeAnswer, Revision, Target, Txn, TxnAnswer, Watch,
};

type State = BTreeMap<Bytes, KeyValue>;

/// Every state there was, from revision 1 on, and what led from one to the next.
pub struct Model {
    states: Vec<State>,
    events: Vec<Vec<Event>>,
    compacted: i64,
    leases: BTreeSet<i64>,
}

impl Model {
    pub fn new() -> Model {
        Model { states: vec![State::new()], events: vec![Vec::new()], compacted: 0, leases: BTreeSet::new() }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64
    }

    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Some revision, the next included, which is not there yet.
    pub fn pick(&self, at: Index) -> Revision {
        Revision(at.index(self.states.len() + 1) as i64 + 1)
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn commit(&mut self, state: State, events: Vec<Event>) {
        if !events.is_empty() {
            self.states.push(state);
            self.events.push(events);
        }
    }

    pub fn range(&self, range: &Range) -> Result<RangeAnswer, Error> {
        let current = Revision(self.revision());
        let asked = range.revision.unwrap_or(current);
        if asked > current {
            return Err(Error::FutureRevision { asked, current });
        }
        if asked.0 < self.compacted {
            return Err(Error::Compacted { asked, oldest: Revision(self.compacted) });
        }
        Ok(select(&self.states[asked.0 as usize - 1], range))
    }

    pub fn compact(&mut self, asked: Revision) -> Result<(), Error> {
        if asked.0 <= self.compacted {
            return Err(Error::Compacted { asked, oldest: Revision(self.compacted) });
        }
        if asked.0 > self.revision() {
            return Err(Error::FutureRevision { asked, current: Revision(self.revision()) });
        }
        self.compacted = asked.0;
        Ok(())
    }

    pub fn grant(&mut self, id: i64) -> Result<LeaseId, Error> {
        if self.leases.insert(id) { Ok(LeaseId(id)) } else { Err(Error::LeaseExists) }
    }

    pub fn revoke(&mut self, id: i64) -> Result<(), Error> {
        if !self.leases.remove(&id) {
            return Err(Error::LeaseNotFound);
        }
        let (mut state, mut events) = (self.now().clone(), Vec::new());
        for key in self.leased(LeaseId(id)) {
            delete(&mut state, &Keys::One(key), self.revision() + 1, &mut events);
        }
        self.commit(state, events);
        Ok(())
    }

    pub fn leases(&self) -> Vec<i64> {
        self.leases.iter().copied().collect()
    }

    pub fn leased(&self, id: LeaseId) -> Vec<Bytes> {
        self.now().values().filter(|kv| kv.lease == id).map(|kv| kv.key.clone()).collect()
    }

    /// What a watch tells of revisions from `next` on.
    pub fn events(&self, watch: &Watch, next: i64) -> Vec<Event> {
        let commits = self.events.get(next as usize - 1..).unwrap_or_default();
        let events = commits.iter().flatten().filter(|event| watch.keys.contains(&event.kv.key));
        events
            .map(|event| Event { prev: event.prev.clone().filter(|_| watch.prev), ..event.clone() })
            .collect()
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<TxnAnswer, Error> {
        unambiguous(&txn.success)?;
        unambiguous(&txn.failure)?;
        let succeeded = txn.compare.iter().all(|compare| self.holds(compare));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        for op in ops {
            let Op::Put(put) = op else { continue };
            if (put.ignore_value || put.ignore_lease) && !self.now().contains_key(&put.key) {
                return Err(Error::KeyNotFound);
            }
            if put.lease.0 != 0 && !self.leases.contains(&put.lease.0) {
                return Err(Error::LeaseNotFound);
            }
        }
        let (mut state, mut events) = (self.now().clone(), Vec::new());
        let next = self.revision() + 1;
        let answers = ops
            .iter()
            .map(|op| match op {
                Op::Put(put) => {
                    let before = write(&mut state, put, next, &mut events);
                    OpAnswer::Put { prev: before.filter(|_| put.prev) }
                }
                Op::Delete { keys, prev } => {
                    let gone = delete(&mut state, keys, next, &mut events);
                    OpAnswer::Delete { deleted: gone.len(), prev: if *prev { gone } else { Vec::new() } }
                }
                Op::Range(range) => OpAnswer::Range(select(&state, range)),
                Op::Txn(_) => unreachable!("no step has one"),
            })
            .collect();
        self.commit(state, events);
        Ok(TxnAnswer { revision: Revision(self.revision()), succeeded, answers })
    }

    fn holds(&self, compare: &Compare) -> bool {
        let found: Vec<_> = self.now().values().filter(|kv| compare.keys.contains(&kv.key)).collect();
        if found.is_empty() {
            return !matches!(compare.target, Target::Value(_)) && holds(compare, &absent());
        }
        found.into_iter().all(|kv| holds(compare, kv))
    }
}

fn absent() -> KeyValue {
    KeyValue {
        key: Bytes::new(),
        value: Bytes::new(),
        create_revision: Revision(0),
        mod_revision: Revision(0),
        version: 0,
        lease: LeaseId(0),
    }
}

fn holds(compare: &Compare, kv: &KeyValue) -> bool {
    let order = match &compare.target {
        Target::Version(version) => kv.version.cmp(version),
        Target::CreateRevision(revision) => kv.create_revision.cmp(revision),
        Target::ModRevision(revision) => kv.mod_revision.cmp(revision),
        Target::Value(value) => kv.value.cmp(value),
        Target::Lease(lease) => kv.lease.cmp(lease),
    };
    match compare.op {
        Ordering::Equal => order.is_eq(),
        Ordering::NotEqual => order.is_ne(),
        Ordering::Greater => order.is_gt(),
        Ordering::Less => order.is_lt(),
    }
}

/// No key is written twice, whichever way.
fn unambiguous(ops: &[Op]) -> Result<(), Error> {
    for (at, op) in ops.iter().enumerate() {
        let Op::Put(put) = op else { continue };
        let others = ops.iter().enumerate().filter(|(other, _)| *other != at);
        for (_, other) in others {
            let meets = match other {
                Op::Put(other) => other.key == put.key,
                Op::Delete { keys, .. } => keys.contains(&put.key),
                _ => false,
            };
            if meets {
                return Err(Error::DuplicateKey);
            }
        }
    }
    Ok(())
}

fn select(state: &State, range: &Range) -> RangeAnswer {
    let mut kvs: Vec<_> = state.values().filter(|kv| range.keys.contains(&kv.key)).cloned().collect();
    let count = kvs.len();
    if range.limit > 0 {
        kvs.truncate(range.limit);
    }
    if range.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value = Bytes::new());
    }
    let more = kvs.len() < count;
    if range.count_only {
        kvs.clear();
    }
    RangeAnswer { kvs, more, count, ..RangeAnswer::default() }
}

fn write(state: &mut State, put: &Put, revision: i64, events: &mut Vec<Event>) -> Option<KeyValue> {
    let before = state.get(&put.key).cloned();
    let old = before.clone().unwrap_or(KeyValue { create_revision: Revision(revision), ..absent() });
    let kv = KeyValue {
        key: put.key.clone(),
        value: if put.ignore_value { old.value } else { put.value.clone() },
        create_revision: old.create_revision,
        mod_revision: Revision(revision),
        version: old.version + 1,
        lease: if put.ignore_lease { old.lease } else { put.lease },
    };
    state.insert(put.key.clone(), kv.clone());
    events.push(Event { kind: EventKind::Put, kv, prev: before.clone() });
    before
}

fn delete(state: &mut State, keys: &Keys, revision: i64, events: &mut Vec<Event>) -> Vec<KeyValue> {
    let gone: Vec<_> = state.values().filter(|kv| keys.contains(&kv.key)).cloned().collect();
    for kv in &gone {
        state.remove(&kv.key);
        let told = KeyValue { key: kv.key.clone(), mod_revision: Revision(revision), ..absent() };
        events.push(Event { kind: EventKind::Delete, kv: told, prev: Some(kv.clone()) });
    }
    gone
}
