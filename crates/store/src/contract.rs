//! The contract that every engine keeps: etcd v3's data model.
//!
//! Worked example. Three writes to an empty store:
//!
//! | write            | revision | create | mod | version |
//! |------------------|----------|--------|-----|---------|
//! | put `/a` = `x`   | 2        | 2      | 2   | 1       |
//! | put `/a` = `y`   | 3        | 2      | 3   | 2       |
//! | delete `/a`      | 4        | –      | –   | –       |
//!
//! A range of `/a` at revision 2 answers `x`, at 3 answers `y`, at 4 nothing. After `compact(3)` a
//! range at 2 answers [`Error::Compacted`]; a watch from revision 3 still sees `y` and the delete.

use std::fmt;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

/// A point in the store's history. An empty store stands at 1; each transaction that writes adds 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lease's identity; 0 means "no lease" in a put and "choose one" in a grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key with the value it had at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    /// Revision of the put that made the key.
    pub create_revision: Revision,
    /// Revision of the last put.
    pub mod_revision: Revision,
    /// Puts since the key was made; 1 for the first.
    pub version: i64,
    pub lease: LeaseId,
}

/// Which keys an operation speaks of: `[start, end)` in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    One(Bytes),
    /// Half-open.
    Range(Bytes, Bytes),
    /// Every key at or after this one.
    From(Bytes),
}

impl Keys {
    /// Of these keys those behind `key`.
    pub fn after(&self, key: &[u8]) -> Keys {
        let next: Bytes = [key, b"\0"].concat().into();
        match self {
            Keys::Range(_, end) => Keys::Range(next, end.clone()),
            Keys::From(_) => Keys::From(next),
            Keys::One(one) if one[..] > *key => self.clone(),
            Keys::One(_) => Keys::Range(next.clone(), next),
        }
    }

    /// All keys that begin with `prefix`; every key for an empty one.
    pub fn prefix(prefix: impl Into<Bytes>) -> Keys {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Keys::Range(start, end.into());
            }
        }
        Keys::From(start)
    }

    /// Every key there is.
    pub fn all() -> Keys {
        Keys::From(Bytes::new())
    }

    /// Whether `key` is one of them.
    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Keys::One(one) => one == key,
            Keys::Range(start, end) => &start[..] <= key && key < &end[..],
            Keys::From(start) => &start[..] <= key,
        }
    }

    /// The same for an ordered map.
    pub(crate) fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        match self {
            Keys::One(key) => (Bound::Included(&key[..]), Bound::Included(&key[..])),
            Keys::Range(start, end) => {
                // An end before the start is an empty range, where `BTreeMap::range` would panic.
                let end = if end > start { end } else { start };
                (Bound::Included(&start[..]), Bound::Excluded(&end[..]))
            }
            Keys::From(start) => (Bound::Included(&start[..]), Bound::Unbounded),
        }
    }

    /// The least key that can be in the range.
    pub fn start(&self) -> &Bytes {
        match self {
            Keys::One(start) | Keys::Range(start, _) | Keys::From(start) => start,
        }
    }
}

/// What to read.
#[derive(Clone, Debug)]
pub struct Range {
    pub keys: Keys,
    /// At most so many keys; 0 is no bound. `count` in the answer is of all.
    pub limit: usize,
    /// The revision to read at; `None` for the newest.
    pub revision: Option<Revision>,
    /// Leave values empty.
    pub keys_only: bool,
    /// Answer `count` alone.
    pub count_only: bool,
}

impl Range {
    /// Everything under `keys`, now.
    pub fn of(keys: Keys) -> Range {
        Range { keys, limit: 0, revision: None, keys_only: false, count_only: false }
    }
}

/// What a read found, in key order.
#[derive(Clone, Debug, Default)]
pub struct RangeAnswer {
    /// The store's revision when it was read (not the revision asked for).
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// Whether `limit` cut the answer.
    pub more: bool,
    /// Keys in the range, whatever `limit` is.
    pub count: usize,
}

/// A condition of a transaction on one key. An absent key has version 0 and revisions 0.
#[derive(Clone, Debug)]
pub struct Compare {
    /// Where this is more than one key, the condition must hold for each that is there; where none is,
    /// for an absent key (and a condition on the value fails).
    pub keys: Keys,
    pub target: Target,
    pub op: Ordering,
}

impl Compare {
    /// Holds while `key` was last written at `revision`; at [`Revision`] 0, while it is absent.
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Compare {
        Compare { keys: Keys::One(key.into()), target: Target::ModRevision(revision), op: Ordering::Equal }
    }
}

/// What is compared, with the value to compare it to.
#[derive(Clone, Debug)]
pub enum Target {
    Version(i64),
    CreateRevision(Revision),
    ModRevision(Revision),
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Range(Range),
    Put(Put),
    Delete { keys: Keys, prev: bool },
    Txn(Box<Txn>),
}

#[derive(Clone, Debug, Default)]
pub struct Put {
    pub key: Bytes,
    pub value: Bytes,
    pub lease: LeaseId,
    /// Answer the value before.
    pub prev: bool,
    /// Keep the value the key has (it must exist); `value` is not looked at.
    pub ignore_value: bool,
    /// Keep the lease the key has (it must exist).
    pub ignore_lease: bool,
}

/// `if all compares hold then success else failure`, at one revision. A key is put at most once.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub compare: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

