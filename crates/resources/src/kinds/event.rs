//! Events: one store, two groups whose fields have different names.

use std::sync::Arc;

use api::Object;
use registry::resource::Convert;

use crate::Row;

/// How long an event is kept.
const KEPT_SECONDS: i64 = 3600;

pub(crate) fn rows() -> Vec<Row> {
    // Both rows list the same paths in the same order: they share one cache.
    let core = Row::new("", "v1", "Event", "events")
        .table(crate::tables::core::event())
        .short(&["ev"])
        .strategy(Strategy)
        .fields(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
        ])
        .field("source", &["source", "component"], "")
        .fields(&["type"]);
    let mut events = Row::new("events.k8s.io", "v1", "Event", "events")
        .table(crate::tables::core::event())
        .short(&["ev"])
        .strategy(Strategy);
    let fields: [(&'static str, &'static [&'static str]); 11] = [
        ("regarding.kind", &["involvedObject", "kind"]),
        ("regarding.namespace", &["involvedObject", "namespace"]),
        ("regarding.name", &["involvedObject", "name"]),
        ("regarding.uid", &["involvedObject", "uid"]),
        ("regarding.apiVersion", &["involvedObject", "apiVersion"]),
        ("regarding.resourceVersion", &["involvedObject", "resourceVersion"]),
        ("regarding.fieldPath", &["involvedObject", "fieldPath"]),
        ("reason", &["reason"]),
        ("reportingController", &["reportingComponent"]),
        ("deprecatedSource", &["source", "component"]),
        ("type", &["type"]),
    ];
    for (name, path) in fields {
        events = events.field(name, path, "");
    }
    vec![core, events.stored_as("v1", Arc::new(Names))]
}

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn time_to_live(&self) -> Option<i64> {
        Some(KEPT_SECONDS)
    }
}

/// events.k8s.io's names against the core group's.
const NAMES: &[(&str, &str)] = &[
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

struct Names;

impl Convert for Names {
    fn store(&self, object: &mut Object) {
        for (events, core) in NAMES {
            if let Some(value) = object.0.remove(*events) {
                object.0.insert((*core).into(), value);
            }
        }
    }

    fn restore(&self, object: &mut Object) {
        for (events, core) in NAMES {
            if let Some(value) = object.0.remove(*core) {
                object.0.insert((*events).into(), value);
            }
        }
    }
}
