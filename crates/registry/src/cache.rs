//! The watch cache of one resource: its state at a known revision, and the changes that led there.
//!
//! Worked example. After revision 7 created `d/a` and 9 changed it:
//!
//! ```text
//! state    { "d/a": item@9 }
//! history  [ #0 Added item@7 (rev 7), #1 Modified item@9 was item@7 (rev 9) ]
//! ```
//!
//! A watcher from revision 8 starts at #1. Items are shared: state, history, answers and watchers
//! hold references to the same bytes, which are the store's own.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use codec::Layout;
use parking_lot::RwLock;
use store::{KeyValue, Revision};
use tokio::sync::watch;

use crate::resource::Resource;

/// Changes kept for watchers that come back; older ones are told 410.
const HISTORY: usize = 8192;
/// Bytes of replaced and deleted objects that are kept for them at most.
const HISTORY_BYTES: usize = 64 << 20;

/// One object at one revision.
#[derive(Debug)]
pub struct Item {
    /// `namespace/name`, or `name`.
    pub key: Box<str>,
    pub revision: Revision,
    /// As stored: without a resourceVersion.
    pub raw: Bytes,
    pub layout: Layout,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// The resource's selectable fields, in its order.
    pub fields: Box<[Box<str>]>,
    lease: i64,
}

impl Item {
    /// Reads what selectors need out of stored bytes; `None` for bytes that are no object.
    pub(crate) fn read(resource: &Resource, key: &str, kv: &KeyValue) -> Option<Item> {
        let layout = Layout::of(&kv.value)?;
        let labels = labels(layout.metadata(&kv.value));
        let fields = if resource.fields.is_empty() {
            Box::default()
        } else {
            let paths: Vec<&[&str]> = resource.fields.iter().map(|f| f.path).collect();
            let found = codec::extract(&kv.value, &paths);
            let texts = found.into_iter().zip(&resource.fields);
            texts.map(|(text, f)| text.unwrap_or_else(|| f.absent.to_owned()).into()).collect()
        };
        Some(Item {
            key: key.into(),
            revision: kv.mod_revision,
            raw: kv.value.clone(),
            layout,
            labels,
            fields,
            lease: kv.lease.0,
        })
    }

    /// The same bytes at another revision: a deletion's last state.
    pub(crate) fn at(&self, revision: Revision) -> Item {
        Item {
            key: self.key.clone(),
            revision,
            raw: self.raw.clone(),
            layout: self.layout,
            labels: self.labels.clone(),
            fields: self.fields.clone(),
            lease: self.lease,
        }
    }

    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or(&self.key)
    }

    /// Empty for a cluster's own.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(ns, _)| ns)
    }

    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(n, _)| **n == *name).map(|(_, v)| &**v)
    }

    pub(crate) fn lease(&self) -> store::LeaseId {
        store::LeaseId(self.lease)
    }

    /// The object, decoded.
    ///
    /// # Errors
    /// Bytes that somebody else broke.
    pub fn object(&self) -> Result<api::Object, api::Status> {
        codec::stored::decode(&self.raw, self.revision.0).map_err(api::Status::internal)
    }

    /// The object as an answer of a version whose head is `head`.
    pub fn answer(&self, head: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(self.layout.size_hint(&self.raw) + head.len());
        self.layout.write_object(&mut out, head, &self.raw, self.revision.0);
        out.freeze()
    }
}

fn labels(metadata: &[u8]) -> Box<[(Box<str>, Box<str>)]> {
    #[derive(serde::Deserialize)]
    struct Labels {
        #[serde(default)]
        labels: BTreeMap<Box<str>, Box<str>>,
    }
    let read: Result<Labels, _> = serde_json::from_slice(metadata);
    read.map(|l| l.labels.into_iter().collect()).unwrap_or_default()
}

/// What happened to an object.
#[derive(Debug)]
pub struct Change {
    pub revision: Revision,
    /// The object after; for a deletion its last state, at the deletion's revision.
    pub item: Arc<Item>,
    pub deleted: bool,
    pub before: Option<Arc<Item>>,
}

impl Change {
    fn superseded(&self) -> usize {
        self.before.as_ref().map_or(0, |before| before.raw.len())
    }
}

struct State {
    items: BTreeMap<Box<str>, Arc<Item>>,
    history: VecDeque<Arc<Change>>,
    /// Bytes of objects that only `history` holds.
    history_bytes: usize,
    /// The number of the first change in `history`.
    first: u64,
    /// Nothing at or before this revision can be told from `history`.
    floor: Revision,
    /// The last change taken in.
    last: Revision,
}

