//! From a request to its handler.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use k8s_openapi::api::core::v1::Pod;

use super::{Server, User};
use crate::names;

pub type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// A request's query: every value of each name.
pub type Query = HashMap<String, Vec<String>>;

/// A refusal: status and text.
pub type Refusal = (StatusCode, String);

pub fn text(status: StatusCode, text: impl Into<String>) -> Response<Body> {
    body(status, "text/plain; charset=utf-8", text.into().into())
}

pub fn body(status: StatusCode, kind: &'static str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(bytes).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

pub fn json(value: &impl serde::Serialize) -> Result<Response<Body>, Refusal> {
    let bytes =
        serde_json::to_vec(value).map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(body(StatusCode::OK, "application/json", bytes.into()))
}

/// Whether a flag such as `tty=1` is set.
pub fn flag(query: &Query, names: &[&str]) -> bool {
    let values = names.iter().filter_map(|name| query.get(*name)).flatten();
    values.into_iter().any(|value| matches!(value.as_str(), "1" | "true"))
}

/// The part of the node a path belongs to, as authorisation names it.
fn subresource(path: &str) -> &'static str {
    match path.split('/').nth(1) {
        Some("stats") => "stats",
        Some("metrics") => "metrics",
        Some("logs") => "log",
        Some("pods" | "runningpods") => "pods",
        Some("healthz") => "healthz",
        Some("configz") => "configz",
        _ => "proxy",
    }
}

impl Server {
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        user: Option<User>,
    ) -> Response<Body> {
        let user = match user {
            Some(user) => user,
            None => match self.bearer(&request).await {
                Some(user) => user,
                None => return text(StatusCode::UNAUTHORIZED, "Unauthorized"),
            },
        };
        let verb = match *request.method() {
            Method::POST => "create",
            Method::PUT => "update",
            Method::DELETE => "delete",
            _ => "get",
        };
        let part = subresource(request.uri().path());
        if !self.config.authorizer.authorize(&user, verb, part).await {
            let node = &self.ctx.config.node_name;
            let message = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{part}], node={node})",
                user.name
            );
            return text(StatusCode::FORBIDDEN, message);
        }
        match self.route(request).await {
            Ok(response) => response,
            Err((status, message)) => text(status, message),
        }
    }

    async fn bearer(&self, request: &Request<Incoming>) -> Option<User> {
        let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
        self.config.authorizer.authenticate(header.strip_prefix("Bearer ")?.trim()).await
    }

    async fn route(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let mut query = Query::new();
        for (name, value) in form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes()) {
            query.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["healthz", ..] => Ok(text(StatusCode::OK, "ok")),
            ["pods"] => self.pods(),
            ["stats", "summary"] | ["stats"] => self.summary().await,
            ["metrics"] => Ok(self.metrics()),
            ["metrics", "resource"] => self.resource_metrics().await,
            ["configz"] => self.configz(),
            ["runningpods"] => self.running_pods().await,
            ["logs", ..] => self.host_logs(&path).await,
            ["containerLogs", namespace, pod, container] => {
                self.logs(namespace, pod, container, &query).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                self.exec(request, namespace, pod, container, &query).await
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                self.attach(request, namespace, pod, container, &query).await
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                self.run(namespace, pod, container, &query).await
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                self.port_forward(request, namespace, pod).await
            }
            _ => Err((StatusCode::NOT_FOUND, "404 page not found\n".into())),
        }
    }

    /// The pod of this name on this node.
    pub(super) fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Refusal> {
        let pods = self.registry.pods();
        let found =
            pods.into_iter().find(|pod| names::namespace(pod) == namespace && names::name(pod) == name);
        found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod \"{name}_{namespace}\" not found\n")))
    }

    fn pods(&self) -> Result<Response<Body>, Refusal> {
        let pods = self.registry.pods();
        let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
        json(&serde_json::json!({ "kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items }))
    }
}
