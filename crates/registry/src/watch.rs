//! Watch: a snapshot or a place in the history, then every change, each told once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use api::selector::{Fields, Labels};
use store::Revision;
use tokio::time::Instant;

use crate::cache::{Change, Cursor, Item, TooOld};
use crate::engine::Engine;
use crate::feed::Entry;
use crate::list::{prefix, selected};
use crate::resource::Resource;

/// Changes taken out of the history at once.
const BATCH: usize = 256;
/// How often a quiet watcher is told the revision.
const BOOKMARKS: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    /// Empty for all namespaces.
    pub namespace: String,
    pub labels: Labels,
    pub fields: Fields,
    /// Changes after this one. `None` or 0: the state first, as if it had just been made.
    pub revision: Option<Revision>,
    pub bookmarks: bool,
    /// The state first whatever the revision, and a bookmark that says it is complete.
    pub initial_events: bool,
}

/// What a watcher is told.
#[derive(Debug)]
pub enum WatchEvent {
    Added(Arc<Item>),
    /// The change is there where the event is the change as stored, for answers to be shared.
    Modified(Arc<Item>),
    Deleted(Arc<Item>),
    Bookmark {
        revision: Revision,
        initial_end: bool,
    },
    /// The last one.
    Error(Status),
}

/// One watch. Memory: its options and a place in the shared history.
pub struct Watcher {
    entry: Arc<Entry>,
    resource: Arc<Resource>,
    engine: Arc<Engine>,
    options: WatchOptions,
    prefix: String,
    cursor: Cursor,
    ready: VecDeque<WatchEvent>,
    next_bookmark: Instant,
    /// Changes up to here were told by the snapshot.
    told: Revision,
    ended: bool,
}

impl Engine {
    /// # Errors
    /// 504 for a revision that has not come. One that is gone is told by the first event.
    pub async fn watch(
        self: &Arc<Engine>,
        resource: &Arc<Resource>,
        options: WatchOptions,
    ) -> Result<Watcher, Status> {
        let entry = self.entry(resource).clone();
        let prefix = prefix(resource, &options.namespace);
        let from_state = options.initial_events || options.revision.is_none_or(|r| r.0 == 0);
        match options.revision {
            Some(revision) => self.await_revision(revision).await?,
            None => {
                self.catch_up().await?;
            }
        }
        let mut ready = VecDeque::new();
        let mut ended = false;
        // Taken before the snapshot: whatever the snapshot shows beyond it is told again, never lost.
        let revision = self.revision();
        let (items, mut cursor) = entry.cache.snapshot(&prefix);
        if from_state {
            let chosen =
                items.into_iter().filter(|i| selected(resource, i, &options.labels, &options.fields));
            ready.extend(chosen.map(WatchEvent::Added));
            if options.initial_events && options.bookmarks {
                ready.push_back(WatchEvent::Bookmark { revision, initial_end: true });
            }
        } else {
            match entry.cache.cursor(options.revision.unwrap_or_default()) {
                Ok(from) => cursor = from,
                Err(TooOld { oldest }) => {
                    ready.push_back(WatchEvent::Error(gone(options.revision.unwrap_or_default(), oldest)));
                    ended = true;
                }
            }
        }
        let next_bookmark = Instant::now() + BOOKMARKS;
        Ok(Watcher {
            entry,
            resource: resource.clone(),
            engine: self.clone(),
            options,
            prefix,
            cursor,
            ready,
            next_bookmark,
            told: Revision(0),
            ended,
        })
    }
}

fn gone(asked: Revision, oldest: Revision) -> Status {
    Status::expired(format!("too old resource version: {asked} ({oldest})"))
}

impl Watcher {
    /// The next event; `None` after an error, or when the engine is gone.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.cursor.take(&self.entry.cache, BATCH) {
                Err(TooOld { oldest }) => {
                    self.ended = true;
                    return Some(WatchEvent::Error(gone(self.told, oldest)));
                }
                Ok(changes) if changes.is_empty() => self.pause().await,
                Ok(changes) => {
                    for change in &changes {
                        self.told = change.revision;
                        self.judge(change);
                    }
                }
            }
        }
    }

    /// What is there without waiting, for answers that carry several events.
    pub fn next_ready(&mut self) -> Option<WatchEvent> {
        self.ready.pop_front()
    }

    async fn pause(&mut self) {
        if !self.options.bookmarks {
            self.ended = !self.cursor.wait().await;
            return;
        }
        let revision = self.engine.revision();
        tokio::select! {
            // A change that came before the revision was read is told before a bookmark says so.
            biased;
            more = self.cursor.wait() => self.ended = !more,
            () = tokio::time::sleep_until(self.next_bookmark) => {
                self.next_bookmark = Instant::now() + BOOKMARKS;
                self.ready.push_back(WatchEvent::Bookmark { revision, initial_end: false });
            }
        }
    }

    /// An object enters or leaves a selection as its labels and fields change.
    fn judge(&mut self, change: &Arc<Change>) {
        if !change.item.key.starts_with(&*self.prefix) {
            return;
        }
        let resource = &self.resource;
        let chosen = |item: &Item| selected(resource, item, &self.options.labels, &self.options.fields);
        let was = change.before.as_ref().is_some_and(|b| chosen(b));
        let is = !change.deleted && chosen(&change.item);
        let event = match (was, is) {
            (false, true) => WatchEvent::Added(change.item.clone()),
            (true, true) => WatchEvent::Modified(change.item.clone()),
            (true, false) if change.deleted => WatchEvent::Deleted(change.item.clone()),
            (true, false) => match &change.before {
                Some(before) => WatchEvent::Deleted(Arc::new(before.at(change.revision))),
                None => return,
            },
            (false, false) => return,
        };
        self.ready.push_back(event);
    }
}
