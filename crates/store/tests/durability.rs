//! What the disk must keep: through `kill -9`, and through damage that must not go unnoticed.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::embedded::{Config, Engine};
use store::{Error, Keys, Op, Put, Range, Revision, Store, Txn};

const DIR: &str = "TIPHYS_STORE_CRASH_DIR";
const KILLS: u64 = 50;

async fn put(store: &Engine, key: String, value: Vec<u8>) -> Result<Revision, Error> {
    let put = Op::Put(Put { key: key.into(), value: value.into(), ..Put::default() });
    Ok(store.txn(Txn { success: vec![put], ..Txn::default() }).await?.revision)
}

/// Not a test by itself: the process that is killed. Says each acknowledged write on its output.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Engine::open(dir, Config::default()).await.unwrap();
    let writer = |writer: usize| {
        let store: Arc<Engine> = store.clone();
        async move {
            for n in 0.. {
                let key = format!("/{}/{writer}/{n}", std::process::id());
                let revision = put(&store, key.clone(), vec![b'v'; 300]).await.unwrap();
                println!("acked {key} {revision}");
            }
        }
    };
    futures::future::join_all((0..16).map(|n| tokio::spawn(writer(n)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_killed() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked: Vec<(String, i64)> = Vec::new();
    for round in 0..KILLS {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--nocapture"])
            .env(DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
        // Killed after so many acknowledgements; what it still managed to say is read to the end.
        let until = 1 + rand::random_range(0..200 + round);
        let mut said = 0;
        for line in lines {
            if let Some((_, write)) = line.split_once("acked ")
                && let Some((key, revision)) = write.split_once(' ')
                && let Ok(revision) = revision.parse()
            {
                acked.push((key.to_owned(), revision));
                said += 1;
                if said == until {
                    victim.kill().unwrap();
                }
            }
        }
        victim.wait().unwrap();
        assert!(said >= until, "the victim ended before it was killed");
    }
    let store = Engine::open(dir.path(), Config::default()).await.unwrap();
    let found = store.range(Range::of(Keys::all())).await.unwrap();
    assert!(acked.len() > KILLS as usize);
    for (key, revision) in &acked {
        let at = found.kvs.binary_search_by(|kv| kv.key[..].cmp(key.as_bytes()));
        let kv =
            &found.kvs[at.unwrap_or_else(|_| panic!("{key} was acknowledged at {revision} and is lost"))];
        assert_eq!((kv.mod_revision.0, kv.value.len()), (*revision, 300), "{key}");
    }
    let mut revisions: Vec<_> = found.kvs.iter().map(|kv| kv.mod_revision.0).collect();
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(2..=found.revision.0), "one revision for each write, none missing");
    store.close().await;
}

async fn filled(dir: &Path) {
    let store = Engine::open(dir, Config::default()).await.unwrap();
    for n in 0..100 {
        put(&store, format!("/{n}"), vec![b'v'; 300]).await.unwrap();
    }
    store.close().await;
}

fn journal(dir: &Path) -> std::path::PathBuf {
    let entries = std::fs::read_dir(dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().unwrap()
}

async fn refused(dir: &Path) -> String {
    match Engine::open(dir, Config::default()).await {
        Err(error @ Error::Damaged { .. }) => error.to_string(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("a damaged store was opened"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_tail_is_refused_with_its_repair() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let journal = journal(dir.path());
    let content = std::fs::read(&journal).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap();
    std::fs::write(&journal, &content[..end - 50]).unwrap();
    let message = refused(dir.path()).await;
    assert!(message.contains("its log ends at revision 100, but 101 was acknowledged"), "{message}");
    assert!(message.contains("removing"), "{message}");
    std::fs::remove_file(dir.path().join("acknowledged")).unwrap();
    let store = Engine::open(dir.path(), Config::default()).await.unwrap();
    assert_eq!(store.status().await.unwrap().revision, Revision(100));
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_middle_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path()).await;
    let journal = journal(dir.path());
    let mut content = std::fs::read(&journal).unwrap();
    let end = content.iter().rposition(|byte| *byte != 0).unwrap();
    content[end / 2] ^= 0x10;
    std::fs::write(&journal, content).unwrap();
    let message = refused(dir.path()).await;
    assert!(message.contains("restore a snapshot"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), Config::default()).await.unwrap();
    let second = Engine::open(dir.path(), Config::default()).await;
    assert!(matches!(second, Err(Error::InUse { .. })));
    store.close().await;
    Engine::open(dir.path(), Config::default()).await.unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_and_leases_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = Engine::open(dir.path(), Config::default()).await.unwrap();
    let (lease, _) = store.lease_grant(store::LeaseId(9), 500).await.unwrap();
    for n in 0..50 {
        let value = vec![n; 10];
        let leased = Op::Put(Put { key: "/a".into(), value: value.into(), lease, ..Put::default() });
        store.txn(Txn { success: vec![leased], ..Txn::default() }).await.unwrap();
    }
    store.compact(Revision(40)).await.unwrap();
    store.close().await;
    let store = Engine::open(dir.path(), Config::default()).await.unwrap();
    let read = async |revision| {
        let range = Range { revision: Some(Revision(revision)), ..Range::of(Keys::One("/a".into())) };
        store.range(range).await.map(|answer| answer.kvs[0].value[0])
    };
    assert_eq!(read(45).await.unwrap(), 43);
    assert!(matches!(read(39).await.unwrap_err(), Error::Compacted { .. }));
    let info = store.lease_time_to_live(lease, true).await.unwrap();
    assert_eq!((info.granted_seconds, info.keys.len()), (500, 1));
    assert!(info.left_seconds > 490);
    store.close().await;
}
