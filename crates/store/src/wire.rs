//! etcd's v3 messages, and how they and the contract's types become each other.
//!
//! One module for both directions: [`crate::front`] serves these messages, [`crate::etcd`] sends them.

mod errors;
mod read;
mod txn;

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from proto/")]
pub(crate) mod mvccpb {
    tonic::include_proto!("mvccpb");
}

#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated from proto/")]
pub(crate) mod etcdserverpb {
    tonic::include_proto!("etcdserverpb");
}

use bytes::Bytes;

pub(crate) use self::errors::{error, status};
pub(crate) use self::etcdserverpb as pb;
pub(crate) use self::read::{range, range_request, range_response};
pub(crate) use self::txn::{delete, put, ranges_answer, txn, txn_answer, txn_request, txn_response};
use crate::contract::{Error, Event, EventKind, KeyValue, Keys, LeaseId, Revision};

const ZERO: &[u8] = b"\0";

/// Keys as etcd names them: no end is one key, an end of one zero byte is "and all after".
pub(crate) fn keys(key: &Bytes, range_end: &Bytes) -> Result<Keys, Error> {
    if key.is_empty() {
        return Err(Error::EmptyKey);
    }
    // No key is empty, so the least one there can be stands for the start of everything.
    let start = if &key[..] == ZERO { Bytes::new() } else { key.clone() };
    Ok(match &range_end[..] {
        [] => Keys::One(key.clone()),
        ZERO => Keys::From(start),
        _ => Keys::Range(start, range_end.clone()),
    })
}

/// The reverse of [`keys`].
pub(crate) fn key_and_end(keys: &Keys) -> (Bytes, Bytes) {
    let start = |start: &Bytes| if start.is_empty() { Bytes::from_static(ZERO) } else { start.clone() };
    match keys {
        Keys::One(key) => (key.clone(), Bytes::new()),
        Keys::From(from) => (start(from), Bytes::from_static(ZERO)),
        // A range of nothing must not read as one key or as everything.
        Keys::Range(from, end) if end <= from => (Bytes::from_static(b"\x01"), Bytes::from_static(b"\x01")),
        Keys::Range(from, end) => (start(from), end.clone()),
    }
}

impl From<KeyValue> for mvccpb::KeyValue {
    fn from(kv: KeyValue) -> mvccpb::KeyValue {
        mvccpb::KeyValue {
            key: kv.key,
            create_revision: kv.create_revision.0,
            mod_revision: kv.mod_revision.0,
            version: kv.version,
            value: kv.value,
            lease: kv.lease.0,
        }
    }
}

impl From<mvccpb::KeyValue> for KeyValue {
    fn from(kv: mvccpb::KeyValue) -> KeyValue {
        KeyValue {
            key: kv.key,
            create_revision: Revision(kv.create_revision),
            mod_revision: Revision(kv.mod_revision),
            version: kv.version,
            value: kv.value,
            lease: LeaseId(kv.lease),
        }
    }
}

impl From<Event> for mvccpb::Event {
    fn from(event: Event) -> mvccpb::Event {
        let kind = match event.kind {
            EventKind::Put => mvccpb::event::EventType::Put,
            EventKind::Delete => mvccpb::event::EventType::Delete,
        };
        mvccpb::Event {
            r#type: kind.into(),
            kv: Some(event.kv.into()),
            prev_kv: event.prev.map(mvccpb::KeyValue::from),
        }
    }
}

/// `None` for an event without a key, which etcd does not send.
pub(crate) fn event(event: mvccpb::Event) -> Option<Event> {
    let kind = match event.r#type() {
        mvccpb::event::EventType::Put => EventKind::Put,
        mvccpb::event::EventType::Delete => EventKind::Delete,
    };
    Some(Event { kind, kv: event.kv?.into(), prev: event.prev_kv.map(KeyValue::from) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back() {
        let check = |keys_there: Keys, key: &'static [u8], end: &'static [u8]| {
            let (key, end) = (Bytes::from_static(key), Bytes::from_static(end));
            assert_eq!(key_and_end(&keys_there), (key.clone(), end.clone()));
            assert_eq!(keys(&key, &end).unwrap(), keys_there);
        };
        check(Keys::One("/a".into()), b"/a", b"");
        check(Keys::prefix("/a"), b"/a", b"/b");
        check(Keys::From("/a".into()), b"/a", b"\0");
        check(Keys::all(), b"\0", b"\0");
        check(Keys::Range(Bytes::new(), "/a".into()), b"\0", b"/a");
        let (key, end) = key_and_end(&Keys::Range("/b".into(), Bytes::new()));
        assert!(matches!(keys(&key, &end).unwrap(), Keys::Range(from, to) if from == to));
    }
}
