//! Faults of affinity, tolerations and spreading.

use std::collections::{BTreeMap, BTreeSet};

use api::field::Errors;
use api::names;

use crate::at::{At, label_selector};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Faults of a pod's affinity.
pub(super) fn affinity(spec: &At<'_>, errors: &mut Errors) {
    let affinity = spec.field("affinity");
    node_affinity(&affinity.field("nodeAffinity"), errors);
    for kind in ["podAffinity", "podAntiAffinity"] {
        let at = affinity.field(kind);
        for term in at.items("requiredDuringSchedulingIgnoredDuringExecution") {
            pod_term(&term, errors);
        }
        for preferred in at.items("preferredDuringSchedulingIgnoredDuringExecution") {
            weight(&preferred, errors);
            pod_term(&preferred.field("podAffinityTerm"), errors);
        }
    }
}

/// Faults of a list of tolerations.
pub(crate) fn tolerations(holder: &At<'_>, errors: &mut Errors) {
    for at in holder.items("tolerations") {
        let (key, operator, effect) = (at.str("key"), at.str("operator"), at.str("effect"));
        if !key.is_empty() {
            at.check("key", names::qualified_name, errors);
        } else if operator != "Exists" {
            at.invalid(
                "operator",
                operator,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                errors,
            );
        }
        if at.has("tolerationSeconds") && effect != "NoExecute" {
            at.invalid(
                "effect",
                effect,
                "effect must be 'NoExecute' when `tolerationSeconds` is set",
                errors,
            );
        }
        match operator {
            "Equal" | "" => {
                let faults = names::label_value(at.str("value"));
                if !faults.is_empty() {
                    at.invalid("operator", at.str("value"), &faults.join(";"), errors);
                }
            }
            "Exists" => {
                if !at.str("value").is_empty() {
                    let words = "value must be empty when `operator` is 'Exists'";
                    at.invalid("operator", at.str("value"), words, errors);
                }
            }
            "Lt" | "Gt" => {}
            other => errors.not_supported(&at.path.child("operator"), other, &["Equal", "Exists"]),
        }
        at.one_of_if_set("effect", EFFECTS, errors);
    }
}

fn weight(at: &At<'_>, errors: &mut Errors) {
    let weight = at.i64("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        at.invalid("weight", weight, "must be in the range 1-100", errors);
    }
}

fn node_affinity(at: &At<'_>, errors: &mut Errors) {
    if let Some(required) = at.some("requiredDuringSchedulingIgnoredDuringExecution") {
        node_selector(&required, errors);
    }
    for preferred in at.items("preferredDuringSchedulingIgnoredDuringExecution") {
        weight(&preferred, errors);
        // What no label can be matches no node, which a preference may.
        node_term(&preferred.field("preference"), false, errors);
    }
}

/// Faults of a NodeSelector.
pub(crate) fn node_selector(at: &At<'_>, errors: &mut Errors) {
    let terms = at.items("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at.path.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    for term in terms {
        node_term(&term, true, errors);
    }
}

