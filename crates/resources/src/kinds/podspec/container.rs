//! Faults of containers: names, images, ports, mounts, resources.

use std::collections::BTreeMap;

use api::field::Errors;
use api::{Quantity, names};
use serde_json::Value;

use super::validate::{local_path, no_backsteps};
use super::{env, probe, security};
use crate::at::At;

/// What holds a resource list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Container,
    Other,
}

/// The kinds of containers of a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Main,
    Init,
    Ephemeral,
}

/// The volumes that a pod spec has, by name, with their definition.
pub(super) type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

pub(super) fn validate_all(spec: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let main = spec.items("containers");
    if main.is_empty() {
        errors.required(&spec.path.child("containers"), "");
    }
    let mut names: Vec<&str> = Vec::new();
    for container in &main {
        one(container, Role::Main, &mut names, volumes, errors);
    }
    host_ports(&main, errors);
    for container in spec.items("initContainers") {
        let role = if container.str("restartPolicy") == "Always" { Role::Main } else { Role::Init };
        one(&container, role, &mut names, volumes, errors);
        if role == Role::Init {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if container.has(field) {
                    errors.forbidden(
                        &container.path.child(field),
                        "may not be set for init containers without restartPolicy=Always",
                    );
                }
            }
        }
        host_ports(std::slice::from_ref(&container), errors);
    }
    for container in spec.items("ephemeralContainers") {
        for mount in container.items("volumeMounts") {
            for field in ["subPath", "subPathExpr"] {
                if !mount.str(field).is_empty() {
                    errors.forbidden(&mount.path.child(field), "cannot be set for an Ephemeral Container");
                }
            }
        }
        one(&container, Role::Ephemeral, &mut names, volumes, errors);
        let target = container.str("targetContainerName");
        if !target.is_empty() && !main.iter().any(|c| c.str("name") == target) {
            errors.not_found(&container.path.child("targetContainerName"), target);
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
            if container.has(field) {
                errors.forbidden(&container.path.child(field), "cannot be set for an Ephemeral Container");
            }
        }
        if container.field("resources").len("limits") + container.field("resources").len("requests") > 0 {
            errors.forbidden(&container.path.child("resources"), "cannot be set for an Ephemeral Container");
        }
    }
}

fn one<'a>(
    container: &At<'a>,
    role: Role,
    seen: &mut Vec<&'a str>,
    volumes: &Volumes<'_>,
    errors: &mut Errors,
) {
    let name = container.str("name");
    if container.required("name", errors) {
        container.check("name", names::dns1123_label, errors);
        if seen.contains(&name) {
            errors.duplicate(&container.path.child("name"), name);
        }
        seen.push(name);
    }
    container.required("image", errors);
    if role != Role::Ephemeral {
        lifecycle(container, errors);
        probe::validate_all(container, errors);
        ports(container, errors);
    }
    container.one_of_if_set("restartPolicy", &["Always", "OnFailure", "Never"], errors);
    container.one_of_if_set("terminationMessagePolicy", &["FallbackToLogsOnError", "File"], errors);
    env::validate(container, errors);
    mounts(container, volumes, errors);
    devices(container, volumes, errors);
    container.one_of_if_set("imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    resources(&container.field("resources"), errors);
    security::container(&container.field("securityContext"), errors);
}

/// What a pod's own containers must keep, but a template's need not.
pub(crate) fn validate_of_pod(spec: &At<'_>, errors: &mut Errors) {
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.items(list) {
            let image = container.str("image");
            if image.trim() != image {
                container.invalid("image", image, "must not have leading or trailing whitespace", errors);
            }
        }
    }
}

