//! The log on disk: a [fjall] database, and beside it the newest acknowledged revision.
//!
//! `benches/backend.rs` chose fjall over redb: four times the puts of a single writer and a third more
//! at 64, deletions in a seventh of the time.
//!
//! fjall cuts its journal at the first thing in it that is not whole. That is right for a write that was
//! under way when the power went, and wrong for one that was acknowledged and then damaged. The file
//! `acknowledged` tells them apart: it is written after each sync and needs none itself, for an older
//! content is only less strict. Where it is ahead of the log, the log has lost something.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};

use super::log::{Batch, Log, OnRow, Opened};
use super::row::{RowId, Summary};
use crate::contract::{Error, LeaseId, Revision};

/// Memory for blocks that are read; only opening and rewriting read.
const CACHE_BYTES: u64 = 1 << 20;
/// What is gathered in memory before it becomes a table file.
const MEMTABLE_BYTES: u64 = 4 << 20;
const JOURNAL_BYTES: u64 = 64 << 20;
const SUMMARY: &[u8] = b"summary";
const CLUSTER: &[u8] = b"cluster";
const LEASE: &[u8] = b"lease/";

pub(crate) struct Disk {
    dir: PathBuf,
    /// `None` while it is being reopened.
    open: Option<Open>,
    witness: File,
}

struct Open {
    db: Database,
    rows: Keyspace,
    meta: Keyspace,
}

impl Disk {
    /// Opens or makes the database in `dir`, and the directory itself, readable by its owner alone.
    pub(crate) fn open(dir: &Path) -> Result<Disk, Error> {
        let io = |source| io_error(dir, source);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let open = Some(open(dir)?);
        let witness = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("acknowledged"))
            .map_err(io)?;
        let disk = Disk { dir: dir.to_owned(), open, witness };
        disk.check_tail()?;
        Ok(disk)
    }

    fn parts(&self) -> Result<&Open, Error> {
        self.open.as_ref().ok_or_else(|| Error::Unavailable("its files could not be reopened".into()))
    }

    fn summary(&self) -> Result<Summary, Error> {
        let stored = self.parts()?.meta.get(SUMMARY).map_err(|error| self.fault(error))?;
        match stored {
            None => Ok(Summary::EMPTY),
            Some(stored) => Summary::from_bytes(&stored)
                .ok_or_else(|| damaged(&self.dir, "its summary row is not what was written")),
        }
    }

    /// The store's identity, which the first to ask makes.
    fn cluster(&self) -> Result<u64, Error> {
        let open = self.parts()?;
        if let Some(stored) = open.meta.get(CLUSTER).map_err(|error| self.fault(error))? {
            let stored = stored[..].try_into().map(u64::from_le_bytes);
            return stored.map_err(|_| damaged(&self.dir, "its identity is unreadable"));
        }
        let cluster: u64 = rand::random_range(1..=u64::MAX);
        let mut write = open.db.batch().durability(Some(PersistMode::SyncData));
        write.insert(&open.meta, CLUSTER, &cluster.to_le_bytes()[..]);
        write.commit().map_err(|error| self.fault(error))?;
        Ok(cluster)
    }

    fn check_tail(&self) -> Result<(), Error> {
        let end = self.summary()?.revision;
        match self.acknowledged() {
            Some(acknowledged) if acknowledged > end => Err(Error::Damaged {
                path: self.dir.clone(),
                reason: format!("its log ends at revision {end}, but {acknowledged} was acknowledged"),
                repair: format!(
                    "restore a snapshot, or accept the loss of revisions {} to {acknowledged} by removing {}",
                    end.0 + 1,
                    self.dir.join("acknowledged").display(),
                ),
            }),
            _ => Ok(()),
        }
    }

    fn write(&self, batch: &Batch) -> Result<(), fjall::Error> {
        let Some(open) = &self.open else { return Err(fjall::Error::Poisoned) };
        let mut write = open.db.batch().durability(Some(PersistMode::SyncData));
        for (id, row) in &batch.add {
            write.insert(&open.rows, &id.to_bytes()[..], &row[..]);
        }
        for row in &batch.remove {
            // Each row is written once, so the marker may vanish together with it.
            write.remove_weak(&open.rows, &row.id.to_bytes()[..]);
        }
        for (id, seconds) in &batch.leases {
            let key = [LEASE, &id.0.to_be_bytes()[..]].concat();
            match seconds {
                Some(seconds) => write.insert(&open.meta, key, &seconds.to_le_bytes()[..]),
                None => write.remove(&open.meta, key),
            }
        }
        write.insert(&open.meta, SUMMARY, &batch.summary.to_bytes()[..]);
        write.commit()
    }

    fn reopen(&mut self) -> Result<(), Error> {
        drop(self.open.take());
        self.open = Some(open(&self.dir)?);
        Ok(())
    }

    fn fault(&self, error: fjall::Error) -> Error {
        fault(&self.dir, error)
    }
}

