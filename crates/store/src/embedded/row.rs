//! What one event is on disk, and in a snapshot.
//!
//! ```text
//! key    revision u64 · place in the transaction u32           (big-endian: byte order is history)
//! value  kind u8 · create i64 · version i64 · lease i64 · key length u32 · key · value · crc32
//! ```
//!
//! Numbers in the value are little-endian. The CRC is over row key and row value; the sum of all CRCs
//! and the number of rows stand in [`Summary`], so a lost, changed or doubled row shows at open.

use bytes::Bytes;

use crate::contract::{Event, EventKind, KeyValue, LeaseId, Revision};

const FIXED: usize = 1 + 8 + 8 + 8 + 4;

/// Where a row lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RowId {
    pub revision: Revision,
    /// Which write of the transaction it is.
    pub sub: u32,
}

/// A row's place with its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRef {
    pub id: RowId,
    pub crc: u32,
}

impl RowId {
    pub(crate) const SIZE: usize = 12;

    pub(crate) fn to_bytes(self) -> [u8; RowId::SIZE] {
        let mut bytes = [0; RowId::SIZE];
        bytes[..8].copy_from_slice(&self.revision.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sub.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<RowId> {
        let (revision, sub) = bytes.split_at_checked(8)?;
        let revision = Revision(i64::from_be_bytes(revision.try_into().ok()?));
        Some(RowId { revision, sub: u32::from_be_bytes(sub.try_into().ok()?) })
    }
}

/// Bytes that [`encode`] makes of an event.
pub(crate) fn length(kv: &KeyValue) -> usize {
    FIXED + kv.key.len() + kv.value.len() + 4
}

/// Encodes an event. The CRC is the last four bytes.
pub(crate) fn encode(id: RowId, event: &Event) -> (Vec<u8>, u32) {
    let kv = &event.kv;
    let mut row = Vec::with_capacity(length(kv));
    row.push(match event.kind {
        EventKind::Put => 0,
        EventKind::Delete => 1,
    });
    row.extend(kv.create_revision.0.to_le_bytes());
    row.extend(kv.version.to_le_bytes());
    row.extend(kv.lease.0.to_le_bytes());
    row.extend((kv.key.len() as u32).to_le_bytes());
    row.extend(&kv.key[..]);
    row.extend(&kv.value[..]);
    let crc = crc(id, &row);
    row.extend(crc.to_le_bytes());
    (row, crc)
}

/// Decodes a row; `None` where it is not what was written.
pub(crate) fn decode(id: RowId, row: &[u8]) -> Option<(EventKind, KeyValue, u32)> {
    let (body, stored) = row.split_last_chunk::<4>()?;
    let crc = crc(id, body);
    if crc != u32::from_le_bytes(*stored) {
        return None;
    }
    let (kind, rest) = body.split_first()?;
    let (create, rest) = rest.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<8>()?;
    let (lease, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (key, value) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    let kind = match kind {
        0 => EventKind::Put,
        1 => EventKind::Delete,
        _ => return None,
    };
    let kv = KeyValue {
        key: Bytes::copy_from_slice(key),
        value: Bytes::copy_from_slice(value),
        create_revision: Revision(i64::from_le_bytes(*create)),
        mod_revision: id.revision,
        version: i64::from_le_bytes(*version),
        lease: LeaseId(i64::from_le_bytes(*lease)),
    };
    Some((kind, kv, crc))
}

fn crc(id: RowId, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&id.to_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// What every batch states anew: where history stands, and what rows there must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub revision: Revision,
    pub compacted: Revision,
    pub rows: u64,
    /// The wrapping sum of all rows' CRCs.
    pub sum: u64,
}

impl Summary {
    pub(crate) const EMPTY: Summary =
        Summary { revision: Revision(1), compacted: Revision(0), rows: 0, sum: 0 };
    pub(crate) const SIZE: usize = 36;

    pub(crate) fn add(&mut self, crc: u32) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(u64::from(crc));
    }

    pub(crate) fn remove(&mut self, crc: u32) {
        self.rows -= 1;
        self.sum = self.sum.wrapping_sub(u64::from(crc));
    }

    pub(crate) fn to_bytes(self) -> [u8; Summary::SIZE] {
        let mut bytes = [0; Summary::SIZE];
        let numbers = [self.revision.0 as u64, self.compacted.0 as u64, self.rows, self.sum];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Summary> {
        let (numbers, crc) = bytes.split_at_checked(32)?;
        if crc != crc32fast::hash(numbers).to_le_bytes() {
            return None;
        }
        let mut numbers =
            numbers.chunks_exact(8).filter_map(|chunk| Some(u64::from_le_bytes(chunk.try_into().ok()?)));
        let mut next = || numbers.next();
        let (revision, compacted) = (Revision(next()? as i64), Revision(next()? as i64));
        Some(Summary { revision, compacted, rows: next()?, sum: next()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(key: Vec<u8>, value: Vec<u8>, version: i64) -> Event {
        let kv = KeyValue {
            key: key.into(),
            value: value.into(),
            create_revision: Revision(3),
            mod_revision: Revision(9),
            version,
            lease: LeaseId(-5),
        };
        let kind = if version == 0 { EventKind::Delete } else { EventKind::Put };
        Event { kind, kv, prev: None }
    }

    proptest! {
        #[test]
        fn a_row_reads_back_and_a_changed_one_does_not(
            key: Vec<u8>, value: Vec<u8>, version in 0i64..5, flip: prop::sample::Index, bit in 0..8,
        ) {
            let id = RowId { revision: Revision(9), sub: 4 };
            let event = event(key, value, version);
            let (mut row, crc) = encode(id, &event);
            prop_assert_eq!(row.len(), length(&event.kv));
            prop_assert_eq!(decode(id, &row), Some((event.kind, event.kv, crc)));
            prop_assert_eq!(RowId::from_bytes(&id.to_bytes()), Some(id));
            let at = flip.index(row.len());
            row[at] ^= 1u8 << bit;
            prop_assert_eq!(decode(id, &row), None);
        }

        #[test]
        fn no_bytes_make_decoding_panic(bytes: Vec<u8>) {
            let id = RowId { revision: Revision(1), sub: 0 };
            prop_assert!(decode(id, &bytes).is_none());
            Summary::from_bytes(&bytes);
        }
    }
}
