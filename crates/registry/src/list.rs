//! Get and list: from the cache at a known revision, or, for pages of an older one, from the store.

use std::sync::Arc;

use api::selector::{Fields, Labels};
use api::{Status, field};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use store::{Keys, Range, Revision};

use crate::cache::Item;
use crate::engine::{Engine, unavailable};
use crate::resource::Resource;

/// `?resourceVersionMatch=`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    Exact,
    NotOlderThan,
}

/// What a list asks for. The caller has checked that the options go together.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Empty for all namespaces.
    pub namespace: String,
    pub labels: Labels,
    pub fields: Fields,
    /// 0 for no bound.
    pub limit: usize,
    pub continue_: String,
    /// `None` for the newest; 0 for any.
    pub revision: Option<Revision>,
    pub version_match: Option<Match>,
}

/// What a list found, in key order, all of one revision.
#[derive(Debug)]
pub struct Listed {
    pub revision: Revision,
    pub items: Vec<Arc<Item>>,
    /// Token for the next page; empty on the last.
    pub continue_: String,
    /// Items after this page, where it is known.
    pub remaining: Option<i64>,
}

/// Objects that are read at once where selectors may drop most of them.
const BLOCK: usize = 512;

/// Upstream's form of a continue token.
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    /// The last key that was answered, behind the prefix of what is listed: no token leads outside of it.
    start: String,
}

impl Engine {
    /// One object, from the cache. `revision` `None` waits for every write answered before now.
    ///
    /// # Errors
    /// 404.
    pub async fn get(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: Option<Revision>,
    ) -> Result<Arc<Item>, Status> {
        match revision {
            None => {
                self.catch_up().await?;
            }
            Some(revision) => self.await_revision(revision).await?,
        }
        let item = self.entry(resource).cache.get(&resource.key(namespace, name));
        item.ok_or_else(|| Status::not_found(&resource.group_resource(), name))
    }

    /// # Errors
    /// 410 for a revision that is gone, 400 for a token that is none, 504 for one that has not come.
    pub async fn list(&self, resource: &Resource, options: &ListOptions) -> Result<Listed, Status> {
        let exact = options.version_match == Some(Match::Exact)
            || (options.version_match.is_none()
                && options.limit > 0
                && options.revision.is_some_and(|r| r.0 > 0));
        let token = self.token(options)?;
        match (&token, options.revision) {
            (Some(token), _) if token.rv > 0 => {
                return self.list_stored(resource, options, Revision(token.rv), Some(&token.start)).await;
            }
            (None, Some(revision)) if exact => {
                return self.list_stored(resource, options, revision, None).await;
            }
            (None, Some(revision)) => self.await_revision(revision).await?,
            _ => {
                self.catch_up().await?;
            }
        }
        Ok(self.list_cached(resource, options, token.map(|t| t.start)))
    }

    fn list_cached(&self, resource: &Resource, options: &ListOptions, start: Option<String>) -> Listed {
        let entry = self.entry(resource);
        // All changes up to here are in the cache before the scan; the scan says what it shows besides.
        let reached = self.revision();
        let prefix = prefix(resource, &options.namespace);
        let start = start.map(|start| prefix.clone() + &start);
        let mut page = Page::new(options);
        let mut after = 0;
        let plain = options.labels.is_empty() && options.fields.is_empty();
        let shown = entry.cache.scan(&prefix, start.as_deref(), |item| {
            if page.more || !page.add(resource, item) {
                after += 1;
            }
            !page.more || plain
        });
        let remaining = (page.more && plain).then_some(after);
        page.finish(&prefix, reached.max(shown), remaining)
    }

    /// A page of an older revision, from the store's history.
    async fn list_stored(
        &self,
        resource: &Resource,
        options: &ListOptions,
        revision: Revision,
        start: Option<&str>,
    ) -> Result<Listed, Status> {
        let root = format!("/registry/{}/", resource.prefix);
        let own = prefix(resource, &options.namespace);
        let all = Keys::prefix(format!("{root}{own}"));
        let mut keys = match start {
            Some(start) => all.after(format!("{root}{own}{start}").as_bytes()),
            None => all.clone(),
        };
        let plain = options.labels.is_empty() && options.fields.is_empty();
        let mut page = Page::new(options);
        // One more than the page shows whether there is more; what selectors drop is read past in blocks.
        let block = match page.limit {
            0 => 0,
            limit if plain => limit + 1,
            limit => limit.max(BLOCK),
        };
        let (mut total, mut seen) = (None, 0i64);
        loop {
            let range = Range { revision: Some(revision), limit: block, ..Range::of(keys) };
            let found = self.store.range(range).await.map_err(|error| refused(error, start))?;
            total.get_or_insert(found.count as i64);
            for kv in &found.kvs {
                let key = std::str::from_utf8(&kv.key).ok().and_then(|k| k.strip_prefix(&*root));
                let Some(item) = key.and_then(|k| Item::read(resource, k, kv)) else { continue };
                if !page.add(resource, &Arc::new(item)) {
                    break;
                }
                seen += 1;
            }
            let last = found.kvs.last().filter(|_| found.more && !page.more);
            let Some(last) = last else { break };
            keys = all.after(&last.key);
        }
        let remaining = (page.more && plain).then(|| total.unwrap_or_default() - seen);
        Ok(page.finish(&own, revision, remaining))
    }

