//! WATCH: events as lines of JSON, as they come.

use std::time::Duration;

use api::Status;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, Response};
use registry::{Item, WatchEvent, Watcher};
use serde_json::json;
use store::Revision;

use crate::answer::{object_bytes, partial_bytes};
use crate::body::{Body, Error};
use crate::info::Info;
use crate::negotiate::{self, Accepted, Form};
use crate::server::{Call, Endpoint, Server};
use crate::table;

/// Events are gathered into chunks of about this many bytes when several are ready.
const CHUNK: usize = 64 * 1024;
/// How long a watch lasts whose client names no end, at least; at most twice as long.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// What a watch's stream holds between events.
struct Telling {
    watcher: Watcher,
    endpoint: Endpoint,
    accepted: Accepted,
    call: Call,
    engine: std::sync::Arc<registry::Engine>,
    first: bool,
    deadline: Option<tokio::time::Instant>,
}

impl Server {
    pub(crate) async fn watch(
        &self,
        call: &Call,
        endpoint: &Endpoint,
        info: &Info,
    ) -> Result<Response<Body>, Status> {
        let accepted = negotiate::accepted(&call.parts.headers, true)?;
        let options = call.query.watch(&endpoint.resource, &info.namespace, &info.name)?;
        // Who names no end is given one, as upstream: connections are spread over servers again, and nobody
        // who is gone stays.
        let timeout = call.query.timeout()?.unwrap_or_else(|| LIFETIME.mul_f64(1.0 + rand::random::<f64>()));
        let watcher = self.engine.watch(&endpoint.resource, options).await?;
        let telling = Telling {
            watcher,
            endpoint: Endpoint { resource: endpoint.resource.clone(), version: endpoint.version },
            accepted,
            call: Call {
                parts: call.parts.clone(),
                user: call.user.clone(),
                query: crate::options::Query::parse(call.raw_query()),
            },
            engine: self.engine.clone(),
            first: true,
            // One beyond what a clock can say is none.
            deadline: tokio::time::Instant::now().checked_add(timeout),
        };
        let stream = futures::stream::unfold(telling, |mut telling| async move {
            let chunk = telling.chunk().await?;
            Some((Ok::<Bytes, Error>(chunk), telling))
        });
        let mut response = Response::new(Body::stream(stream));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        Ok(response)
    }
}

impl Telling {
    /// The next events; `None` when the watch is over.
    async fn chunk(&mut self) -> Option<Bytes> {
        let event = match self.deadline {
            None => self.watcher.next().await,
            Some(deadline) => tokio::time::timeout_at(deadline, self.watcher.next()).await.ok().flatten(),
        }?;
        let mut out = BytesMut::new();
        self.write(&mut out, event);
        while out.len() < CHUNK
            && let Some(event) = self.watcher.next_ready()
        {
            self.write(&mut out, event);
        }
        Some(out.freeze())
    }

    fn write(&mut self, out: &mut BytesMut, event: WatchEvent) {
        match event {
            WatchEvent::Added(item) => self.write_item(out, "ADDED", &item),
            WatchEvent::Modified(item) => self.write_item(out, "MODIFIED", &item),
            WatchEvent::Deleted(item) => self.write_item(out, "DELETED", &item),
            WatchEvent::Bookmark { revision, initial_end } => {
                let object = self.bookmark(revision, initial_end);
                frame(out, "BOOKMARK", object.to_string().as_bytes());
            }
            WatchEvent::Error(status) => {
                let bytes = serde_json::to_vec(&status).expect("a Status serialises");
                frame(out, "ERROR", &bytes);
            }
        }
    }

    fn write_item(&mut self, out: &mut BytesMut, kind: &str, item: &Item) {
        let object = match self.accepted.form {
            Form::Object => object_bytes(&self.endpoint, item),
            Form::Metadata { .. } => partial_bytes(&self.endpoint, item, self.accepted),
            Form::Table => self.table_bytes(item),
        };
        match object {
            Ok(bytes) => frame(out, kind, &bytes),
            Err(status) => {
                let bytes = serde_json::to_vec(&status).expect("a Status serialises");
                frame(out, "ERROR", &bytes);
            }
        }
    }

    fn table_bytes(&mut self, item: &Item) -> Result<Bytes, Status> {
        let object = item.object()?;
        let objects = std::slice::from_ref(&object);
        let rows = table::rows(&self.endpoint, objects, &self.call, self.accepted, self.engine.now())?;
        let asked = (&self.call, self.accepted);
        let table = table::event(&self.endpoint, rows, item.revision, asked, self.first);
        self.first = false;
        serde_json::to_vec(&table).map(Into::into).map_err(Status::internal)
    }

    fn bookmark(&self, revision: Revision, initial_end: bool) -> serde_json::Value {
        let resource = &self.endpoint.resource;
        let meta = format!("meta.k8s.io/{}", self.accepted.meta);
        let (api_version, kind) = match self.accepted.form {
            Form::Object => (resource.api_version(self.endpoint.version), resource.kind.as_str()),
            Form::Metadata { .. } => (meta, "PartialObjectMetadata"),
            Form::Table => (meta, "Table"),
        };
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if self.accepted.form == Form::Object {
            metadata["creationTimestamp"] = serde_json::Value::Null;
        }
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        json!({"kind": kind, "apiVersion": api_version, "metadata": metadata})
    }
}

fn frame(out: &mut BytesMut, kind: &str, object: &[u8]) {
    out.reserve(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}
