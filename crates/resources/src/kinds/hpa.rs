//! Horizontal pod autoscalers, and how v1 sees them.

use api::Object;
use api::field::Errors;
use api::names;
use registry::Convert;
use serde_json::{Map, Value, json};

use crate::at::{At, quantity};

pub struct Strategy;

fn policy(kind: &str, value: i64) -> Value {
    json!({"type": kind, "value": value, "periodSeconds": 15})
}

impl registry::Strategy for Strategy {
    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let target = json!({"type": "Utilization", "averageUtilization": 80});
            spec.insert(
                "metrics".into(),
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
            );
        }
        if let Some(Value::Object(behavior)) = spec.get_mut("behavior") {
            let up = api::object::map_entry(behavior, "scaleUp");
            up.entry("stabilizationWindowSeconds").or_insert(json!(0));
            rules(up, vec![policy("Pods", 4), policy("Percent", 100)]);
            rules(api::object::map_entry(behavior, "scaleDown"), vec![policy("Percent", 100)]);
        }
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        At::of(new, "status").all_non_negative(&["currentReplicas", "desiredReplicas"], errors);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let (min, max) = (spec.i64("minReplicas"), spec.i64("maxReplicas").unwrap_or(0));
        spec.non_negative("minReplicas", errors);
        if max < 1 {
            spec.invalid("maxReplicas", max, "must be greater than 0", errors);
        }
        if min.is_some_and(|m| max < m) {
            spec.invalid("maxReplicas", max, "must be greater than or equal to `minReplicas`", errors);
        }
        reference(&spec.field("scaleTargetRef"), errors);
        let metrics = spec.items("metrics");
        for at in &metrics {
            metric(at, errors);
        }
        if min == Some(0) && !metrics.iter().any(|m| matches!(m.str("type"), "Object" | "External")) {
            errors.forbidden(
                &spec.path.child("metrics"),
                "must specify at least one Object or External metric to support scaling to zero replicas",
            );
        }
        for direction in ["scaleUp", "scaleDown"] {
            if let Some(rules) = spec.field("behavior").some(direction) {
                scaling(&rules, errors);
            }
        }
    }
}

fn rules(map: &mut Map<String, Value>, policies: Vec<Value>) {
    map.entry("selectPolicy").or_insert("Max".into());
    map.entry("policies").or_insert(Value::Array(policies));
}

fn reference(at: &At<'_>, errors: &mut Errors) {
    for field in ["kind", "name"] {
        if at.required(field, errors) {
            at.check(field, names::path_segment, errors);
        }
    }
}

