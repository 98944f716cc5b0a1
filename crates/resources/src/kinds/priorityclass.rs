//! Priority classes: the system's own have names of their own.

use api::Object;
use api::field::{Errors, Path};
use registry::RequestContext;
use serde_json::Value;

pub struct PriorityClass;

impl registry::Strategy for PriorityClass {
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.set_meta("generation", 1);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let value = object.get(&["value"]).and_then(Value::as_i64).unwrap_or(0);
        let name = object.name();
        if name.starts_with("system-") {
            let known = [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
            let why = match known.iter().find(|(n, _)| *n == name) {
                None => Some(format!("{name} is not a known system priority class")),
                Some((_, v)) if *v != value => Some(format!("value of {name} PriorityClass must be {v}")),
                Some(_) if object.get(&["globalDefault"]).and_then(Value::as_bool) == Some(true) => {
                    Some(format!("globalDefault of {name} PriorityClass must be false"))
                }
                Some(_) => None,
            };
            if let Some(why) = why {
                errors.forbidden(
                    &Path::new("metadata.name"),
                    format!("priority class names with 'system-' prefix are reserved for system use only. error: {why}"),
                );
            }
        } else if value > 1_000_000_000 {
            errors.forbidden(
                &Path::new("value"),
                "maximum allowed value of a user defined priority is 1000000000",
            );
        }
        let policy = object.get_str(&["preemptionPolicy"]);
        if !matches!(policy, "" | "PreemptLowerPriority" | "Never") {
            errors.not_supported(&Path::new("preemptionPolicy"), policy, &["PreemptLowerPriority", "Never"]);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        for field in ["value", "preemptionPolicy"] {
            let path = Path::new(field);
            if new.0.get(field) != old.0.get(field) {
                if field == "value" {
                    errors.forbidden(&path, "may not be changed in an update.");
                } else {
                    errors.invalid(&path, new.0.get(field).unwrap_or(&Value::Null), "field is immutable");
                }
            }
        }
    }
}
