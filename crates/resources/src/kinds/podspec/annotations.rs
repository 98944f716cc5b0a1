//! Faults of the annotations of a pod, or of a template of pods, that mean something to the system.

use api::field::{Errors, Path};
use serde_json::{Map, Value};

use super::validate::local_path;
use crate::at::At;

pub(in crate::kinds) const MIRROR: &str = "kubernetes.io/config.mirror";
pub(in crate::kinds) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
pub(super) const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Annotations by key, sorted.
pub(in crate::kinds) type Notes<'a> = Vec<(&'a str, &'a str)>;

pub(in crate::kinds) fn of(map: Option<&Map<String, Value>>) -> Notes<'_> {
    let mut all: Notes<'_> =
        map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect();
    all.sort_unstable();
    all
}

fn get<'a>(notes: &Notes<'a>, key: &str) -> Option<&'a str> {
    notes.iter().find(|(k, _)| *k == key).map(|(_, v)| *v)
}

/// Faults of annotations beside a pod spec. `path` is where they are told of.
pub(in crate::kinds) fn validate(notes: &Notes<'_>, spec: &At<'_>, path: &Path, errors: &mut Errors) {
    if let Some(mirror) = get(notes, MIRROR)
        && spec.str("nodeName").is_empty()
    {
        let words = "must set spec.nodeName if mirror pod annotation is set";
        errors.invalid(&path.key(MIRROR), mirror, words);
    }
    if let Some(cost) = get(notes, DELETION_COST)
        && !is_int32(cost)
    {
        errors.invalid(&path.key(DELETION_COST), cost, "must be a 32bit integer");
    }
    if let Some(profile) = get(notes, SECCOMP) {
        seccomp(profile, &path.child(SECCOMP), errors);
    }
    for (key, profile) in notes.iter().filter(|(key, _)| key.starts_with(SECCOMP_OF)) {
        seccomp(profile, &path.child(key), errors);
    }
    for (key, profile) in notes {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let known = LISTS.iter().any(|l| spec.items(l).iter().any(|c| c.str("name") == container));
        if !known {
            errors.invalid(&path.key(key), container, "container not found");
        }
        let good =
            matches!(*profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
        if !good {
            let words = format!("invalid AppArmor profile name: {}", api::field::quote(profile));
            errors.invalid(&path.key(key), profile, words);
        }
    }
}

/// As Go reads it: no plus sign, no zeros in front.
fn is_int32(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|n| n.to_string() == text)
}

fn seccomp(profile: &str, path: &Path, errors: &mut Errors) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => local_path(path, file, errors),
            None => errors.invalid(path, profile, "must be a valid seccomp profile"),
        },
    }
}

/// Where a pod says twice how system calls are confined it must say the same.
pub(in crate::kinds) fn seccomp_agrees(notes: &Notes<'_>, spec: &At<'_>, errors: &mut Errors) {
    if let Some(note) = get(notes, SECCOMP) {
        agrees(note, &spec.field("securityContext").field("seccompProfile"), "seccomp", errors);
    }
    for container in LISTS.iter().flat_map(|list| spec.items(list)) {
        if let Some(note) = get(notes, &format!("{SECCOMP_OF}{}", container.str("name"))) {
            agrees(note, &container.field("securityContext").field("seccompProfile"), "seccomp", errors);
        }
    }
}

/// The same of files and the like.
pub(in crate::kinds) fn app_armor_agrees(notes: &Notes<'_>, spec: &At<'_>, errors: &mut Errors) {
    if spec.field("os").str("name") == "windows" {
        return;
    }
    let of_pod = spec.field("securityContext").field("appArmorProfile");
    for container in LISTS.iter().flat_map(|list| spec.items(list)) {
        if let Some(note) = get(notes, &format!("{APP_ARMOR}{}", container.str("name"))) {
            let mut profile = container.field("securityContext").field("appArmorProfile");
            if profile.is_absent() {
                profile.value = of_pod.value;
            }
            agrees(note, &profile, "apparmor", errors);
        }
    }
}

fn agrees(note: &str, profile: &At<'_>, what: &str, errors: &mut Errors) {
    let same_type = match profile.str("type") {
        "Unconfined" => note == "unconfined",
        "RuntimeDefault" => note == "runtime/default" || (what == "seccomp" && note == "docker/default"),
        "Localhost" => note.starts_with("localhost/"),
        _ => return,
    };
    if !same_type {
        let words = format!("{what} type in annotation and field must match");
        errors.forbidden(&profile.path.child("type"), words);
    } else if let Some(file) = note.strip_prefix("localhost/")
        && !(profile.has("localhostProfile") && profile.str("localhostProfile") == file)
    {
        let words = format!("{what} profile in annotation and field must match");
        errors.forbidden(&profile.path.child("localhostProfile"), words);
    }
}
