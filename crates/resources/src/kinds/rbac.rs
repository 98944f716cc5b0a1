//! Roles and bindings: names are path segments.

use api::field::{Errors, Path};
use api::{Object, names};
use serde_json::Value;

use crate::at::{At, label_selector};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and their bindings, in one namespace or in the whole cluster.
pub struct Strategy {
    pub cluster: bool,
}

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        names::path_segment(name)
    }

    fn default(&self, object: &mut Object) {
        for subject in object.0.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(subject) = subject else { continue };
            if matches!(subject.get("kind").and_then(Value::as_str), Some("User" | "Group")) {
                crate::at::fill(subject, "apiGroup", GROUP);
            }
        }
        if let Some(Value::Object(role)) = object.0.get_mut("roleRef") {
            crate::at::fill(role, "apiGroup", GROUP);
        }
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        if object.0.contains_key("roleRef") {
            self.binding(object, errors);
            return;
        }
        let rules = At::of(object, "rules");
        for (i, rule) in rules.value.as_array().into_iter().flatten().enumerate() {
            self.rule(&At::new(rule, rules.path.index(i)), errors);
        }
        let aggregation = At::of(object, "aggregationRule");
        if aggregation.is_absent() {
            return;
        }
        let selectors = aggregation.items("clusterRoleSelectors");
        if selectors.is_empty() {
            errors.required(
                &aggregation.path.child("clusterRoleSelectors"),
                "at least one clusterRoleSelector required if aggregationRule is non-nil",
            );
        }
        for selector in selectors {
            let before = errors.len();
            label_selector(&selector, errors);
            if errors.len() > before {
                errors.invalid(&selector.path, "null", "invalid label selector.");
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        if new.0.get("roleRef") != old.0.get("roleRef") {
            let shown = new.0.get("roleRef").cloned().unwrap_or_default();
            errors.invalid(&Path::new("roleRef"), &shown, "cannot change roleRef");
        }
    }
}

impl Strategy {
    fn rule(&self, at: &At<'_>, errors: &mut Errors) {
        if at.len("verbs") == 0 {
            errors.required(&at.path.child("verbs"), "verbs must contain at least one value");
        }
        if at.len("nonResourceURLs") > 0 {
            let shown = at.raw("nonResourceURLs").cloned().unwrap_or_default();
            let path = at.path.child("nonResourceURLs");
            if !self.cluster {
                errors.invalid(&path, &shown, "namespaced rules cannot apply to non-resource URLs");
            }
            if at.len("apiGroups") + at.len("resources") + at.len("resourceNames") > 0 {
                errors.invalid(
                    &path,
                    &shown,
                    "rules cannot apply to both regular resources and non-resource URLs",
                );
            }
            return;
        }
        if at.len("apiGroups") == 0 {
            errors.required(&at.path.child("apiGroups"), "resource rules must supply at least one api group");
        }
        if at.len("resources") == 0 {
            errors.required(&at.path.child("resources"), "resource rules must supply at least one resource");
        }
    }

    fn binding(&self, object: &Object, errors: &mut Errors) {
        let role = At::of(object, "roleRef");
        if role.str("apiGroup") != GROUP {
            errors.not_supported(&role.path.child("apiGroup"), role.str("apiGroup"), &[GROUP]);
        }
        let kinds: &[&str] = if self.cluster { &["ClusterRole"] } else { &["Role", "ClusterRole"] };
        if !kinds.contains(&role.str("kind")) {
            errors.not_supported(&role.path.child("kind"), role.str("kind"), kinds);
        }
        if role.required("name", errors) {
            role.check("name", names::path_segment, errors);
        }
        let subjects = At::of(object, "subjects");
        for (i, subject) in subjects.value.as_array().into_iter().flatten().enumerate() {
            self.subject(&At::new(subject, subjects.path.index(i)), errors);
        }
    }

    fn subject(&self, at: &At<'_>, errors: &mut Errors) {
        let named = at.required("name", errors);
        let group = at.str("apiGroup");
        match at.str("kind") {
            "ServiceAccount" => {
                if named {
                    at.check("name", names::dns1123_subdomain, errors);
                }
                if !group.is_empty() {
                    errors.not_supported(&at.path.child("apiGroup"), group, &[""]);
                }
                if self.cluster && at.str("namespace").is_empty() {
                    errors.required(&at.path.child("namespace"), "");
                }
            }
            "User" | "Group" => {
                if group != GROUP {
                    errors.not_supported(&at.path.child("apiGroup"), group, &[GROUP]);
                }
            }
            other => {
                errors.not_supported(&at.path.child("kind"), other, &["ServiceAccount", "User", "Group"])
            }
        }
    }
}