/// What a store's event does to a cache.
pub(crate) enum Event {
    Put(Item),
    Delete { key: Box<str>, revision: Revision },
}

impl State {
    fn record(&mut self, change: Change) {
        self.last = change.revision;
        self.history_bytes += change.superseded();
        self.history.push_back(Arc::new(change));
        while (self.history.len() > HISTORY || self.history_bytes > HISTORY_BYTES)
            && let Some(gone) = self.history.pop_front()
        {
            self.history_bytes -= gone.superseded();
            self.floor = gone.revision;
            self.first += 1;
        }
    }
}

/// One resource's cache.
pub struct Cache {
    state: RwLock<State>,
    /// The number of the next change: what watchers wait on.
    next: watch::Sender<u64>,
}

/// A watcher has fallen behind the history, or asks for what is before it.
#[derive(Debug)]
pub struct TooOld {
    pub oldest: Revision,
}

impl Cache {
    pub(crate) fn new(floor: Revision) -> Cache {
        let state = State {
            items: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            first: 0,
            floor,
            last: floor,
        };
        Cache { state: RwLock::new(state), next: watch::Sender::new(0) }
    }

    pub(crate) fn fill(&self, item: Item) {
        self.state.write().items.insert(item.key.clone(), Arc::new(item));
    }

    /// Takes in events, all of them at once for whoever reads.
    pub(crate) fn take_in(&self, events: impl IntoIterator<Item = Event>) {
        let mut state = self.state.write();
        for event in events {
            match event {
                Event::Put(item) => {
                    let item = Arc::new(item);
                    let before = state.items.insert(item.key.clone(), item.clone());
                    let revision = item.revision;
                    state.record(Change { revision, item, deleted: false, before });
                }
                Event::Delete { key, revision } => {
                    let Some(before) = state.items.remove(&key) else { continue };
                    let item = Arc::new(before.at(revision));
                    state.record(Change { revision, item, deleted: true, before: Some(before) });
                }
            }
        }
        let next = state.first + state.history.len() as u64;
        drop(state);
        self.next.send_replace(next);
    }

    pub fn get(&self, key: &str) -> Option<Arc<Item>> {
        self.state.read().items.get(key).cloned()
    }

    /// The items whose key begins with `prefix` and is greater than `after`, in key order, until
    /// `keep` says stop. Answers the last change that the items show.
    pub fn scan(
        &self,
        prefix: &str,
        after: Option<&str>,
        mut keep: impl FnMut(&Arc<Item>) -> bool,
    ) -> Revision {
        let state = self.state.read();
        let from = match after {
            Some(after) => Bound::Excluded(after),
            None => Bound::Included(prefix),
        };
        for (key, item) in state.items.range::<str, _>((from, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                break;
            }
            if !keep(item) {
                break;
            }
        }
        state.last
    }

    pub fn len(&self) -> usize {
        self.state.read().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A cursor that tells every change after `revision`.
    ///
    /// # Errors
    /// The history does not reach back that far.
    pub(crate) fn cursor(&self, revision: Revision) -> Result<Cursor, TooOld> {
        let state = self.state.read();
        if revision < state.floor {
            return Err(TooOld { oldest: state.floor });
        }
        let skip = state.history.partition_point(|c| c.revision <= revision);
        Ok(Cursor { next: state.first + skip as u64, wake: self.next.subscribe() })
    }

    /// The state as `prefix` has it, and a cursor that goes on from exactly there.
    pub(crate) fn snapshot(&self, prefix: &str) -> (Vec<Arc<Item>>, Cursor) {
        let state = self.state.read();
        let range = state.items.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        let items = range.take_while(|(k, _)| k.starts_with(prefix)).map(|(_, i)| i.clone()).collect();
        let next = state.first + state.history.len() as u64;
        (items, Cursor { next, wake: self.next.subscribe() })
    }
}

/// A watcher's place in the history.
pub(crate) struct Cursor {
    next: u64,
    wake: watch::Receiver<u64>,
}

impl Cursor {
    /// Takes up to `limit` changes; none where there are none yet.
    ///
    /// # Errors
    /// The history went by.
    pub(crate) fn take(&mut self, cache: &Cache, limit: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let state = cache.state.read();
        let Some(skip) = self.next.checked_sub(state.first) else {
            return Err(TooOld { oldest: state.floor });
        };
        let changes: Vec<_> = state.history.iter().skip(skip as usize).take(limit).cloned().collect();
        self.next += changes.len() as u64;
        Ok(changes)
    }

    /// Waits until there may be more. `false` when the cache is gone.
    pub(crate) async fn wait(&mut self) -> bool {
        let next = self.next;
        self.wake.wait_for(|n| *n > next).await.is_ok()
    }
}
