//! Which embedded database carries the log: redb or fjall?
//!
//! N writers each put 1 KiB and wait until it is durable; one committer takes what has gathered, writes
//! it as one batch and syncs once, as the engine does. Then half of the rows are deleted (a compaction),
//! and the store is closed, opened and read through.
//!
//! `cargo bench -p store --bench backend`

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

const VALUE: usize = 1024;
const RUN: Duration = Duration::from_secs(3);

trait Backend: Sized + Send + 'static {
    const NAME: &'static str;
    fn open(dir: &Path) -> Self;
    fn append(&mut self, rows: &[(u64, Vec<u8>)]);
    fn delete(&mut self, rows: std::ops::Range<u64>);
    fn scan(&mut self) -> usize;
}

struct Redb(redb::Database);
const ROWS: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("rows");

impl Backend for Redb {
    const NAME: &'static str = "redb";
    fn open(dir: &Path) -> Self {
        Redb(redb::Database::builder().set_cache_size(4 << 20).create(dir.join("redb")).unwrap())
    }
    fn append(&mut self, rows: &[(u64, Vec<u8>)]) {
        let txn = self.0.begin_write().unwrap();
        let mut table = txn.open_table(ROWS).unwrap();
        for (revision, row) in rows {
            table.insert(revision, &row[..]).unwrap();
        }
        drop(table);
        txn.commit().unwrap();
    }
    fn delete(&mut self, rows: std::ops::Range<u64>) {
        let txn = self.0.begin_write().unwrap();
        let mut table = txn.open_table(ROWS).unwrap();
        for revision in rows.step_by(2) {
            table.remove(revision).unwrap();
        }
        drop(table);
        txn.commit().unwrap();
    }
    fn scan(&mut self) -> usize {
        use redb::ReadableDatabase as _;
        let table = self.0.begin_read().unwrap().open_table(ROWS).unwrap();
        table.range(0..).unwrap().map(|row| row.unwrap().1.value().len()).sum()
    }
}

struct Fjall(fjall::Database, fjall::Keyspace);

impl Backend for Fjall {
    const NAME: &'static str = "fjall";
    fn open(dir: &Path) -> Self {
        let db =
            fjall::Database::builder(dir.join("fjall")).cache_size(4 << 20).worker_threads(1).open().unwrap();
        let options = || fjall::KeyspaceCreateOptions::default().max_memtable_size(8 << 20);
        let rows = db.keyspace("rows", options).unwrap();
        Fjall(db, rows)
    }
    fn append(&mut self, rows: &[(u64, Vec<u8>)]) {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        for (revision, row) in rows {
            batch.insert(&self.1, revision.to_be_bytes(), &row[..]);
        }
        batch.commit().unwrap();
    }
    fn delete(&mut self, rows: std::ops::Range<u64>) {
        let mut batch = self.0.batch().durability(Some(fjall::PersistMode::SyncData));
        for revision in rows.step_by(2) {
            batch.remove(&self.1, revision.to_be_bytes());
        }
        batch.commit().unwrap();
    }
    fn scan(&mut self) -> usize {
        self.1.iter().map(|row| row.value().unwrap().len()).sum()
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    let of = |entry: std::fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => size(&entry.path()),
        meta => meta.len(),
    };
    entries.map(of).sum()
}

fn commit<B: Backend>(mut backend: B, queue: &Receiver<SyncSender<()>>) -> (B, u64, u64) {
    let (mut revision, mut batches) = (0, 0);
    while let Ok(first) = queue.recv() {
        let waiting: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        let rows: Vec<_> = waiting
            .iter()
            .map(|_| {
                revision += 1;
                (revision, vec![b'x'; VALUE])
            })
            .collect();
        backend.append(&rows);
        batches += 1;
        waiting.into_iter().for_each(|writer| writer.send(()).unwrap());
    }
    (backend, revision, batches)
}

fn measure<B: Backend>(writers: usize) {
    let dir = tempfile::tempdir().unwrap();
    let (submit, queue) = sync_channel::<SyncSender<()>>(1024);
    let backend = B::open(dir.path());
    let committer = std::thread::spawn(move || commit(backend, &queue));
    let start = Instant::now();
    let threads: Vec<_> = (0..writers)
        .map(|_| {
            let submit = submit.clone();
            std::thread::spawn(move || {
                let (done, wait) = sync_channel(1);
                while start.elapsed() < RUN {
                    submit.send(done.clone()).unwrap();
                    wait.recv().unwrap();
                }
            })
        })
        .collect();
    drop(submit);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let (mut backend, puts, batches) = committer.join().unwrap();
    let took = start.elapsed().as_secs_f64();
    let (disk, memory) = (size(dir.path()), resident());

    let compaction = Instant::now();
    let mut at = 1;
    while at < puts {
        backend.delete(at..(at + 1000).min(puts));
        at += 1000;
    }
    let compaction = compaction.elapsed();
    drop(backend);
    let reopen = Instant::now();
    let bytes = B::open(dir.path()).scan();
    println!(
        "{:5} {writers:4} writers: {:7.0} puts/s, {:5.1} a batch, {:4} MB on disk for {:4} MB, {memory:4} MB \
         resident; delete half {:5} ms; open and read {:4} MB {:5} ms, then {:4} MB on disk",
        B::NAME,
        puts as f64 / took,
        puts as f64 / batches as f64,
        disk >> 20,
        (puts as usize * VALUE) >> 20,
        compaction.as_millis(),
        bytes >> 20,
        reopen.elapsed().as_millis(),
        size(dir.path()) >> 20,
    );
}

fn main() {
    for writers in [1, 64, 256] {
        measure::<Redb>(writers);
        measure::<Fjall>(writers);
    }
}
