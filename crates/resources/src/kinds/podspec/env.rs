//! Faults of a container's environment.

use api::field::Errors;
use api::names;

use super::validate::no_backsteps;
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
/// Fields that are known, but that no container is told.
const OTHERS: &[&str] =
    &["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];
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
        resource_field_ref(&resource, false, errors);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        let Some(reference) = from.some(kind) else { continue };
        sources += 1;
        reference.check("name", names::dns1123_subdomain, errors);
        if reference.required("key", errors) {
            reference.check("key", names::config_map_key, errors);
        }
    }
    if let Some(reference) = from.some("fileKeyRef") {
        sources += 1;
        file_key_ref(&reference, errors);
    }
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
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['"))
        && !map.is_empty()
    {
        let faults = match map {
            "metadata.annotations" => names::qualified_name(&key.to_lowercase()),
            "metadata.labels" => names::qualified_name(key),
            _ => {
                let why =
                    format!("error converting fieldPath: field label does not support subscript: {path}");
                at.invalid("fieldPath", path, &why, errors);
                return;
            }
        };
        let shown = if map == "metadata.annotations" { key.to_lowercase() } else { key.to_owned() };
        for fault in faults {
            errors.invalid(&at.path, &shown, fault);
        }
        return;
    }
    // The name it had long ago.
    let path = if path == "spec.host" { "spec.nodeName" } else { path };
    if !supported.contains(&path) {
        let known = FIELDS.contains(&path) || OTHERS.contains(&path);
        if known {
            errors.not_supported(&at.path.child("fieldPath"), path, supported);
        } else {
            let why = format!("error converting fieldPath: field label not supported: {path}");
            at.invalid("fieldPath", path, &why, errors);
        }
    }
}

/// A variable in a file of a volume.
fn file_key_ref(at: &At<'_>, errors: &mut Errors) {
    if at.required("key", errors) {
        at.check("key", names::env_var_name, errors);
    }
    if at.required("volumeName", errors) {
        at.check("volumeName", names::dns1123_label, errors);
    }
    if at.required("path", errors) {
        no_backsteps(&at.path.child("path"), at.str("path"), errors);
    }
}

/// Files with variables are in volumes that the pod has, of the kind that lives with it.
pub(super) fn files(spec: &At<'_>, errors: &mut Errors) {
    let volumes = spec.items("volumes");
    for container in LISTS.iter().flat_map(|list| spec.items(list)) {
        let variables = container.items("env");
        for reference in variables.iter().filter_map(|v| v.field("valueFrom").some("fileKeyRef")) {
            let name = reference.str("volumeName");
            match volumes.iter().rfind(|v| v.str("name") == name) {
                None => errors.not_found(&reference.path.child("volumeName"), name),
                Some(volume) if !volume.has("emptyDir") => {
                    let words = "referenced volume must be of type emptyDir";
                    reference.invalid("volumeName", name, words, errors);
                }
                Some(_) => {}
            }
        }
    }
}

/// An amount that a container has. In a volume the container must be named.
pub(super) fn resource_field_ref(at: &At<'_>, in_volume: bool, errors: &mut Errors) {
    let resource = at.str("resource");
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && at.str("containerName").is_empty() {
        errors.required(&at.path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&at.path.child("resource"), "");
    } else if !huge && !RESOURCES.contains(&resource) {
        errors.not_supported(&at.path.child("resource"), resource, RESOURCES);
    }
    let Some(divisor) = at.raw("divisor").and_then(crate::at::quantity).filter(|q| !q.is_zero()) else {
        return;
    };
    let divisor = divisor.to_string();
    let bytes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (allowed, kind) = match resource {
        "limits.cpu" | "requests.cpu" => ("1m, 1", "cpu"),
        "limits.memory" | "requests.memory" => (bytes, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (bytes, "local ephemeral storage"),
        _ if huge => (bytes, "hugepages"),
        _ => return,
    };
    if !allowed.split(", ").any(|a| a == divisor) {
        let told = if kind == "cpu" { "1m and 1" } else { allowed };
        let words = format!("only divisor's values {told} are supported with the {kind} resource");
        at.invalid("divisor", resource, &words, errors);
    }
}