fn scaling(at: &At<'_>, errors: &mut Errors) {
    if let Some(window) = at.i64("stabilizationWindowSeconds") {
        let words = match window {
            w if w < 0 => "must be greater than or equal to zero",
            w if w > 3600 => "must be less than or equal to 3600",
            _ => "",
        };
        if !words.is_empty() {
            at.invalid("stabilizationWindowSeconds", window, words, errors);
        }
    }
    at.one_of_if_set("selectPolicy", &["Disabled", "Max", "Min"], errors);
    let policies = at.items("policies");
    if policies.is_empty() {
        errors.required(&at.path.child("policies"), "must specify at least one Policy");
    }
    for policy in policies {
        let kind = policy.str("type");
        if !["Percent", "Pods"].contains(&kind) {
            errors.not_supported(&policy.path.child("type"), kind, &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            let n = policy.i64(field).unwrap_or(0);
            if n <= 0 {
                policy.invalid(field, n, "must be greater than zero", errors);
            }
            if field == "periodSeconds" && n > 1800 {
                policy.invalid(field, n, "must be less than or equal to 1800", errors);
            }
        }
    }
}

/// In the order in which they are looked at.
const SOURCES: &[(&str, &str)] = &[
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

fn metric(at: &At<'_>, errors: &mut Errors) {
    const TYPES: &[&str] = &["ContainerResource", "External", "Object", "Pods", "Resource"];
    let kind = at.str("type");
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field);
    if kind.is_empty() {
        errors.required(&at.path.child("type"), "must specify a metric source type");
    }
    if expected.is_none() {
        errors.not_supported(&at.path.child("type"), kind, TYPES);
    }
    let present: Vec<&str> = SOURCES.iter().map(|(_, field)| *field).filter(|f| at.has(f)).collect();
    if let Some(field) = present.first() {
        one_source(field, &at.field(field), errors);
    }
    match expected {
        None => errors.not_supported(&at.path.child("type"), kind, TYPES),
        Some(field) if !present.contains(&field) => {
            errors.required(&at.path.child(field), "must populate information for the given metric source");
        }
        Some(_) => {}
    }
    if present.len() > 1 {
        for other in present.iter().filter(|field| Some(**field) != expected) {
            errors.forbidden(&at.path.child(other), "must populate the given metric source only");
        }
    }
}

fn one_source(kind: &str, at: &At<'_>, errors: &mut Errors) {
    if kind == "object" {
        reference(&at.field("describedObject"), errors);
    }
    match kind {
        "resource" | "containerResource" => {
            if at.str("name").is_empty() {
                errors.required(&at.path.child("name"), "must specify a resource name");
            }
            if kind == "containerResource" && at.str("container").is_empty() {
                errors.required(&at.path.child("container"), "must specify a container");
            }
        }
        _ => {
            let metric = at.field("metric");
            if metric.str("name").is_empty() {
                errors.required(&metric.path.child("name"), "must specify a metric name");
            } else {
                metric.check("name", names::path_segment, errors);
            }
        }
    }
    let target = at.field("target");
    amounts(&target, errors);
    let (value, average, used) =
        (target.has("value"), target.has("averageValue"), target.has("averageUtilization"));
    let path = |field: &str| target.path.child(field);
    match kind {
        "pods" => {
            if !average {
                errors.required(&path("averageValue"), "must specify a positive target averageValue");
            }
        }
        "object" => {
            if !value && !average {
                errors.required(&path("averageValue"), "must set either a target value or averageValue");
            }
        }
        "external" => {
            if !value && !average {
                errors.required(
                    &path("averageValue"),
                    "must set either a target value for metric or a per-pod target",
                );
            }
            if value && average {
                errors.forbidden(
                    &path("value"),
                    "may not set both a target value for metric and a per-pod target",
                );
            }
        }
        _ => {
            if !used && !average {
                errors.required(
                    &path("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                );
            }
            if used && average {
                errors.forbidden(
                    &path("averageValue"),
                    "may not set both a target raw value and a target utilization",
                );
            }
        }
    }
}

fn amounts(target: &At<'_>, errors: &mut Errors) {
    let kind = target.str("type");
    let supported = ["AverageValue", "Utilization", "Value"];
    if kind.is_empty() {
        errors.required(&target.path.child("type"), "must specify a metric target type");
    }
    if !supported.contains(&kind) {
        target.invalid("type", kind, "must be either Utilization, Value, or AverageValue", errors);
    }
    for field in ["value", "averageValue"] {
        let Some(at) = target.some(field) else { continue };
        if quantity(at.value).is_some_and(|q| q.is_negative() || q.is_zero()) {
            errors.invalid(&at.path, at.text(), "must be positive");
        }
    }
    if let Some(used) = target.i64("averageUtilization").filter(|n| *n < 1) {
        target.invalid("averageUtilization", used, "must be greater than 0", errors);
    }
}

/// autoscaling/v1: one number for the processor; everything else in annotations.
pub struct V1;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu_utilization(metric: &Value) -> bool {
    let resource = metric.get("resource");
    resource.and_then(|r| r.get("name")).and_then(Value::as_str) == Some("cpu")
        && resource.and_then(|r| r.get("target")?.get("averageUtilization")).is_some()
}

impl Convert for V1 {
    fn store(&self, object: &mut Object) {
        let used = object.remove(&["spec", "targetCPUUtilizationPercentage"]);
        let mut metrics = Vec::new();
        for (key, field) in [(METRICS, "metrics"), (BEHAVIOR, "behavior")] {
            let text = object.annotation(key).map(str::to_owned);
            let parsed = text.and_then(|t| serde_json::from_str::<Value>(&t).ok());
            object.remove(&["metadata", "annotations", key]);
            match (field, parsed) {
                ("metrics", Some(Value::Array(list))) => metrics = list,
                ("behavior", Some(value)) => object.set(&["spec", "behavior"], value),
                _ => {}
            }
        }
        if let Some(percent) = used.filter(|v| !v.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !metrics.is_empty() {
            object.set(&["spec", "metrics"], Value::Array(metrics));
        }
    }

    fn restore(&self, object: &mut Object) {
        let metrics = object.remove(&["spec", "metrics"]);
        let mut rest = Vec::new();
        for metric in metrics.as_ref().and_then(Value::as_array).into_iter().flatten() {
            if is_cpu_utilization(metric) && object.get(&["spec", "targetCPUUtilizationPercentage"]).is_none()
            {
                let percent = metric["resource"]["target"]["averageUtilization"].clone();
                object.set(&["spec", "targetCPUUtilizationPercentage"], percent);
            } else {
                rest.push(metric.clone());
            }
        }
        if !rest.is_empty() {
            object.set(&["metadata", "annotations", METRICS], Value::Array(rest).to_string());
        }
        if let Some(behavior) = object.remove(&["spec", "behavior"]) {
            object.set(&["metadata", "annotations", BEHAVIOR], behavior.to_string());
        }
        let current = object.remove(&["status", "currentMetrics"]);
        for metric in current.as_ref().and_then(Value::as_array).into_iter().flatten() {
            let used = metric.get("resource").and_then(|r| r.get("current")?.get("averageUtilization"));
            if let Some(used) = used {
                object.set(&["status", "currentCPUUtilizationPercentage"], used.clone());
            }
        }
        object.remove(&["status", "conditions"]);
        let status = api::object::map_entry(&mut object.0, "status");
        status.entry("currentReplicas").or_insert(json!(0));
    }
}
