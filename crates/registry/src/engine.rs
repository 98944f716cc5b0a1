//! The engine: the store, the caches, and what every verb needs of them.

use std::sync::Arc;
use std::time::Instant;

use api::{Object, Status, User};
use jiff::Timestamp;
use store::{Compare, Keys, Op, Ordering, Put, Range, Revision, Store, Target, Txn};
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::cache::{Cache, Item};
use crate::feed::{Entry, Feed};
use crate::leases::Leases;
use crate::resource::Resource;
use crate::strategy::{Claims, Strategy, Swap};

/// What every verb knows of its request.
#[derive(Clone, Debug, Default)]
pub struct RequestContext {
    pub user: Arc<User>,
    /// Go all the way, but do not write.
    pub dry_run: bool,
    /// Who holds the fields that the request changes; empty for the server's own acts.
    pub field_manager: String,
    /// The version in which the request speaks; empty for the stored one.
    pub api_version: String,
}

/// The time; a test's is its own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub struct Config {
    pub store: Arc<dyn Store>,
    pub resources: Vec<Arc<Resource>>,
    pub admission: Arc<dyn Admission>,
    pub clock: Clock,
}

/// What a write left: the object as stored (or as it would be, dry), with its revision inside.
#[derive(Debug)]
pub struct Written {
    pub object: Object,
    pub created: bool,
    pub warnings: Vec<String>,
}

/// The verbs over every resource. Shared; each method may run many times at once.
pub struct Engine {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) admission: Arc<dyn Admission>,
    pub(crate) clock: Clock,
    leases: Leases,
    resources: Vec<Arc<Resource>>,
}

impl Engine {
    /// Fills the caches from the store. [`Engine::run`] must be running for reads to move on.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn open(config: Config) -> Result<Arc<Engine>, store::Error> {
        let feed = Feed::open(&*config.store, &config.resources).await?;
        Ok(Arc::new(Engine {
            store: config.store,
            feed,
            admission: config.admission,
            clock: config.clock,
            leases: Leases::default(),
            resources: config.resources,
        }))
    }

    /// Keeps the caches up with the store until it is cancelled.
    ///
    /// # Errors
    /// The store forgot what the caches had not seen yet.
    pub async fn run(&self, stop: CancellationToken) -> Result<(), store::Error> {
        self.feed.run(self.store.clone(), stop).await
    }

    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }

    /// A uid for a new object.
    pub fn new_uid(&self) -> String {
        uuid::Uuid::new_v4().to_string()
    }

    /// The row of a group's plural name.
    pub fn resource(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.resources.iter().find(|r| r.group == group && r.plural == plural)
    }

    /// A resource's cache, for indexes that must be compiled from it and for plain look-ups.
    pub fn cache(&self, group: &str, plural: &str) -> Option<&Cache> {
        self.resource(group, plural).map(|r| &self.entry(r).cache)
    }

    /// The revision that the caches have come to.
    pub fn revision(&self) -> Revision {
        self.feed.applied()
    }

    pub(crate) fn entry(&self, resource: &Resource) -> &Arc<Entry> {
        self.feed.entry(&resource.prefix).expect("every resource of the engine has its cache")
    }

    /// Waits until the caches show every write that was answered before now.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn catch_up(&self) -> Result<Revision, Status> {
        let probe = Range { limit: 1, count_only: true, ..Range::of(Keys::One("\0".into())) };
        let revision = self.store.range(probe).await.map_err(unavailable)?.revision;
        self.feed.reach(revision).await;
        Ok(revision)
    }

    /// Whether the store takes writes: a transaction that changes nothing goes the way of one.
    ///
    /// # Errors
    /// It does not.
    pub async fn probe(&self) -> Result<(), store::Error> {
        let range = Range { limit: 1, count_only: true, ..Range::of(Keys::One("\0".into())) };
        let txn = Txn { compare: Vec::new(), success: vec![Op::Range(range)], failure: Vec::new() };
        self.store.txn(txn).await.map(|_| ())
    }

    /// The newest state of an object: the cache's where it has it, else the store's.
    pub(crate) async fn newest(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        from_store: bool,
    ) -> Result<Option<Arc<Item>>, Status> {
        let entry = self.entry(resource);
        let key = resource.key(namespace, name);
        if !from_store {
            self.catch_up().await?;
            return Ok(entry.cache.get(&key));
        }
        let range = Range::of(Keys::One(resource.store_key(namespace, name).into()));
        let found = self.store.range(range).await.map_err(unavailable)?;
        Ok(found.kvs.first().and_then(|kv| Item::read(resource, &key, kv)).map(Arc::new))
    }

    /// Whether the store still has the object as `item` shows it.
    pub(crate) async fn is_newest(&self, resource: &Resource, item: &Item) -> Result<bool, Status> {
        let newest = self.newest(resource, item.namespace(), item.name(), true).await?;
        Ok(newest.is_some_and(|newest| newest.revision == item.revision))
    }

    /// Writes an object over what it replaces, with its claims, in one transaction. `None` when
    /// another write came first.
    pub(crate) async fn commit(
        &self,
        resource: &Resource,
        object: &Object,
        old: Option<&Item>,
        claims: &Claims,
    ) -> Result<Option<Revision>, Status> {
        let key: bytes::Bytes = resource.store_key(object.namespace(), object.name()).into();
        // What lives for a while lives as long again after each write.
        let lease = match resource.strategy.time_to_live() {
            Some(seconds) => {
                self.leases.lease(&*self.store, seconds, Instant::now()).await.map_err(unavailable)?
            }
            None => old.map_or(store::LeaseId(0), Item::lease),
        };
        let value = codec::stored::encode(object);
        let mut txn = Txn {
            compare: vec![unchanged(key.clone(), old)],
            success: vec![Op::Put(Put { key, value, lease, ..Put::default() })],
            failure: Vec::new(),
        };
        add_claims(&mut txn, claims);
        let answer = self.store.txn(txn).await.map_err(unavailable)?;
        Ok(answer.succeeded.then_some(answer.revision))
    }

    /// Deletes an object that is still as `old`, and what it held, and answers the deletion's revision.
    /// `None` when it is not.
    pub(crate) async fn erase(
        &self,
        resource: &Resource,
        old: &Item,
        object: &Object,
    ) -> Result<Option<Revision>, Status> {
        let key: bytes::Bytes = resource.store_key(old.namespace(), old.name()).into();
        let mut txn = Txn {
            compare: vec![unchanged(key.clone(), Some(old))],
            success: vec![Op::Delete { keys: Keys::One(key), prev: false }],
            failure: Vec::new(),
        };
        let claims = Claims { release: resource.strategy.release(object), ..Claims::default() };
        add_claims(&mut txn, &claims);
        let answer = self.store.txn(txn).await.map_err(unavailable)?;
        Ok(answer.succeeded.then_some(answer.revision))
    }
}

