//! One store watch feeds every cache, revision by revision; how far it has come is what a
//! consistent read waits for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use store::{EventKind, KeyValue, Keys, Range, Revision, Store, Watch, WatchBatch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Event, Item};
use crate::resource::Resource;

pub(crate) const ROOT: &str = "/registry/";

/// How long a store that does not answer is left alone, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Objects that are read at once when the caches are filled: a store over gRPC bounds its answers.
const PAGE: usize = 4096;

/// A resource with its cache.
pub(crate) struct Entry {
    pub(crate) resource: Arc<Resource>,
    pub(crate) cache: Cache,
}

/// All caches, by the prefix of their keys.
pub(crate) struct Feed {
    by_prefix: HashMap<String, Arc<Entry>>,
    applied: watch::Sender<Revision>,
}

impl Feed {
    /// Reads the whole key space once, as of one revision, and answers the caches, filled.
    ///
    /// # Errors
    /// The store does not answer.
    pub(crate) async fn open(
        store: &dyn Store,
        resources: &[Arc<Resource>],
    ) -> Result<Arc<Feed>, store::Error> {
        let all = Keys::prefix(ROOT);
        let mut page = store.range(Range { limit: PAGE, ..Range::of(all.clone()) }).await?;
        let revision = page.revision;
        let entries = resources.iter().map(|r| {
            let entry = Entry { resource: r.clone(), cache: Cache::new(revision) };
            (r.prefix.clone(), Arc::new(entry))
        });
        let feed = Feed { by_prefix: entries.collect(), applied: watch::Sender::new(revision) };
        loop {
            for kv in &page.kvs {
                if let Some((entry, key)) = feed.locate(&kv.key)
                    && let Some(item) = read(entry, key, kv)
                {
                    entry.cache.fill(item);
                }
            }
            let Some(last) = page.kvs.last().filter(|_| page.more) else { return Ok(Arc::new(feed)) };
            let rest = Range::of(all.after(&last.key));
            page = store.range(Range { limit: PAGE, revision: Some(revision), ..rest }).await?;
        }
    }

    pub(crate) fn entry(&self, prefix: &str) -> Option<&Arc<Entry>> {
        self.by_prefix.get(prefix)
    }

    /// The revision up to which the caches tell everything.
    pub(crate) fn applied(&self) -> Revision {
        *self.applied.borrow()
    }

    /// Waits until the caches have come to `revision`.
    pub(crate) async fn reach(&self, revision: Revision) {
        if self.applied() >= revision {
            return;
        }
        let mut applied = self.applied.subscribe();
        // The sender lives in `self`: waiting cannot fail.
        let _ = applied.wait_for(|r| *r >= revision).await;
    }

    /// Follows the store until it is cancelled. A watch that breaks is taken up where it stopped.
    ///
    /// # Errors
    /// The store forgot revisions that the caches have not seen; the caller must start anew.
    pub(crate) async fn run(
        &self,
        store: Arc<dyn Store>,
        stop: CancellationToken,
    ) -> Result<(), store::Error> {
        let mut pause = FIRST_PAUSE;
        loop {
            let from = Revision(self.applied().0 + 1);
            let error = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                error = self.follow(&*store, from) => error,
            };
            if matches!(error, store::Error::Compacted { .. }) {
                return Err(error);
            }
            // A watch that brought something was well; the next one is tried at once again.
            if self.applied() >= from {
                pause = FIRST_PAUSE;
            }
            tracing::warn!(%error, ?pause, "the watch on the store broke; taking it up again");
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// Takes in what one watch brings, until it breaks; answers why.
    async fn follow(&self, store: &dyn Store, from: Revision) -> store::Error {
        // All keys, not only ours: every revision must be heard of, else a consistent read would wait for
        // one that never comes.
        let mut events = match store.watch(Watch::of(Keys::prefix(""), Some(from))).await {
            Ok(events) => events,
            Err(error) => return error,
        };
        loop {
            match events.next().await {
                Some(Ok(batch)) => self.apply(&batch),
                Some(Err(error)) => return error,
                None => return store::Error::Unavailable("the watch ended".into()),
            }
        }
    }

    fn apply(&self, batch: &WatchBatch) {
        // What follows each other in one cache is taken in at once.
        let mut run: Option<(&Arc<Entry>, Vec<Event>)> = None;
        for event in &batch.events {
            let Some((entry, key)) = self.locate(&event.kv.key) else { continue };
            let change = match event.kind {
                EventKind::Put => match read(entry, key, &event.kv) {
                    Some(item) => Event::Put(item),
                    None => continue,
                },
                EventKind::Delete => Event::Delete { key: key.into(), revision: event.kv.mod_revision },
            };
            match &mut run {
                Some((of, events)) if Arc::ptr_eq(of, entry) => events.push(change),
                _ => {
                    if let Some((of, events)) = run.replace((entry, vec![change])) {
                        of.cache.take_in(events);
                    }
                }
            }
        }
        if let Some((of, events)) = run {
            of.cache.take_in(events);
        }
        self.applied.send_if_modified(|applied| {
            let newer = batch.revision > *applied;
            *applied = batch.revision.max(*applied);
            newer
        });
    }

    /// The cache that a key belongs to, and the key behind its prefix.
    fn locate<'k>(&self, key: &'k [u8]) -> Option<(&Arc<Entry>, &'k str)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(ROOT)?;
        // A prefix has one or two segments.
        let mut ends = path.match_indices('/').map(|(i, _)| i);
        let first = ends.next()?;
        let candidates = [Some(first), ends.next()];
        candidates.into_iter().flatten().rev().find_map(|end| {
            let entry = self.by_prefix.get(&path[..end])?;
            let key = &path[end + 1..];
            (key.contains('/') == entry.resource.namespaced()).then_some((entry, key))
        })
    }
}

fn read(entry: &Entry, key: &str, kv: &KeyValue) -> Option<Item> {
    let item = Item::read(&entry.resource, key, kv);
    if item.is_none() {
        tracing::error!(
            key,
            prefix = entry.resource.prefix,
            "a value in the store is no object; it is not served"
        );
    }
    item
}
