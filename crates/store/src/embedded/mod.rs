//! The durable engine: everything in memory to read, everything on disk to keep.
//!
//! | file | what |
//! |---|---|
//! | `committer` | the one writer and its batches |
//! | `state`, `index`, `history` | what readers see |
//! | `hub` | watches |
//! | `timers` | leases that end, history that ages, progress that is told |
//! | `gate`, `slice` | how writers wake the committer, and it them; how soon it then runs |
//! | `log`, `disk`, `row` | the seam to the disk, the database behind it, what a row is |
//! | `snapshot` | backups, and stores made from them |
//!
//! Invariants: a revision is visible only when it is on disk; the index, the history and every watch share
//! the same bytes; nobody but the committer changes the state, under a lock that is never held while
//! the disk is written.

mod committer;
mod config;
mod disk;
mod gate;
mod history;
mod hub;
mod index;
mod log;
mod metrics;
mod row;
mod slice;
mod snapshot;
mod state;
mod timers;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt as _;
use parking_lot::RwLock;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

pub use self::config::Config;
pub use self::metrics::{Histogram, Metrics};
pub use self::snapshot::restore;

use self::committer::{Command, Committer};
use self::disk::Disk;
use self::gate::{Gate, Herald};
use self::hub::Watcher;
use self::log::Log;
use self::state::{Loaded, Shared, State};
use crate::contract::{
    Error, LeaseId, LeaseInfo, Range, RangeAnswer, Revision, Snapshot, Status, Store, Txn, TxnAnswer, Watch,
    Watching,
};
use crate::txn;

/// A store in a directory. Dropping it ends it without waiting; [`Engine::close`] waits.
pub struct Engine {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Engine {
    /// Opens the store in `dir`, or makes one. Reads everything, off the runtime's threads.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Damaged`] with the repair, [`Error::NoSpace`], [`Error::Io`].
    pub async fn open(dir: impl AsRef<Path>, config: Config) -> Result<Arc<Engine>, Error> {
        let dir = dir.as_ref().to_owned();
        let damaged = {
            let dir = dir.clone();
            move |reason: String| disk::damaged(&dir, reason)
        };
        let opening = tokio::task::spawn_blocking(move || {
            let mut log = Disk::open(&dir)?;
            let loaded = State::load(&mut log, &damaged)?;
            Ok((log, loaded))
        });
        let (log, loaded) =
            opening.await.map_err(|error| Error::Unavailable(format!("opening it failed: {error}")))??;
        Engine::start(log, loaded, config)
    }

    fn start(log: impl Log, loaded: Loaded, config: Config) -> Result<Arc<Engine>, Error> {
        let (queue, commands) = mpsc::channel(config.queue);
        let Loaded { state, summary, garbage } = loaded;
        let shared = Arc::new(Shared {
            state: RwLock::new(state),
            config,
            metrics: Metrics::default(),
            lease_changed: tokio::sync::Notify::new(),
            gate: Gate::default(),
        });
        let (herald, heralding) = Herald::new();
        let committer = Committer {
            shared: shared.clone(),
            log,
            queue: commands,
            summary,
            garbage,
            failed: false,
            broken: None,
            left: VecDeque::new(),
            expected: 0,
            sync_time: Duration::ZERO,
            herald,
        };
        // It ends when the last sender of its queue goes, which the engine and its timers own.
        std::thread::Builder::new()
            .name("store-committer".into())
            .spawn(move || committer.run())
            .map_err(|error| Error::Unavailable(format!("its writer could not start: {error}")))?;
        let mut tasks = timers::start(&shared, &queue);
        tasks.push(AbortOnDropHandle::new(tokio::spawn(heralding)));
        Ok(Arc::new(Engine { shared, queue, _tasks: tasks }))
    }

    /// Ends the store: writes that wait are answered, watches are told, the files are closed.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.queue.send(Command::Close(reply)).await.is_ok() {
            drop(closed.await);
        }
        let watchers = {
            let mut state = self.shared.state.write();
            state.closed = true;
            state.hub.all()
        };
        watchers.iter().for_each(|slot| slot.wake());
    }

    /// What it has counted since it was opened.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let closed = || Error::Unavailable("it is shut down".into());
        let (reply, answer) = oneshot::channel();
        self.queue.send(command(reply)).await.map_err(|_| closed())?;
        self.shared.gate.queued(&self.queue);
        answer.await.map_err(|_| closed())?
    }
}

#[async_trait]
impl Store for Engine {
    async fn range(&self, range: Range) -> Result<RangeAnswer, Error> {
        txn::check_keys(&range.keys)?;
        let state = self.shared.state.read();
        txn::readable(&range, state.compacted, state.durable)?;
        Ok(state.index.range(&range, range.revision.unwrap_or(state.durable), state.durable))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        txn::check(&txn, self.shared.config.request_limit)?;
        self.ask(|reply| Command::Txn(txn, reply)).await
    }

    async fn watch(&self, watch: Watch) -> Result<Watching, Error> {
        txn::check_keys(&watch.keys)?;
        Ok(Watcher::open(self.shared.clone(), watch).boxed())
    }

    async fn progress(&self) -> Result<(), Error> {
        let watchers = self.shared.state.read().hub.ask_progress();
        watchers.iter().for_each(|slot| slot.wake());
        Ok(())
    }

    async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.ask(|reply| Command::Compact(revision, reply)).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<(LeaseId, i64), Error> {
        self.ask(|reply| Command::Grant(id, ttl_seconds, reply)).await
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Command::Revoke(id, reply)).await
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<i64, Error> {
        self.shared.state.write().leases.renew(id, Instant::now())
    }

    async fn lease_time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseInfo, Error> {
        self.shared.state.read().leases.info(id, keys, Instant::now())
    }

    async fn leases(&self) -> Result<Vec<LeaseId>, Error> {
        Ok(self.shared.state.read().leases.ids())
    }

    async fn status(&self) -> Result<Status, Error> {
        let state = self.shared.state.read();
        let (cluster, size) = (state.cluster, state.size);
        let (revision, compacted) = (state.durable, state.compacted);
        Ok(Status { cluster, revision, compacted, size, size_in_use: size })
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(snapshot::take(&self.shared.state.read()))
    }

    async fn defragment(&self) -> Result<(), Error> {
        self.ask(Command::Defragment).await
    }
}
