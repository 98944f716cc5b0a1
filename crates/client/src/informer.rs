//! One watch per kind and process: a cache that follows it, and those who want to know.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use kube::{Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{self, Cache, Index};
use crate::reflect::{Sink, Source, Taken, reflect};
use crate::{ObjectKey, WorkQueue};

/// What happened to an object, as the cache saw it. After a gap in the watch the difference between
/// the cache and the new list is told in the same three words.
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The latest state known: for a deletion, the last one.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) => object,
            Self::Updated { new, .. } => new,
        }
    }

    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Added(_) => None,
            Self::Deleted(object) => Some(object),
            Self::Updated { old, .. } => Some(old),
        }
    }

    pub fn is_deleted(&self) -> bool {
        matches!(self, Self::Deleted(_))
    }
}

impl<K> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Added(object) => Self::Added(object.clone()),
            Self::Updated { old, new } => Self::Updated { old: old.clone(), new: new.clone() },
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

/// Which objects of a kind are watched. Everything, unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// A field selector, such as `spec.nodeName=n1`.
    pub fields: Option<String>,
    /// A label selector.
    pub labels: Option<String>,
}

/// What an informer keeps of an object: the object of a typed kind, or as little of it as somebody needs.
pub trait Kept: Send + Sync + 'static {
    fn key(&self) -> ObjectKey;
    fn uid(&self) -> Option<&str>;
    /// Its resourceVersion.
    fn version(&self) -> Option<&str>;
    /// Drops what is of no use to those who only read.
    fn trim(&mut self) {}
}

impl<K: Resource + Send + Sync + 'static> Kept for K {
    fn key(&self) -> ObjectKey {
        ObjectKey::of(self)
    }

    fn uid(&self) -> Option<&str> {
        self.meta().uid.as_deref()
    }

    fn version(&self) -> Option<&str> {
        self.meta().resource_version.as_deref()
    }

    fn trim(&mut self) {
        // Who owns which field is often half of an object.
        self.meta_mut().managed_fields = None;
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Shared<K> {
    cache: RwLock<Cache<K>>,
    /// Held while the cache changes and the change is told, so that a new handler sees each object
    /// exactly once: in the replay or as a change.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

/// The shared view on one kind. Cheap to clone.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

impl<K> Default for Informer<K> {
    fn default() -> Self {
        Self {
            shared: Arc::new(Shared {
                cache: RwLock::default(),
                handlers: Mutex::default(),
                synced: watch::Sender::new(false),
            }),
        }
    }
}

impl<K: Kept> Informer<K> {
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.cache.read().get(key)
    }

    /// Every object, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache.read().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.shared.cache.read().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds an index unless one of that name is there.
    pub fn add_index(&self, index: Index<K>) {
        self.shared.cache.write().add_index(index);
    }

    /// The objects found under `value`. The index is made on first use.
    pub fn by(&self, index: Index<K>, value: &str) -> Vec<Arc<K>> {
        if let Some(found) = self.shared.cache.read().indexed(index.name, value) {
            return found;
        }
        let mut cache = self.shared.cache.write();
        cache.add_index(index);
        cache.indexed(index.name, value).unwrap_or_default()
    }

    /// Calls `handler` for every object there is (as `Added`) and then for every change, in order.
    ///
    /// Handlers run on the task of the watch: they put keys on a queue or update an index and
    /// return. A handler must not register handlers on the same informer.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers.lock();
        let objects = self.list();
        for object in objects {
            handler(&Change::Added(object));
        }
        handlers.push(Box::new(handler));
    }

    /// Puts the keys that `keys` finds for each change on `queue`.
    pub fn enqueue<Q, I>(&self, queue: &WorkQueue<Q>, keys: impl Fn(&Change<K>) -> I + Send + Sync + 'static)
    where
        Q: Clone + Eq + std::hash::Hash + Send + Sync + 'static,
        I: IntoIterator<Item = Q>,
    {
        let queue = queue.clone();
        self.on_change(move |change| {
            for key in keys(change) {
                queue.add(key);
            }
        });
    }

    /// A stream of changes for those who would rather pull. Changes of one object that were not yet
    /// pulled are merged into one, so no more is kept than there are objects.
    pub fn subscribe(&self) -> Changes<K> {
        let pending = Arc::new(Pending { changes: Mutex::default(), wake: tokio::sync::Notify::new() });
        let weak = Arc::downgrade(&pending);
        self.on_change(move |change| {
            if let Some(pending) = weak.upgrade() {
                pending.push(change.clone());
            }
        });
        Changes { pending }
    }

    /// Whether the first list has been taken up.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Waits for the first list to have been taken up.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives as long as `self`, so this ends only by the value.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    /// Takes up an object as the watch would. For those who keep a cache by other means, and tests.
    pub fn apply(&self, object: K) {
        let handlers = self.shared.handlers.lock();
        let key = object.key();
        let new = Arc::new(object);
        let old = self.shared.cache.write().insert(key, new.clone());
        let change = match old {
            // A relist or a reconnect tells what is known already.
            Some(old) if same_version(&*old, &*new) => return,
            // Deleted and made again while nobody looked.
            Some(old) if old.uid() != new.uid() => {
                tell(&handlers, &Change::Deleted(old));
                Change::Added(new)
            }
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        tell(&handlers, &change);
    }

    /// Forgets an object as the watch would.
    pub fn remove(&self, key: &ObjectKey) {
        let handlers = self.shared.handlers.lock();
        let old = self.shared.cache.write().remove(key);
        if let Some(old) = old {
            tell(&handlers, &Change::Deleted(old));
        }
    }

    /// Says that the first list is complete.
    pub fn set_synced(&self) {
        self.shared.synced.send_replace(true);
    }

    /// Forgets an object whose deletion told its last state.
    fn remove_last(&self, last: K) {
        let handlers = self.shared.handlers.lock();
        if self.shared.cache.write().remove(&last.key()).is_some() {
            tell(&handlers, &Change::Deleted(Arc::new(last)));
        }
    }

    fn retain(&self, listed: &HashSet<ObjectKey>) {
        let gone: Vec<ObjectKey> =
            self.shared.cache.read().keys().filter(|key| !listed.contains(*key)).cloned().collect();
        for key in gone {
            self.remove(&key);
        }
    }
}

impl<K: Resource + Send + Sync + 'static> Informer<K> {
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.by(cache::by_namespace(), namespace)
    }

    /// The objects whose controlling owner has this uid; with "", those that have none.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        self.by(cache::by_controller(), uid)
    }
}

