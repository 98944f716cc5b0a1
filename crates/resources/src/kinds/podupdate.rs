//! What of a pod may change after it was made: hardly anything.

use std::collections::BTreeSet;

use api::Object;
use api::field::{Errors, Path};
use serde_json::Value;

use super::podspec;
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
    if !deadline(&a, &b, errors) {
        return;
    }
    tolerations(&a, &b, errors);
    gates(&a, &b, errors);
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
    // What was judged above.
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        put_back(&mut wanted, field);
    }
    let grace = |spec: &At<'_>| spec.i64("terminationGracePeriodSeconds").unwrap_or(30);
    if grace(&b) < 0 && grace(&a) == 1 {
        put_back(&mut wanted, "terminationGracePeriodSeconds");
    }
    // While it is gated, where it may go can be narrowed.
    if b.len("schedulingGates") > 0 {
        narrowed(&a, &b, errors);
        put_back(&mut wanted, "nodeSelector");
        node_affinity_from(&mut wanted, &before);
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

/// Puts the affinity to nodes back as it was.
fn node_affinity_from(wanted: &mut Value, before: &Value) {
    let old = before.get("affinity").and_then(|a| a.get("nodeAffinity")).cloned();
    let Some(spec) = wanted.as_object_mut() else { return };
    if old.is_none() && !spec.contains_key("affinity") {
        return;
    }
    let affinity = api::object::map_entry(spec, "affinity");
    match old {
        Some(old) => affinity.insert("nodeAffinity".into(), old),
        None => affinity.remove("nodeAffinity"),
    };
    if affinity.is_empty() && before.get("affinity").is_none() {
        spec.remove("affinity");
    }
}

/// Of the nodes that a pod is for, more may be asked, but nothing else.
fn narrowed<'a>(new: &At<'a>, old: &At<'a>, errors: &mut Errors) {
    let field = "nodeSelector";
    let labels = new.field(field);
    if old.entries(field).iter().any(|(key, at)| labels.raw(key) != Some(at.value)) {
        let words = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&labels.path, labels.value, words);
    }
    let required = |spec: &At<'a>| {
        let affinity = spec.field("affinity").field("nodeAffinity");
        affinity.field("requiredDuringSchedulingIgnoredDuringExecution")
    };
    let (list, now, was) = ("nodeSelectorTerms", required(new), required(old));
    if was.len(list) > 0 && now.len(list) != was.len(list) {
        let shown = now.raw(list).cloned().unwrap_or_default();
        let words = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        now.invalid(list, &shown, words, errors);
        return;
    }
    for (term, was) in now.items(list).iter().zip(was.items(list)) {
        if !only_adds(term.value, was.value) {
            errors.invalid(&term.path, term.value, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// Whether a term has what it had before, in its place, and perhaps more. An empty one matches nothing, so that
/// more would widen it.
fn only_adds(new: &Value, old: &Value) -> bool {
    let lists = ["matchExpressions", "matchFields"];
    let items =
        |term: &Value, list: &str| term.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
    let is_empty = |term: &Value| lists.iter().all(|list| items(term, list).is_empty());
    if is_empty(old) {
        return is_empty(new);
    }
    lists.iter().all(|list| items(new, list).starts_with(&items(old, list)))
}

/// It may be set, and then only lowered. Answers whether the rest is to be judged.
fn deadline(new: &At<'_>, old: &At<'_>, errors: &mut Errors) -> bool {
    let field = "activeDeadlineSeconds";
    let path = new.path.child(field);
    match (new.i64(field), old.i64(field)) {
        (Some(n), _) if !(0..=i64::from(i32::MAX)).contains(&n) => {
            errors.invalid(&path, n, "must be between 0 and 2147483647, inclusive");
            false
        }
        (Some(n), Some(o)) if n > o => {
            errors.invalid(&path, n, "must be less than or equal to previous value");
            false
        }
        (None, Some(_)) => {
            let words = "must not update from a positive integer to nil value";
            errors.invalid(&path, api::field::Bare("null".into()), words);
            true
        }
        _ => true,
    }
}

/// They may only be added to. All are judged again.
fn tolerations(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let strip = |at: &At<'_>| {
        let mut value = at.value.clone();
        if let Some(map) = value.as_object_mut() {
            map.remove("tolerationSeconds");
        }
        value.to_string()
    };
    let all: BTreeSet<String> = new.items("tolerations").iter().map(strip).collect();
    let kept = old.items("tolerations").iter().all(|o| all.contains(&strip(o)));
    if kept {
        podspec::tolerations(new, errors);
    } else {
        errors.forbidden(
            &new.path.child("tolerations"),
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

/// They may only be taken away.
fn gates(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    let before: BTreeSet<&str> = old.items("schedulingGates").iter().map(|b| b.str("name")).collect();
    for gate in new.items("schedulingGates") {
        if !before.contains(gate.str("name")) {
            errors.forbidden(
                &gate.path.child("name"),
                format!("only deletion is allowed, but found new scheduling gate '{}'", gate.str("name")),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(old: &str, new: &str, faults: &[&str]) {
        let pod = |text: &str| Object(serde_json::from_str(text).unwrap());
        let mut errors = Errors::default();
        validate(&pod(new), &pod(old), &mut errors);
        let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
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

    #[test]
    fn a_gated_pod_may_be_narrowed_only() {
        let with = |selector: &str, expressions: &str| {
            let required = format!(r#"{{"nodeSelectorTerms": [{{"matchExpressions": {expressions}}}]}}"#);
            let affinity = format!(
                r#"{{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": {required}}}}}"#
            );
            format!(
                r#"{{"spec": {{"schedulingGates": [{{"name": "g"}}], "nodeSelector": {selector}, "affinity": {affinity}}}}}"#
            )
        };
        let one = r#"[{"key": "a", "operator": "Exists"}]"#;
        let two = r#"[{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]"#;
        let old = with(r#"{"a": "b"}"#, one);
        check(&old, &with(r#"{"a": "b", "c": "d"}"#, two), &[]);
        check(&old, &with("{}", one), &["spec.nodeSelector"]);
        let term =
            "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
        check(&with("{}", two), &with("{}", one), &[term]);
        check(r#"{"spec": {}}"#, r#"{"spec": {"nodeSelector": {"a": "b"}}}"#, &["spec"]);
        check(
            r#"{"spec": {}}"#,
            r#"{"spec": {"schedulingGates": [{"name": "g"}]}}"#,
            &["spec.schedulingGates[0].name"],
        );
    }
}
