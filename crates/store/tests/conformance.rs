//! What every engine must do, run against each.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod cases;
mod peers;

use std::sync::Arc;

use store::{Store, embedded, etcd, memory};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_front_keeps_the_contract() {
    cases::all(|| async {
        let dir = tempfile::tempdir().unwrap();
        let engine = embedded::Engine::open(dir.path(), embedded::Config::default()).await.unwrap();
        let front = peers::Front::start(engine).await;
        let client = etcd::Engine::connect(etcd::Config::new(vec![front.url()])).await.unwrap();
        (client as Arc<dyn Store>, (front, dir))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_etcd_keeps_the_contract() {
    let Some(program) = &peers::program("etcd", "etcd-server") else { return };
    cases::all(|| async move {
        let dir = tempfile::tempdir().unwrap();
        let etcd = peers::Etcd::start(program, dir.path()).await;
        let client = etcd::Engine::connect(etcd::Config::new(vec![etcd.url.clone()])).await.unwrap();
        (client as Arc<dyn Store>, (etcd, dir))
    })
    .await;
}
