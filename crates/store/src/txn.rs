//! The meaning of a transaction, once for every engine of ours.
//!
//! [`check`] refuses what is malformed by itself; it needs no store and runs on the caller's task.
//! [`run`] is all or nothing: the branches are chosen and every remaining fault is found before
//! anything is written, both as the store stood before the transaction (etcd does the same, so a nested
//! comparison does not see what the outer transaction writes; a nested read does).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::contract::{
    Compare, Error, KeyValue, Keys, LeaseId, Op, OpAnswer, Ordering, Put, Range, RangeAnswer, Revision,
    Target, Txn, TxnAnswer,
};

/// The state that a transaction reads and writes. Writes go to the revision after [`Space::before`].
pub(crate) trait Space {
    /// The revision before the transaction.
    fn before(&self) -> Revision;
    fn compacted(&self) -> Revision;
    /// The key as it stands, with what this transaction did.
    fn get(&self, key: &Bytes) -> Option<KeyValue>;
    /// Keys as they stand, or as they stood at `range.revision`, which is neither compacted nor ahead.
    fn range(&self, range: &Range) -> RangeAnswer;
    fn has_lease(&self, lease: LeaseId) -> bool;
    /// Writes one key and answers what was there.
    fn put(&mut self, key: &Bytes, value: Bytes, lease: LeaseId) -> Option<KeyValue>;
    /// Deletes keys and answers what was there.
    fn delete(&mut self, keys: &Keys) -> Vec<KeyValue>;
}

/// Refuses empty keys, a key written twice, and more than `limit` bytes of keys and values.
pub(crate) fn check(txn: &Txn, limit: usize) -> Result<(), Error> {
    let bytes = size(txn);
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    // One put is the common case and cannot collide with anything.
    if let (true, [Op::Put(put)], []) = (txn.compare.is_empty(), &txn.success[..], &txn.failure[..]) {
        return if put.key.is_empty() { Err(Error::EmptyKey) } else { Ok(()) };
    }
    check_compares(txn)?;
    Writes::default().add(&txn.success)?;
    Writes::default().add(&txn.failure)
}

fn size(txn: &Txn) -> usize {
    let of_op = |op: &Op| match op {
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Txn(nested) => size(nested),
        Op::Range(_) | Op::Delete { .. } => 0,
    };
    let of_compare = |compare: &Compare| match &compare.target {
        Target::Value(value) => value.len(),
        _ => 0,
    };
    txn.compare.iter().map(of_compare).sum::<usize>()
        + txn.success.iter().chain(&txn.failure).map(of_op).sum::<usize>()
}

fn check_compares(txn: &Txn) -> Result<(), Error> {
    txn.compare.iter().try_for_each(|compare| check_keys(&compare.keys))
}

pub(crate) fn check_keys(keys: &Keys) -> Result<(), Error> {
    match keys {
        Keys::One(key) if key.is_empty() => Err(Error::EmptyKey),
        _ => Ok(()),
    }
}

/// What one branch may write, to find a key that is written twice.
#[derive(Clone, Default)]
struct Writes {
    puts: BTreeSet<Bytes>,
    deletes: Vec<Keys>,
}

impl Writes {
    fn add(&mut self, ops: &[Op]) -> Result<(), Error> {
        for op in ops {
            match op {
                Op::Range(range) => check_keys(&range.keys)?,
                Op::Put(put) => {
                    if put.key.is_empty() {
                        return Err(Error::EmptyKey);
                    }
                    self.put(put.key.clone())?;
                }
                Op::Delete { keys, .. } => {
                    check_keys(keys)?;
                    self.delete(keys.clone())?;
                }
                Op::Txn(nested) => {
                    check_compares(nested)?;
                    // Only one branch runs, so the two may write the same key.
                    let (mut one, mut other) = (Writes::default(), Writes::default());
                    one.add(&nested.success)?;
                    other.add(&nested.failure)?;
                    for key in &one.puts | &other.puts {
                        self.put(key)?;
                    }
                    one.deletes.into_iter().chain(other.deletes).try_for_each(|keys| self.delete(keys))?;
                }
            }
        }
        Ok(())
    }

    fn put(&mut self, key: Bytes) -> Result<(), Error> {
        let deleted = self.deletes.iter().any(|keys| keys.contains(&key));
        if deleted || !self.puts.insert(key) { Err(Error::DuplicateKey) } else { Ok(()) }
    }

    fn delete(&mut self, keys: Keys) -> Result<(), Error> {
        if self.puts.range(keys.start().clone()..).next().is_some_and(|key| keys.contains(key)) {
            return Err(Error::DuplicateKey);
        }
        self.deletes.push(keys);
        Ok(())
    }
}

