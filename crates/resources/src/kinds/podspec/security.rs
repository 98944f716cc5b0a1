//! Faults of security contexts.

use api::field::{Errors, Path};

use super::validate::local_path;
use crate::at::At;

const ID_MAX: i64 = i32::MAX as i64;

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
    sysctls(spec, &at, errors);
    at.one_of_if_set("fsGroupChangePolicy", &["Always", "OnRootMismatch"], errors);
    at.one_of_if_set("supplementalGroupsPolicy", &["Merge", "Strict"], errors);
    profiles(&at, errors);
    windows(&at.field("windowsOptions"), errors);
}

/// A container that is a process of a Windows host needs the host's network, and all of them or none are.
pub(super) fn host_process(spec: &At<'_>, errors: &mut Errors) {
    let says =
        |at: &At<'_>| at.field("windowsOptions").raw("hostProcess").and_then(serde_json::Value::as_bool);
    let pod = says(&spec.field("securityContext"));
    let all: Vec<At<'_>> = ["containers", "initContainers"].iter().flat_map(|l| spec.items(l)).collect();
    let mut yes = 0;
    for container in &all {
        let at = container.field("securityContext");
        let own = says(&at);
        let path = at.path.child("windowsOptions").child("hostProcess");
        if let (Some(pod), Some(own)) = (pod, own)
            && pod != own
        {
            errors.invalid(
                &path,
                own,
                format!("pod hostProcess value must be identical if both are specified, was {pod}"),
            );
        }
        if own.or(pod) == Some(true) {
            yes += 1;
        }
    }
    if yes > 0 && yes < all.len() {
        let words =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(&spec.path, "", words);
    }
    if yes > 0 && !spec.is("hostNetwork") {
        let words = "hostNetwork must be true if pod contains any hostProcess containers";
        spec.invalid("hostNetwork", false, words, errors);
    }
    if yes > 0 && spec.raw("hostUsers").and_then(serde_json::Value::as_bool) == Some(false) {
        let words = "hostUsers must not be set to false if pod contains any hostProcess containers";
        spec.invalid("hostUsers", false, words, errors);
    }
}

fn sysctls(spec: &At<'_>, at: &At<'_>, errors: &mut Errors) {
    let all = at.items("sysctls");
    for (i, sysctl) in all.iter().enumerate() {
        let name = sysctl.str("name");
        if name.is_empty() {
            errors.required(&sysctl.path.child("name"), "");
            continue;
        }
        let segment = |s: &str| {
            !s.is_empty()
                && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
                && s.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
                && s.bytes().last().is_some_and(|b| b.is_ascii_alphanumeric())
        };
        if name.len() > 253 || !name.replace('/', ".").split('.').all(segment) {
            let words = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            sysctl.invalid("name", name, words, errors);
        } else if all[..i].iter().any(|s| s.str("name").replace('/', ".") == name.replace('/', ".")) {
            errors.duplicate(&sysctl.path.child("name"), name);
        }
        let dotted = name.replace('/', ".");
        if spec.is("hostNetwork") && dotted.starts_with("net.") {
            sysctl.invalid("name", name, "may not be specified when 'hostNetwork' is true", errors);
        }
        let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|p| dotted.starts_with(p))
            || dotted == "kernel.sem";
        if spec.is("hostIPC") && ipc {
            sysctl.invalid("name", name, "may not be specified when 'hostIPC' is true", errors);
        }
    }
}

/// A container's `securityContext`.
pub(super) fn container(at: &At<'_>, errors: &mut Errors) {
    id(at, "runAsUser", errors);
    id(at, "runAsGroup", errors);
    at.one_of_if_set("procMount", &["Default", "Unmasked"], errors);
    profiles(at, errors);
    windows(&at.field("windowsOptions"), errors);
    if at.raw("allowPrivilegeEscalation").and_then(serde_json::Value::as_bool) == Some(false) {
        if at.is("privileged") {
            errors.invalid(
                &at.path,
                at.value,
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if at.field("capabilities").items("add").iter().any(|c| c.text() == "CAP_SYS_ADMIN") {
            errors.invalid(
                &at.path,
                at.value,
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}

fn profiles(at: &At<'_>, errors: &mut Errors) {
    for kind in ["seccompProfile", "appArmorProfile"] {
        if let Some(profile) = at.some(kind) {
            one_profile(&profile, kind, errors);
        }
    }
}

fn one_profile(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let short = if kind == "seccompProfile" { "seccomp" } else { "AppArmor" };
    let path: Path = at.path.child("localhostProfile");
    match at.str("type") {
        "" => errors.required(&at.path.child("type"), &format!("type is required when {kind} is set")),
        "Localhost" => match at.raw("localhostProfile") {
            None => errors.required(&path, &format!("must be set when {short} type is Localhost")),
            Some(_) if kind == "seccompProfile" => local_path(&path, at.str("localhostProfile"), errors),
            Some(_) => {
                if at.str("localhostProfile").trim().is_empty() {
                    errors.required(&path, "must be set when AppArmor type is Localhost");
                }
            }
        },
        kind if ["RuntimeDefault", "Unconfined"].contains(&kind) => {
            if at.has("localhostProfile") {
                let words = format!("can only be set when {short} type is Localhost");
                errors.invalid(&path, at.str("localhostProfile"), words);
            }
        }
        other => errors.not_supported(
            &at.path.child("type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

fn windows(at: &At<'_>, errors: &mut Errors) {
    let Some(user) = at.raw("runAsUserName").and_then(serde_json::Value::as_str) else { return };
    if user.is_empty() {
        at.invalid("runAsUserName", user, "runAsUserName cannot be an empty string", errors);
        return;
    }
    let (domain, name) = match user.split_once('\\') {
        Some((domain, name)) => (Some(domain), name),
        None => (None, user),
    };
    if user.matches('\\').count() > 1 {
        at.invalid("runAsUserName", user, "runAsUserName cannot contain more than one backslash", errors);
        return;
    }
    if domain == Some("") {
        let words = "runAsUserName's Domain doesn't match the NetBIOS nor the DNS format";
        at.invalid("runAsUserName", user, words, errors);
    }
    if name.len() > 104 {
        let words = "runAsUserName's User length must be under 104 characters";
        at.invalid("runAsUserName", user, words, errors);
    }
    if name.is_empty() || name.chars().all(|c| c == '.' || c == ' ') {
        let words = "runAsUserName's User cannot contain only periods or spaces";
        at.invalid("runAsUserName", user, words, errors);
    }
    const BAD: &str = "\"/\\:;|=,+*?<>@[]";
    if name.chars().any(|c| BAD.contains(c)) {
        let words = format!("runAsUserName's User cannot contain the following characters: {BAD}");
        at.invalid("runAsUserName", user, &words, errors);
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
    ] {
        if pod.has(field) {
            errors.forbidden(&pod.path.child(field), words);
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
