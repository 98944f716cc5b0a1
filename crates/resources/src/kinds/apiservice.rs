//! API services: which server answers for a group's version.

use api::Object;
use api::field::{Errors, Path, quote};
use api::names;
use registry::RequestContext;
use serde_json::json;

use crate::at::At;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn unconditional_update(&self) -> bool {
        false
    }

    /// Only what fits into a path; [`Strategy::validate`] knows the one name that is right.
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        names::path_segment(name)
    }

    /// A version that this server answers itself is there at once.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        if object.get(&["spec", "service"]).is_some() {
            return;
        }
        let now = object.meta_str("creationTimestamp").to_owned();
        object.set(
            &["status", "conditions"],
            json!([{
                "type": "Available",
                "status": "True",
                "lastTransitionTime": now,
                "reason": "Local",
                "message": "Local APIServices are always available",
            }]),
        );
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let (group, version) = (spec.str("group"), spec.str("version"));
        let name = Path::new("metadata.name");
        let wanted = format!("{version}.{group}");
        if object.name() != wanted
            && !object.name().is_empty()
            && names::path_segment(object.name()).is_empty()
        {
            let words = format!("must be `spec.version+\".\"+spec.group`: {}", quote(&wanted));
            errors.invalid(&name, object.name(), words);
        }
        if !group.is_empty() {
            joined(&spec, "group", names::dns1123_subdomain, errors);
        }
        joined(&spec, "version", names::dns1035_label, errors);
        for (field, limit) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1_000)] {
            let n = spec.i64(field).unwrap_or(0);
            if n <= 0 || n > limit {
                spec.invalid(field, n, &format!("must be positive and less than {limit}"), errors);
            }
        }
        let Some(service) = spec.some("service") else {
            if spec.len("caBundle") > 0 || !spec.str("caBundle").is_empty() {
                let words = "local APIServices may not have a caBundle";
                spec.invalid(
                    "caBundle",
                    api::field::Bare(format!("{} bytes", spec.str("caBundle").len())),
                    words,
                    errors,
                );
            }
            if spec.is("insecureSkipTLSVerify") {
                spec.invalid(
                    "insecureSkipTLSVerify",
                    true,
                    "local APIServices may not have insecureSkipTLSVerify",
                    errors,
                );
            }
            return;
        };
        for field in ["namespace", "name"] {
            service.required(field, errors);
        }
        if let Some(port) = service.i64("port") {
            for fault in names::port_number(port) {
                service.invalid("port", port, &format!("port is not valid: {fault}"), errors);
            }
        }
        if spec.is("insecureSkipTLSVerify") && !spec.str("caBundle").is_empty() {
            spec.invalid("insecureSkipTLSVerify", true, "may not be true if caBundle is present", errors);
        }
    }

    fn validate_update(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        for condition in At::of(new, "status").items("conditions") {
            condition.one_of("status", &["False", "True", "Unknown"], errors);
        }
    }
}

/// A field's faults of a name as one fault.
fn joined(at: &At<'_>, field: &str, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
    let faults = check(at.str(field));
    if !faults.is_empty() {
        at.invalid(field, at.str(field), &faults.join(","), errors);
    }
}
