//! The ordered index: every key with the versions that history still holds.
//!
//! The committer adds versions ahead of the durable revision; readers say the revision they read at, so
//! they do not see them. That is all the isolation there is, and all that is needed.

use std::collections::{BTreeMap, btree_map::Entry};

use bytes::Bytes;

use super::row::{RowId, RowRef};
use crate::contract::{KeyValue, Keys, LeaseId, Range, RangeAnswer, Revision};

/// One value a key has had; version 0 says that it was deleted.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub row: RowRef,
    pub create_revision: Revision,
    pub version: i64,
    pub lease: LeaseId,
    pub value: Bytes,
}

impl Version {
    pub(crate) fn revision(&self) -> Revision {
        self.row.id.revision
    }

    pub(crate) fn is_live(&self) -> bool {
        self.version > 0
    }
}

/// Most keys have one version, which then costs no allocation.
#[derive(Debug)]
struct Versions {
    newest: Version,
    /// Oldest first.
    older: Vec<Version>,
}

impl Versions {
    /// The value at a revision, where the key was there.
    fn at(&self, revision: Revision) -> Option<&Version> {
        let found = if self.newest.revision() <= revision {
            Some(&self.newest)
        } else {
            self.older.iter().rev().find(|version| version.revision() <= revision)
        };
        found.filter(|version| version.is_live())
    }
}

#[derive(Default, Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Bytes, Versions>,
}

impl Index {
    pub(crate) fn get(&self, key: &Bytes, at: Revision) -> Option<KeyValue> {
        let (key, versions) = self.keys.get_key_value(key)?;
        versions.at(at).map(|version| key_value(key, version))
    }

    /// Adds the newest version of a key, and answers what the key was before, where it was there.
    pub(crate) fn push(&mut self, key: &Bytes, version: Version) -> Option<KeyValue> {
        // One search: where there are many keys, each of its steps waits for memory.
        match self.keys.entry(key.clone()) {
            Entry::Vacant(place) => {
                place.insert(Versions { newest: version, older: Vec::new() });
                None
            }
            Entry::Occupied(mut versions) => {
                let before = std::mem::replace(&mut versions.get_mut().newest, version);
                let prev = before.is_live().then(|| key_value(versions.key(), &before));
                versions.get_mut().older.push(before);
                prev
            }
        }
    }

    /// Takes the newest version back, as if it had not been.
    pub(crate) fn pop(&mut self, key: &Bytes) {
        let Some(versions) = self.keys.get_mut(key) else { return };
        match versions.older.pop() {
            Some(before) => versions.newest = before,
            None => drop(self.keys.remove(key)),
        }
    }

    /// Drops one version and answers the row that held it.
    pub(crate) fn forget(&mut self, key: &Bytes, revision: Revision) -> Option<RowRef> {
        let versions = self.keys.get_mut(key)?;
        if let Some(at) = versions.older.iter().position(|version| version.revision() == revision) {
            let gone = versions.older.remove(at);
            if versions.older.is_empty() {
                versions.older.shrink_to_fit();
            }
            return Some(gone.row);
        }
        if versions.newest.revision() != revision || !versions.older.is_empty() {
            return None;
        }
        self.keys.remove(key).map(|versions| versions.newest.row)
    }

    fn select<'a>(&'a self, keys: &'a Keys, at: Revision) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
        let within = self.keys.range::<[u8], _>(keys.bounds());
        within.filter_map(move |(key, versions)| Some((key, versions.at(at)?)))
    }

    /// Keys in the range with what they were at a revision.
    pub(crate) fn key_values<'a>(
        &'a self,
        keys: &'a Keys,
        at: Revision,
    ) -> impl Iterator<Item = KeyValue> + 'a {
        self.select(keys, at).map(|(key, version)| key_value(key, version))
    }

    /// Every key there was at a revision, with the row that holds it.
    pub(crate) fn live(&self, at: Revision) -> impl Iterator<Item = (RowId, KeyValue)> {
        let there = self.keys.iter().filter_map(move |(key, versions)| Some((key, versions.at(at)?)));
        there.map(|(key, version)| (version.row.id, key_value(key, version)))
    }

    /// Answers a range at `at`, whatever `range.revision` says.
    pub(crate) fn range(&self, range: &Range, at: Revision, now: Revision) -> RangeAnswer {
        let mut answer = RangeAnswer { revision: now, ..RangeAnswer::default() };
        let limit = if range.limit == 0 { usize::MAX } else { range.limit };
        for (key, version) in self.select(&range.keys, at) {
            answer.count += 1;
            if !range.count_only && answer.kvs.len() < limit {
                let mut kv = key_value(key, version);
                if range.keys_only {
                    kv.value = Bytes::new();
                }
                answer.kvs.push(kv);
            }
        }
        answer.more = !range.count_only && answer.kvs.len() < answer.count;
        answer
    }
}

fn key_value(key: &Bytes, version: &Version) -> KeyValue {
    KeyValue {
        key: key.clone(),
        value: version.value.clone(),
        create_revision: version.create_revision,
        mod_revision: version.revision(),
        version: version.version,
        lease: version.lease,
    }
}

impl Version {
    /// What a row holds of a key.
    pub(crate) fn new(kv: &KeyValue, row: RowRef) -> Version {
        Version {
            row,
            create_revision: kv.create_revision,
            version: kv.version,
            lease: kv.lease,
            value: kv.value.clone(),
        }
    }
}
