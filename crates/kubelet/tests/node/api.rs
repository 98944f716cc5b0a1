//! An API server for tests: objects in memory, list, watch, patch and delete, as much as a kubelet asks for.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The state, and what has happened to it.
pub struct Api {
    state: Mutex<State>,
    events: broadcast::Sender<(String, Value)>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By path: `/api/v1/namespaces/default/pods/a`.
    objects: BTreeMap<String, Value>,
}

impl Api {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), events: broadcast::channel(4096).0 })
    }

    pub fn client(self: &Arc<Self>) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Objects whose path starts so.
    pub fn under(&self, prefix: &str) -> Vec<Value> {
        let state = self.state.lock();
        state
            .objects
            .range(prefix.to_owned()..)
            .take_while(|(path, _)| path.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// Waits until the object at `path` is as `is` says, or is gone where `is` holds for `null`.
    pub async fn until(&self, path: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut events = self.events.subscribe();
        let wait = async {
            loop {
                let now = self.get(path).unwrap_or_default();
                if is(&now) {
                    return now;
                }
                let _ = events.recv().await;
            }
        };
        let limit = std::time::Duration::from_secs(30);
        match tokio::time::timeout(limit, wait).await {
            Ok(object) => object,
            Err(_) => panic!(
                "{path} is never {what}: {:#}\nevents: {:#?}",
                self.get(path).unwrap_or_default(),
                self.messages()
            ),
        }
    }

    /// `reason: message` of every event.
    pub fn messages(&self) -> Vec<String> {
        let state = self.state.lock();
        let events = state.objects.iter().filter(|(path, _)| path.contains("/events/"));
        let mut events: Vec<_> = events.map(|(_, event)| event).collect();
        events.sort_by_key(|event| {
            event["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap()
        });
        events
            .iter()
            .map(|event| {
                format!("{}: {}", event["reason"].as_str().unwrap(), event["message"].as_str().unwrap())
            })
            .collect()
    }

    pub fn put(&self, path: &str, object: Value) -> Value {
        let mut state = self.state.lock();
        let kind = if state.objects.contains_key(path) { "MODIFIED" } else { "ADDED" };
        self.store(&mut state, path, object, kind)
    }

    fn store(&self, state: &mut State, path: &str, mut object: Value, kind: &str) -> Value {
        state.revision += 1;
        object["metadata"]["resourceVersion"] = json!(state.revision.to_string());
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = json!(format!("uid-{}", state.revision));
        }
        if kind == "DELETED" {
            state.objects.remove(path);
        } else {
            state.objects.insert(path.to_owned(), object.clone());
        }
        let _ = self.events.send((path.to_owned(), json!({ "type": kind, "object": object })));
        object
    }

    /// Asks for a pod's deletion, as `kubectl delete` does.
    pub fn delete_pod(&self, path: &str, grace: i64) {
        let mut pod = self.get(path).unwrap();
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.put(path, pod);
    }

    pub fn remove(&self, path: &str) {
        let mut state = self.state.lock();
        if let Some(object) = state.objects.get(path).cloned() {
            self.store(&mut state, path, object, "DELETED");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<kube::client::Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let query: BTreeMap<String, String> =
            form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        match parts.method {
            Method::GET if query.contains_key("watch") => self.watch(&path, &query),
            Method::GET => self.read(&path, &query),
            Method::POST => self.create(&path, body),
            Method::PATCH => self.patch(&path, &body),
            Method::DELETE => self.delete(&path, &body),
            _ => failure(405, "MethodNotAllowed"),
        }
    }

    /// Whether `object` at `object_path` belongs to the list at `path`.
    fn listed(path: &str, object_path: &str, object: &Value, query: &BTreeMap<String, String>) -> bool {
        let resource = path.rsplit('/').next().unwrap();
        let version = path.rsplit_once('/').unwrap().0;
        let parts: Vec<_> = object_path.rsplitn(3, '/').collect();
        let within = object_path.starts_with(path) || object_path.starts_with(version);
        within
            && parts[1] == resource
            && query.get("fieldSelector").is_none_or(|selector| {
                let (field, value) = selector.split_once('=').unwrap();
                let pointer = format!("/{}", field.replace('.', "/"));
                object.pointer(&pointer).and_then(Value::as_str) == Some(value)
            })
    }

    fn read(&self, path: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let state = self.state.lock();
        if let Some(object) = state.objects.get(path) {
            return answer(200, object);
        }
        const KINDS: [&str; 7] = ["pods", "services", "nodes", "configmaps", "secrets", "events", "leases"];
        if !KINDS.contains(&path.rsplit('/').next().unwrap()) {
            return failure(404, "NotFound");
        }
        let items: Vec<&Value> = state
            .objects
            .iter()
            .filter(|(other, object)| Self::listed(path, other, object, query))
            .map(|(_, object)| object)
            .collect();
        let list = json!({
            "kind": "List", "apiVersion": "v1", "items": items,
            "metadata": { "resourceVersion": state.revision.to_string() },
        });
        answer(200, &list)
    }

    fn watch(&self, path: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        let state = self.state.lock();
        let events = self.events.subscribe();
        let since: u64 = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        let version =
            |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
        // What happened between the list and now; deletions in between are not kept here.
        let missed: Vec<Value> = state
            .objects
            .iter()
            .filter(|(other, object)| version(object) > since && Self::listed(path, other, object, query))
            .map(|(_, object)| json!({ "type": "MODIFIED", "object": object }))
            .collect();
        let missed = if query.contains_key("sendInitialEvents") {
            let mut all: Vec<Value> = state
                .objects
                .iter()
                .filter(|(other, object)| Self::listed(path, other, object, query))
                .map(|(_, object)| json!({ "type": "ADDED", "object": object }))
                .collect();
            all.push(json!({ "type": "BOOKMARK", "object": {
                "kind": "Any", "apiVersion": "v1",
                "metadata": {
                    "resourceVersion": state.revision.to_string(),
                    "annotations": { "k8s.io/initial-events-end": "true" },
                },
            } }));
            all
        } else {
            missed
        };
        drop(state);
        let (path, query) = (path.to_owned(), query.clone());
        let live = futures::stream::unfold(events, move |mut events| {
            let (path, query) = (path.clone(), query.clone());
            async move {
                loop {
                    let (other, event) = events.recv().await.ok()?;
                    if Self::listed(&path, &other, &event["object"], &query) {
                        return Some((event, events));
                    }
                }
            }
        });
        let all = futures::stream::iter(missed).chain(live);
        let frames = all.map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(format!("{event}\n")))));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }

    fn create(&self, path: &str, mut object: Value) -> Response<Body> {
        if path.ends_with("/token") {
            let expires = k8s_openapi::jiff::Timestamp::now() + std::time::Duration::from_secs(3600);
            object["status"] = json!({ "token": "a-token", "expirationTimestamp": expires.to_string() });
            return answer(201, &object);
        }
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let path = format!("{path}/{name}");
        let mut state = self.state.lock();
        if state.objects.contains_key(&path) {
            return failure(409, "AlreadyExists");
        }
        answer(201, &self.store(&mut state, &path, object, "ADDED"))
    }

    fn patch(&self, path: &str, patch: &Value) -> Response<Body> {
        let path = path.strip_suffix("/status").unwrap_or(path);
        let mut state = self.state.lock();
        let Some(mut object) = state.objects.get(path).cloned() else { return failure(404, "NotFound") };
        merge(&mut object, patch);
        answer(200, &self.store(&mut state, path, object, "MODIFIED"))
    }

    fn delete(&self, path: &str, options: &Value) -> Response<Body> {
        let mut state = self.state.lock();
        let Some(object) = state.objects.get(path).cloned() else { return failure(404, "NotFound") };
        let wanted = &options["preconditions"]["uid"];
        if !wanted.is_null() && *wanted != object["metadata"]["uid"] {
            return failure(409, "Conflict");
        }
        answer(200, &self.store(&mut state, path, object, "DELETED"))
    }
}

/// Strategic merge as far as status patches need it: conditions by type, everything else replaced.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        match value {
            _ if name.starts_with('$') => {}
            Value::Null => {
                into.as_object_mut().unwrap().remove(name);
            }
            Value::Array(list) if name == "conditions" => {
                let mut known = into[name].as_array().cloned().unwrap_or_default();
                for new in list {
                    match known.iter_mut().find(|old| old["type"] == new["type"]) {
                        Some(old) => merge(old, new),
                        None => {
                            let mut fresh = json!({});
                            merge(&mut fresh, new);
                            known.push(fresh);
                        }
                    }
                }
                into[name] = known.into();
            }
            Value::Array(list) => {
                into[name] = list.iter().filter(|one| one.get("$patch").is_none()).cloned().collect();
            }
            value => merge(&mut into[name], value),
        }
    }
}

fn answer(code: u16, object: &Value) -> Response<Body> {
    let body = Full::new(Bytes::from(object.to_string())).boxed_unsync();
    Response::builder().status(code).header("content-type", "application/json").body(body).unwrap()
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
        "message": reason, "metadata": {},
    });
    answer(code, &status)
}
