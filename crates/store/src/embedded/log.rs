//! The seam between the engine and the disk: one atomic, synced batch at a time.
//!
//! Tests put a disk that fails at a chosen write behind it.

use super::row::{RowId, RowRef, Summary};
use crate::contract::{Error, LeaseId, Revision};

/// Rows to add and drop, and what there is afterwards.
#[derive(Debug)]
pub(crate) struct Batch {
    pub add: Vec<(RowId, Vec<u8>)>,
    pub remove: Vec<RowRef>,
    /// Leases that were granted, with their seconds, or ended.
    pub leases: Vec<(LeaseId, Option<i64>)>,
    pub summary: Summary,
}

/// What was found when the log was opened, besides its rows.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Chosen when the log was made.
    pub cluster: u64,
    pub summary: Summary,
    pub leases: Vec<(LeaseId, i64)>,
}

/// Takes one row as it lies on disk.
pub(crate) type OnRow<'a> = dyn FnMut(RowId, &[u8]) -> Result<(), Error> + 'a;

/// Where the engine's rows are kept.
pub(crate) trait Log: Send + 'static {
    /// Reads all but the rows.
    fn opened(&mut self) -> Result<Opened, Error>;
    /// Reads the rows in order of revision, one after the other: together they may be more than memory.
    fn rows(&mut self, row: &mut OnRow<'_>) -> Result<(), Error>;
    /// Writes a batch, all or nothing, and syncs it. After an error it may or may not be there.
    fn append(&mut self, batch: &Batch) -> Result<(), Error>;
    /// Gets the log into a state it can be appended to after an error, as if everything after
    /// `summary` had not been written.
    fn recover(&mut self, summary: &Summary) -> Result<(), Error>;
    /// Rewrites the files without what is dropped.
    fn defragment(&mut self) -> Result<(), Error>;
    /// Bytes on disk.
    fn size(&self) -> u64;
    /// The revision up to which writes were answered, where that is known.
    fn acknowledged(&self) -> Option<Revision>;
}
