//! Faults of security contexts.

use std::collections::BTreeSet;

use api::field::Errors;

use super::validate::local_path;
use super::windows;
use crate::at::At;

const ID_MAX: i64 = i32::MAX as i64;
/// The longest path that there is, in bytes.
const PROFILE_MAX: usize = 4095;

fn id(at: &At<'_>, field: &str, errors: &mut Errors) {
    if let Some(n) = at.i64(field).filter(|n| !(0..=ID_MAX).contains(n)) {
        at.invalid(field, n, "must be between 0 and 2147483647, inclusive", errors);
    }
}

/// The pod's `securityContext`.
pub(super) fn pod(spec: &At<'_>, errors: &mut Errors) {
    let at = spec.field("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(&at, field, errors);
    }
    for group in at.items("supplementalGroups") {
        if let Some(n) = group.value.as_i64().filter(|n| !(0..=ID_MAX).contains(n)) {
            errors.invalid(&group.path, n, "must be between 0 and 2147483647, inclusive");
        }
    }
    if spec.is("hostPID") && spec.is("shareProcessNamespace") {
        let words = "ShareProcessNamespace and HostPID cannot both be enabled";
        at.invalid("shareProcessNamespace", true, words, errors);
    }
    sysctls(spec, &at, errors);
    one_of(&at, "fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
    seccomp(&at, errors);
    windows::options(&at.field("windowsOptions"), errors);
    app_armor(&at, errors);
    one_of(&at, "supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    one_of(&at, "seLinuxChangePolicy", &["MountOption", "Recursive"], errors);
}

/// A text that is one of a few, where it is there, be it empty.
fn one_of(at: &At<'_>, field: &str, values: &[&str], errors: &mut Errors) {
    if at.has(field) && !values.contains(&at.str(field)) {
        errors.not_supported(&at.path.child(field), at.str(field), values);
    }
}

fn sysctls(spec: &At<'_>, at: &At<'_>, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for sysctl in at.items("sysctls") {
        let name = sysctl.str("name");
        let segment = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && s.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
        };
        let dotted = name.replace('/', ".");
        if name.is_empty() {
            errors.required(&sysctl.path.child("name"), "");
        } else if name.len() > 253 || !dotted.split('.').all(segment) {
            let words = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            sysctl.invalid("name", name, words, errors);
        } else if !seen.insert(name) {
            errors.duplicate(&sysctl.path.child("name"), name);
        }
        if spec.is("hostNetwork") && dotted.starts_with("net") {
            sysctl.invalid("name", name, "may not be specified when 'hostNetwork' is true", errors);
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
            || dotted == "kernel.sem";
        if spec.is("hostIPC") && ipc {
            sysctl.invalid("name", name, "may not be specified when 'hostIPC' is true", errors);
        }
    }
}

/// A container's `securityContext`. `host_users` says whether the pod shares the host's user namespace.
pub(super) fn container(at: &At<'_>, host_users: bool, errors: &mut Errors) {
    id(at, "runAsUser", errors);
    id(at, "runAsGroup", errors);
    one_of(at, "procMount", &["Default", "Unmasked"], errors);
    if host_users && at.str("procMount") == "Unmasked" {
        at.invalid("procMount", "Unmasked", "`hostUsers` must be false to use `Unmasked`", errors);
    }
    seccomp(at, errors);
    if at.raw("allowPrivilegeEscalation").and_then(serde_json::Value::as_bool) == Some(false) {
        if at.is("privileged") {
            errors.invalid(
                &at.path,
                at.value,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        for _ in at.field("capabilities").items("add").iter().filter(|c| c.text() == "CAP_SYS_ADMIN") {
            errors.invalid(
                &at.path,
                at.value,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
    windows::options(&at.field("windowsOptions"), errors);
    app_armor(at, errors);
}

const PROFILES: &[&str] = &["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(holder: &At<'_>, errors: &mut Errors) {
    let Some(at) = holder.some("seccompProfile") else { return };
    let path = at.path.child("localhostProfile");
    match at.str("type") {
        "" => errors.required(&at.path.child("type"), "type is required when seccompProfile is set"),
        kind if PROFILES.contains(&kind) => {}
        other => errors.not_supported(&at.path.child("type"), other, PROFILES),
    }
    match (at.str("type"), at.has("localhostProfile")) {
        ("Localhost", false) => errors.required(&path, "must be set when seccomp type is Localhost"),
        ("Localhost", true) => local_path(&path, at.str("localhostProfile"), errors),
        (_, true) => errors.invalid(&path, at.value, "can only be set when seccomp type is Localhost"),
        (_, false) => {}
    }
}

fn app_armor(holder: &At<'_>, errors: &mut Errors) {
    let Some(at) = holder.some("appArmorProfile") else { return };
    let path = at.path.child("localhostProfile");
    let profile = at.str("localhostProfile");
    match at.str("type") {
        "" => errors.required(&at.path.child("type"), "type is required when appArmorProfile is set"),
        "Localhost" => {
            if profile.trim() != profile {
                errors.invalid(&path, profile, "must not be padded with whitespace");
            } else if profile.is_empty() {
                errors.required(&path, "must be set when AppArmor type is Localhost");
            }
            if profile.len() > PROFILE_MAX {
                errors.too_long(&path, PROFILE_MAX);
            }
        }
        kind if PROFILES.contains(&kind) => {
            if at.has("localhostProfile") {
                errors.invalid(&path, profile, "can only be set when AppArmor type is Localhost");
            }
        }
        other => errors.not_supported(&at.path.child("type"), other, PROFILES),
    }
}

/// A pod that says it is for Linux has no Windows settings.
pub(super) fn no_windows_options(spec: &At<'_>, errors: &mut Errors) {
    let all = ["initContainers", "containers", "ephemeralContainers"];
    let contexts = all.iter().flat_map(|l| spec.items(l)).map(|c| c.field("securityContext"));
    for at in std::iter::once(spec.field("securityContext")).chain(contexts) {
        if at.has("windowsOptions") {
            errors
                .forbidden(&at.path.child("windowsOptions"), "windows options cannot be set for a linux pod");
        }
    }
}

/// A pod that says it is for Windows has no settings of Linux.
pub(super) fn no_linux_settings(spec: &At<'_>, errors: &mut Errors) {
    let words = "cannot be set for a windows pod";
    let pod = spec.field("securityContext");
    for field in ["appArmorProfile", "seLinuxOptions"] {
        if pod.has(field) {
            errors.forbidden(&pod.path.child(field), words);
        }
    }
    if spec.has("hostUsers") {
        errors.forbidden(&spec.path.child("hostUsers"), words);
    }
    for field in ["hostPID", "hostIPC"] {
        if spec.is(field) {
            errors.forbidden(&spec.path.child(field), words);
        }
    }
    for field in [
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "shareProcessNamespace",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ] {
        // This one is the pod's own.
        let holder = if field == "shareProcessNamespace" { spec } else { &pod };
        if holder.has(field) {
            errors.forbidden(&holder.path.child(field), words);
        }
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for at in spec.items(list).iter().map(|c| c.field("securityContext")) {
            for field in [
                "appArmorProfile",
                "seLinuxOptions",
                "seccompProfile",
                "capabilities",
                "readOnlyRootFilesystem",
                "privileged",
                "allowPrivilegeEscalation",
                "procMount",
                "runAsUser",
                "runAsGroup",
            ] {
                if at.has(field) {
                    errors.forbidden(&at.path.child(field), words);
                }
            }
        }
    }
}
