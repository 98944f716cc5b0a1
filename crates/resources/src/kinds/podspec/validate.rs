//! Faults of a pod spec as a whole.

use api::field::{Errors, Path};
use api::names;

use super::container::{self, Place};
use super::{scheduling, security, volumes};
use crate::at::At;

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const INT32_MAX: i64 = i32::MAX as i64;

/// Faults of a workload's `template`: its metadata and its spec.
pub(crate) fn template(at: &At<'_>, errors: &mut Errors) {
    let meta = at.field("metadata");
    registry::meta::labels(meta.raw("labels"), &at.path.child("labels"), errors);
    registry::meta::annotations(meta.raw("annotations"), &at.path.child("annotations"), errors);
    validate(&at.field("spec"), errors);
    if at.field("spec").len("ephemeralContainers") > 0 {
        errors.forbidden(
            &at.path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        );
    }
}

/// Faults of a pod spec, in upstream's order.
pub(crate) fn validate(spec: &At<'_>, errors: &mut Errors) {
    let volumes = volumes::validate(spec, errors);
    resource_claims(spec, errors);
    container::validate_all(spec, &volumes, errors);
    container::pod_resources(spec, errors);
    host_ports(spec, errors);
    spec.one_of("restartPolicy", RESTART, errors);
    spec.one_of("dnsPolicy", DNS, errors);
    registry::meta::labels(spec.raw("nodeSelector"), &spec.path.child("nodeSelector"), errors);
    host_settings(spec, errors);
    security::pod(spec, errors);
    for secret in spec.items("imagePullSecrets") {
        secret.required("name", errors);
    }
    scheduling::affinity(spec, errors);
    dns(spec, errors);
    for gate in spec.items("readinessGates") {
        gate.check("conditionType", names::qualified_name, errors);
    }
    scheduling_gates(spec, errors);
    scheduling::spread(spec, errors);
    security::host_process(spec, errors);
    host_users(spec, errors);
    spec.check_if_set("serviceAccountName", names::dns1123_subdomain, errors);
    spec.check_if_set("nodeName", names::dns1123_subdomain, errors);
    if let Some(n) = spec.i64("activeDeadlineSeconds").filter(|n| !(1..=INT32_MAX).contains(n)) {
        spec.invalid("activeDeadlineSeconds", n, "must be between 1 and 2147483647, inclusive", errors);
    }
    spec.check_if_set("hostname", names::dns1123_label, errors);
    spec.check_if_set("subdomain", names::dns1123_label, errors);
    scheduling::tolerations(spec, errors);
    for alias in spec.items("hostAliases") {
        alias.check("ip", names::ip_address, errors);
        for host in alias.items("hostnames") {
            for fault in names::dns1123_subdomain(host.text()) {
                errors.invalid(&alias.path.child("hostnames"), host.text(), fault);
            }
        }
    }
    spec.check_if_set("priorityClassName", names::dns1123_subdomain, errors);
    if spec.has("runtimeClassName") {
        spec.check("runtimeClassName", names::dns1123_subdomain, errors);
    }
    spec.one_of_if_set("preemptionPolicy", &["Never", "PreemptLowerPriority"], errors);
    for (name, amount, at) in spec.quantities("overhead") {
        container::quantity(name, amount, &at, Place::Container, errors);
    }
    os(spec, errors);
    hostname_override(spec, errors);
}

fn scheduling_gates(spec: &At<'_>, errors: &mut Errors) {
    let gates = spec.items("schedulingGates");
    for (i, gate) in gates.iter().enumerate() {
        for fault in names::qualified_name(gate.str("name")) {
            errors.invalid(&gate.path, gate.str("name"), fault);
        }
        if gates[..i].iter().any(|g| g.str("name") == gate.str("name")) {
            errors.duplicate(&gate.path, gate.str("name"));
        }
    }
}

fn hostname_override(spec: &At<'_>, errors: &mut Errors) {
    if !spec.has("hostnameOverride") {
        return;
    }
    let name = spec.str("hostnameOverride");
    if spec.is("setHostnameAsFQDN") {
        let words = "may not be specified when setHostnameAsFQDN is true";
        errors.forbidden(&spec.path.child("hostnameOverride"), words);
    }
    if spec.is("hostNetwork") {
        let words = "may not be specified when hostNetwork is true";
        errors.forbidden(&spec.path.child("hostnameOverride"), words);
    }
    spec.check("hostnameOverride", names::dns1123_subdomain, errors);
    if name.len() > 64 {
        spec.invalid("hostnameOverride", name, "must be no more than 64 characters", errors);
    }
}

