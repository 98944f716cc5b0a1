//! Workloads: the pod template's defaults, and those that hang on other fields.

use api::Object;
use serde_json::{Value, json};

use super::podspec;

/// Defaults of the template of a workload that has one at `spec.template`.
fn default_template(object: &mut Object) {
    if let Some(Value::Object(spec)) =
        object.0.get_mut("spec").and_then(|s| s.get_mut("template")?.get_mut("spec"))
    {
        podspec::default(spec);
    }
}

pub struct Deployment;

impl registry::Strategy for Deployment {
    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        let strategy = api::object::map_entry(spec, "strategy");
        strategy.entry("type").or_insert("RollingUpdate".into());
        if strategy.get("type").and_then(Value::as_str) == Some("RollingUpdate") {
            let rolling = api::object::map_entry(strategy, "rollingUpdate");
            rolling.entry("maxUnavailable").or_insert("25%".into());
            rolling.entry("maxSurge").or_insert("25%".into());
        }
        default_template(object);
    }
}

pub struct Job;

impl registry::Strategy for Job {
    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        if !spec.contains_key("completions") && !spec.contains_key("parallelism") {
            spec.insert("completions".into(), json!(1));
        }
        spec.entry("parallelism").or_insert(json!(1));
        default_template(object);
    }
}
