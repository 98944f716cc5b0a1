//! The events since the last compaction, by revision: what every watch reads.

use std::collections::VecDeque;

use crate::contract::{Event, Revision};

/// What one transaction did.
#[derive(Debug)]
pub(crate) struct Commit {
    pub revision: Revision,
    /// In the order of the transaction; never empty.
    pub events: Vec<Event>,
    /// Events of all commits before, since the engine was opened.
    seq: u64,
}

#[derive(Default, Debug)]
pub(crate) struct History {
    commits: VecDeque<Commit>,
    next_seq: u64,
    /// Bytes of values that only history holds.
    bytes: usize,
}

impl History {
    pub(crate) fn push(&mut self, revision: Revision, events: Vec<Event>) {
        let seq = self.next_seq;
        self.next_seq += events.len() as u64;
        self.bytes += superseded(&events);
        self.commits.push_back(Commit { revision, events, seq });
    }

    pub(crate) fn pop_before(&mut self, revision: Revision) -> Option<Commit> {
        if !self.has_before(revision) {
            return None;
        }
        let commit = self.commits.pop_front()?;
        self.bytes -= superseded(&commit.events);
        Some(commit)
    }

    /// Commits from a revision on.
    pub(crate) fn from(&self, revision: Revision) -> impl Iterator<Item = &Commit> {
        let start = self.commits.partition_point(|commit| commit.revision < revision);
        self.commits.range(start..)
    }

    /// Events from a revision to the end.
    pub(crate) fn events_from(&self, revision: Revision) -> usize {
        let first = self.from(revision).next();
        first.map_or(0, |commit| usize::try_from(self.next_seq - commit.seq).unwrap_or(usize::MAX))
    }

    /// Whether there is something before `revision`.
    pub(crate) fn has_before(&self, revision: Revision) -> bool {
        self.commits.front().is_some_and(|commit| commit.revision < revision)
    }

    /// The revision to compact at where history is over a bound, so that three quarters of it remain;
    /// the last commit is always kept.
    pub(crate) fn excess(&self, events: usize, bytes: usize) -> Option<Revision> {
        let held = self.events_from(Revision(0));
        if held <= events && self.bytes <= bytes {
            return None;
        }
        let (mut held, mut left) = (held, self.bytes);
        let mut commits = self.commits.iter();
        commits.next_back()?;
        for commit in commits {
            if held <= events / 4 * 3 && left <= bytes / 4 * 3 {
                return Some(commit.revision);
            }
            held -= commit.events.len();
            left -= superseded(&commit.events);
        }
        self.commits.back().map(|commit| commit.revision)
    }
}

fn superseded(events: &[Event]) -> usize {
    events.iter().filter_map(|event| event.prev.as_ref()).map(|prev| prev.value.len()).sum()
}
