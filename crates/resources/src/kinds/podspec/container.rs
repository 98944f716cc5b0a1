//! Faults of containers: names, images, ports, and what each kind of container may have.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Errors, Path};
use api::names;
use serde_json::Value;

use super::resources::Place;
use super::{env, mounts, probe, resources, security};
use crate::at::At;

/// The volumes that a pod spec has, by name, with their definition.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// What of the pod its containers are judged by.
pub(super) struct Pod<'a> {
    volumes: Volumes<'a>,
    /// Names of its claims of devices.
    pub claims: BTreeSet<&'a str>,
    /// Seconds.
    grace: Option<i64>,
    os: Option<&'a str>,
    restarts: &'a str,
    host_users: bool,
}

impl<'a> Pod<'a> {
    pub fn of(spec: &At<'a>, volumes: Volumes<'a>) -> Pod<'a> {
        let claims = spec.items("resourceClaims");
        Pod {
            volumes,
            claims: claims.iter().map(|c| c.str("name")).filter(|name| !name.is_empty()).collect(),
            grace: spec.i64("terminationGracePeriodSeconds"),
            os: spec.some("os").map(|os| os.str("name")),
            restarts: spec.str("restartPolicy"),
            host_users: spec.raw("hostUsers").and_then(Value::as_bool) != Some(false),
        }
    }
}

pub(super) fn validate_all(spec: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let main = spec.items("containers");
    if main.is_empty() {
        errors.required(&spec.path.child("containers"), "");
    }
    let mut names = BTreeSet::new();
    for container in &main {
        one(container, pod, errors);
        if !names.insert(container.str("name")) {
            errors.duplicate(&container.path.child("name"), container.str("name"));
        }
        acts(container, pod, errors);
        restarts(container, errors);
    }
    host_ports(&main, &spec.path.child("containers"), errors);
    let initial = spec.items("initContainers");
    for container in &initial {
        one(container, pod, errors);
        restarts(container, errors);
        let name = container.str("name");
        if names.contains(name) {
            errors.duplicate(&container.path.child("name"), name);
        } else if !name.is_empty() {
            names.insert(name);
        }
        // They run one after another, so that each is judged alone, as if it were the first.
        host_ports(std::slice::from_ref(container), &spec.path.child("initContainers"), errors);
        before_others(container, pod, errors);
    }
    let lasting: BTreeSet<&str> = main.iter().chain(&initial).map(|c| c.str("name")).collect();
    let mut names = lasting.clone();
    for container in spec.items("ephemeralContainers") {
        one(&container, pod, errors);
        of_pod(&container, errors);
        let name = container.str("name");
        if !names.insert(name) {
            errors.duplicate(&container.path.child("name"), name);
        }
        ephemeral(&container, &lasting, errors);
    }
}

/// What holds for every kind of container.
fn one(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    if container.required("name", errors) {
        container.check("name", names::dns1123_label, errors);
    }
    container.required("image", errors);
    container.one_of_if_set("terminationMessagePolicy", &["File", "FallbackToLogsOnError"], errors);
    ports(container, errors);
    env::validate(container, errors);
    mounts::mounts(container, &pod.volumes, errors);
    mounts::devices(container, &pod.volumes, errors);
    container.one_of_if_set("imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    resources::resources(&container.field("resources"), Place::Container, &pod.claims, errors);
    resize_policy(container, pod.restarts, errors);
    security::container(&container.field("securityContext"), pod.host_users, errors);
}

/// What is done to a container while it lives.
fn acts(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    let lifecycle = container.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = lifecycle.some(hook) {
            probe::handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], pod.grace, errors);
        }
    }
    if lifecycle.has("stopSignal") {
        probe::stop_signal(&lifecycle.field("stopSignal"), pod.os, errors);
    }
    probe::validate_all(container, pod.grace, errors);
}

/// What containers that prepare the pod may not have, unless they stay beside the others.
fn before_others(container: &At<'_>, pod: &Pod<'_>, errors: &mut Errors) {
    if container.str("restartPolicy") == "Always" {
        acts(container, pod, errors);
        return;
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            let words = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&container.path.child(field), words);
        }
    }
    for policy in container.items("resizePolicy") {
        let restart = policy.str("restartPolicy");
        if restart == "RestartContainer" {
            let words = "must not be set to 'RestartContainer' for non-sidecar initContainers";
            policy.invalid("restartPolicy", restart, words, errors);
        }
    }
}

