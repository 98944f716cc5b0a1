//! The one writer: takes what has gathered, applies it in order, syncs once, publishes, answers.
//!
//! Transactions are applied to the index at once, at revisions ahead of the durable one, so the next in
//! the batch sees them and readers do not. Where the disk refuses the batch they are taken back, newest
//! first, and everyone in the batch is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::gate::{Herald, Told};
use super::log::{Batch, Log};
use super::row::{RowRef, Summary};
use super::slice;
use super::state::{Pending, Shared, State};
use crate::contract::{Error, Event, Keys, LeaseId, Revision, Txn, TxnAnswer};
use crate::txn::{self, Space};

/// Bytes of rows after which a batch is full.
const BATCH_BYTES: usize = 8 << 20;
/// How long a batch may wait at most for writers that have just been answered.
const GATHER: Duration = Duration::from_millis(1);
/// Events that one step of compaction forgets, and rows that it drops.
const COMPACTION_STEP: usize = 2000;

type Reply<T> = oneshot::Sender<Result<T, Error>>;

/// What the committer is asked to do.
pub(crate) enum Command {
    Txn(Txn, Reply<TxnAnswer>),
    Grant(LeaseId, i64, Reply<(LeaseId, i64)>),
    Revoke(LeaseId, Reply<()>),
    /// Ends a lease if its time has come by the time it is looked at.
    Expire(LeaseId),
    Compact(Revision, Reply<()>),
    Defragment(Reply<()>),
    Close(oneshot::Sender<()>),
}

/// An answer that waits for the sync.
pub(crate) enum Answer {
    Txn(Reply<TxnAnswer>, TxnAnswer),
    Grant(Reply<(LeaseId, i64)>, (LeaseId, i64)),
    Done(Reply<()>),
}

impl Answer {
    pub(crate) fn send(self, failed: Option<&Error>) {
        // Whoever asked may have gone; the write stands all the same.
        match (self, failed.map(again)) {
            (Answer::Txn(reply, _), Some(error)) => drop(reply.send(Err(error))),
            (Answer::Grant(reply, _), Some(error)) => drop(reply.send(Err(error))),
            (Answer::Done(reply), Some(error)) => drop(reply.send(Err(error))),
            (Answer::Txn(reply, answer), None) => drop(reply.send(Ok(answer))),
            (Answer::Grant(reply, answer), None) => drop(reply.send(Ok(answer))),
            (Answer::Done(reply), None) => drop(reply.send(Ok(()))),
        }
    }
}

/// The same error for one more who waited.
fn again(error: &Error) -> Error {
    match error {
        Error::NoSpace { path } => Error::NoSpace { path: path.clone() },
        other => Error::Unavailable(other.to_string()),
    }
}

pub(crate) struct Committer<L> {
    pub shared: Arc<Shared>,
    pub log: L,
    pub queue: mpsc::Receiver<Command>,
    /// What is on disk.
    pub summary: Summary,
    /// Rows to drop when there is time.
    pub garbage: Vec<RowRef>,
    /// Whether the last batch failed, so that the log must recover before the next.
    pub failed: bool,
    /// Why nothing can be written any more.
    pub broken: Option<Error>,
    /// Commands that were gathered and did not fit the batch.
    pub left: VecDeque<Command>,
    /// Writers that are known to be about.
    pub expected: usize,
    /// How long the last batch took to be on disk.
    pub sync_time: Duration,
    pub herald: Herald,
}

/// One batch in the making.
struct Round {
    batch: Batch,
    answers: Vec<Answer>,
    commits: Vec<(Revision, Vec<Event>)>,
    granted: Vec<LeaseId>,
    revoked: Vec<(LeaseId, i64)>,
    bytes: usize,
}

impl Round {
    fn commit(&mut self, revision: Revision, events: Vec<Event>) {
        if !events.is_empty() {
            self.batch.summary.revision = revision;
            self.commits.push((revision, events));
        }
    }
}

impl<L: Log> Committer<L> {
    /// Runs until it is closed or nobody can ask any more.
    pub(crate) fn run(mut self) {
        if let Err(error) = slice::shorten() {
            // A sandbox may forbid it; it only takes longer then.
            tracing::debug!(%error, "the writer has no short time slice");
        }
        loop {
            let first = if let Some(left) = self.left.pop_front() {
                Some(left)
            } else if self.has_leftover_work() {
                match self.queue.try_recv() {
                    Ok(command) => Some(command),
                    Err(mpsc::error::TryRecvError::Empty) => None,
                    Err(mpsc::error::TryRecvError::Disconnected) => return,
                }
            } else {
                match self.queue.blocking_recv() {
                    Some(command) => Some(command),
                    None => return,
                }
            };
            if let Some(closed) = self.round(first) {
                drop(self.log);
                // Whoever closes it may have stopped waiting.
                let _ = closed.send(());
                return;
            }
        }
    }

