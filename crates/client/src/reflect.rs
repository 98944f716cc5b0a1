//! The reflector: lists the objects of one kind, follows their watch, and starts over when told to.
//!
//! It knows no kind: a [`Sink`] is handed each object as the text that came, and decodes it once.
//! That keeps the road of every kind's watch one piece of code in the binary.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::io;
use std::time::Duration;

use futures::{AsyncBufRead, AsyncBufReadExt};
use http::header::{ACCEPT_ENCODING, HeaderValue};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::core::Status;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{ObjectKey, Selection};

/// What becomes of the objects.
pub(crate) trait Sink: Send + Sync {
    /// Takes up the state of an object, given as JSON.
    fn apply(&self, object: &str) -> serde_json::Result<Taken>;
    /// Forgets an object, given by its last state as JSON.
    fn remove(&self, object: &str) -> serde_json::Result<Taken>;
    /// The list is complete: forgets whatever it does not name.
    fn listed(&self, keys: &HashSet<ObjectKey>);
}

/// Which object a [`Sink`] took up, and its resourceVersion.
pub(crate) struct Taken {
    pub key: ObjectKey,
    pub version: String,
}

/// Where the objects are.
pub(crate) struct Source {
    pub client: Client,
    /// The path of the collection, such as `/api/v1/pods`.
    pub path: String,
    pub selection: Selection,
}

