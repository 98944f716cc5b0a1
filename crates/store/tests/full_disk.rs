//! A disk with no room left: writes are refused, nothing acknowledged is lost, and with room it goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use store::embedded::{Config, Engine};
use store::{Error, Keys, Op, Put, Range, Revision, Store, Txn};

const DISK_BYTES: usize = 24 << 20;
const BALLAST_BYTES: usize = 6 << 20;
const VALUE_BYTES: usize = 48 << 10;
const WRITERS: usize = 8;

/// A small file system of its own, until it is dropped. Needs root.
struct Disk(tempfile::TempDir);

impl Disk {
    fn mount() -> Disk {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={DISK_BYTES}");
        let (source, kind) = (Some("store-test"), Some("tmpfs"));
        mount(source, dir.path(), kind, MsFlags::empty(), Some(options.as_str())).expect("root may mount");
        Disk(dir)
    }

    fn store(&self) -> PathBuf {
        self.0.path().join("store")
    }

    fn ballast(&self) -> PathBuf {
        self.0.path().join("ballast")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// What was acknowledged: revisions by key.
type Acked = BTreeMap<String, Revision>;

async fn put(store: &Engine, key: &str, bytes: usize) -> Result<Revision, Error> {
    let value = key.as_bytes().iter().copied().cycle().take(bytes).collect::<Vec<_>>();
    let put = Op::Put(Put { key: key.to_owned().into(), value: value.into(), ..Put::default() });
    Ok(store.txn(Txn { success: vec![put], ..Txn::default() }).await?.revision)
}

/// Writes from several sides until each has been refused.
async fn fill(store: &Arc<Engine>, round: &str, acked: &mut Acked) {
    let writer = |writer: usize| {
        let (store, round) = (store.clone(), round.to_owned());
        async move {
            let mut acked = Acked::new();
            loop {
                let key = format!("/{round}/{writer}/{}", acked.len());
                match put(&store, &key, VALUE_BYTES).await {
                    Ok(revision) => acked.insert(key, revision),
                    Err(error) => return (acked, error),
                };
                assert!(acked.len() * VALUE_BYTES < DISK_BYTES, "the disk is never full");
            }
        }
    };
    for told in futures::future::join_all((0..WRITERS).map(|n| tokio::spawn(writer(n)))).await {
        let (more, error) = told.unwrap();
        assert!(matches!(error, Error::NoSpace { .. }), "{error}");
        assert!(error.to_string().starts_with("no space left for the store at /"), "{error}");
        acked.extend(more);
    }
}

/// The store holds what was acknowledged and nothing else.
async fn check(store: &Engine, acked: &Acked) {
    let found = store.range(Range::of(Keys::all())).await.unwrap();
    let keys: Vec<_> = found.kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect();
    let wanted: Vec<_> = acked.keys().collect();
    assert_eq!(keys, wanted, "keys");
    for kv in &found.kvs {
        let key = std::str::from_utf8(&kv.key).unwrap();
        assert_eq!(kv.mod_revision, acked[key], "{key}");
        let whole = kv.value.iter().copied().eq(kv.key.iter().copied().cycle().take(kv.value.len()));
        assert!(whole, "{key} has the value of another");
    }
    assert_eq!(found.revision.0, acked.len() as i64 + 1, "one revision for each write");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_keeps_and_goes_on_with_room() {
    let disk = Disk::mount();
    std::fs::write(disk.ballast(), vec![b'b'; BALLAST_BYTES]).unwrap();
    let store = Engine::open(disk.store(), Config::default()).await.unwrap();
    let mut acked = Acked::new();
    fill(&store, "first", &mut acked).await;
    assert!(acked.len() > 20, "{} writes went in", acked.len());
    check(&store, &acked).await;
    // What the refused writes had taken may hold a few more, and then it is full again.
    fill(&store, "again", &mut acked).await;
    check(&store, &acked).await;

    // With room it goes on by itself: the store was neither closed nor reopened.
    std::fs::remove_file(disk.ballast()).unwrap();
    acked.insert("/after".into(), put(&store, "/after", VALUE_BYTES).await.unwrap());
    check(&store, &acked).await;

    fill(&store, "second", &mut acked).await;
    check(&store, &acked).await;
    store.close().await;
    drop(store);
    // A restart on the full disk finds it all.
    let store = Engine::open(disk.store(), Config::default()).await.unwrap();
    check(&store, &acked).await;
    store.close().await;
}