    /// Whether compaction has something to do, and a disk that takes it.
    fn has_leftover_work(&self) -> bool {
        if self.failed || self.broken.is_some() {
            return false;
        }
        let state = self.shared.state.read();
        !self.garbage.is_empty() || state.history.has_before(state.compacted)
    }

    /// Adds what has queued to `left`, waiting a little for as many as there were.
    ///
    /// Writers wait for their answer before they write again. Taking only what is there when a sync ends
    /// would let the first of them have a sync alone while the others queue behind it. Waiting is worth as
    /// long as the syncs that it saves.
    fn gather(&mut self) {
        self.drain();
        let missing = self.expected.min(self.shared.config.batch).saturating_sub(self.left.len() + 1);
        if missing > 0 {
            self.shared.gate.wait(&self.queue, missing, GATHER.min(self.sync_time * 2));
            self.drain();
        }
    }

    fn drain(&mut self) {
        while self.left.len() < self.shared.config.batch {
            let Ok(command) = self.queue.try_recv() else { return };
            self.left.push_back(command);
        }
    }

    /// One batch. Answers whom to tell that it is closed.
    fn round(&mut self, first: Option<Command>) -> Option<oneshot::Sender<()>> {
        let batch = Batch { add: Vec::new(), remove: Vec::new(), leases: Vec::new(), summary: self.summary };
        let mut round = Round {
            batch,
            answers: Vec::new(),
            commits: Vec::new(),
            granted: Vec::new(),
            revoked: Vec::new(),
            bytes: 0,
        };
        let mut after = None;
        if first.is_some() {
            self.gather();
        }
        {
            let shared = self.shared.clone();
            let mut state = shared.state.write();
            let mut next = first;
            while let Some(command) = next {
                match command {
                    command @ (Command::Close(_) | Command::Defragment(_)) => {
                        after = Some(command);
                        break;
                    }
                    command => self.take(&mut state, &mut round, command),
                }
                let full = round.answers.len() >= shared.config.batch || round.bytes >= BATCH_BYTES;
                next = if full { None } else { self.left.pop_front() };
            }
            self.compaction_step(&mut state, &mut round);
        }
        let taken = round.answers.len();
        self.write(round);
        self.expected = taken + self.left.len() + self.queue.len();
        match after {
            Some(Command::Close(reply)) => Some(reply),
            Some(Command::Defragment(reply)) => {
                drop(reply.send(self.log.defragment()));
                self.shared.state.write().size = self.log.size();
                None
            }
            _ => None,
        }
    }

