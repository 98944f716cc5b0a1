//! Faults of a pod spec as a whole.

use std::collections::BTreeSet;

use api::field::{Bare, Errors, Path};
use api::names;

use super::container::{self, Pod};
use super::resources::{self, Place};
use super::{annotations, env, scheduling, security, volumes, windows};
use crate::at::At;

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
/// Of a search list, in bytes, with a space between its domains.
const SEARCH_MAX: usize = 2048;
const INT32_MAX: i64 = i32::MAX as i64;

/// Faults of a workload's `template`: its metadata and its spec.
pub(crate) fn template(at: &At<'_>, errors: &mut Errors) {
    let meta = at.field("metadata");
    registry::meta::labels(meta.raw("labels"), &at.path.child("labels"), errors);
    registry::meta::annotations(meta.raw("annotations"), &at.path.child("annotations"), errors);
    let spec = at.field("spec");
    let notes = annotations::of(meta.map("annotations"));
    annotations::validate(&notes, &spec, &at.path.child("annotations"), errors);
    validate(&spec, None, errors);
    annotations::seccomp_agrees(&notes, &spec, errors);
    if spec.len("ephemeralContainers") > 0 {
        let words = "ephemeral containers not allowed in pod template";
        errors.forbidden(&spec.path.child("ephemeralContainers"), words);
    }
}

/// Faults of a pod spec, in upstream's order. `pod` is the name of the pod, where the spec is a pod's own.
pub(crate) fn validate(spec: &At<'_>, pod: Option<&str>, errors: &mut Errors) {
    let volumes = volumes::validate(spec, pod.filter(|name| !name.is_empty()), errors);
    resource_claims(spec, errors);
    let pod = Pod::of(spec, volumes);
    container::validate_all(spec, &pod, errors);
    resources::of_pod(spec, &pod.claims, errors);
    host_ports(spec, errors);
    spec.one_of("restartPolicy", RESTART, errors);
    spec.one_of("dnsPolicy", DNS, errors);
    registry::meta::labels(spec.raw("nodeSelector"), &spec.path.child("nodeSelector"), errors);
    security::pod(spec, errors);
    scheduling::affinity(spec, errors);
    dns(spec, errors);
    for gate in spec.items("readinessGates") {
        gate.check("conditionType", names::qualified_name, errors);
    }
    scheduling_gates(spec, errors);
    scheduling::spread(spec, errors);
    windows::host_process(spec, errors);
    host_users(spec, errors);
    hostname_override(spec, errors);
    identity(spec, errors);
    scheduling::tolerations(spec, errors);
    host_aliases(spec, errors);
    spec.check_if_set("priorityClassName", names::dns1123_subdomain, errors);
    if spec.has("runtimeClassName") {
        spec.check("runtimeClassName", names::dns1123_subdomain, errors);
    }
    if spec.has("preemptionPolicy") {
        spec.one_of("preemptionPolicy", &["PreemptLowerPriority", "Never"], errors);
    }
    overhead(spec, errors);
    os(spec, errors);
    if let Some(group) = spec.some("schedulingGroup") {
        match group.has("podGroupName") {
            true => group.check("podGroupName", names::dns1123_subdomain, errors),
            false => errors.invalid(
                &group.path.child("podGroupName"),
                Bare("null".into()),
                "must specify one of: `podGroupName`",
            ),
        }
    }
    env::files(spec, errors);
}

/// Who the pod is, where, and for how long.
fn identity(spec: &At<'_>, errors: &mut Errors) {
    spec.check_if_set("serviceAccountName", names::dns1123_subdomain, errors);
    spec.check_if_set("nodeName", names::dns1123_subdomain, errors);
    if let Some(n) = spec.i64("activeDeadlineSeconds").filter(|n| !(1..=INT32_MAX).contains(n)) {
        spec.invalid("activeDeadlineSeconds", n, "must be between 1 and 2147483647, inclusive", errors);
    }
    spec.check_if_set("hostname", names::dns1123_label, errors);
    spec.check_if_set("subdomain", names::dns1123_label, errors);
}

