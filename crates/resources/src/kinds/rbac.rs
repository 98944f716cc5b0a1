//! Roles and bindings: names are path segments.

use api::Object;
use serde_json::Value;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    fn default(&self, object: &mut Object) {
        for subject in object.0.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(subject) = subject else { continue };
            let group = match subject.get("kind").and_then(Value::as_str) {
                Some("User" | "Group") => "rbac.authorization.k8s.io",
                _ => continue,
            };
            subject.entry("apiGroup").or_insert(group.into());
        }
        if let Some(Value::Object(role)) = object.0.get_mut("roleRef") {
            role.entry("apiGroup").or_insert("rbac.authorization.k8s.io".into());
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }
}