    fn take(&self, state: &mut State, round: &mut Round, command: Command) {
        let before = round.batch.summary.revision;
        let after = Revision(before.0 + 1);
        if let Some(error) = &self.broken {
            return refuse(command, error);
        }
        match command {
            Command::Txn(txn, reply) => {
                self.shared.metrics.txns.fetch_add(1, Relaxed);
                // Nearly always one, and history keeps it: a list that grows by itself begins with four.
                let events = Vec::with_capacity(1);
                let mut pending = Pending { state, before, events, batch: &mut round.batch };
                match txn::run(&mut pending, &txn) {
                    Ok(answer) => {
                        let events = pending.events;
                        round.bytes += events.iter().map(|event| event.kv.value.len()).sum::<usize>();
                        round.commit(after, events);
                        round.answers.push(Answer::Txn(reply, answer));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Grant(id, ttl, reply) => {
                let shortest = i64::try_from(self.shared.config.shortest_lease.as_secs()).unwrap_or(1);
                match state.leases.plan_grant(id, ttl, shortest) {
                    Ok((id, ttl)) => {
                        state.leases.insert(id, ttl, Instant::now());
                        round.granted.push(id);
                        round.batch.leases.push((id, Some(ttl)));
                        round.answers.push(Answer::Grant(reply, (id, ttl)));
                    }
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
            Command::Revoke(id, reply) => match revoke(state, round, id) {
                Ok(()) => round.answers.push(Answer::Done(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Expire(id) => {
                // It may have been renewed or revoked since it was found due.
                if state.leases.expired(Instant::now()).contains(&id) {
                    drop(revoke(state, round, id));
                }
            }
            Command::Compact(revision, reply) => match compact(state, before, revision) {
                Ok(()) => round.answers.push(Answer::Done(reply)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Command::Defragment(_) | Command::Close(_) => {}
        }
    }

    /// Forgets some of what is compacted and puts dropped rows into the batch.
    fn compaction_step(&mut self, state: &mut State, round: &mut Round) {
        if self.failed || self.broken.is_some() {
            return;
        }
        round.batch.summary.compacted = state.compacted;
        while self.garbage.len() < COMPACTION_STEP {
            let Some(commit) = state.history.pop_before(state.compacted) else { break };
            state.forget(commit.events, &mut self.garbage);
        }
        let kept = self.garbage.len().saturating_sub(COMPACTION_STEP);
        round.batch.remove = self.garbage.split_off(kept);
        for row in &round.batch.remove {
            round.batch.summary.remove(row.crc);
        }
    }

    fn write(&mut self, round: Round) {
        let Round { batch, answers, commits, granted, revoked, .. } = round;
        if batch.summary == self.summary && batch.leases.is_empty() {
            return answers.into_iter().for_each(|answer| answer.send(None));
        }
        let started = Instant::now();
        let written = if self.failed { self.log.recover(&self.summary) } else { Ok(()) };
        let written = written.and_then(|()| {
            self.failed = false;
            self.log.append(&batch)
        });
        let metrics = &self.shared.metrics;
        match written {
            Ok(()) => {
                self.sync_time = started.elapsed();
                metrics.commit_micros.record_time(self.sync_time);
                metrics.batch_size.record(answers.len() as u64);
                metrics.revision.store(batch.summary.revision.0 as u64, Relaxed);
                self.summary = batch.summary;
                let size = self.log.size();
                let mut state = self.shared.state.write();
                state.size = size;
                let wake = state.publish(commits);
                let config = &self.shared.config;
                if let Some(excess) = state.history.excess(config.retain_events, config.retain_bytes) {
                    state.compacted = state.compacted.max(excess);
                }
                drop(state);
                if !granted.is_empty() {
                    self.shared.lease_changed.notify_one();
                }
                self.herald.tell(Told { answers, wake });
            }
            Err(error) => {
                tracing::error!(%error, writes = answers.len(), "a batch could not be written");
                metrics.failed_commits.fetch_add(1, Relaxed);
                self.failed = true;
                self.garbage.extend(batch.remove);
                let mut state = self.shared.state.write();
                let now = Instant::now();
                revoked.iter().for_each(|(id, seconds)| state.leases.insert(*id, *seconds, now));
                commits.into_iter().rev().for_each(|(_, events)| state.undo(events));
                granted.iter().for_each(|id| drop(state.leases.remove(*id)));
                drop(state);
                self.shared.lease_changed.notify_one();
                answers.into_iter().for_each(|answer| answer.send(Some(&error)));
                if !matches!(error, Error::NoSpace { .. }) {
                    // After a failed sync the kernel may call pages clean that are not on disk; only
                    // reading everything anew tells what is there.
                    self.broken =
                        Some(Error::Unavailable(format!("{error}; restart to recover what is on disk")));
                }
            }
        }
    }
}

fn refuse(command: Command, error: &Error) {
    let error = again(error);
    match command {
        Command::Txn(_, reply) => drop(reply.send(Err(error))),
        Command::Grant(_, _, reply) => drop(reply.send(Err(error))),
        Command::Revoke(_, reply) | Command::Compact(_, reply) | Command::Defragment(reply) => {
            drop(reply.send(Err(error)));
        }
        Command::Expire(_) | Command::Close(_) => {}
    }
}

fn revoke(state: &mut State, round: &mut Round, id: LeaseId) -> Result<(), Error> {
    let granted = state.leases.info(id, false, Instant::now())?.granted_seconds;
    let keys = state.leases.remove(id).unwrap_or_default();
    let before = round.batch.summary.revision;
    let mut pending = Pending { state, before, events: Vec::new(), batch: &mut round.batch };
    for key in keys {
        pending.delete(&Keys::One(key));
    }
    let events = pending.events;
    round.commit(Revision(before.0 + 1), events);
    round.revoked.push((id, granted));
    round.batch.leases.push((id, None));
    Ok(())
}

fn compact(state: &mut State, current: Revision, asked: Revision) -> Result<(), Error> {
    if asked <= state.compacted {
        return Err(Error::Compacted { asked, oldest: state.compacted });
    }
    if asked > current {
        return Err(Error::FutureRevision { asked, current });
    }
    state.compacted = asked;
    Ok(())
}
