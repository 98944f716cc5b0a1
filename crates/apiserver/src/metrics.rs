//! `/metrics`: what the server counts, in Prometheus' text form.

use std::time::Duration;

use http::{HeaderValue, Method, Response, StatusCode};
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::body::Body;
use crate::respond;

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct Labels {
    verb: String,
    code: u16,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        ("verb", self.verb.as_str()).encode(encoder.encode_label())?;
        ("code", self.code).encode(encoder.encode_label())
    }
}

use prometheus_client::encoding::EncodeLabel;

pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    latency: Histogram,
    objects: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Metrics {
        let mut registry = Registry::default();
        let requests = Family::<Labels, Counter>::default();
        let buckets =
            [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];
        let latency = Histogram::new(buckets);
        let objects = Gauge::default();
        registry.register("apiserver_request", "Requests by method and code", requests.clone());
        registry.register(
            "apiserver_request_duration_seconds",
            "Time to the head of the answer",
            latency.clone(),
        );
        registry.register("apiserver_storage_objects", "Objects in the caches", objects.clone());
        Metrics { registry, requests, latency, objects }
    }

    pub(crate) fn observe(&self, method: &Method, code: StatusCode, took: Duration) {
        self.requests.get_or_create(&Labels { verb: method.to_string(), code: code.as_u16() }).inc();
        self.latency.observe(took.as_secs_f64());
    }

    pub(crate) fn answer(&self, engine: &registry::Engine) -> Response<Body> {
        let caches = engine.resources().iter().filter_map(|r| engine.cache(&r.group, &r.plural));
        let count: usize = caches.map(registry::cache::Cache::len).sum();
        self.objects.set(i64::try_from(count).unwrap_or(i64::MAX));
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
