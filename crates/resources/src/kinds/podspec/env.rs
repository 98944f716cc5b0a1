//! Faults of a container's environment.

use api::field::Errors;
use api::names;

use crate::at::At;

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn validate(container: &At<'_>, errors: &mut Errors) {
    for variable in container.items("env") {
        if variable.required("name", errors) {
            variable.check("name", names::env_var_name, errors);
        }
        if let Some(from) = variable.some("valueFrom") {
            value_from(&from, variable.str("value"), errors);
        }
    }
    for source in container.items("envFrom") {
        source.check_if_set("prefix", names::env_var_name, errors);
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            let Some(reference) = source.some(kind) else { continue };
            sources += 1;
            if reference.required("name", errors) {
                reference.check("name", names::dns1123_subdomain, errors);
            }
        }
        // The fault stands at the list.
        let path = container.path.child("envFrom");
        match sources {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(from: &At<'_>, value: &str, errors: &mut Errors) {
    let mut sources = 0;
    if let Some(field) = from.some("fieldRef") {
        sources += 1;
        field_ref(&field, FIELDS, errors);
    }
    if let Some(resource) = from.some("resourceFieldRef") {
        sources += 1;
        resource_field_ref(&resource, errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = from.some(kind) else { continue };
        sources += 1;
        reference.required("name", errors);
        if reference.required("key", errors) {
            reference.check("key", names::config_map_key, errors);
        }
    }
    sources += usize::from(from.has("fileKeyRef"));
    match sources {
        0 => errors.invalid(
            &from.path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if !value.is_empty() => {
            errors.invalid(&from.path, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => errors.invalid(&from.path, "", "may not have more than one field specified at a time"),
    }
}

/// A field of the pod, by the path that its container asks for.
pub(super) fn field_ref(at: &At<'_>, supported: &[&str], errors: &mut Errors) {
    if !at.required("apiVersion", errors) || !at.required("fieldPath", errors) {
        return;
    }
    let path = at.str("fieldPath");
    if at.str("apiVersion") != "v1" {
        let why = format!("error converting fieldPath: unsupported pod version: {}", at.str("apiVersion"));
        at.invalid("fieldPath", path, &why, errors);
        return;
    }
    if let Some((map, key)) = path.strip_suffix(']').and_then(|p| p.split_once("['")) {
        let key = key.strip_suffix('\'').unwrap_or(key);
        let faults = match map {
            "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
            "metadata.labels" => names::qualified_name(key),
            _ => {
                let why = format!("{} does not support subscript", api::field::quote(map));
                at.invalid("fieldPath", path, &why, errors);
                return;
            }
        };
        for fault in faults {
            at.invalid("fieldPath", key, &fault, errors);
        }
        return;
    }
    if !supported.contains(&path) {
        let known = FIELDS.contains(&path)
            || ["metadata.labels", "metadata.annotations", "spec.restartPolicy", "spec.schedulerName"]
                .contains(&path)
            || path.starts_with("status.phase");
        if known {
            errors.not_supported(&at.path.child("fieldPath"), path, supported);
        } else {
            let why = format!("error converting fieldPath: field label not supported: {path}");
            at.invalid("fieldPath", path, &why, errors);
        }
    }
}

pub(super) fn resource_field_ref(at: &At<'_>, errors: &mut Errors) {
    if !at.required("resource", errors) {
        return;
    }
    let resource = at.str("resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if !huge && !RESOURCES.contains(&resource) {
        errors.not_supported(&at.path.child("resource"), resource, RESOURCES);
        return;
    }
    let divisor = at.str("divisor");
    let (allowed, words): (&[&str], &str) = match resource.split_once('.').map(|(_, r)| r) {
        Some("cpu") => {
            (&["", "0", "1m", "1"], "only divisor's values 1m and 1 are supported with the cpu resource")
        }
        Some("memory" | "ephemeral-storage") => (
            &["", "0", "1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"],
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        _ => return,
    };
    if !allowed.contains(&divisor) {
        at.invalid("divisor", resource, words, errors);
    }
}
