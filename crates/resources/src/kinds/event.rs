//! Events: one store, two groups whose fields have different names.

use std::sync::Arc;

use api::Object;
use api::field::{Errors, Path};
use registry::resource::Convert;
use serde_json::Value;

use crate::Row;
use crate::at::{At, immutable};

/// How long an event is kept.
const KEPT_SECONDS: i64 = 3600;

pub(crate) fn rows() -> Vec<Row> {
    // Both rows list the same paths in the same order: they share one cache.
    let core = Row::new("", "v1", "Event", "events")
        .table(crate::tables::core::event())
        .short(&["ev"])
        .strategy(Strategy { strict: false })
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
        .fault_group("")
        .strategy(Strategy { strict: true });
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

pub struct Strategy {
    /// events.k8s.io's rules, which hold for what says its `eventTime` in the core group too.
    strict: bool,
}

const TEXT_MAX: usize = 128;

impl registry::Strategy for Strategy {
    fn is_collected(&self) -> bool {
        false
    }

    fn knows_its_finalizers(&self) -> bool {
        false
    }

    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        self.common(object, errors);
        if !self.strict {
            return;
        }
        let text = |field: &str| object.get_str(&[field]);
        let name = object.name();
        for fault in api::names::dns1123_subdomain(name).into_iter().filter(|_| !name.is_empty()) {
            errors.invalid(&Path::new("metadata.name"), name, fault);
        }
        series(object, errors);
        if text("eventTime").is_empty() {
            errors.required(&Path::new("eventTime"), "");
        }
        if !matches!(text("type"), "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", format!("has invalid value: {}", text("type")));
        }
        // What the core group's clients say of old.
        let source = At::of(object, "source");
        let old = [
            ("firstTimestamp", !text("firstTimestamp").is_empty()),
            ("lastTimestamp", !text("lastTimestamp").is_empty()),
            ("count", object.get(&["count"]).and_then(Value::as_i64).unwrap_or(0) != 0),
            ("source", !(source.str("component").is_empty() && source.str("host").is_empty())),
        ];
        for (field, _) in old.iter().filter(|(_, set)| *set) {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }

    /// In the newer group an event stands: only its series goes on.
    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.common(new, errors);
        if !self.strict {
            return;
        }
        if new.get(&["series"]) != old.get(&["series"]) {
            series(new, errors);
        }
        for &(shown, field) in KEPT {
            immutable(new.get(&[field]), old.get(&[field]), &Path::new(shown), errors);
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn time_to_live(&self) -> Option<i64> {
        Some(KEPT_SECONDS)
    }
}

/// What the newer group keeps: the names that faults have, and the stored ones. Reasons are looked at twice.
const KEPT: &[(&str, &str)] = &[
    ("involvedObject", "involvedObject"),
    ("reason", "reason"),
    ("message", "message"),
    ("source", "source"),
    ("firstTimestamp", "firstTimestamp"),
    ("lastTimestamp", "lastTimestamp"),
    ("count", "count"),
    ("reason", "reason"),
    ("type", "type"),
    ("eventTime", "eventTime"),
    ("action", "action"),
    ("related", "related"),
    ("reportingController", "reportingComponent"),
    ("reportingInstance", "reportingInstance"),
];

impl Strategy {
    /// The rules of both groups, which ask more of what says its `eventTime`.
    fn common(&self, object: &Object, errors: &mut Errors) {
        let text = |field: &str| object.get_str(&[field]);
        let about = At::of(object, "involvedObject");
        let (named, own) = (about.str("namespace"), object.namespace());
        let timed = !text("eventTime").is_empty();
        // What has no namespace is told of in the default one.
        let fits = match (timed, named.is_empty()) {
            (false, true) => matches!(own, "" | "default"),
            (false, false) => named == own,
            (true, true) => matches!(own, "default" | "kube-system"),
            (true, false) => true,
        };
        if !fits {
            about.invalid("namespace", named, "does not match event.namespace", errors);
        }
        if !timed {
            return;
        }
        // The newer group has a name of its own for who reports.
        let controller = if self.strict { "reportingController" } else { "reportingComponent" };
        if text("reportingComponent").is_empty() {
            errors.required(&Path::new(controller), "");
        }
        for fault in api::names::qualified_name(text("reportingComponent")) {
            errors.invalid(&Path::new(controller), text("reportingComponent"), fault);
        }
        for field in ["reportingInstance", "action", "reason"] {
            if text(field).is_empty() {
                errors.required(&Path::new(field), "");
            } else if text(field).len() > TEXT_MAX {
                errors.invalid(&Path::new(field), "", "can have at most 128 characters");
            }
        }
        if text("message").len() > 1024 {
            errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
        }
    }
}

fn series(object: &Object, errors: &mut Errors) {
    let series = At::of(object, "series");
    if series.is_absent() {
        return;
    }
    if series.i64("count").unwrap_or(0) < 2 {
        series.invalid("count", "", "should be at least 2", errors);
    }
    if series.str("lastObservedTime").is_empty() {
        errors.required(&series.path.child("lastObservedTime"), "");
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
