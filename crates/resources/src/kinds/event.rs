//! Events: one store, two groups whose fields have different names.

use std::sync::Arc;

use api::Object;
use api::field::{Errors, Path};
use registry::resource::Convert;

use crate::Row;
use crate::at::At;

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
        let about = At::of(object, "involvedObject");
        let (named, own) = (about.str("namespace"), object.namespace());
        // What has no namespace is told of in the default one.
        let fits = if named.is_empty() { matches!(own, "default" | "kube-system") } else { named == own };
        if !fits {
            about.invalid("namespace", named, "does not match event.namespace", errors);
        }
        let text = |field: &str| object.get_str(&[field]);
        let strict = self.strict || !text("eventTime").is_empty();
        if !strict {
            return;
        }
        let name = object.name();
        for fault in api::names::dns1123_subdomain(name).into_iter().filter(|_| !name.is_empty()) {
            errors.invalid(&Path::new("metadata.name"), object.name(), fault);
        }
        // Both groups' rules; the newer group has its own names for two fields.
        let (controller, instance) =
            (if self.strict { "reportingController" } else { "reportingComponent" }, "reportingInstance");
        if text("eventTime").is_empty() {
            errors.required(&Path::new("eventTime"), "");
        }
        if text("reportingComponent").is_empty() {
            errors.required(&Path::new(controller), "");
        }
        for fault in api::names::qualified_name(text("reportingComponent")) {
            errors.invalid(&Path::new(controller), text("reportingComponent"), fault);
        }
        if text(instance).is_empty() {
            errors.required(&Path::new(instance), "");
        } else if text(instance).len() > TEXT_MAX {
            errors.invalid(&Path::new(instance), "", "can have at most 128 characters");
        }
        for field in ["action", "reason"] {
            if text(field).is_empty() {
                errors.required(&Path::new(field), "");
            } else if text(field).len() > TEXT_MAX {
                errors.invalid(&Path::new(field), "", "can have at most 128 characters");
            }
        }
        if text("message").len() > 1024 {
            errors.invalid(&Path::new("message"), "", "can have at most 1024 characters");
        }
        if self.strict && !matches!(text("type"), "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", format!("has invalid value: {}", text("type")));
        }
        let series = At::of(object, "series");
        if !series.is_absent() && series.i64("count").unwrap_or(0) < 2 {
            series.invalid("count", "", "should be at least 2", errors);
        }
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
