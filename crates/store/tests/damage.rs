//! Damage to the files: cut short or with bits turned, a store opens whole or is refused with its repair.
//!
//! Only where the operator has given up what was acknowledged (removing the file of that name, which a
//! refusal tells) does a cut store open, and then with everything that was synced before the cut.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::{Path, PathBuf};

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};
use store::embedded::{Config, Engine};
use store::{Error, Keys, Op, Put, Range, Revision, Store, Txn};

const KEYS: i64 = 40;

fn config() -> Config {
    Config { retain: None, retain_events: usize::MAX, retain_bytes: usize::MAX, ..Config::default() }
}

/// A directory in memory: what is read after damage does not depend on a disk.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

fn key(revision: i64) -> String {
    format!("/key/{}", revision % KEYS)
}

/// The value that the write of a revision had.
fn value(revision: i64) -> Vec<u8> {
    let mut value = vec![0; 20 + (revision as usize * 7919) % 3000];
    StdRng::seed_from_u64(revision as u64).fill_bytes(&mut value);
    value
}

async fn write(store: &Engine, revision: i64) {
    let put = Op::Put(Put { key: key(revision).into(), value: value(revision).into(), ..Put::default() });
    let answer = store.txn(Txn { success: vec![put], ..Txn::default() }).await.unwrap();
    assert_eq!(answer.revision, Revision(revision));
}

/// Every revision up to the newest reads as it was written; answers the newest.
async fn read_through(store: &Engine) -> i64 {
    let newest = store.status().await.unwrap().revision.0;
    for revision in 2..=newest {
        let at = Range { revision: Some(Revision(revision)), ..Range::of(Keys::One(key(revision).into())) };
        let kv = store.range(at).await.unwrap().kvs.pop().unwrap();
        assert_eq!(kv.mod_revision, Revision(revision));
        assert!(kv.value == value(revision), "revision {revision} has another value");
    }
    newest
}

fn journal(dir: &Path) -> PathBuf {
    let files = files(dir).into_iter();
    files.filter(|path| path.extension().is_some_and(|end| end == "jnl")).max().unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        match entry.metadata().unwrap() {
            meta if meta.is_dir() => files.extend(self::files(&entry.path())),
            _ => files.push(entry.path()),
        }
    }
    files.sort();
    files
}

/// Where the written part of a journal ends; the rest of its room is zeros.
fn end(journal: &Path) -> usize {
    fs::read(journal).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let place = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(&file, &place).unwrap();
    }
}

/// A store of so many revisions, closed, its journal without the room it has left; and where the journal
/// ended after each of them that was looked at.
async fn filled(dir: &Path, revisions: i64, look: bool) -> Vec<(i64, usize)> {
    let store = Engine::open(dir, config()).await.unwrap();
    let mut ends = Vec::new();
    for revision in 2..=revisions {
        write(&store, revision).await;
        if look && revision % 5 == 0 {
            ends.push((revision, end(&journal(dir))));
        }
    }
    store.close().await;
    drop(store);
    let journal = journal(dir);
    let end = end(&journal);
    fs::OpenOptions::new().write(true).open(&journal).unwrap().set_len(end as u64).unwrap();
    ends
}

/// What a refusal must tell: where, what is wrong, and what to do.
fn assert_plain(error: &Error, dir: &Path) {
    let Error::Damaged { path, reason, repair } = error else { panic!("refused as {error:?}") };
    assert_eq!(path, dir);
    assert!(!reason.is_empty() && repair.contains("restore a snapshot"), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}

/// Runs `spoil` on a copy of `whole` for each of `rounds`, seeded, and `check` on what opening it gives.
async fn each<C>(
    whole: &Path,
    rounds: u64,
    mut spoil: impl FnMut(&Path, &mut StdRng) -> C,
    mut check: impl AsyncFnMut(&Path, C, Result<std::sync::Arc<Engine>, Error>),
) {
    for seed in 0..rounds {
        let dir = in_memory();
        copy(whole, dir.path());
        let done = spoil(dir.path(), &mut StdRng::seed_from_u64(seed));
        let opened = Engine::open(dir.path(), config()).await;
        check(dir.path(), done, opened).await;
    }
}

fn cut(dir: &Path, random: &mut StdRng) -> usize {
    let journal = journal(dir);
    let length = fs::metadata(&journal).unwrap().len() as usize;
    let at = random.random_range(0..length);
    fs::OpenOptions::new().write(true).open(journal).unwrap().set_len(at as u64).unwrap();
    at
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_log_is_refused_or_keeps_what_was_synced_before() {
    let whole = in_memory();
    let ends = filled(whole.path(), 120, true).await;
    each(whole.path(), 40, cut, async |dir, _, opened| match opened {
        Err(error) => {
            assert_plain(&error, dir);
            assert!(error.to_string().contains("acknowledged"), "{error}");
        }
        Ok(_) => panic!("what was acknowledged is gone and nobody says so"),
    })
    .await;
    let give_up = |dir: &Path, random: &mut StdRng| {
        fs::remove_file(dir.join("acknowledged")).unwrap();
        cut(dir, random)
    };
    each(whole.path(), 40, give_up, async |dir, at, opened| {
        let store = opened.unwrap_or_else(|error| panic!("cut at {at}: {error}"));
        let newest = read_through(&store).await;
        let synced = ends.iter().rfind(|(_, end)| *end <= at).map_or(1, |(revision, _)| *revision);
        assert!(newest >= synced, "cut at {at}: {newest} is the newest, but {synced} was synced before");
        // It goes on from there.
        write(&store, newest + 1).await;
        store.close().await;
        drop(store);
        let store = Engine::open(dir, config()).await.unwrap();
        assert_eq!(read_through(&store).await, newest + 1);
        store.close().await;
    })
    .await;
}

/// Turns one bit in a file that is chosen by chance, a large one as likely as a small one.
fn flip(dir: &Path, random: &mut StdRng) -> (PathBuf, usize) {
    let files = files(dir);
    loop {
        let file = &files[random.random_range(0..files.len())];
        let mut bytes = fs::read(file).unwrap();
        if !bytes.is_empty() {
            let at = random.random_range(0..bytes.len());
            bytes[at] ^= 1 << random.random_range(0..8);
            fs::write(file, bytes).unwrap();
            return (file.clone(), at);
        }
    }
}

async fn flips_are_refused_or_harmless(revisions: i64, rounds: u64) {
    let whole = in_memory();
    filled(whole.path(), revisions, false).await;
    each(whole.path(), rounds, flip, async |dir, (file, at), opened| match opened {
        Err(error @ Error::Damaged { .. }) => assert_plain(&error, dir),
        Err(error) => panic!("byte {at} of {}: {error}", file.display()),
        Ok(store) => {
            let newest = read_through(&store).await;
            assert_eq!(newest, revisions, "byte {at} of {}: something is gone", file.display());
            store.close().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turned_bit_in_the_log_is_refused_or_harmless() {
    flips_are_refused_or_harmless(120, 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turned_bit_in_the_tables_is_refused_or_harmless() {
    // Enough for tables beside the log.
    flips_are_refused_or_harmless(4200, 60).await;
}