/// Claims of devices: a name each, and one place where the claim is.
fn resource_claims(spec: &At<'_>, errors: &mut Errors) {
    let claims = spec.items("resourceClaims");
    for (i, claim) in claims.iter().enumerate() {
        if claim.required("name", errors) {
            if claims[..i].iter().any(|c| c.str("name") == claim.str("name")) {
                errors.duplicate(&claim.path.child("name"), claim.str("name"));
            }
            claim.check("name", names::dns1123_label, errors);
        }
        match (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName")) {
            (true, true) => errors.invalid(
                &claim.path,
                claim.value,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => errors.invalid(
                &claim.path,
                claim.value,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if claim.has(field) {
                claim.check(field, names::dns1123_subdomain, errors);
            }
        }
    }
}

/// In the host's network a port is the host's.
fn host_ports(spec: &At<'_>, errors: &mut Errors) {
    if !spec.is("hostNetwork") {
        return;
    }
    for list in ["containers", "initContainers"] {
        for port in spec.items(list).iter().flat_map(|c| c.items("ports")) {
            let (inside, outside) = (port.i64("containerPort"), port.i64("hostPort"));
            if outside.unwrap_or(0) != inside.unwrap_or(0) {
                let words = "must match `containerPort` when `hostNetwork` is true";
                port.invalid("hostPort", outside.unwrap_or(0), words, errors);
            }
        }
    }
}

fn host_settings(spec: &At<'_>, errors: &mut Errors) {
    if spec.is("hostPID") && spec.is("shareProcessNamespace") {
        errors.invalid(
            &spec.path.child("securityContext").child("shareProcessNamespace"),
            true,
            "ShareProcessNamespace and HostPID cannot both be enabled",
        );
    }
}

/// A user namespace of its own excludes the host's other namespaces.
fn host_users(spec: &At<'_>, errors: &mut Errors) {
    if spec.raw("hostUsers").and_then(serde_json::Value::as_bool) == Some(false) {
        let path = spec.path.child("securityContext");
        for (field, word) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
        {
            if spec.is(field) {
                errors.forbidden(
                    &path.child(field),
                    format!("when `hostUsers` is false, {word} must not be true"),
                );
            }
        }
    }
}

fn dns(spec: &At<'_>, errors: &mut Errors) {
    let config = spec.field("dnsConfig");
    if spec.str("dnsPolicy") == "None" && config.len("nameservers") == 0 {
        let path = spec.path.child("dnsConfig");
        let at = if config.is_absent() { path } else { path.child("nameservers") };
        errors.required(&at, "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    if config.len("nameservers") > 3 {
        let all = config.raw("nameservers").cloned().unwrap_or_default();
        config.invalid("nameservers", &all, "must not have more than 3 nameservers", errors);
    }
    for server in config.items("nameservers") {
        server.check_self(names::ip_address, errors);
    }
    if config.len("searches") > 32 {
        let all = config.raw("searches").cloned().unwrap_or_default();
        config.invalid("searches", &all, "must not have more than 32 search paths", errors);
    }
    for search in config.items("searches") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        for fault in names::dns1123_subdomain(name).into_iter().filter(|_| search.text() != ".") {
            errors.invalid(&search.path, search.text(), fault);
        }
    }
    for option in config.items("options") {
        if option.str("name").is_empty() {
            errors.required(&option.path, "must not be empty");
        }
    }
}

fn os(spec: &At<'_>, errors: &mut Errors) {
    let Some(os) = spec.some("os") else { return };
    match os.str("name") {
        "" => errors.required(&os.path.child("name"), "cannot be empty"),
        "linux" => security::no_windows_options(spec, errors),
        "windows" => security::no_linux_settings(spec, errors),
        other => errors.not_supported(&os.path, other, &["linux", "windows"]),
    }
}

/// A path that stays where it is: relative, without `..`.
pub(super) fn local_path(path: &Path, text: &str, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    no_backsteps(path, text, errors);
}

pub(super) fn no_backsteps(path: &Path, text: &str, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}
