//! Faults of the annotations of a pod that mean something to the system.

use api::Object;
use api::field::{Errors, Path};

use super::podspec::annotations::{self, APP_ARMOR, MIRROR, Notes};
use crate::at::At;

fn path() -> Path {
    Path::new("metadata.annotations")
}

/// Every annotation, by key.
pub(super) fn all(pod: &Object) -> Notes<'_> {
    annotations::of(pod.metadata().and_then(|m| m.get("annotations")).and_then(serde_json::Value::as_object))
}

/// Faults of a pod's annotations, whenever it is written.
pub(super) fn validate(pod: &Object, errors: &mut Errors) {
    annotations::validate(&all(pod), &At::of(pod, "spec"), &path(), errors);
}

/// Faults of a change: whether a pod mirrors a node's own, and how it is confined, are settled. What holds
/// for annotations whenever a pod is written is told of again.
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
    validate(new, errors);
}