    fn token(&self, options: &ListOptions) -> Result<Option<Token>, Status> {
        if options.continue_.is_empty() {
            return Ok(None);
        }
        let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(options.continue_.trim_end_matches('='))
            .map_err(|e| bad(&format!("illegal base64 data: {e}")))?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(&format!(
                "server does not recognize this encoded version {}",
                field::quote(&token.v)
            )));
        }
        if token.start.split('/').any(|part| part == "..") {
            return Err(bad(&format!("invalid start key {}", field::quote(&token.start))));
        }
        Ok(Some(token))
    }

    /// Waits for a revision that a client has seen elsewhere, for three seconds.
    ///
    /// # Errors
    /// 504: the store has not come to it.
    pub(crate) async fn await_revision(&self, revision: Revision) -> Result<(), Status> {
        if self.revision() >= revision {
            return Ok(());
        }
        let wait = std::time::Duration::from_secs(3);
        if tokio::time::timeout(wait, self.feed.reach(revision)).await.is_ok() {
            return Ok(());
        }
        Err(too_large(revision, self.revision()))
    }
}

/// Why there is no page of an older revision.
fn refused(error: store::Error, start: Option<&str>) -> Status {
    match error {
        store::Error::FutureRevision { .. } => {
            Status::plain("etcdserver: mvcc: required revision is a future revision")
        }
        store::Error::Compacted { .. } => match start {
            None => Status::expired("The resourceVersion for the provided list is too old."),
            Some(start) => page_too_old(start),
        },
        other => unavailable(other),
    }
}

/// The state that a token goes on with is gone; the answer has a token that goes on with the newest.
fn page_too_old(start: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.metadata.continue_ =
        Token { v: "meta.k8s.io/v1".into(), rv: -1, start: start.to_owned() }.encode();
    status
}

impl Token {
    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token serialises"))
    }
}

/// The revision asked for lies in the future.
fn too_large(asked: Revision, current: Revision) -> Status {
    let mut status = Status::failure(
        504,
        "Timeout",
        format!("Timeout: Too large resource version: {asked}, current: {current}"),
    );
    status.details = Some(Box::new(api::status::Details {
        causes: vec![api::status::Cause {
            reason: "ResourceVersionTooLarge".into(),
            message: "Too large resource version".into(),
            ..Default::default()
        }],
        retry_after_seconds: Some(1),
        ..Default::default()
    }));
    status
}

pub(crate) fn prefix(resource: &Resource, namespace: &str) -> String {
    if resource.namespaced() && !namespace.is_empty() { format!("{namespace}/") } else { String::new() }
}

/// Whether an item is selected.
pub(crate) fn selected(resource: &Resource, item: &Item, labels: &Labels, fields: &Fields) -> bool {
    labels.matches_with(|name| item.label(name)) && fields.matches(|name| field_of(resource, item, name))
}

fn field_of<'i>(resource: &Resource, item: &'i Item, name: &str) -> Option<&'i str> {
    match name {
        "metadata.name" => Some(item.name()),
        "metadata.namespace" => Some(item.namespace()),
        other => {
            let at = resource.fields.iter().position(|f| f.name == other)?;
            item.fields.get(at).map(|f| &**f)
        }
    }
}

struct Page<'o> {
    options: &'o ListOptions,
    /// 0 for no bound.
    limit: usize,
    items: Vec<Arc<Item>>,
    more: bool,
}

impl<'o> Page<'o> {
    fn new(options: &'o ListOptions) -> Page<'o> {
        // Upstream's cache gives the whole list to who takes any state of it.
        let any = options.revision == Some(Revision(0)) && options.continue_.is_empty();
        Page { options, limit: if any { 0 } else { options.limit }, items: Vec::new(), more: false }
    }

    /// Whether to go on.
    fn add(&mut self, resource: &Resource, item: &Arc<Item>) -> bool {
        // As upstream: whether what follows is selected is not looked at.
        if self.limit > 0 && self.items.len() == self.limit {
            self.more = true;
            return false;
        }
        if selected(resource, item, &self.options.labels, &self.options.fields) {
            self.items.push(item.clone());
        }
        true
    }

    fn finish(self, prefix: &str, revision: Revision, remaining: Option<i64>) -> Listed {
        let last = self.items.last().filter(|_| self.more);
        let continue_ = last.map(|item| {
            let start = item.key.strip_prefix(prefix).unwrap_or(&item.key).to_owned();
            Token { v: "meta.k8s.io/v1".into(), rv: revision.0, start }.encode()
        });
        Listed { revision, items: self.items, continue_: continue_.unwrap_or_default(), remaining }
    }
}
