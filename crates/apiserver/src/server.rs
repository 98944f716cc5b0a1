//! One request from its arrival to its answer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use api::selector::Fields;
use api::{Status, User};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use http_body_util::BodyExt;
use registry::{Action, Engine, RequestContext, Resource};
use tokio_util::task::TaskTracker;

use crate::body::Body;
use crate::connect::Dialer;
use crate::discovery::Discovery;
use crate::health::Health;
use crate::info::Info;
use crate::metrics::{Labels, Metrics};
use crate::openapi::OpenApi;
use crate::options::Query;
use crate::{discovery, respond, version};
use auth::{Access, Attributes};

/// The largest body of a request.
const BODY_MAX: usize = 3 * 1024 * 1024;

pub struct Config {
    pub engine: Arc<Engine>,
    pub access: Arc<Access>,
    pub dialer: Arc<dyn Dialer>,
    /// `/version`'s gitVersion: `v1.37.0`.
    pub version: String,
    /// What `/healthz` and its kin look at.
    pub health: Health,
    /// Who signs service account tokens, as `/.well-known/openid-configuration` publishes it.
    pub issuer: Issuer,
    /// `host:port` under which others reach the server.
    pub address: String,
}

/// The documents by which others verify service account tokens.
pub struct Issuer {
    pub configuration: serde_json::Value,
    pub keys: serde_json::Value,
}

/// The API server's service. Cheap to clone behind an `Arc`.
pub struct Server {
    pub(crate) engine: Arc<Engine>,
    pub(crate) access: Arc<Access>,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) discovery: Discovery,
    pub(crate) openapi: OpenApi,
    pub(crate) metrics: Metrics,
    pub(crate) version: String,
    pub(crate) address: String,
    pub(crate) health: Health,
    pub(crate) issuer: Issuer,
    /// What carries bytes to and from backends beside the requests themselves.
    pub(crate) carriers: TaskTracker,
    /// `group/version/plural` to the row and its version.
    routes: HashMap<String, (Arc<Resource>, usize)>,
    groups: HashSet<String>,
    /// By `apiVersion`, then by kind.
    kinds: HashMap<String, HashMap<String, (Arc<Resource>, usize)>>,
}

/// A request on its way through the handlers.
pub(crate) struct Call {
    pub parts: Parts,
    pub user: Arc<User>,
    pub query: Query,
}

impl Call {
    pub fn context(&self, dry_run: bool) -> RequestContext {
        RequestContext {
            user: self.user.clone(),
            dry_run,
            field_manager: self.field_manager(),
            api_version: String::new(),
        }
    }

    /// The context of a request in a version of a resource.
    pub fn context_of(&self, endpoint: &Endpoint, dry_run: bool) -> RequestContext {
        let api_version = endpoint.resource.api_version(endpoint.version);
        RequestContext { api_version, ..self.context(dry_run) }
    }

    /// Who is said to hold what the request changes: `fieldManager`, else the client's name.
    pub fn field_manager(&self) -> String {
        let given = self.query.get("fieldManager");
        if !given.is_empty() {
            return given.to_owned();
        }
        let agent = self.parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
        let name = agent.unwrap_or_default().split('/').next().unwrap_or_default();
        let name: String = name.chars().filter(|c| !c.is_control()).take(128).collect();
        if name.is_empty() { "unknown".into() } else { name }
    }

    pub fn raw_query(&self) -> &str {
        self.parts.uri.query().unwrap_or_default()
    }
}

/// A resource as a request names it.
pub(crate) struct Endpoint {
    pub resource: Arc<Resource>,
    pub version: usize,
}

/// What a request is to authorisation.
fn attributes<'a>(call: &'a Call, info: &'a Info, verb: &'a str) -> Attributes<'a> {
    Attributes {
        user: &call.user,
        verb,
        group: &info.group,
        version: &info.version,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        path: call.parts.uri.path(),
        is_resource: true,
        fields: &[],
    }
}

