//! `/metrics`: what the server counts, under upstream's names, in OpenMetrics text.

use std::borrow::Cow;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::body::Body;
use crate::decode::essence;
use crate::info::Info;
use crate::options::Query;
use crate::respond;

/// Upstream's bounds, seconds.
const BOUNDS: [f64; 17] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0];

/// What a request is counted by.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) struct Labels {
    verb: &'static str,
    group: Cow<'static, str>,
    version: Cow<'static, str>,
    resource: Cow<'static, str>,
    subresource: Cow<'static, str>,
    scope: &'static str,
    dry_run: &'static str,
    /// 0 while there is no answer yet.
    code: u16,
}

impl Labels {
    /// `info` where the path is one of a resource there is.
    pub fn of(info: Option<&Info>, parts: &Parts, query: &Query, path: &str) -> Labels {
        let Some(info) = info else {
            // Paths that nobody serves are counted together, so that labels stay few.
            let known =
                ["/healthz", "/livez", "/readyz", "/version", "/metrics", "/openapi", "/api", "/apis"];
            let first = known.into_iter().rfind(|k| path.starts_with(k)).unwrap_or_default();
            return Labels {
                verb: verb(&parts.method, false, true),
                group: "".into(),
                version: "".into(),
                resource: "".into(),
                subresource: first.into(),
                scope: "",
                dry_run: "",
                code: 0,
            };
        };
        let watching = info.verb(&Method::GET, query.flag("watch")) == "watch";
        let mut verb = verb(&parts.method, watching, !info.name.is_empty());
        if verb == "PATCH" && essence(&parts.headers) == "application/apply-patch+yaml" {
            verb = "APPLY";
        }
        let scope = match (info.name.is_empty(), info.namespace.is_empty()) {
            (false, _) => "resource",
            (true, false) => "namespace",
            (true, true) => "cluster",
        };
        Labels {
            verb,
            group: info.group.clone().into(),
            version: info.version.clone().into(),
            resource: info.resource.clone().into(),
            subresource: info.subresource.clone().into(),
            scope,
            dry_run: if query.get("dryRun") == "All" { "All" } else { "" },
            code: 0,
        }
    }

    fn reads(&self) -> bool {
        matches!(self.verb, "GET" | "LIST" | "WATCH")
    }
}

fn verb(method: &Method, watching: bool, named: bool) -> &'static str {
    match *method {
        Method::GET | Method::HEAD if watching => "WATCH",
        Method::GET | Method::HEAD if named => "GET",
        Method::GET | Method::HEAD => "LIST",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE if named => "DELETE",
        Method::DELETE => "DELETECOLLECTION",
        _ => "other",
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("verb", self.verb).encode(encoder.encode_label())?;
        ("group", &*self.group).encode(encoder.encode_label())?;
        ("version", &*self.version).encode(encoder.encode_label())?;
        ("resource", &*self.resource).encode(encoder.encode_label())?;
        ("subresource", &*self.subresource).encode(encoder.encode_label())?;
        ("scope", self.scope).encode(encoder.encode_label())?;
        ("component", "apiserver").encode(encoder.encode_label())?;
        if self.code > 0 {
            ("dry_run", self.dry_run).encode(encoder.encode_label())?;
            ("code", self.code).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

type Plain = Vec<(&'static str, String)>;

/// Requests under way, and the most of them since the last look.
#[derive(Default)]
struct Flight {
    now: AtomicI64,
    most: AtomicI64,
}

/// A request under way, until it is answered or its client has gone.
pub(crate) struct Begun<'m> {
    metrics: &'m Metrics,
    flight: &'m Flight,
}

impl Begun<'_> {
    /// Counts the answer.
    pub(crate) fn end(self, mut labels: Labels, code: StatusCode, took: Duration) {
        self.metrics.latency.get_or_create(&labels).observe(took.as_secs_f64());
        labels.code = code.as_u16();
        self.metrics.requests.get_or_create(&labels).inc();
    }
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        self.flight.now.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    latency: Family<Labels, Histogram, fn() -> Histogram>,
    inflight: Family<Plain, Gauge>,
    objects: Family<Plain, Gauge>,
    reading: Flight,
    writing: Flight,
}

impl Metrics {
    pub(crate) fn new(version: &str) -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<Labels, Counter>::default();
        let latency: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BOUNDS));
        let inflight = Family::<Plain, Gauge>::default();
        let objects = Family::<Plain, Gauge>::default();
        let build = Family::<Plain, Gauge>::default();
        build.get_or_create(&vec![("git_version", version.to_owned())]).set(1);
        registry.register(
            "apiserver_request",
            "Requests, by what they ask and their answer's code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the head of the answer",
            latency.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "The most requests at once since the last look",
            inflight.clone(),
        );
        registry.register("apiserver_resource_objects", "Objects in the caches", objects.clone());
        registry.register("kubernetes_build_info", "Which build this is", build);
        Metrics {
            registry,
            requests,
            latency,
            inflight,
            objects,
            reading: Flight::default(),
            writing: Flight::default(),
        }
    }

    pub(crate) fn begin(&self, labels: &Labels) -> Begun<'_> {
        let flight = if labels.reads() { &self.reading } else { &self.writing };
        let now = flight.now.fetch_add(1, Ordering::Relaxed) + 1;
        flight.most.fetch_max(now, Ordering::Relaxed);
        Begun { metrics: self, flight }
    }

    pub(crate) fn answer(&self, engine: &registry::Engine) -> Response<Body> {
        for resource in engine.resources() {
            let Some(cache) = engine.cache(&resource.group, &resource.plural) else { continue };
            let labels = vec![("group", resource.group.clone()), ("resource", resource.plural.clone())];
            self.objects.get_or_create(&labels).set(i64::try_from(cache.len()).unwrap_or(i64::MAX));
        }
        for (kind, flight) in [("readOnly", &self.reading), ("mutating", &self.writing)] {
            let most = flight.most.swap(flight.now.load(Ordering::Relaxed), Ordering::Relaxed);
            self.inflight.get_or_create(&vec![("request_kind", kind.to_owned())]).set(most);
        }
        let mut text = String::new();
        if let Err(error) = encode(&mut text, &self.registry) {
            return respond::status(&api::Status::internal(error));
        }
        let mut response = respond::text(StatusCode::OK, text);
        let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_ask() {
        let metrics = Metrics::new("v1.37.0");
        let request = http::Request::builder().method("POST").uri("/api/v1/namespaces/a/pods?dryRun=All");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let info = Info::parse(parts.uri.path());
        let query = Query::parse(parts.uri.query().unwrap());
        let labels = Labels::of(info.as_ref(), &parts, &query, parts.uri.path());
        let begun = metrics.begin(&labels);
        begun.end(labels, StatusCode::CREATED, Duration::from_millis(1));
        assert_eq!(metrics.writing.now.load(Ordering::Relaxed), 0);
        let mut text = String::new();
        encode(&mut text, &metrics.registry).unwrap();
        let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("apiserver_request_total")).collect();
        expect![[r#"apiserver_request_total{verb="POST",group="",version="v1",resource="pods",subresource="",scope="namespace",component="apiserver",dry_run="All",code="201"} 1"#]]
            .assert_eq(&lines.join("\n"));
    }
}
