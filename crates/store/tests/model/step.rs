//! What may be asked of a store, and how likely it is to be.

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use store::{Compare, Keys, LeaseId, Op, Ordering, Put, Range, Revision, Target, Txn, Watch};

use super::alone;

/// Few, so that they meet; some are the prefix of others.
const KEYS: [&str; 6] = ["/a", "/a/1", "/a/2", "/b", "/b/1", "/c"];
const LEASES: std::ops::Range<i64> = 1..4;

/// One thing that is asked. An index picks a revision from what the model has by then.
#[derive(Clone, Debug)]
pub enum Step {
    Txn(Txn),
    Range(Range, Option<Index>),
    Watch(Watch, Option<Index>),
    Compact(Index),
    Grant(i64),
    Revoke(i64),
    /// Closed and opened again; nothing, for a store that cannot.
    Restart,
}

fn key() -> impl Strategy<Value = Bytes> {
    select(&KEYS[..]).prop_map(Bytes::from)
}

fn keys() -> impl Strategy<Value = Keys> {
    prop_oneof![
        4 => key().prop_map(Keys::One),
        2 => key().prop_map(Keys::prefix),
        1 => (key(), key()).prop_map(|(from, to)| Keys::Range(from, to)),
        1 => key().prop_map(Keys::From),
        1 => Just(Keys::all()),
    ]
}

fn put() -> impl Strategy<Value = Op> {
    let lease = prop_oneof![3 => Just(0), 1 => LEASES];
    let keeps = prop_oneof![6 => Just((false, false)), 1 => Just((true, false)), 1 => Just((false, true))];
    (key(), "[a-c]{0,2}", lease, any::<bool>(), keeps).prop_map(
        |(key, value, lease, prev, (ignore_value, ignore_lease))| {
            let lease = LeaseId(if ignore_lease { 0 } else { lease });
            Op::Put(Put { key, value: value.into(), lease, prev, ignore_value, ignore_lease })
        },
    )
}

fn range() -> impl Strategy<Value = Range> {
    (keys(), 0..4usize, any::<bool>(), prop::bool::weighted(0.2)).prop_map(
        |(keys, limit, keys_only, count_only)| Range {
            keys,
            limit: if count_only { 0 } else { limit },
            revision: None,
            keys_only,
            count_only,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => put(),
        2 => (keys(), any::<bool>()).prop_map(|(keys, prev)| Op::Delete { keys, prev }),
        1 => range().prop_map(Op::Range),
    ]
}

fn compare() -> impl Strategy<Value = Compare> {
    let target = prop_oneof![
        (0..4i64).prop_map(Target::Version),
        (0..12i64).prop_map(|n| Target::CreateRevision(Revision(n))),
        (0..12i64).prop_map(|n| Target::ModRevision(Revision(n))),
        "[a-c]{0,2}".prop_map(|value| Target::Value(value.into())),
        (0..3i64).prop_map(|id| Target::Lease(LeaseId(id))),
    ];
    let op = select(&[Ordering::Equal, Ordering::NotEqual, Ordering::Greater, Ordering::Less][..]);
    (keys(), target, op).prop_map(|(keys, target, op)| Compare { keys, target, op })
}

fn txn() -> impl Strategy<Value = Txn> {
    let ops = || prop::collection::vec(op(), 0..4);
    (prop::collection::vec(compare(), 0..3), ops(), ops()).prop_map(|(compare, success, failure)| Txn {
        compare,
        success,
        failure,
    })
}

fn step(reopens: bool) -> impl Strategy<Value = Step> {
    let at = || prop::option::of(any::<Index>());
    // etcd refuses to watch a range of nothing, where we have nothing to tell.
    let watched = keys().prop_filter("a range of nothing", |keys| match keys {
        Keys::Range(start, end) => start < end,
        _ => true,
    });
    let watch = (watched, any::<bool>()).prop_map(|(keys, prev)| Watch { prev, ..Watch::of(keys, None) });
    prop_oneof![
        8 => put().prop_map(|put| Step::Txn(alone(put))),
        3 => (keys(), any::<bool>()).prop_map(|(keys, prev)| Step::Txn(alone(Op::Delete { keys, prev }))),
        5 => txn().prop_map(Step::Txn),
        4 => (range(), at()).prop_map(|(range, at)| Step::Range(range, at)),
        2 => (watch, at()).prop_map(|(watch, at)| Step::Watch(watch, at)),
        1 => any::<Index>().prop_map(Step::Compact),
        2 => LEASES.prop_map(Step::Grant),
        1 => LEASES.prop_map(Step::Revoke),
        u32::from(reopens) => Just(Step::Restart),
    ]
}

/// Sequences of steps; with restarts where the store can be opened again.
pub fn steps(reopens: bool) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(reopens), 1..50)
}
