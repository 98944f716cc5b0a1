//! Get and list: from the cache at a known revision, or, for pages of an older one, from the store.

use std::sync::Arc;

use api::Status;
use api::selector::{Fields, Labels};
use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::Value;
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

/// Base64 as Go reads it: what the last character says too much does not count.
const LENIENT: GeneralPurpose =
    GeneralPurpose::new(&base64::alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Upstream's form of a continue token.
#[derive(Debug, Serialize)]
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
        let token = Token::decode(&options.continue_).map_err(|why| {
            Status::bad_request(format!("invalid continue token: continue key is not valid{why}"))
        })?;
        if options.revision.is_some_and(|revision| revision.0 > 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
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
    /// # Errors
    /// What is wrong with it, in upstream's words.
    fn decode(text: &str) -> Result<Token, String> {
        let foreign = text.bytes().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
        let bytes = LENIENT.decode(text).map_err(|_| {
            let at = foreign.unwrap_or(text.len().saturating_sub(1));
            format!(": illegal base64 data at input byte {at}")
        })?;
        let value = codec::decode_json(&bytes).map_err(|e| format!(": {e}"))?.value;
        if !matches!(value, Value::Object(_) | Value::Null) {
            let word = patch::go::json_word(&value);
            return Err(format!(
                ": json: cannot unmarshal {word} into Go value of type storage.continueToken"
            ));
        }
        let field = |name: &str| value.get(name).filter(|v| !v.is_null());
        let text = |name: &str| match field(name) {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(mistyped(other, name, "string")),
        };
        let (v, start) = (text("v")?, text("start")?);
        let rv = match field("rv") {
            None => 0,
            Some(number) => number.as_i64().ok_or_else(|| mistyped(number, "rv", "int64"))?,
        };
        if v != "meta.k8s.io/v1" {
            return Err(format!(": server does not recognize this encoded version {v}"));
        }
        if rv == 0 {
            return Err(": incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into());
        }
        if start.is_empty() {
            return Err(": encoded start key empty (version meta.k8s.io/v1)".into());
        }
        // What a cleaned path would have otherwise may lead outside of what is listed.
        let mut parts = start.strip_prefix('/').unwrap_or(&start).split('/');
        if parts.any(|part| matches!(part, "" | "." | "..")) {
            return Err(format!(": {start}"));
        }
        Ok(Token { v, rv, start })
    }

    fn encode(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).expect("a token serialises"))
    }
}

fn mistyped(value: &Value, field: &str, wanted: &str) -> String {
    let word = patch::go::json_word(value);
    format!(": json: cannot unmarshal {word} into Go struct field continueToken.{field} of type {wanted}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_as_upstream_reads_them() {
        let fails = |text: &str, why: &str| assert_eq!(Token::decode(text).unwrap_err(), why, "{text}");
        let of = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
        fails("abc", ": invalid character 'i' looking for beginning of value");
        fails("a!b=", ": illegal base64 data at input byte 1");
        fails("abcde", ": illegal base64 data at input byte 4");
        fails(&of("[]"), ": json: cannot unmarshal array into Go value of type storage.continueToken");
        fails(
            &of(r#"{"v":1}"#),
            ": json: cannot unmarshal number into Go struct field continueToken.v of type string",
        );
        fails(&of(r#"{"v":"x"}"#), ": server does not recognize this encoded version x");
        fails(
            &of(r#"{"v":"meta.k8s.io/v1","start":"a"}"#),
            ": incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
        );
        fails(&of(r#"{"v":"meta.k8s.io/v1","rv":1}"#), ": encoded start key empty (version meta.k8s.io/v1)");
        fails(&of(r#"{"v":"meta.k8s.io/v1","rv":1,"start":"../a"}"#), ": ../a");
        let token = Token { v: "meta.k8s.io/v1".into(), rv: -1, start: "ns/a".into() };
        let read = Token::decode(&token.encode()).unwrap();
        assert_eq!((read.rv, read.start.as_str()), (-1, "ns/a"));
    }
}
