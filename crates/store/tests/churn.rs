//! Keys that change without end: neither the disk nor memory grows with what has been written.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use store::embedded::{Config, Engine};
use store::{Error, Keys, Op, Put, Range, Revision, Store, Txn};

const KEYS: usize = 200;
const VALUE_BYTES: usize = 2000;
/// Transactions of one phase, each of which writes every key.
const ROUNDS: usize = 120;
const RETAINED_EVENTS: usize = 4000;
/// What may lie on disk: fjall's journals (64 MiB and the one being written), tables, and tables being merged.
const DISK_BYTES: u64 = 160 << 20;
/// By how much memory may differ from one phase to a later one.
const MEMORY_BYTES: u64 = 48 << 20;

/// What the store costs after a phase.
#[derive(Debug)]
struct Cost {
    disk: u64,
    memory: u64,
    history: i64,
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Bytes of all files in a directory, as far as they have blocks: a journal is made larger than it is full.
fn occupied(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let of = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => occupied(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        // A table that was just merged away.
        Err(_) => 0,
    };
    entries.map(of).sum()
}

async fn phase(store: &Engine, dir: &std::path::Path, phase: usize) -> Cost {
    for round in 0..ROUNDS {
        let put = |n: usize| {
            let value = format!("{phase}/{round}/{n:0VALUE_BYTES$}");
            Op::Put(Put { key: format!("/churn/{n}").into(), value: value.into(), ..Put::default() })
        };
        // Some keys go and come back.
        let gone = Op::Delete { keys: Keys::One(format!("/gone/{}", round % 50).into()), prev: false };
        let back = Op::Put(Put { key: format!("/gone/{}", (round + 25) % 50).into(), ..Put::default() });
        let success = (0..KEYS).map(put).chain([gone, back]).collect();
        store.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
    let status = store.status().await.unwrap();
    assert!(status.size >= (KEYS * VALUE_BYTES) as u64, "{status:?}");
    Cost { disk: occupied(dir), memory: resident(), history: status.revision.0 - status.compacted.0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn churn_costs_neither_disk_nor_memory_in_the_long_run() {
    // In memory: how much it is matters, not how long it takes.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let config =
        Config { retain: None, retain_events: RETAINED_EVENTS, retain_bytes: 32 << 20, ..Config::default() };
    let store = Engine::open(dir.path(), config.clone()).await.unwrap();
    let mut costs = Vec::new();
    for n in 0..6 {
        let cost = phase(&store, dir.path(), n).await;
        println!("after {} MB: {cost:?}", ((n + 1) * ROUNDS * KEYS * VALUE_BYTES) >> 20);
        costs.push(cost);
    }
    for cost in &costs {
        assert!(cost.disk < DISK_BYTES, "{costs:?}");
        assert!(cost.history <= (RETAINED_EVENTS / KEYS) as i64 + 1, "{costs:?}");
    }
    let (early, late) = (&costs[1], &costs[5]);
    assert!(late.memory < early.memory + MEMORY_BYTES, "{costs:?}");

    // What history no longer has is refused, not answered with something else.
    let past = Range { revision: Some(Revision(2)), ..Range::of(Keys::all()) };
    assert!(matches!(store.range(past).await.unwrap_err(), Error::Compacted { .. }));
    let newest = store.status().await.unwrap().revision;
    store.compact(newest).await.unwrap();
    store.defragment().await.unwrap();
    let before = store.range(Range::of(Keys::all())).await.unwrap();
    store.close().await;
    drop(store);
    let store = Engine::open(dir.path(), config).await.unwrap();
    let after = store.range(Range::of(Keys::all())).await.unwrap();
    assert_eq!((after.revision, after.kvs), (before.revision, before.kvs));
    store.close().await;
}