impl Server {
    pub fn new(config: Config) -> Arc<Server> {
        let mut routes = HashMap::new();
        let mut groups = HashSet::new();
        let mut kinds: HashMap<String, HashMap<String, (Arc<Resource>, usize)>> = HashMap::new();
        for resource in config.engine.resources() {
            groups.insert(resource.group.clone());
            for (i, version) in resource.versions.iter().enumerate() {
                let key = route_key(&resource.group, &version.name, &resource.plural);
                routes.insert(key, (resource.clone(), i));
                let of_version = kinds.entry(resource.api_version(i)).or_default();
                of_version.insert(resource.kind.clone(), (resource.clone(), i));
            }
        }
        Arc::new(Server {
            discovery: Discovery::new(config.engine.resources()),
            openapi: OpenApi::new(config.engine.resources(), &config.version),
            metrics: Metrics::new(&config.version),
            engine: config.engine,
            access: config.access,
            dialer: config.dialer,
            version: config.version,
            address: config.address,
            health: config.health,
            issuer: config.issuer,
            carriers: TaskTracker::new(),
            routes,
            groups,
            kinds,
        })
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The row of a kind.
    pub(crate) fn kind(&self, api_version: &str, kind: &str) -> Option<&(Arc<Resource>, usize)> {
        self.kinds.get(api_version)?.get(kind)
    }

    /// Whether any version of any group has a resource of this kind.
    pub(crate) fn kinds_named(&self, kind: &str) -> bool {
        self.kinds.values().any(|kinds| kinds.contains_key(kind))
    }

    /// Whether a kind is one that is served, or a list of such.
    pub(crate) fn knows_kind(&self, api_version: &str, kind: &str) -> bool {
        let item = kind.strip_suffix("List").filter(|item| !item.is_empty());
        self.kind(api_version, kind).is_some()
            || item.is_some_and(|item| self.kind(api_version, item).is_some())
    }

    /// Answers a request. Never fails: what goes wrong is a `Status`.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let info = Info::parse(&path);
        let pretty = wants_pretty(&parts);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let served = info.as_ref().filter(|info| self.serves(info));
        let labels = Labels::of(served, &parts, &query, &path);
        let flight = self.metrics.begin(&labels);
        let head = parts.method == Method::HEAD;
        let mut response = match self.access.authenticate(&parts) {
            Ok(user) => {
                let call = Call { parts, user: Arc::new(user), query };
                let routed = Box::pin(self.clone().route(call, info, path, body)).await;
                routed.unwrap_or_else(|e| respond::status(&e))
            }
            Err(auth::Refused::Status(status)) => respond::status(&status),
            Err(auth::Refused::Incomplete(why)) => respond::internal_text(&parts.uri, &why),
        };
        if pretty {
            make_pretty(&mut response);
        }
        if head {
            without_body(&mut response);
        }
        let headers = response.headers_mut();
        headers.entry("cache-control").or_insert(HeaderValue::from_static("no-cache, private"));
        flight.end(labels, response.status(), start.elapsed());
        response
    }

    /// Whether a path is one of a resource there is.
    fn serves(&self, info: &Info) -> bool {
        let endpoint = self.endpoint(&info.group, &info.version, &info.resource);
        endpoint.is_some_and(|e| {
            info.subresource.is_empty() || e.resource.subresource(&info.subresource).is_some()
        })
    }

    async fn route(
        self: Arc<Self>,
        call: Call,
        info: Option<Info>,
        path: String,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        self.check_access(&call, info.as_ref(), &path)?;
        let known = info.filter(|i| self.groups.contains(&i.group) && !path.starts_with("//"));
        let Some(info) = known else { return self.path_request(&call, &path).await };
        let deadline = call.query.deadline()?;
        let watching = info.verb(&call.parts.method, call.query.flag("watch")) == "watch";
        let long = watching || self.connects(&info);
        let asked = self.endpoint(&info.group, &info.version, &info.resource);
        let deprecation = asked.and_then(|asked| asked.resource.deprecation(asked.version));
        let work = self.resource_request(call, info, body);
        let mut done = if long {
            work.await
        } else {
            let late = |_| Err(Status::timeout("request did not complete within the allotted timeout"));
            tokio::time::timeout(deadline, work).await.unwrap_or_else(late)
        };
        if let (Ok(response), Some(deprecation)) = (&mut done, deprecation) {
            respond::warn_first(response.headers_mut(), deprecation);
        }
        done
    }

    /// Whether a request opens a stream to somewhere else.
    fn connects(&self, info: &Info) -> bool {
        let endpoint = self.endpoint(&info.group, &info.version, &info.resource);
        let sub = endpoint.and_then(|e| e.resource.subresource(&info.subresource).cloned());
        sub.is_some_and(|s| matches!(s.action, Action::Connect(_)))
    }

    fn check_access(&self, call: &Call, info: Option<&Info>, path: &str) -> Result<(), Status> {
        let Call { parts, user, query } = call;
        let method = parts.method.as_str().to_lowercase();
        // What a list or watch is narrowed to counts: a kubelet may see its own pods alone.
        let verb = info.map_or(method.as_str(), |info| info.verb(&parts.method, query.flag("watch")));
        let narrows = matches!(verb, "list" | "watch" | "deletecollection");
        let selector = Some(query.get("fieldSelector")).filter(|_| narrows);
        let selector = selector.and_then(|selector| Fields::parse(selector).ok()).unwrap_or_default();
        let equalities: Vec<(&str, &str)> =
            selector.0.iter().filter(|t| t.equals).map(|t| (t.field.as_str(), t.value.as_str())).collect();
        let selected = selector.required("metadata.name").unwrap_or_default();
        let Some(info) = info else { return self.access.check(&Attributes::path(user, &method, path)) };
        let name = if info.name.is_empty() { selected } else { &info.name };
        self.access.check(&Attributes { name, fields: &equalities, ..attributes(call, info, verb) })
    }