/// Runs a checked transaction.
pub(crate) fn run(space: &mut impl Space, txn: &Txn) -> Result<TxnAnswer, Error> {
    let mut chosen = BTreeMap::new();
    choose(space, txn, &mut chosen)?;
    let before = space.before();
    let mut wrote = false;
    let mut answer = apply(space, txn, &chosen, before, &mut wrote);
    answer.revision = after(before, wrote);
    Ok(answer)
}

fn after(before: Revision, wrote: bool) -> Revision {
    if wrote { Revision(before.0 + 1) } else { before }
}

/// The branch each transaction takes, by its place in memory, which does not move while it runs.
type Chosen = BTreeMap<*const Txn, bool>;

fn choose(space: &impl Space, txn: &Txn, chosen: &mut Chosen) -> Result<(), Error> {
    let holds = txn.compare.iter().all(|compare| holds(space, compare));
    chosen.insert(std::ptr::from_ref(txn), holds);
    for op in branch(txn, holds) {
        match op {
            Op::Range(range) => readable(range, space.compacted(), space.before())?,
            Op::Put(put) => {
                if (put.ignore_value || put.ignore_lease) && space.get(&put.key).is_none() {
                    return Err(Error::KeyNotFound);
                }
                if !put.ignore_lease && put.lease != LeaseId(0) && !space.has_lease(put.lease) {
                    return Err(Error::LeaseNotFound);
                }
            }
            Op::Delete { .. } => {}
            Op::Txn(nested) => choose(space, nested, chosen)?,
        }
    }
    Ok(())
}

/// Whether history still (and already) has the revision that a range asks for.
pub(crate) fn readable(range: &Range, compacted: Revision, current: Revision) -> Result<(), Error> {
    match range.revision {
        Some(asked) if asked > current => Err(Error::FutureRevision { asked, current }),
        Some(asked) if asked < compacted => Err(Error::Compacted { asked, oldest: compacted }),
        _ => Ok(()),
    }
}

fn branch(txn: &Txn, holds: bool) -> &[Op] {
    if holds { &txn.success } else { &txn.failure }
}

fn holds(space: &impl Space, compare: &Compare) -> bool {
    if let Keys::One(key) = &compare.keys {
        return holds_for(compare, space.get(key).as_ref());
    }
    let found = space.range(&Range::of(compare.keys.clone())).kvs;
    if found.is_empty() {
        return holds_for(compare, None);
    }
    found.iter().all(|kv| holds_for(compare, Some(kv)))
}

fn holds_for(compare: &Compare, kv: Option<&KeyValue>) -> bool {
    let order = match &compare.target {
        Target::Version(version) => kv.map_or(0, |kv| kv.version).cmp(version),
        Target::CreateRevision(revision) => kv.map_or(Revision(0), |kv| kv.create_revision).cmp(revision),
        Target::ModRevision(revision) => kv.map_or(Revision(0), |kv| kv.mod_revision).cmp(revision),
        Target::Lease(lease) => kv.map_or(LeaseId(0), |kv| kv.lease).cmp(lease),
        Target::Value(value) => match kv {
            Some(kv) => kv.value.cmp(value),
            None => return false,
        },
    };
    match compare.op {
        Ordering::Equal => order.is_eq(),
        Ordering::NotEqual => order.is_ne(),
        Ordering::Greater => order.is_gt(),
        Ordering::Less => order.is_lt(),
    }
}

fn apply(
    space: &mut impl Space,
    txn: &Txn,
    chosen: &Chosen,
    before: Revision,
    wrote: &mut bool,
) -> TxnAnswer {
    let succeeded = chosen.get(&std::ptr::from_ref(txn)).copied().unwrap_or_default();
    let answers = branch(txn, succeeded)
        .iter()
        .map(|op| match op {
            Op::Range(range) => {
                let mut answer = space.range(range);
                answer.revision = after(before, *wrote);
                OpAnswer::Range(answer)
            }
            Op::Put(put) => {
                *wrote = true;
                let prev = put_one(space, put);
                OpAnswer::Put { prev: prev.filter(|_| put.prev) }
            }
            Op::Delete { keys, prev } => {
                let gone = space.delete(keys);
                let deleted = gone.len();
                *wrote |= deleted > 0;
                OpAnswer::Delete { deleted, prev: if *prev { gone } else { Vec::new() } }
            }
            Op::Txn(nested) => OpAnswer::Txn(apply(space, nested, chosen, before, wrote)),
        })
        .collect();
    TxnAnswer { revision: after(before, *wrote), succeeded, answers }
}

fn put_one(space: &mut impl Space, put: &Put) -> Option<KeyValue> {
    if !put.ignore_value && !put.ignore_lease {
        return space.put(&put.key, put.value.clone(), put.lease);
    }
    let kept = space.get(&put.key).map(|kv| (kv.value, kv.lease)).unwrap_or_default();
    let value = if put.ignore_value { kept.0 } else { put.value.clone() };
    let lease = if put.ignore_lease { kept.1 } else { put.lease };
    space.put(&put.key, value, lease)
}