/// The change of another object from what its cache shows, for [`Claims`].
pub fn swap(resource: &Resource, from: &Item, to: &Object) -> Swap {
    Swap {
        key: resource.store_key(to.namespace(), to.name()),
        revision: from.revision,
        value: codec::stored::encode(to),
    }
}

fn unchanged(key: bytes::Bytes, old: Option<&Item>) -> Compare {
    Compare {
        keys: Keys::One(key),
        target: Target::ModRevision(old.map_or(Revision(0), |o| o.revision)),
        op: Ordering::Equal,
    }
}

fn add_claims(txn: &mut Txn, claims: &Claims) {
    for claim in &claims.take {
        let key: bytes::Bytes = claim.key.clone().into();
        txn.compare.push(Compare {
            keys: Keys::One(key.clone()),
            target: Target::Version(0),
            op: Ordering::Equal,
        });
        txn.success.push(Op::Put(Put { key, value: claim.value.clone(), ..Put::default() }));
    }
    for swap in &claims.swap {
        let key: bytes::Bytes = swap.key.clone().into();
        txn.compare.push(Compare {
            keys: Keys::One(key.clone()),
            target: Target::ModRevision(swap.revision),
            op: Ordering::Equal,
        });
        txn.success.push(Op::Put(Put { key, value: swap.value.clone(), ..Put::default() }));
    }
    for key in &claims.release {
        txn.success.push(Op::Delete { keys: Keys::One(key.clone().into()), prev: false });
    }
}

/// A store's error as the API tells it.
pub(crate) fn unavailable(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        ),
        store::Error::TooLarge { .. } => Status::too_large(error.to_string()),
        other => Status::internal(other),
    }
}

impl std::fmt::Debug for dyn Strategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Strategy")
    }
}