/// `strict` is whether values must be such as labels have.
fn node_term(term: &At<'_>, strict: bool, errors: &mut Errors) {
    for at in term.items("matchExpressions") {
        match at.str("operator") {
            "In" | "NotIn" => {
                if at.len("values") == 0 {
                    errors.required(
                        &at.path.child("values"),
                        "must be specified when `operator` is 'In' or 'NotIn'",
                    );
                }
            }
            "Exists" | "DoesNotExist" => {
                if at.len("values") > 0 {
                    errors.forbidden(
                        &at.path.child("values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if at.len("values") != 1 {
                    errors.required(
                        &at.path.child("values"),
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    );
                }
            }
            other => at.invalid("operator", other, "not a valid selector operator", errors),
        }
        at.check("key", names::qualified_name, errors);
        for value in at.items("values").iter().filter(|_| strict) {
            value.check_self(names::label_value, errors);
        }
    }
    for at in term.items("matchFields") {
        match at.str("operator") {
            "In" | "NotIn" => {
                if at.len("values") != 1 {
                    errors.required(
                        &at.path.child("values"),
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    );
                }
            }
            other => at.invalid("operator", other, "not a valid selector operator", errors),
        }
        if at.str("key") != "metadata.name" {
            at.invalid("key", at.str("key"), "not a valid field selector key", errors);
            continue;
        }
        for value in at.items("values") {
            value.check_self(names::dns1123_subdomain, errors);
        }
    }
}

fn pod_term(at: &At<'_>, errors: &mut Errors) {
    label_selector(&at.field("labelSelector"), errors);
    label_selector(&at.field("namespaceSelector"), errors);
    for namespace in at.items("namespaces") {
        for fault in names::dns1123_label(namespace.text()) {
            at.invalid("namespace", namespace.text(), &fault, errors);
        }
    }
    label_keys(at, errors);
    if at.str("topologyKey").is_empty() {
        errors.required(&at.path.child("topologyKey"), "can not be empty");
    }
    at.check("topologyKey", names::qualified_name, errors);
}

/// Labels whose values are the pod's own: they go with a selector, into which they are written when the pod is
/// made, so that one that the selector had before is in it twice.
fn label_keys(at: &At<'_>, errors: &mut Errors) {
    let selector = at.some("labelSelector");
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = at.items(field);
        if selector.is_none() && !keys.is_empty() {
            let words = "must not be specified when labelSelector is not set";
            errors.forbidden(&at.path.child(field), words);
            continue;
        }
        for key in keys {
            key.check_self(names::qualified_name, errors);
        }
    }
    let matched = at.items("matchLabelKeys");
    if let Some(selector) = selector {
        let places: BTreeMap<&str, usize> = matched.iter().enumerate().map(|(i, m)| (m.text(), i)).collect();
        let mut seen: BTreeSet<&str> =
            selector.entries("matchLabels").into_iter().map(|(key, _)| key).collect();
        for expression in selector.items("matchExpressions") {
            let key = expression.str("key");
            if let Some(&i) = places.get(key).filter(|_| seen.contains(key)) {
                let words = "exists in both matchLabelKeys and labelSelector";
                errors.invalid(&at.path.index(i), key, words);
            }
            seen.insert(key);
        }
    }
    let not = at.items("mismatchLabelKeys");
    let not: BTreeSet<&str> = not.iter().map(At::text).collect();
    for key in matched.iter().filter(|key| not.contains(key.text())) {
        errors.invalid(&key.path, key.text(), "exists in both matchLabelKeys and mismatchLabelKeys");
    }
}

/// Faults of a pod's spreading over topologies.
pub(super) fn spread<'a>(spec: &At<'a>, errors: &mut Errors) {
    let all = spec.items("topologySpreadConstraints");
    let pair = |at: &At<'a>| (at.str("topologyKey"), at.str("whenUnsatisfiable"));
    let last: BTreeMap<(&str, &str), usize> = all.iter().enumerate().map(|(i, at)| (pair(at), i)).collect();
    for (i, at) in all.iter().enumerate() {
        let skew = at.i64("maxSkew").unwrap_or(0);
        if skew <= 0 {
            at.invalid("maxSkew", skew, "must be greater than zero", errors);
        }
        if at.str("topologyKey").is_empty() {
            errors.required(&at.path.child("topologyKey"), "can not be empty");
        }
        let when = at.str("whenUnsatisfiable");
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                &at.path.child("whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        // Told of at the first of them.
        if last[&pair(at)] > i {
            let shown = format!("{{{}, {when}}}", at.str("topologyKey"));
            errors.duplicate(&at.path.child("{topologyKey, whenUnsatisfiable}"), shown);
        }
        if let Some(domains) = at.i64("minDomains") {
            if domains <= 0 {
                at.invalid("minDomains", domains, "must be greater than zero", errors);
            }
            if when != "DoNotSchedule" {
                let words = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                at.invalid("minDomains", domains, &words, errors);
            }
        }
        at.one_of_if_set("nodeAffinityPolicy", &["Honor", "Ignore"], errors);
        at.one_of_if_set("nodeTaintsPolicy", &["Honor", "Ignore"], errors);
        label_keys(at, errors);
        label_selector(&at.field("labelSelector"), errors);
    }
}