/// Resources of the pod as a whole: of a few kinds, and not less than its containers ask for together.
pub(super) fn pod_resources(spec: &At<'_>, errors: &mut Errors) {
    let Some(at) = spec.some("resources") else { return };
    if at.len("claims") > 0 {
        errors.forbidden(&at.path.child("claims"), "may not be set for resources at the pod level");
    }
    resources(&at, errors);
    for list in ["limits", "requests"] {
        for (name, _, entry) in at.quantities(list) {
            if !matches!(name, "cpu" | "memory") && !name.starts_with("hugepages-") {
                errors.not_supported(&entry.path, name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    let containers = spec.items("containers");
    let of = |list: &str, name: &str| {
        let amounts = containers.iter().filter_map(|c| {
            let held = c.field("resources");
            held.field(list).raw(name).and_then(crate::at::quantity)
        });
        amounts.fold(None, |sum: Option<Quantity>, q| Some(sum.map_or(q, |s| s + q)))
    };
    for (name, amount, entry) in at.quantities("requests") {
        if let Some(sum) = of("requests", name).filter(|s| amount < *s) {
            let words = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.invalid(&entry.path, entry.text(), words);
        }
    }
    for (name, amount, _) in at.quantities("limits") {
        for container in &containers {
            let held = container.field("resources").field("limits");
            if let Some(own) = held.raw(name).and_then(crate::at::quantity).filter(|own| *own > amount) {
                let words = format!("must be less than or equal to pod limits of {amount}");
                errors.invalid(&held.path.key(name), own.to_string(), words);
            }
        }
    }
}

fn lifecycle(container: &At<'_>, errors: &mut Errors) {
    let lifecycle = container.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(hook) = lifecycle.some(hook) {
            probe::handler(&hook, &["exec", "httpGet", "tcpSocket", "sleep"], errors);
        }
    }
}

fn ports(container: &At<'_>, errors: &mut Errors) {
    let ports = container.items("ports");
    for (i, port) in ports.iter().enumerate() {
        let name = port.str("name");
        if !name.is_empty() {
            let faults = names::port_name(name);
            if faults.is_empty() && ports[..i].iter().any(|p| p.str("name") == name) {
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

fn host_ports(containers: &[At<'_>], errors: &mut Errors) {
    let mut seen: Vec<String> = Vec::new();
    for port in containers.iter().flat_map(|c| c.items("ports")) {
        let Some(n) = port.i64("hostPort").filter(|n| *n != 0) else { continue };
        let key = format!("{}/{}/{n}", port.str("protocol"), port.str("hostIP"));
        if seen.contains(&key) {
            errors.duplicate(&port.path.child("hostPort"), key);
        } else {
            seen.push(key);
        }
    }
}

fn mounts(container: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let all = container.items("volumeMounts");
    let privileged = container.field("securityContext").is("privileged");
    // These three fields' faults name the list, without an index.
    let list = container.path.child("volumeMounts");
    for (i, mount) in all.iter().enumerate() {
        let name = mount.str("name");
        mount.required("name", errors);
        if !volumes.contains_key(name) {
            errors.not_found(&mount.path.child("name"), name);
        }
        mount.required("mountPath", errors);
        let path = mount.str("mountPath");
        if all[..i].iter().any(|m| m.str("mountPath") == path) {
            mount.invalid("mountPath", path, "must be unique", errors);
        }
        if container.items("volumeDevices").iter().any(|d| d.str("name") == name) {
            mount.invalid("name", name, "must not already exist in volumeDevices", errors);
        }
        if container.items("volumeDevices").iter().any(|d| d.str("devicePath") == path) {
            mount.invalid("mountPath", path, "must not already exist as a path in volumeDevices", errors);
        }
        local_path(&list.child("subPath"), mount.str("subPath"), errors);
        if !mount.str("subPathExpr").is_empty() {
            if !mount.str("subPath").is_empty() {
                mount.invalid(
                    "subPathExpr",
                    mount.str("subPathExpr"),
                    "subPathExpr and subPath are mutually exclusive",
                    errors,
                );
            }
            local_path(&list.child("subPathExpr"), mount.str("subPathExpr"), errors);
        }
        match mount.str("mountPropagation") {
            "" | "None" | "HostToContainer" => {}
            "Bidirectional" if privileged => {}
            "Bidirectional" => errors.forbidden(
                &list.child("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            ),
            other => errors.not_supported(
                &list.child("mountPropagation"),
                other,
                &["Bidirectional", "HostToContainer", "None"],
            ),
        }
    }
}

fn devices(container: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let all = container.items("volumeDevices");
    for (i, device) in all.iter().enumerate() {
        let name = device.str("name");
        let path = device.str("devicePath");
        device.required("name", errors);
        if all[..i].iter().any(|d| d.str("name") == name) {
            device.invalid("name", name, "must be unique", errors);
        }
        match volumes.get(name) {
            None => errors.not_found(&device.path.child("name"), name),
            Some(v) if v.get("persistentVolumeClaim").is_none() && v.get("ephemeral").is_none() => device
                .invalid(
                    "name",
                    name,
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    errors,
                ),
            Some(_) => {}
        }
        device.required("devicePath", errors);
        if all[..i].iter().any(|d| d.str("devicePath") == path) {
            device.invalid("devicePath", path, "must be unique", errors);
        }
        no_backsteps(&device.path.child("devicePath"), path, errors);
        if container.items("volumeMounts").iter().any(|m| m.str("name") == name) {
            device.invalid("name", name, "must not already exist in volumeMounts", errors);
        }
    }
}

fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

fn extended(name: &str) -> bool {
    !native(name) && !name.starts_with("requests.")
}

fn overcommittable(name: &str) -> bool {
    native(name) && !name.starts_with("hugepages-")
}

/// Faults of a resource's name.
pub(crate) fn resource_name(name: &str, at: &At<'_>, place: Place, errors: &mut Errors) {
    let standard = matches!(
        name,
        "cpu"
            | "memory"
            | "ephemeral-storage"
            | "storage"
            | "pods"
            | "services"
            | "secrets"
            | "configmaps"
            | "replicationcontrollers"
            | "resourcequotas"
            | "persistentvolumeclaims"
    ) || ["requests.", "limits.", "count/", "services."].iter().any(|p| name.starts_with(p));
    let huge = name.starts_with("hugepages-");
    for fault in names::qualified_name(name) {
        errors.invalid(&at.path, name, fault);
    }
    let qualified = names::qualified_name(name).is_empty();
    if qualified && !name.contains('/') && !standard && !huge {
        errors.invalid(&at.path, name, "must be a standard resource type or fully qualified");
    }
    if place == Place::Container {
        let allowed = matches!(name, "cpu" | "memory" | "ephemeral-storage") || huge;
        if !name.contains('/') && !allowed {
            errors.invalid(&at.path, name, "must be a standard resource for containers");
        } else if name.contains('/') && native(name) && !huge {
            errors.invalid(&at.path, name, "doesn't follow extended resource name standard");
        }
    }
}

/// Faults of an amount of a resource.
pub(crate) fn quantity(name: &str, amount: Quantity, at: &At<'_>, place: Place, errors: &mut Errors) {
    resource_name(name, at, place, errors);
    if amount.is_negative() {
        errors.invalid(&at.path, at.text(), "must be greater than or equal to 0");
    }
    let whole = matches!(
        name,
        "pods"
            | "services"
            | "secrets"
            | "configmaps"
            | "replicationcontrollers"
            | "resourcequotas"
            | "persistentvolumeclaims"
    ) || name.starts_with("count/")
        || name.starts_with("services.")
        || extended(name);
    if whole && !amount.is_integer() {
        errors.invalid(&at.path, at.text(), "must be an integer");
    }
}

/// Faults of `resources`.
pub(super) fn resources(at: &At<'_>, errors: &mut Errors) {
    let limits = at.quantities("limits");
    let requests = at.quantities("requests");
    // A request above its limit is told of at the list.
    let asked = at.path.child("requests");
    let limit_of = |name: &str| limits.iter().find(|(n, _, _)| *n == name).map(|(_, q, _)| *q);
    let mut huge = false;
    let mut plain = false;
    for (name, amount, at) in &limits {
        quantity(name, *amount, at, Place::Container, errors);
        huge |= name.starts_with("hugepages-");
        plain |= matches!(*name, "cpu" | "memory");
    }
    for (name, amount, entry) in &requests {
        quantity(name, *amount, entry, Place::Container, errors);
        match limit_of(name) {
            Some(limit) if *amount != limit && !overcommittable(name) => {
                errors.invalid(&asked, entry.text(), format!("must be equal to {name} limit of {limit}"))
            }
            Some(limit) if *amount > limit => errors.invalid(
                &asked,
                entry.text(),
                format!("must be less than or equal to {name} limit of {limit}"),
            ),
            None if !overcommittable(name) => errors
                .required(&at.path.child("limits"), "Limit must be set for non overcommitable resources"),
            _ => {}
        }
        huge |= name.starts_with("hugepages-");
        plain |= matches!(*name, "cpu" | "memory");
    }
    if huge && !plain {
        errors.forbidden(&at.path, "HugePages require cpu or memory");
    }
}