/// What a container that is put into a running pod may have.
fn ephemeral(container: &At<'_>, lasting: &BTreeSet<&str>, errors: &mut Errors) {
    const WORDS: &str = "cannot be set for an Ephemeral Container";
    let target = container.str("targetContainerName");
    if !target.is_empty() && !lasting.contains(target) {
        errors.not_found(&container.path.child("targetContainerName"), target);
    }
    for field in [
        "ports",
        "resources",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "livenessProbe",
        "readinessProbe",
        "startupProbe",
        "lifecycle",
    ] {
        // Resources are there always, though empty.
        let is_set = match field {
            "resources" => container.len(field) > 0,
            _ => container.has(field),
        };
        if is_set {
            errors.forbidden(&container.path.child(field), WORDS);
        }
    }
    for mount in container.items("volumeMounts") {
        for field in ["subPath", "subPathExpr"] {
            if !mount.str(field).is_empty() {
                errors.forbidden(&mount.path.child(field), WORDS);
            }
        }
    }
}

/// What a pod's own containers must keep, but a template's need not.
pub(crate) fn validate_of_pod(spec: &At<'_>, errors: &mut Errors) {
    for container in ["containers", "initContainers"].iter().flat_map(|list| spec.items(list)) {
        of_pod(&container, errors);
    }
}

fn of_pod(container: &At<'_>, errors: &mut Errors) {
    let image = container.str("image");
    if image.trim() != image {
        container.invalid("image", image, "must not have leading or trailing whitespace", errors);
    }
}

/// When a container is started again, and by which rules of its own.
fn restarts(container: &At<'_>, errors: &mut Errors) {
    let rules = container.items("restartPolicyRules");
    let path = container.path.child("restartPolicyRules");
    match container.raw("restartPolicy") {
        None if rules.is_empty() => return,
        None => errors.required(
            &container.path.child("restartPolicy"),
            "must specify restartPolicy when restart rules are used",
        ),
        Some(policy) => supported(
            &container.path.child("restartPolicy"),
            policy.as_str().unwrap_or_default(),
            &["Always", "Never", "OnFailure"],
            errors,
        ),
    }
    if rules.len() > 20 {
        errors.too_many(&path, rules.len(), 20);
    }
    for rule in rules {
        let actions = &["Restart", "RestartAllContainers"];
        supported(&rule.path.child("action"), rule.str("action"), actions, errors);
        let Some(codes) = rule.some("exitCodes") else {
            errors.required(&rule.path.child("exitCodes"), "must be specified");
            continue;
        };
        supported(&codes.path.child("operator"), codes.str("operator"), &["In", "NotIn"], errors);
        if codes.len("values") > 255 {
            errors.too_many(&codes.path.child("values"), codes.len("values"), 255);
        }
    }
}

fn supported(path: &Path, text: &str, values: &[&str], errors: &mut Errors) {
    if !values.contains(&text) {
        errors.not_supported(path, text, values);
    }
}

/// What is done when a resource's amount changes. The faults stand at the list.
fn resize_policy(container: &At<'_>, restarts: &str, errors: &mut Errors) {
    let all = container.items("resizePolicy");
    let path = container.path.child("resizePolicy");
    let mut seen = BTreeSet::new();
    for policy in &all {
        let (name, restart) = (policy.str("resourceName"), policy.str("restartPolicy"));
        if !seen.insert(name) {
            errors.duplicate(&policy.path, name);
        }
        let known: [(&str, &[&str]); 2] =
            [(name, &["cpu", "memory"]), (restart, &["NotRequired", "RestartContainer"])];
        for (text, values) in known {
            match text {
                "" => errors.required(&path, ""),
                _ => supported(&path, text, values, errors),
            }
        }
        if restarts == "Never" && restart != "NotRequired" {
            let words = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(&path, restart, words);
        }
    }
}

fn ports(container: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in container.items("ports") {
        let name = port.str("name");
        if !name.is_empty() {
            let faults = names::port_name(name);
            if faults.is_empty() && !seen.insert(name) {
                errors.duplicate(&port.path.child("name"), name);
            }
            for fault in faults {
                port.invalid("name", name, &fault, errors);
            }
        }
        match port.i64("containerPort").unwrap_or(0) {
            0 => errors.required(&port.path.child("containerPort"), ""),
            n => {
                for fault in names::port_number(n) {
                    port.invalid("containerPort", n, &fault, errors);
                }
            }
        }
        if let Some(n) = port.i64("hostPort").filter(|n| *n != 0) {
            for fault in names::port_number(n) {
                port.invalid("hostPort", n, &fault, errors);
            }
        }
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
    }
}

fn host_ports(containers: &[At<'_>], list: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (p, port) in container.items("ports").iter().enumerate() {
            let Some(n) = port.i64("hostPort").filter(|n| *n != 0) else { continue };
            let key = format!("{}/{}/{n}", port.str("protocol"), port.str("hostIP"));
            if !seen.insert(key.clone()) {
                let path = list.index(i).child("ports").index(p).child("hostPort");
                errors.duplicate(&path, key);
            }
        }
    }
}
