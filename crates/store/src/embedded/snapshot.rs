//! Backups: every live key with its revisions, and the leases, as of one revision.
//!
//! ```text
//! magic      "tiphys snapshot1"
//! counts     revision i64 · leases u64 · rows u64           (little-endian, as all below)
//! lease      id i64 · seconds granted i64                   (as many as there are)
//! row        row key 12 bytes · length u32 · row, with its CRC (see `row`)
//! padding    zeros to a multiple of 512
//! checksum   SHA-256 of everything before
//! ```
//!
//! Padding and checksum are where etcd has them: `etcdctl snapshot save` takes a file for whole if its
//! length is 32 beyond a multiple of 512.
//!
//! History is not kept. Restoring counts as a revision of its own, compacted before, so that a watch
//! from the snapshot's revision, whose deletes are not in it, is refused rather than told half.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use sha2::{Digest as _, Sha256};

use super::disk::{Disk, io_error};
use super::log::{Batch, Log as _};
use super::row::{self, RowId, Summary};
use super::state::State;
use crate::contract::{Error, Event, EventKind, KeyValue, LeaseId, Revision, Snapshot};

const MAGIC: &[u8; 16] = b"tiphys snapshot1";
const COUNTS: u64 = 24;
const BLOCK: u64 = 512;
const CHECKSUM: u64 = 32;
/// A piece ends with the row that takes it beyond this.
const PIECE_BYTES: usize = 256 << 10;
/// Rows that are restored with one sync.
const RESTORE_ROWS: usize = 10_000;
/// No row is longer: it is bounded by the largest request, which an operator may raise this far.
const ROW_BYTES: u32 = 256 << 20;

/// What is left to be told.
struct Telling {
    piece: Vec<u8>,
    rows: std::vec::IntoIter<(RowId, KeyValue)>,
    hasher: Sha256,
    told: u64,
    done: bool,
}

/// Takes a snapshot of what is durable. It shares the values, so it costs its keys.
pub(super) fn take(state: &State) -> Snapshot {
    let rows: Vec<_> = state.index.live(state.durable).collect();
    let leases = state.leases.granted();
    let mut head = MAGIC.to_vec();
    head.extend(state.durable.0.to_le_bytes());
    head.extend((leases.len() as u64).to_le_bytes());
    head.extend((rows.len() as u64).to_le_bytes());
    for (id, seconds) in &leases {
        head.extend(id.0.to_le_bytes());
        head.extend(seconds.to_le_bytes());
    }
    let of_row = |(_, kv): &(RowId, KeyValue)| (RowId::SIZE + 4 + row::length(kv)) as u64;
    let content = head.len() as u64 + rows.iter().map(of_row).sum::<u64>();
    let telling =
        Telling { piece: head, rows: rows.into_iter(), hasher: Sha256::new(), told: 0, done: false };
    let pieces = stream::unfold(telling, |mut telling| async { Some((Ok(telling.next()?), telling)) });
    Snapshot { size: content.next_multiple_of(BLOCK) + CHECKSUM, pieces: pieces.boxed() }
}

impl Telling {
    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut piece = std::mem::take(&mut self.piece);
        while piece.len() < PIECE_BYTES {
            let Some((id, kv)) = self.rows.next() else {
                let content = self.told + piece.len() as u64;
                let padding = content.next_multiple_of(BLOCK) - content;
                piece.extend(std::iter::repeat_n(0, padding as usize));
                self.hasher.update(&piece);
                piece.extend(self.hasher.finalize_reset());
                self.done = true;
                return Some(piece.into());
            };
            let (row, _) = row::encode(id, &Event { kind: EventKind::Put, kv, prev: None });
            piece.extend(id.to_bytes());
            piece.extend((row.len() as u32).to_le_bytes());
            piece.extend(row);
        }
        self.hasher.update(&piece);
        self.told += piece.len() as u64;
        Some(piece.into())
    }
}