    /// Whether what a request turns out to be besides is the caller's right: a write that creates, a read that
    /// becomes a stream.
    pub(crate) fn check_verb(&self, call: &Call, info: &Info, verb: &str) -> Result<(), Status> {
        self.access.check(&attributes(call, info, verb))
    }

    /// Paths that are no resource's.
    async fn path_request(&self, call: &Call, path: &str) -> Result<Response<Body>, Status> {
        if let Some(response) = self.health.answer(&self.engine, path, &call.query).await {
            return Ok(response);
        }
        if path.starts_with("//") {
            return Ok(respond::not_found_text());
        }
        if let Some(response) = self.openapi.answer(path, &call.parts.headers, &call.query) {
            return Ok(response);
        }
        if let Some(response) = discovery::answer(self, call, path)? {
            return Ok(response);
        }
        if path == "/metrics" {
            return Ok(self.metrics.answer(&self.engine));
        }
        match path.trim_end_matches('/') {
            "/version" if call.parts.method != Method::GET => Err(Status::method_not_allowed()),
            "/version" => Ok(version::answer(&self.version)),
            "/.well-known/openid-configuration" => {
                Ok(respond::public(&self.issuer.configuration, "application/json"))
            }
            "/openid/v1/jwks" => Ok(respond::public(&self.issuer.keys, "application/jwk-set+json")),
            _ => Ok(respond::not_found_text()),
        }
    }

    pub(crate) fn endpoint(&self, group: &str, version: &str, plural: &str) -> Option<Endpoint> {
        let found = self.routes.get(&route_key(group, version, plural));
        found.map(|(resource, version)| Endpoint { resource: resource.clone(), version: *version })
    }

    async fn resource_request(
        self: Arc<Self>,
        call: Call,
        info: Info,
        body: Body,
    ) -> Result<Response<Body>, Status> {
        let endpoint =
            self.endpoint(&info.group, &info.version, &info.resource).ok_or_else(Status::path_not_found)?;
        if endpoint.resource.namespaced() && info.namespace.is_empty() {
            if !info.name.is_empty() {
                return Err(Status::path_not_found());
            }
            // All namespaces are only read.
            if call.parts.method != Method::GET {
                return Err(Status::method_not_allowed());
            }
        }
        if !endpoint.resource.namespaced() && !info.namespace.is_empty() && info.namespace != info.name {
            return Err(Status::path_not_found());
        }
        if matches!(info.name.as_str(), "." | "..") {
            let name = api::field::quote(&info.name);
            let why = format!("Name parameter invalid: {name}: may not be '{}'", info.name);
            return Err(Status::bad_request(why));
        }
        if !info.subresource.is_empty() {
            return self.subresource_request(call, &endpoint, &info, body).await;
        }
        self.main_request(call, &endpoint, &info, body).await
    }
}

fn route_key(group: &str, version: &str, plural: &str) -> String {
    format!("{group}/{version}/{plural}")
}

/// A request's whole body, within its bound.
///
/// # Errors
/// 413, or 400 for one that broke off.
pub(crate) async fn read_body(body: Body) -> Result<Bytes, Status> {
    if let Body::Full(bytes) = body {
        return within(bytes);
    }
    let mut all = BytesMut::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk =
            chunk.map_err(|e| Status::bad_request(format!("the body of the request broke off: {e}")))?;
        if all.len() + chunk.len() > BODY_MAX {
            return Err(too_large());
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

fn within(bytes: Bytes) -> Result<Bytes, Status> {
    if bytes.len() > BODY_MAX { Err(too_large()) } else { Ok(bytes) }
}

fn too_large() -> Status {
    Status::too_large(format!("Request entity too large: limit is {BODY_MAX}"))
}

/// People's clients get indented JSON, as upstream gives it to them.
fn wants_pretty(parts: &Parts) -> bool {
    let query = parts.uri.query().unwrap_or_default();
    if let Some((_, value)) = form_urlencoded::parse(query.as_bytes()).find(|(n, _)| n == "pretty") {
        return matches!(&*value, "true" | "1");
    }
    let agent = parts.headers.get("user-agent").and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a))
}

/// The answer to a HEAD: how long the body would be, without it.
fn without_body(response: &mut Response<Body>) {
    if let Body::Full(bytes) = std::mem::take(response.body_mut()) {
        response.headers_mut().insert(http::header::CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    }
}

fn make_pretty(response: &mut Response<Body>) {
    if response.headers().get(http::header::CONTENT_TYPE) != Some(&respond::JSON) {
        return;
    }
    let Body::Full(bytes) = response.body() else { return };
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(bytes) else { return };
    if let Ok(mut text) = serde_json::to_vec_pretty(&value) {
        text.push(b'\n');
        *response.body_mut() = Body::full(text);
    }
}