fn tell<K>(handlers: &[Handler<K>], change: &Change<K>) {
    for handler in handlers {
        handler(change);
    }
}

fn same_version<K: Kept>(old: &K, new: &K) -> bool {
    old.uid() == new.uid() && old.version().is_some() && old.version() == new.version()
}

/// What changed since the last pull: the keys in order of their first change, and the change.
type Unpulled<K> = (VecDeque<ObjectKey>, HashMap<ObjectKey, Change<K>>);

struct Pending<K> {
    changes: Mutex<Unpulled<K>>,
    wake: tokio::sync::Notify,
}

impl<K: Kept> Pending<K> {
    fn push(&self, change: Change<K>) {
        let key = change.object().key();
        let mut guard = self.changes.lock();
        let (order, changes) = &mut *guard;
        match changes.remove(&key) {
            None => {
                order.push_back(key.clone());
                changes.insert(key, change);
            }
            Some(earlier) => {
                if let Some(merged) = merge(earlier, change) {
                    changes.insert(key, merged);
                } else {
                    order.retain(|k| *k != key);
                }
            }
        }
        drop(guard);
        self.wake.notify_one();
    }
}

/// Two changes of one object as one; `None` when they cancel out.
fn merge<K>(earlier: Change<K>, later: Change<K>) -> Option<Change<K>> {
    let before = earlier.old().cloned();
    Some(match (before, later) {
        (None, Change::Deleted(_)) => return None,
        (None, later) => Change::Added(later.object().clone()),
        (Some(old), Change::Deleted(_)) => Change::Deleted(old),
        (Some(old), later) => Change::Updated { old, new: later.object().clone() },
    })
}

/// A pulled subscription; see [`Informer::subscribe`].
pub struct Changes<K> {
    pending: Arc<Pending<K>>,
}

