//! Faults of a container's mounts and devices.

use std::collections::BTreeSet;

use api::field::Errors;

use super::container::Volumes;
use super::validate::local_path;
use crate::at::At;

pub(super) fn mounts(container: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let all = container.items("volumeMounts");
    let devices = container.items("volumeDevices");
    // The faults of how a volume is mounted name the list, without an index.
    let list = container.path.child("volumeMounts");
    let device_names: BTreeSet<&str> = devices.iter().map(|d| d.str("name")).collect();
    let device_paths: BTreeSet<&str> = devices.iter().map(|d| d.str("devicePath")).collect();
    let mut seen = BTreeSet::new();
    for mount in &all {
        let name = mount.str("name");
        mount.required("name", errors);
        if !volumes.contains_key(name) {
            errors.not_found(&mount.path.child("name"), name);
        }
        mount.required("mountPath", errors);
        let path = mount.str("mountPath");
        if !seen.insert(path) {
            mount.invalid("mountPath", path, "must be unique", errors);
        }
        if device_names.contains(name) {
            mount.invalid("name", name, "must not already exist in volumeDevices", errors);
        }
        if device_paths.contains(path) {
            mount.invalid("mountPath", path, "must not already exist as a path in volumeDevices", errors);
        }
        local_path(&list.child("subPath"), mount.str("subPath"), errors);
        let expression = mount.str("subPathExpr");
        if !expression.is_empty() {
            if !mount.str("subPath").is_empty() {
                let words = "subPathExpr and subPath are mutually exclusive";
                mount.invalid("subPathExpr", expression, words, errors);
            }
            local_path(&list.child("subPathExpr"), expression, errors);
        }
        let privileged = container.field("securityContext").is("privileged");
        match mount.raw("mountPropagation").and_then(serde_json::Value::as_str) {
            None | Some("None" | "HostToContainer") => {}
            Some("Bidirectional") if privileged => {}
            Some("Bidirectional") => errors.forbidden(
                &list.child("mountPropagation"),
                "Bidirectional mount propagation is available only to privileged containers",
            ),
            Some(other) => errors.not_supported(
                &list.child("mountPropagation"),
                other,
                &["Bidirectional", "HostToContainer", "None"],
            ),
        }
        read_only(mount, &list.child("recursiveReadOnly"), errors);
    }
}

/// What is mounted below is read-only only where the mount is.
fn read_only(mount: &At<'_>, path: &api::field::Path, errors: &mut Errors) {
    match mount.raw("recursiveReadOnly").and_then(serde_json::Value::as_str) {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !mount.is("readOnly") {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.str("mountPropagation"), "" | "None") {
                let words = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path, words);
            }
        }
        Some(other) => errors.not_supported(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

pub(super) fn devices(container: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let all = container.items("volumeDevices");
    let mounts = container.items("volumeMounts");
    let climbs = |path: &str| path.split('/').any(|part| part == "..");
    let mount_names: BTreeSet<&str> = mounts.iter().map(|m| m.str("name")).collect();
    let mount_paths: BTreeSet<&str> = mounts.iter().map(|m| m.str("mountPath")).collect();
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for device in &all {
        let name = device.str("name");
        let path = device.str("devicePath");
        device.required("name", errors);
        if !name.is_empty() && !names.insert(name) {
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
        if !climbs(path) && !paths.insert(path) {
            device.invalid("devicePath", path, "must be unique", errors);
        }
        if climbs(path) {
            device.invalid("devicePath", path, "can not contain backsteps ('..')", errors);
        }
        if mount_names.contains(name) {
            device.invalid("name", name, "must not already exist in volumeMounts", errors);
        }
        if mount_paths.contains(path) {
            device.invalid("devicePath", path, "must not already exist as a path in volumeMounts", errors);
        }
    }
}