/// No object is longer than what a store takes (1.5 MiB); its JSON may be escaped. In bytes.
const LONGEST_EVENT: usize = 16 << 20;
/// How many objects a page of a list has, where lists are not streamed.
const PAGE: u32 = 500;
/// A watch that ended this soon without a word is a failure.
const SHORT_WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Client(#[from] kube::Error),
    #[error(transparent)]
    Request(#[from] kube::core::request::Error),
    #[error("the watch broke off: {0}")]
    Read(#[from] io::Error),
    #[error("the answer is not what was asked for: {0}")]
    Decode(#[from] serde_json::Error),
    #[error("the watch ended at once")]
    Short,
    #[error("{}", .0.message)]
    Status(Box<Status>),
}

impl Error {
    /// The code of the `Status` that was answered.
    fn code(&self) -> Option<u16> {
        match self {
            Self::Client(kube::Error::Api(status)) | Self::Status(status) => Some(status.code),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Page<'a> {
    metadata: ListMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ListMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// Follows the objects of `source` until `cancel`, whatever happens to the connection.
///
/// A streaming list is asked for first (KEP-3157); a server that refuses it gets paged lists. A watch
/// that ends goes on where it was; one whose revision is compacted lists again. Errors back off from
/// 800 ms to 30 s with jitter, as client-go's reflector.
pub(crate) async fn reflect(sink: &dyn Sink, source: Source, cancel: CancellationToken) {
    let mut reflector =
        Reflector { sink, source, streaming: true, version: None, backoff: Backoff::default() };
    let failures = async {
        loop {
            let Err(error) = reflector.round().await else { continue };
            match error.code() {
                // The revision to go on from is compacted.
                Some(410) if reflector.version.take().is_some() => continue,
                Some(400 | 422) if reflector.streaming && reflector.version.is_none() => {
                    reflector.streaming = false;
                    continue;
                }
                _ => {}
            }
            tracing::debug!(path = reflector.source.path, %error, "watch failed, trying again");
            tokio::time::sleep(reflector.backoff.next()).await;
        }
    };
    tokio::select! {
        () = failures => {}
        () = cancel.cancelled() => {}
    }
}

struct Reflector<'a> {
    sink: &'a dyn Sink,
    source: Source,
    /// Whether the server takes `sendInitialEvents`, as far as is known.
    streaming: bool,
    /// Where the watch goes on; none before a list is complete.
    version: Option<String>,
    backoff: Backoff,
}

impl Reflector<'_> {
    /// One request with its answer: a list (then there is a version), or a watch to its end.
    async fn round(&mut self) -> Result<(), Error> {
        match self.version.clone() {
            Some(version) => self.watch(&version, false).await,
            None if self.streaming => self.watch("", true).await,
            None => self.list().await,
        }
    }

    async fn list(&mut self) -> Result<(), Error> {
        let selection = &self.source.selection;
        let mut params = ListParams {
            label_selector: selection.labels.clone(),
            field_selector: selection.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut listed = HashSet::new();
        loop {
            let request = kube::core::Request::new(&self.source.path).list(&params)?;
            let text = self.source.client.request_text(request).await?;
            let page: Page<'_> = serde_json::from_str(&text)?;
            for object in page.items.iter().flatten() {
                if let Some(taken) = self.understood(self.sink.apply(object.get())) {
                    listed.insert(taken.key);
                }
            }
            params.continue_token = page.metadata.next.filter(|token| !token.is_empty());
            if params.continue_token.is_none() {
                self.sink.listed(&listed);
                self.version = Some(page.metadata.resource_version);
                self.backoff.reset();
                return Ok(());
            }
        }
    }

    /// Watches from `version`; where `listing`, the events up to the first bookmark that says so are
    /// the list.
    async fn watch(&mut self, version: &str, listing: bool) -> Result<(), Error> {
        let selection = &self.source.selection;
        let params = WatchParams {
            label_selector: selection.labels.clone(),
            field_selector: selection.fields.clone(),
            send_initial_events: listing,
            ..WatchParams::default()
        };
        let mut request = kube::core::Request::new(&self.source.path).watch(&params, version)?;
        // Each event would be a compressed stream of its own.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let begun = Instant::now();
        let mut stream = std::pin::pin!(self.source.client.request_stream(request).await?);
        let mut listed = listing.then(HashSet::new);
        let mut line = Vec::new();
        let mut heard = false;
        while next_line(stream.as_mut(), &mut line).await? {
            let Ok(text) = std::str::from_utf8(&line) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8").into());
            };
            self.event(serde_json::from_str(text)?, &mut listed)?;
            self.backoff.reset();
            heard = true;
        }
        if listed.is_some() || (!heard && begun.elapsed() < SHORT_WATCH) {
            return Err(Error::Short);
        }
        Ok(())
    }

    fn event(&mut self, event: Event<'_>, listed: &mut Option<HashSet<ObjectKey>>) -> Result<(), Error> {
        let object = event.object.get();
        let taken = match &*event.kind {
            "ADDED" | "MODIFIED" => {
                let taken = self.understood(self.sink.apply(object));
                if let (Some(listed), Some(taken)) = (listed, &taken) {
                    listed.insert(taken.key.clone());
                    return Ok(());
                }
                taken
            }
            "DELETED" => self.understood(self.sink.remove(object)),
            "BOOKMARK" => {
                let Bookmark { metadata } = serde_json::from_str(object)?;
                let ends = metadata.annotations.get("k8s.io/initial-events-end");
                if ends.is_some_and(|value| value == "true")
                    && let Some(listed) = listed.take()
                {
                    self.sink.listed(&listed);
                }
                if listed.is_none() {
                    self.version = Some(metadata.resource_version);
                }
                None
            }
            "ERROR" => return Err(Error::Status(Box::new(serde_json::from_str(object)?))),
            other => {
                tracing::warn!(path = self.source.path, r#type = other, "a watch event of an unknown type");
                None
            }
        };
        if let Some(taken) = taken
            && self.version.is_some()
        {
            self.version = Some(taken.version);
        }
        Ok(())
    }

    /// An object that cannot be decoded is left out with a warning, as client-go does: the others
    /// must not wait for it.
    fn understood(&self, taken: serde_json::Result<Taken>) -> Option<Taken> {
        taken
            .inspect_err(|error| {
                tracing::warn!(path = self.source.path, %error, "an object that cannot be decoded");
            })
            .ok()
    }
}

/// Reads up to the next line feed into `line`; false at the end.
async fn next_line(
    mut stream: std::pin::Pin<&mut impl AsyncBufRead>,
    line: &mut Vec<u8>,
) -> io::Result<bool> {
    line.clear();
    loop {
        let read = stream.fill_buf().await?;
        if read.is_empty() {
            // A line that was cut off is told again by the next watch.
            return Ok(false);
        }
        let end = read.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(read.len(), |end| end + 1);
        line.extend_from_slice(&read[..end.unwrap_or(taken)]);
        stream.as_mut().consume(taken);
        if line.len() > LONGEST_EVENT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of more than 16 MiB"));
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Delays between attempts: 800 ms doubling to 30 s, each lengthened by up to itself, as client-go's
/// reflector waits. Before the first success the delays begin shorter: who asks for an object as soon as
/// he hears of it may be ahead of those who let him.
struct Backoff {
    delay: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delay: Self::EAGER }
    }
}

impl Backoff {
    const EAGER: Duration = Duration::from_millis(5);
    const FIRST: Duration = Duration::from_millis(800);
    const LONGEST: Duration = Duration::from_secs(30);

    fn reset(&mut self) {
        self.delay = Self::FIRST;
    }

    fn next(&mut self) -> Duration {
        let delay = self.delay;
        self.delay = (delay * 2).min(Self::LONGEST);
        delay.mul_f64(1.0 + rand::random::<f64>())
    }
}

#[cfg(test)]
#[path = "reflect_tests.rs"]
mod tests;