impl<K> Changes<K> {
    /// The next change. Safe to cancel.
    pub async fn next(&mut self) -> Change<K> {
        loop {
            {
                let mut guard = self.pending.changes.lock();
                let (order, changes) = &mut *guard;
                if let Some(change) = order.pop_front().and_then(|key| changes.remove(&key)) {
                    return change;
                }
            }
            self.pending.wake.notified().await;
        }
    }
}

/// The way from the text of an object into an informer's cache.
pub(crate) struct Decoding<K>(pub Informer<K>);

impl<K: Kept + DeserializeOwned> Decoding<K> {
    fn decode(&self, object: &str) -> serde_json::Result<(K, Taken)> {
        let mut object: K = serde_json::from_str(object)?;
        object.trim();
        let version = object.version().unwrap_or_default().to_owned();
        let taken = Taken { key: object.key(), version };
        Ok((object, taken))
    }
}

impl<K: Kept + DeserializeOwned> Sink for Decoding<K> {
    fn apply(&self, object: &str) -> serde_json::Result<Taken> {
        let (object, taken) = self.decode(object)?;
        self.0.apply(object);
        Ok(taken)
    }

    fn remove(&self, object: &str) -> serde_json::Result<Taken> {
        let (object, taken) = self.decode(object)?;
        self.0.remove_last(object);
        Ok(taken)
    }

    fn listed(&self, keys: &HashSet<ObjectKey>) {
        self.0.retain(keys);
        self.0.set_synced();
    }
}

/// Keeps `informer` in step with the collection at `path` (such as `/api/v1/pods`) until `cancel`,
/// whatever happens to the connection. [`Informers`] does this for those who share a watch.
pub async fn follow<K>(
    informer: Informer<K>,
    client: Client,
    path: String,
    selection: Selection,
    cancel: CancellationToken,
) where
    K: Kept + DeserializeOwned,
{
    let sink: Box<dyn Sink> = Box::new(Decoding(informer));
    reflect(&*sink, Source { client, path, selection }, cancel).await;
}

/// Watches the collection at `path` until `found` finds in it what is waited for.
pub async fn until<K, T>(
    client: Client,
    path: String,
    selection: Selection,
    found: impl Fn(&Informer<K>) -> Option<T>,
) -> T
where
    K: Kept + DeserializeOwned,
{
    let informer = Informer::<K>::default();
    let mut changes = informer.subscribe();
    let look = async {
        loop {
            changes.next().await;
            if let Some(found) = found(&informer) {
                return found;
            }
        }
    };
    let watch = follow(informer.clone(), client, path, selection, CancellationToken::new());
    tokio::select! {
        found = look => found,
        // A watch that nobody cancels has no end.
        never = async { watch.await; std::future::pending().await } => never,
    }
}

/// Makes informers, each once per process, and owns their watches.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Factory>,
}

struct Factory {
    client: Client,
    cancel: CancellationToken,
    tasks: TaskTracker,
    made: Mutex<HashMap<(TypeId, Selection), Box<dyn Any + Send>>>,
}

impl Informers {
    /// Informers that read with `client`. Their watches end with `cancel`.
    pub fn new(client: Client, cancel: CancellationToken) -> Self {
        let made = Mutex::default();
        Self { inner: Arc::new(Factory { client, cancel, tasks: TaskTracker::new(), made }) }
    }

    /// The informer on all objects of a kind.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
    {
        self.select(Selection::default())
    }

    /// The informer on the objects of a kind that a namespace, a label and a field selector find.
    pub fn select<K>(&self, selection: Selection) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
    {
        let mut made = self.inner.made.lock();
        let entry = (TypeId::of::<K>(), selection.clone());
        if let Some(informer) = made.get(&entry).and_then(|any| any.downcast_ref::<Informer<K>>()) {
            return informer.clone();
        }
        let informer = Informer::<K>::default();
        let path = K::url_path(&(), selection.namespace.as_deref());
        let (client, cancel) = (self.inner.client.clone(), self.inner.cancel.child_token());
        self.inner.tasks.spawn(follow(informer.clone(), client, path, selection, cancel));
        made.insert(entry, Box::new(informer.clone()));
        informer
    }

    /// The client the informers read with.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Ends every watch and waits for it.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }
}

#[cfg(test)]
#[path = "informer_tests.rs"]
mod tests;
