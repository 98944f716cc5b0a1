//! Faults of a container's mounts and devices.

use api::field::Errors;

use super::container::Volumes;
use super::validate::local_path;
use crate::at::At;

pub(super) fn mounts(container: &At<'_>, volumes: &Volumes<'_>, errors: &mut Errors) {
    let all = container.items("volumeMounts");
    let devices = container.items("volumeDevices");
    // The faults of how a volume is mounted name the list, without an index.
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
        if devices.iter().any(|d| d.str("name") == name) {
            mount.invalid("name", name, "must not already exist in volumeDevices", errors);
        }
        if devices.iter().any(|d| d.str("devicePath") == path) {
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
    for (i, device) in all.iter().enumerate() {
        let name = device.str("name");
        let path = device.str("devicePath");
        device.required("name", errors);
        if !name.is_empty() && all[..i].iter().any(|d| d.str("name") == name) {
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
        if !climbs(path) && all[..i].iter().any(|d| d.str("devicePath") == path) {
            device.invalid("devicePath", path, "must be unique", errors);
        }
        if climbs(path) {
            device.invalid("devicePath", path, "can not contain backsteps ('..')", errors);
        }
        if mounts.iter().any(|m| m.str("name") == name) {
            device.invalid("name", name, "must not already exist in volumeMounts", errors);
        }
        if mounts.iter().any(|m| m.str("mountPath") == path) {
            device.invalid("devicePath", path, "must not already exist as a path in volumeMounts", errors);
        }
    }
}
