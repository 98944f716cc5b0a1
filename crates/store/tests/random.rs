//! Random sequences of everything the contract has, against a model that keeps every state there ever was.
//!
//! The model knows nothing of the engines: a state is a map, a read of the past looks at the map of then.
//! It is itself checked against a real etcd.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod model;
mod peers;

use std::sync::Arc;

use proptest::test_runner::{Config as Cases, TestCaseError, TestRunner};
use store::{Store, embedded, etcd, memory};

use model::{Step, Subject, follow, steps};

fn config() -> embedded::Config {
    // Only the steps compact.
    embedded::Config { retain: None, ..embedded::Config::default() }
}

/// Runs sequences against a store that `make` gives for each, and says how to open it again where that can be.
fn check<F>(cases: u32, reopens: bool, make: impl Fn() -> F)
where
    F: Future<Output = Subject>,
{
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let config = Cases { cases, failure_persistence: None, max_shrink_iters: 400, ..Cases::default() };
    let run = |steps: Vec<Step>| {
        let followed = tokio.block_on(async { follow(make().await, steps).await });
        followed.map_err(TestCaseError::fail)
    };
    if let Err(error) = TestRunner::new(config).run(&steps(reopens), run) {
        panic!("{error}");
    }
}

#[test]
fn memory_is_as_the_model() {
    check(200, false, || async { Subject::new(memory::Engine::new() as Arc<dyn Store>) });
}

#[test]
fn embedded_is_as_the_model_over_restarts() {
    check(60, true, || async {
        // In memory: what a disk adds to this is time.
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let engine = embedded::Engine::open(dir.path(), config()).await.unwrap();
        Subject::reopening(engine, dir, config())
    });
}

#[test]
fn etcd_is_as_the_model() {
    let Some(program) = peers::program("etcd", "etcd-server") else { return };
    check(6, false, || async {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let etcd = peers::Etcd::start(&program, dir.path()).await;
        let client = etcd::Engine::connect(etcd::Config::new(vec![etcd.url.clone()])).await.unwrap();
        Subject::new(client as Arc<dyn Store>).of_server((etcd, dir))
    });
}
