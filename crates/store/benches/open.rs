//! How long a store of a million keys takes to open, and what it costs to count them.
//!
//! `cargo bench --workspace --bench open`; `KEYS` in the environment for another number.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use store::embedded::{Config, Engine};
use store::{Keys, Op, Put, Range, Store, Txn};

/// About a lease: the most numerous of small objects.
const VALUE: usize = 512;
/// Writes of one transaction; together they stay below the largest request.
const TXN: u64 = 1000;
const ROUNDS: usize = 3;
/// Tells this program to open a store, and where.
const OPEN: &str = "TIPHYS_BENCH_OPEN";

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// Bytes of memory that this process has.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

async fn fill(engine: &Engine, keys: u64) {
    for start in (0..keys).step_by(TXN as usize) {
        let put = |n: u64| {
            let key = format!("/registry/leases/namespace-{}/lease-{n:07}", n % 100);
            Op::Put(Put { key: key.into(), value: vec![b'x'; VALUE].into(), ..Put::default() })
        };
        let success = (start..(start + TXN).min(keys)).map(put).collect();
        engine.txn(Txn { success, ..Txn::default() }).await.unwrap();
    }
}

async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let start = Instant::now();
    (work.await, start.elapsed())
}

#[tokio::main]
async fn main() {
    let keys = setting("KEYS", 1_000_000);
    if let Some(dir) = std::env::var_os(OPEN) {
        return open(dir, keys).await;
    }
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path(), Config::default()).await.unwrap();
    let ((), took) = timed(fill(&engine, keys)).await;
    let status = engine.status().await.unwrap();
    println!(
        "open: {keys} keys of {VALUE} bytes written in {:.1} s, {} MB on disk",
        took.as_secs_f64(),
        status.size >> 20
    );
    engine.close().await;
    drop(engine);
    // Each time by a process of its own: memory that filling it took stays with this one.
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let opening = Command::new(std::env::current_exe().unwrap()).env(OPEN, dir.path()).output().unwrap();
        assert!(opening.status.success(), "{}", String::from_utf8_lossy(&opening.stderr));
        let told = String::from_utf8(opening.stdout).unwrap();
        print!("{told}");
        times.push(told.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap());
    }
    times.sort_by(f64::total_cmp);
    println!("open: {keys} keys in {:.2} s, the median of {ROUNDS}", times[ROUNDS / 2]);
}

/// Opens the store, and tells what that took.
async fn open(dir: OsString, keys: u64) {
    let (engine, took) = timed(Engine::open(dir, Config::default())).await;
    let engine = engine.unwrap();
    let memory = resident() >> 20;
    let everything = Range { count_only: true, ..Range::of(Keys::all()) };
    let (answer, count) = timed(engine.range(everything)).await;
    assert_eq!(answer.unwrap().count as u64, keys);
    let page = Range { limit: 500, ..Range::of(Keys::prefix("/registry/leases/")) };
    let (answer, first) = timed(engine.range(page)).await;
    assert_eq!(answer.unwrap().kvs.len(), 500);
    println!(
        "open: {:.2} s, then {memory} MB resident; all counted in {count:.2?}, the first 500 of them in {first:.2?}",
        took.as_secs_f64(),
    );
    engine.close().await;
}