fn host_aliases(spec: &At<'_>, errors: &mut Errors) {
    for alias in spec.items("hostAliases") {
        alias.check("ip", names::ip_address, errors);
        // Told at the list, as if it were one alias.
        let path = spec.path.child("hostAliases").child("hostnames");
        for host in alias.items("hostnames") {
            for fault in names::dns1123_subdomain(host.text()) {
                errors.invalid(&path, host.text(), fault);
            }
        }
    }
}

/// What the pod needs beside its containers is judged as their limits are, and told of as such.
fn overhead(spec: &At<'_>, errors: &mut Errors) {
    if let Some(at) = spec.some("overhead") {
        let limits = serde_json::json!({"limits": at.value});
        resources::resources(&At::new(&limits, at.path), Place::Container, &BTreeSet::new(), errors);
    }
}

fn scheduling_gates(spec: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for gate in spec.items("schedulingGates") {
        for fault in names::qualified_name(gate.str("name")) {
            errors.invalid(&gate.path, gate.str("name"), fault);
        }
        if !seen.insert(gate.str("name")) {
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
    if name.len() > 64 {
        errors.too_long(&spec.path.child("hostnameOverride"), 64);
    }
    spec.check("hostnameOverride", names::dns1123_subdomain, errors);
}

/// Claims of devices: a name each, and one place where the claim is.
fn resource_claims(spec: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for claim in spec.items("resourceClaims") {
        if claim.required("name", errors) {
            if !seen.insert(claim.str("name")) {
                errors.duplicate(&claim.path.child("name"), claim.str("name"));
            } else {
                claim.check("name", names::dns1123_label, errors);
            }
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

/// In the host's network a port is the host's. Templates may leave it out.
fn host_ports(spec: &At<'_>, errors: &mut Errors) {
    if !spec.is("hostNetwork") {
        return;
    }
    for port in spec.items("containers").iter().flat_map(|c| c.items("ports")) {
        let number = |field: &str| port.i64(field).unwrap_or(0);
        let outside = number("hostPort");
        if outside != 0 && outside != number("containerPort") {
            let words = "must match `containerPort` when `hostNetwork` is true";
            port.invalid("hostPort", outside, words, errors);
        }
    }
}

/// A user namespace of its own excludes the host's other namespaces.
fn host_users(spec: &At<'_>, errors: &mut Errors) {
    if spec.raw("hostUsers").and_then(serde_json::Value::as_bool) != Some(false) {
        return;
    }
    let words = "when `hostUsers` is false";
    for (field, told) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.is(field) {
            errors.forbidden(&spec.path.child(told), words);
        }
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    for container in lists.iter().flat_map(|list| spec.items(list)) {
        if container.len("volumeDevices") > 0 {
            errors.forbidden(&container.path.child("volumeDevices"), words);
        }
    }
}

fn dns(spec: &At<'_>, errors: &mut Errors) {
    let config = spec.field("dnsConfig");
    if spec.str("dnsPolicy") == "None" && config.is_absent() {
        errors.required(&config.path, "must provide `dnsConfig` when `dnsPolicy` is None");
        return;
    }
    if spec.str("dnsPolicy") == "None" && config.len("nameservers") == 0 {
        let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.required(&config.path.child("nameservers"), words);
        return;
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
    let searches = config.items("searches");
    let length: usize = searches.iter().map(|s| s.text().len() + 1).sum();
    if length.saturating_sub(1) > SEARCH_MAX {
        let all = config.raw("searches").cloned().unwrap_or_default();
        let words =
            format!("must not have more than {SEARCH_MAX} characters (including spaces) in the search list");
        config.invalid("searches", &all, &words, errors);
    }
    for search in searches.iter().filter(|search| search.text() != ".") {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        // Some of their labels have underscores, as those of services.
        let plain = name.replace('_', "a");
        if !names::dns1123_subdomain(&plain).is_empty() {
            for fault in names::dns1123_subdomain(name) {
                errors.invalid(&search.path, name, fault);
            }
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A sound pod spec with some fields more, and the fields that are at fault then.
    fn faults(fields: Value) -> Vec<String> {
        let mut spec = json!({
            "containers": [{"name": "c", "image": "i"}],
            "restartPolicy": "Always",
            "dnsPolicy": "ClusterFirst",
            "terminationGracePeriodSeconds": 30,
        });
        for (name, value) in fields.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        let mut errors = Errors::default();
        validate(&At::new(&spec, Path::new("spec")), Some("pod"), &mut errors);
        errors.iter().map(|e| e.field.clone()).collect()
    }

    #[test]
    fn each_field_is_told_of_where_upstream_does() {
        let spread = json!({"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"});
        let table: &[(Value, &[&str])] = &[
            (json!({}), &[]),
            (json!({"imagePullSecrets": [{}]}), &[]),
            (json!({"dnsPolicy": "None"}), &["spec.dnsConfig"]),
            (json!({"dnsPolicy": "None", "dnsConfig": {}}), &["spec.dnsConfig.nameservers"]),
            (
                json!({"topologySpreadConstraints": [spread, spread]}),
                &["spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}"],
            ),
            (json!({"hostUsers": false, "hostPID": true}), &["spec.HostPID"]),
            (json!({"overhead": {"bad": "1"}}), &["spec.overhead.limits[bad]", "spec.overhead.limits[bad]"]),
            (
                json!({"os": {"name": "windows"}, "shareProcessNamespace": true}),
                &["spec.shareProcessNamespace"],
            ),
            (
                json!({"securityContext": {"seLinuxChangePolicy": "Bad"}}),
                &["spec.securityContext.seLinuxChangePolicy"],
            ),
            (json!({"resources": {"limits": {"storage": "1"}}}), &["spec.resources.limits[storage]"]),
            (
                json!({"volumes": [{"name": "v", "ephemeral": {}}, {"name": "w", "persistentVolumeClaim": {"claimName": "pod-v"}}]}),
                &[
                    "spec.volumes[0].ephemeral.volumeClaimTemplate",
                    "spec.volumes[1].persistentVolumeClaim.claimName",
                ],
            ),
        ];
        for (fields, wanted) in table {
            assert_eq!(faults(fields.clone()), *wanted, "{fields}");
        }
    }

    #[test]
    fn containers_are_judged_field_by_field() {
        let table: &[(Value, &[&str])] = &[
            (
                json!({"resizePolicy": [{"resourceName": "disk", "restartPolicy": "NotRequired"}]}),
                &["resizePolicy"],
            ),
            (json!({"resources": {"claims": [{"name": "a"}]}}), &["resources.claims[0]"]),
            (
                json!({"resources": {"limits": {"hugepages-2Mi": "3Mi", "cpu": "1"}}}),
                &["resources.limits[hugepages-2Mi]"],
            ),
            (
                json!({"resources": {"limits": {"requests.example.com/x": "1"}}}),
                &["resources.limits[requests.example.com/x]"],
            ),
            (json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}}}), &["lifecycle.preStop.sleep"]),
            (json!({"lifecycle": {"stopSignal": "SIGTERM"}}), &["lifecycle.stopSignal"]),
            (
                json!({"restartPolicyRules": [{"action": "Restart"}]}),
                &["restartPolicy", "restartPolicyRules[0].exitCodes"],
            ),
            (json!({"securityContext": {"procMount": "Unmasked"}}), &["securityContext.procMount"]),
            (
                json!({"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"key": "k"}}}]}),
                &["env[0].valueFrom.secretKeyRef.name"],
            ),
            (
                json!({"env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a b']"}}}]}),
                &["env[0].valueFrom.fieldRef"],
            ),
            (
                json!({"imagePullPolicy": "Bad", "ports": [{"protocol": "TCP"}], "terminationMessagePolicy": "Bad"}),
                &["terminationMessagePolicy", "ports[0].containerPort", "imagePullPolicy"],
            ),
        ];
        for (fields, wanted) in table {
            let mut container = json!({"name": "c", "image": "i"});
            for (name, value) in fields.as_object().into_iter().flatten() {
                container[name] = value.clone();
            }
            let wanted: Vec<String> = wanted.iter().map(|w| format!("spec.containers[0].{w}")).collect();
            assert_eq!(faults(json!({"containers": [container]})), wanted, "{fields}");
        }
    }
}