#[derive(Clone, Debug)]
pub struct TxnAnswer {
    /// The revision after the transaction; its own when it wrote.
    pub revision: Revision,
    pub succeeded: bool,
    pub answers: Vec<OpAnswer>,
}

#[derive(Clone, Debug)]
pub enum OpAnswer {
    Range(RangeAnswer),
    Put { prev: Option<KeyValue> },
    Delete { deleted: usize, prev: Vec<KeyValue> },
    Txn(TxnAnswer),
}

/// What to follow.
#[derive(Clone, Debug)]
pub struct Watch {
    pub keys: Keys,
    /// The first revision to tell, which may lie ahead; `None` for everything after now.
    pub from: Option<Revision>,
    /// Carry the value before in each event.
    pub prev: bool,
    /// Tell the revision now and then though nothing happened, and whenever [`Store::progress`] asks.
    pub progress: bool,
}

impl Watch {
    /// Everything under `keys` after now, or from a revision on.
    pub fn of(keys: Keys, from: Option<Revision>) -> Watch {
        Watch { keys, from, prev: false, progress: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    /// `kv` holds the key and, as `mod_revision`, the revision of the delete.
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    /// Where the watch asked for it, the key was there before, and that value is not compacted.
    pub prev: Option<KeyValue>,
}

/// Events of whole revisions, in order; no events at all in a progress note.
#[derive(Clone, Debug)]
pub struct WatchBatch {
    /// Everything up to here has been told.
    pub revision: Revision,
    pub events: Vec<Event>,
}

/// The store of one cluster. Cheap to share; every method may be called from many tasks at once.
///
/// An answered write is durable: it survives `kill -9` and a power cut.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads; never waits for the disk.
    async fn range(&self, range: Range) -> Result<RangeAnswer, Error>;
    /// Writes, guarded. Answers once the write is durable.
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error>;
    /// Follows keys. The stream ends after an error: [`Error::Compacted`] where `from` is gone,
    /// [`Error::SlowWatcher`] where the reader fell behind its bound.
    ///
    /// Everything after the revision the store has when this returns is told.
    async fn watch(&self, watch: Watch) -> Result<Watching, Error>;
    /// Makes every watch with `progress` tell, soon, a revision no older than the store's is now.
    async fn progress(&self) -> Result<(), Error>;
    /// Forgets history before `revision`; values that are current at it stay. What is compacted
    /// already answers [`Error::Compacted`], what lies ahead [`Error::FutureRevision`].
    async fn compact(&self, revision: Revision) -> Result<(), Error>;
    /// `id` 0 chooses one; answers the id and the granted time to live in seconds.
    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), Error>;
    /// Ends a lease and deletes its keys in one revision.
    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error>;
    /// Renews; answers the time to live in seconds.
    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error>;
    /// What is left of a lease, and its keys where asked for.
    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, Error>;
    async fn leases(&self) -> Result<Vec<LeaseId>, Error>;
    async fn status(&self) -> Result<Status, Error>;
    /// A backup as of now, in the engine's own format, as consecutive pieces.
    async fn snapshot(&self) -> Result<Snapshot, Error>;
    /// Gives unused space back to the file system.
    async fn defragment(&self) -> Result<(), Error>;
}

/// What a watch tells, in order of revision.
pub type Watching = BoxStream<'static, Result<WatchBatch, Error>>;

/// A backup on its way.
pub struct Snapshot {
    /// Bytes of all pieces together.
    pub size: u64,
    pub pieces: BoxStream<'static, Result<Bytes, Error>>,
}

/// What is known of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    pub granted_seconds: i64,
    pub left_seconds: i64,
    pub keys: Vec<Bytes>,
}

/// How the store stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// What tells this store's history from any other; kept for life, and never 0.
    pub cluster: u64,
    pub revision: Revision,
    /// The oldest revision that can be read at; 0 where nothing was compacted or the engine cannot tell.
    pub compacted: Revision,
    /// Bytes on disk.
    pub size: u64,
    /// Bytes of them in use.
    pub size_in_use: u64,
}

/// What can go wrong; the words are etcd's where it has some.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `oldest` is 0 where the engine does not tell it.
    #[error("required revision {asked} has been compacted (oldest is {oldest})")]
    Compacted { asked: Revision, oldest: Revision },
    #[error("required revision {asked} is a future revision (current is {current})")]
    FutureRevision { asked: Revision, current: Revision },
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("lease time to live of {seconds} s is too large")]
    LeaseTooLong { seconds: i64 },
    #[error("key not found")]
    KeyNotFound,
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    #[error("key is not provided")]
    EmptyKey,
    #[error("request is too large ({bytes} bytes, at most {limit})")]
    TooLarge { bytes: usize, limit: usize },
    #[error("watcher fell behind by more than {events} events")]
    SlowWatcher { events: usize },
    #[error("no space left for the store at {path}")]
    NoSpace { path: std::path::PathBuf },
    #[error("the store at {path} is damaged: {reason}; {repair}")]
    Damaged { path: std::path::PathBuf, reason: String, repair: String },
    #[error("the store at {path} is in use by another process")]
    InUse { path: std::path::PathBuf },
    #[error("the store at {path} cannot be used: {source}")]
    Io { path: std::path::PathBuf, source: std::io::Error },
    #[error("this store cannot do that: {what}")]
    Unsupported { what: &'static str },
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}
