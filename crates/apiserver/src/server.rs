//! One request from its arrival to its answer.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use api::selector::Fields;
use api::{Status, User};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use registry::{Engine, RequestContext, Resource};

use crate::body::Body;
use crate::connect::Dialer;
use crate::discovery::Discovery;
use crate::info::Info;
use crate::metrics::Metrics;
use crate::openapi::OpenApi;
use crate::options::Query;
use crate::{discovery, health, respond};
use auth::{Access, Attributes};

/// The largest body of a request.
const BODY_MAX: usize = 3 * 1024 * 1024;

pub struct Config {
    pub engine: Arc<Engine>,
    pub access: Arc<Access>,
    pub dialer: Arc<dyn Dialer>,
    /// `/version`'s gitVersion: `v1.37.0`.
    pub version: String,
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
    /// (group, version, plural) to the row and its version.
    routes: HashMap<(String, String, String), (Arc<Resource>, usize)>,
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
            field_manager: self.query.get("fieldManager").to_owned(),
        }
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

impl Server {
    pub fn new(config: Config) -> Arc<Server> {
        let mut routes = HashMap::new();
        for resource in config.engine.resources() {
            for (i, version) in resource.versions.iter().enumerate() {
                let key = (resource.group.clone(), version.name.clone(), resource.plural.clone());
                routes.insert(key, (resource.clone(), i));
            }
        }
        Arc::new(Server {
            discovery: Discovery::new(config.engine.resources()),
            openapi: OpenApi::new(config.engine.resources(), &config.version),
            metrics: Metrics::new(),
            engine: config.engine,
            access: config.access,
            dialer: config.dialer,
            version: config.version,
            routes,
        })
    }

    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Answers a request. Never fails: what goes wrong is a `Status`.
    pub async fn handle(self: Arc<Self>, request: Request<Body>) -> Response<Body> {
        let start = Instant::now();
        let (parts, body) = request.into_parts();
        let method = parts.method.clone();
        let pretty = wants_pretty(&parts);
        let server = self.clone();
        let mut response = Box::pin(server.route(parts, body)).await.unwrap_or_else(|e| respond::status(&e));
        if pretty {
            make_pretty(&mut response);
        }
        let headers = response.headers_mut();
        headers.insert("cache-control", HeaderValue::from_static("no-cache, private"));
        self.metrics.observe(&method, response.status(), start.elapsed());
        response
    }

    async fn route(self: Arc<Self>, parts: Parts, body: Body) -> Result<Response<Body>, Status> {
        let user = Arc::new(self.access.authenticate(&parts)?);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        let path = parts.uri.path().to_owned();
        let info = Info::parse(&path);
        self.check_access(&user, &parts, &query, info.as_ref(), &path)?;
        let call = Call { parts, user, query };
        match info {
            Some(info) => self.resource_request(call, info, body).await,
            None => self.path_request(&call, &path),
        }
    }

    fn check_access(
        &self,
        user: &User,
        parts: &Parts,
        query: &Query,
        info: Option<&Info>,
        path: &str,
    ) -> Result<(), Status> {
        let method = parts.method.as_str().to_lowercase();
        // What a list or watch is narrowed to counts: a kubelet may see its own pods alone.
        let selector = Fields::parse(query.get("fieldSelector")).unwrap_or_default();
        let equalities: Vec<(&str, &str)> =
            selector.0.iter().filter(|t| t.equals).map(|t| (t.field.as_str(), t.value.as_str())).collect();
        let selected = selector.required("metadata.name").unwrap_or_default();
        let attributes = match info {
            Some(info) => Attributes {
                user,
                verb: info.verb(&parts.method, query.flag("watch")),
                group: &info.group,
                version: &info.version,
                resource: &info.resource,
                subresource: &info.subresource,
                namespace: &info.namespace,
                name: if info.name.is_empty() { selected } else { &info.name },
                path,
                is_resource: true,
                fields: &equalities,
            },
            None => Attributes::path(user, &method, path),
        };
        self.access.check(&attributes)
    }

    /// Paths that are no resource's.
    fn path_request(&self, call: &Call, path: &str) -> Result<Response<Body>, Status> {
        if let Some(response) = health::answer(self, path, &call.query) {
            return Ok(response);
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
        if path.starts_with("/api/") || path.starts_with("/apis/") {
            return Err(Status::path_not_found());
        }
        Ok(respond::text(StatusCode::NOT_FOUND, "404 page not found\n"))
    }

    pub(crate) fn endpoint(&self, group: &str, version: &str, plural: &str) -> Option<Endpoint> {
        let found = self.routes.get(&(group.to_owned(), version.to_owned(), plural.to_owned()));
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
            let whole = info.name.is_empty() && matches!(call.parts.method, Method::GET | Method::HEAD);
            if !whole && !(call.parts.method == Method::POST && info.name.is_empty()) {
                return Err(Status::path_not_found());
            }
        }
        if !endpoint.resource.namespaced() && !info.namespace.is_empty() && info.namespace != info.name {
            return Err(Status::path_not_found());
        }
        if !info.subresource.is_empty() {
            return self.subresource_request(call, &endpoint, &info, body).await;
        }
        self.main_request(call, &endpoint, &info, body).await
    }
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
