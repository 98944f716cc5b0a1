//! Faults of the annotations of a pod that mean something to the system.

use api::Object;
use api::field::{Errors, Path};

use super::pod::MIRROR;
use crate::at::At;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

fn path() -> Path {
    Path::new("metadata.annotations")
}

/// Every annotation, by key.
fn all(pod: &Object) -> Vec<(&str, &str)> {
    let map = pod.metadata().and_then(|m| m.get("annotations")).and_then(serde_json::Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
}

/// Faults of a pod's annotations, whenever it is written.
pub(super) fn validate(pod: &Object, errors: &mut Errors) {
    if let Some(mirror) = pod.annotation(MIRROR)
        && pod.get_str(&["spec", "nodeName"]).is_empty()
    {
        errors.invalid(&path().key(MIRROR), mirror, "must set spec.nodeName if mirror pod annotation is set");
    }
    let spec = At::of(pod, "spec");
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    for (key, profile) in all(pod) {
        let Some(container) = key.strip_prefix(APP_ARMOR) else { continue };
        let known = lists.iter().any(|l| spec.items(l).iter().any(|c| c.str("name") == container));
        if !known {
            errors.invalid(&path().key(key), container, "container not found");
        }
        let good =
            matches!(profile, "" | "runtime/default" | "unconfined") || profile.starts_with("localhost/");
        if !good {
            errors.invalid(
                &path().key(key),
                profile,
                format!("invalid AppArmor profile name: {}", api::field::quote(profile)),
            );
        }
    }
    if let Some(cost) = pod.annotation(DELETION_COST)
        && !is_int32(cost)
    {
        errors.invalid(&path().key(DELETION_COST), cost, "must be a 32bit integer");
    }
}

/// As Go reads it: no plus sign, no zeros in front.
fn is_int32(text: &str) -> bool {
    text.parse::<i32>().is_ok_and(|n| n.to_string() == text)
}

/// Faults of a change: whether a pod mirrors a node's own, and how it is confined, are settled.
pub(super) fn validate_update(new: &Object, old: &Object, errors: &mut Errors) {
    for (key, value) in all(old) {
        if new.annotation(key) == Some(value) {
            continue;
        }
        if key == MIRROR {
            errors.forbidden(&path().key(key), "may not remove or update mirror pod annotation");
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path().key(key), "may not remove or update AppArmor annotations");
        }
    }
    for (key, _) in all(new) {
        if old.annotation(key).is_some() {
            continue;
        }
        if key == MIRROR {
            errors.forbidden(&path().key(key), "may not add mirror pod annotation");
        }
        if key.starts_with(APP_ARMOR) {
            errors.forbidden(&path().key(key), "may not add AppArmor annotations");
        }
    }
}