/// Makes the store that `file` is a snapshot of, in `dir`, which must be absent or empty. Answers the
/// revision the store then stands at. Blocks.
///
/// All or nothing: it is built beside `dir` and moved there when it is whole and synced.
///
/// # Errors
/// [`Error::Damaged`] for a file that is not a whole snapshot, [`Error::Io`] where `dir` is not empty or
/// something cannot be read or written, [`Error::NoSpace`].
pub fn restore(file: &Path, dir: &Path) -> Result<Revision, Error> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| io_error(&path, source)
    };
    if fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some()) {
        return Err(io(dir)(std::io::ErrorKind::DirectoryNotEmpty.into()));
    }
    let content = verify(file)?;
    let mut building = dir.as_os_str().to_owned();
    building.push(".restoring");
    let building = PathBuf::from(building);
    // What an earlier attempt left is of no use.
    match fs::remove_dir_all(&building) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(&building)(error)),
        _ => {}
    }
    let opened = File::open(file).map_err(io(file))?;
    let mut reader = Reader { file, from: BufReader::new(opened).take(content) };
    let mut disk = Disk::open(&building)?;
    let restored = fill(&mut reader, &mut disk);
    drop(disk);
    let revision = restored.inspect_err(|_| fs::remove_dir_all(&building).unwrap_or_default())?;
    fs::rename(&building, dir).map_err(io(dir))?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io(parent))?;
    }
    Ok(revision)
}

fn broken(file: &Path, reason: &str) -> Error {
    let repair = "restore another snapshot".into();
    Error::Damaged { path: file.to_owned(), reason: reason.into(), repair }
}

/// Checks the file as a whole; answers its length without the checksum.
fn verify(file: &Path) -> Result<u64, Error> {
    let io = |source| io_error(file, source);
    let mut opened = File::open(file).map_err(io)?;
    let length = opened.metadata().map_err(io)?.len();
    if length % BLOCK != CHECKSUM || length < BLOCK {
        return Err(broken(file, "its length is not that of a whole snapshot"));
    }
    let content = length - CHECKSUM;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = content;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        opened.read_exact(&mut buffer[..most]).map_err(io)?;
        hasher.update(&buffer[..most]);
        left -= most as u64;
    }
    let mut stored = [0; CHECKSUM as usize];
    opened.read_exact(&mut stored).map_err(io)?;
    if hasher.finalize()[..] != stored {
        return Err(broken(file, "its content does not have its checksum"));
    }
    Ok(content)
}

struct Reader<'a, R> {
    file: &'a Path,
    from: R,
}

impl<R: Read> Reader<'_, R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|_| broken(self.file, "it ends early"))?;
        Ok(bytes)
    }

    fn row(&mut self) -> Result<(RowId, Vec<u8>, u32), Error> {
        let unreadable = "a row in it is not what was written";
        let id = self.bytes::<{ RowId::SIZE }>()?;
        let id = RowId::from_bytes(&id).ok_or_else(|| broken(self.file, unreadable))?;
        let length = u32::from_le_bytes(self.bytes()?);
        if length > ROW_BYTES {
            return Err(broken(self.file, unreadable));
        }
        let mut row = vec![0; length as usize];
        self.from.read_exact(&mut row).map_err(|_| broken(self.file, "it ends early"))?;
        let (_, _, crc) = row::decode(id, &row).ok_or_else(|| broken(self.file, unreadable))?;
        Ok((id, row, crc))
    }
}

fn fill<R: Read>(reader: &mut Reader<'_, R>, disk: &mut Disk) -> Result<Revision, Error> {
    if reader.bytes()? != *MAGIC {
        return Err(broken(reader.file, "it is not a snapshot of this store"));
    }
    let counts: [u8; COUNTS as usize] = reader.bytes()?;
    let number = |at: usize| counts.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    let [revision, leases, mut rows] =
        [0, 8, 16].map(|at| number(at).map(u64::from_le_bytes).unwrap_or_default());
    let revision = Revision(i64::try_from(revision).unwrap_or(i64::MAX - 1) + 1);
    let mut summary = Summary { revision, compacted: revision, ..Summary::EMPTY };
    let mut granted = Vec::new();
    for _ in 0..leases {
        let id = LeaseId(i64::from_le_bytes(reader.bytes()?));
        granted.push((id, Some(i64::from_le_bytes(reader.bytes()?))));
    }
    loop {
        let mut batch =
            Batch { add: Vec::new(), remove: Vec::new(), leases: std::mem::take(&mut granted), summary };
        while rows > 0 && batch.add.len() < RESTORE_ROWS {
            let (id, row, crc) = reader.row()?;
            batch.summary.add(crc);
            batch.add.push((id, row));
            rows -= 1;
        }
        summary = batch.summary;
        disk.append(&batch)?;
        if rows == 0 {
            return Ok(revision);
        }
    }
}
