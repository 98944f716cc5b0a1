//! What every engine must do, run against each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod cases;

use std::sync::Arc;

use store::{Store, embedded, memory};

#[tokio::test(flavor = "multi_thread")]
async fn memory_keeps_the_contract() {
    cases::all(|| async { (memory::Engine::new() as Arc<dyn Store>, ()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn embedded_keeps_the_contract() {
    cases::all(|| async {
        let dir = tempfile::tempdir().unwrap();
        let engine = embedded::Engine::open(dir.path(), embedded::Config::default()).await.unwrap();
        (engine as Arc<dyn Store>, dir)
    })
    .await;
}