fn open(dir: &Path) -> Result<Open, Error> {
    let fault = |error| fault(dir, error);
    let db = Database::builder(dir.join("log"))
        .cache_size(CACHE_BYTES)
        .worker_threads(1)
        .max_journaling_size(JOURNAL_BYTES)
        .journal_compression(fjall::CompressionType::None)
        .open()
        .map_err(fault)?;
    let options = || {
        // Nothing is looked up by key: filters would be memory for nobody.
        KeyspaceCreateOptions::default()
            .max_memtable_size(MEMTABLE_BYTES)
            .filter_policy(fjall::config::FilterPolicy::disabled())
    };
    let rows = db.keyspace("rows", options).map_err(fault)?;
    let meta = db.keyspace("meta", options).map_err(fault)?;
    Ok(Open { db, rows, meta })
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            Error::NoSpace { path: path.to_owned() }
        }
        _ => Error::Io { path: path.to_owned(), source },
    }
}

pub(crate) fn damaged(dir: &Path, reason: impl Into<String>) -> Error {
    Error::Damaged {
        path: dir.to_owned(),
        reason: reason.into(),
        repair: "move the directory away and restore a snapshot into a new one".into(),
    }
}

fn fault(dir: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
            match source.kind() {
                // One of its files does not have what another says it has.
                ErrorKind::NotFound | ErrorKind::UnexpectedEof | ErrorKind::InvalidData => {
                    damaged(dir, format!("its log does not fit together: {source}"))
                }
                _ => io_error(dir, source),
            }
        }
        fjall::Error::Locked => Error::InUse { path: dir.to_owned() },
        other => damaged(dir, other.to_string()),
    }
}

impl Log for Disk {
    fn opened(&mut self) -> Result<Opened, Error> {
        let mut leases = Vec::new();
        for found in self.parts()?.meta.prefix(LEASE) {
            let (key, value) = found.into_inner().map_err(|error| self.fault(error))?;
            let id = key.get(LEASE.len()..).and_then(|id| id.try_into().ok()).map(i64::from_be_bytes);
            let seconds = value[..].try_into().ok().map(i64::from_le_bytes);
            let lease = id.zip(seconds).ok_or_else(|| damaged(&self.dir, "a lease is unreadable"))?;
            leases.push((LeaseId(lease.0), lease.1));
        }
        Ok(Opened { cluster: self.cluster()?, summary: self.summary()?, leases })
    }

    fn rows(&mut self, row: &mut OnRow<'_>) -> Result<(), Error> {
        for found in self.parts()?.rows.iter() {
            let (key, value) = found.into_inner().map_err(|error| self.fault(error))?;
            let id = RowId::from_bytes(&key).ok_or_else(|| damaged(&self.dir, "a row has no revision"))?;
            row(id, &value)?;
        }
        Ok(())
    }

    fn append(&mut self, batch: &Batch) -> Result<(), Error> {
        let mut written = self.write(batch);
        if matches!(written, Err(fjall::Error::Poisoned)) {
            // A background flush failed earlier; nothing of this batch was written.
            self.reopen()?;
            written = self.write(batch);
        }
        written.map_err(|error| self.fault(error))?;
        let revision = batch.summary.revision.0.to_le_bytes();
        let crc = crc32fast::hash(&revision).to_le_bytes();
        let mut content = [0; 12];
        content[..8].copy_from_slice(&revision);
        content[8..].copy_from_slice(&crc);
        if let Err(error) = self.witness.write_all_at(&content, 0) {
            // The batch is durable, and an old witness is a less strict one.
            tracing::warn!(%error, dir = %self.dir.display(), "cannot note the acknowledged revision");
        }
        Ok(())
    }

    fn recover(&mut self, summary: &Summary) -> Result<(), Error> {
        self.reopen()?;
        if self.summary()? == *summary {
            return Ok(());
        }
        // The batch that failed did land. Nobody was told so: take it back.
        let open = self.parts()?;
        let mut write = open.db.batch().durability(Some(PersistMode::SyncData));
        let after = RowId { revision: Revision(summary.revision.0 + 1), sub: 0 };
        for found in open.rows.range(&after.to_bytes()[..]..) {
            write.remove_weak(&open.rows, found.key().map_err(|error| self.fault(error))?);
        }
        write.insert(&open.meta, SUMMARY, &summary.to_bytes()[..]);
        write.commit().map_err(|error| self.fault(error))
    }

    fn defragment(&mut self) -> Result<(), Error> {
        self.parts()?.rows.major_compact().map_err(|error| self.fault(error))
    }

    fn size(&self) -> u64 {
        let journal = |open: &Open| open.db.disk_space().unwrap_or_default();
        self.open.as_ref().map_or(0, journal)
    }

    fn acknowledged(&self) -> Option<Revision> {
        let mut content = [0; 12];
        self.witness.read_exact_at(&mut content, 0).ok()?;
        let (revision, crc) = content.split_first_chunk::<8>()?;
        (crc == crc32fast::hash(revision).to_le_bytes()).then(|| Revision(i64::from_le_bytes(*revision)))
    }
}
