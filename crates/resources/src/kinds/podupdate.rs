//! What of a pod may change after it was made: hardly anything.

use api::Object;
use api::field::{Errors, Path};
use serde_json::Value;

use crate::at::{At, difference};

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Faults of a pod against the one before.
pub(super) fn validate(new: &Object, old: &Object, errors: &mut Errors) {
    let (a, b) = (At::of(new, "spec"), At::of(old, "spec"));
    for list in ["containers", "initContainers"] {
        if a.len(list) != b.len(list) {
            errors.forbidden(&a.path.child(list), "pod updates may not add or remove containers");
            return;
        }
        for image in a.items(list).iter().map(|c| c.field("image")) {
            if image.text().is_empty() {
                errors.required(&image.path, "");
            }
            if image.text().trim() != image.text() {
                errors.invalid(&image.path, image.text(), "must not have leading or trailing whitespace");
            }
        }
    }
    let deadline = deadline(&a, &b, errors);
    let tolerations = tolerations(&a, &b, errors);
    let gates = gates(&a, &b, errors);
    let mut wanted = new.0.get("spec").cloned().unwrap_or_default();
    let before = old.0.get("spec").cloned().unwrap_or_default();
    images_from(&mut wanted, &before);
    let put_back = |wanted: &mut Value, field: &str| match before.get(field) {
        Some(value) => wanted[field] = value.clone(),
        None => {
            if let Some(map) = wanted.as_object_mut() {
                map.remove(field);
            }
        }
    };
    for (field, allowed) in
        [("activeDeadlineSeconds", deadline), ("tolerations", tolerations), ("schedulingGates", gates)]
    {
        if allowed {
            put_back(&mut wanted, field);
        }
    }
    let grace = |spec: &At<'_>| spec.i64("terminationGracePeriodSeconds").unwrap_or(30);
    if grace(&b) < 0 && grace(&a) == 1 {
        put_back(&mut wanted, "terminationGracePeriodSeconds");
    }
    // While it is gated, where it may go can be narrowed.
    if b.len("schedulingGates") > 0 {
        put_back(&mut wanted, "nodeSelector");
        if let (Some(affinity), Some(old_affinity)) = (wanted.get_mut("affinity"), before.get("affinity")) {
            affinity["nodeAffinity"] = old_affinity.get("nodeAffinity").cloned().unwrap_or_default();
        }
    }
    if wanted != before {
        let words = format!("{FORBIDDEN}\n{}", difference(&before, &wanted));
        errors.forbidden(&Path::new("spec"), words);
    }
}

fn images_from(wanted: &mut Value, before: &Value) {
    for list in ["containers", "initContainers"] {
        let images: Vec<Option<Value>> = before
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|c| c.get("image").cloned())
            .collect();
        let containers = wanted.get_mut(list).and_then(Value::as_array_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            if let (Some(map), Some(image)) = (container.as_object_mut(), image) {
                map.insert("image".into(), image);
            }
        }
    }
}

/// It may be set, and then only lowered. Answers whether the change is judged here.
fn deadline(new: &At<'_>, old: &At<'_>, errors: &mut Errors) -> bool {
    let field = "activeDeadlineSeconds";
    let path = new.path.child(field);
    match (new.i64(field), old.i64(field)) {
        (None, Some(_)) => errors.invalid(
            &path,
            api::field::Bare("null".into()),
            "must not update from a positive integer to nil value",
        ),
        (Some(n), Some(o)) if n > o => {
            errors.invalid(&path, n, "must be less than or equal to previous value");
        }
        _ => {}
    }
    true
}

/// They may only be added to.
fn tolerations(new: &At<'_>, old: &At<'_>, errors: &mut Errors) -> bool {
    let all = new.items("tolerations");
    let strip = |at: &At<'_>| {
        let mut value = at.value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        value
    };
    let kept = old.items("tolerations").iter().all(|o| all.iter().any(|n| strip(n) == strip(o)));
    if !kept {
        errors.forbidden(
            &new.path.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
    true
}

/// They may only be taken away.
fn gates(new: &At<'_>, old: &At<'_>, errors: &mut Errors) -> bool {
    let before = old.items("schedulingGates");
    for gate in new.items("schedulingGates") {
        if !before.iter().any(|b| b.str("name") == gate.str("name")) {
            errors.forbidden(
                &gate.path,
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.str("name")),
            );
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, faults: &[&str]) {
        let pod = |text: &str| Object(serde_json::from_str(text).unwrap());
        let mut errors = Errors::default();
        validate(&pod(new), &pod(old), &mut errors);
        let fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, faults, "{errors:?}");
    }

    #[test]
    fn images_may_change_and_little_else() {
        let pod = r#"{"spec": {"containers": [{"name": "a", "image": "x"}]}}"#;
        check(pod, r#"{"spec": {"containers": [{"name": "a", "image": "y"}]}}"#, &[]);
        check(pod, r#"{"spec": {"containers": [{"name": "a", "image": "x", "command": ["c"]}]}}"#, &["spec"]);
        check(pod, r#"{"spec": {"containers": []}}"#, &["spec.containers"]);
        check(pod, r#"{"spec": {"containers": [{"name": "a", "image": "x"}], "nodeName": "n"}}"#, &["spec"]);
    }

    #[test]
    fn deadlines_only_shrink() {
        let with = |n: i64| format!(r#"{{"spec": {{"activeDeadlineSeconds": {n}}}}}"#);
        check(&with(5), &with(4), &[]);
        check(&with(5), &with(6), &["spec.activeDeadlineSeconds"]);
        check(r#"{"spec": {}}"#, &with(6), &[]);
    }
}
