//! Faults of affinity, tolerations and spreading.

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
                for fault in names::label_value(at.str("value")) {
                    at.invalid("operator", at.str("value"), &fault, errors);
                }
            }
            "Exists" => {
                if !at.str("value").is_empty() {
                    at.invalid(
                        "operator",
                        at.value,
                        "value must be empty when `operator` is 'Exists'",
                        errors,
                    );
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
        node_term(&preferred.field("preference"), errors);
    }
}

/// Faults of a NodeSelector.
pub(crate) fn node_selector(at: &At<'_>, errors: &mut Errors) {
    let terms = at.items("nodeSelectorTerms");
    if terms.is_empty() {
        errors.required(&at.path.child("nodeSelectorTerms"), "must have at least one node selector term");
    }
    for term in terms {
        node_term(&term, errors);
    }
}

fn node_term(term: &At<'_>, errors: &mut Errors) {
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
    if at.str("topologyKey").is_empty() {
        errors.required(&at.path.child("topologyKey"), "can not be empty");
    }
    at.check("topologyKey", names::qualified_name, errors);
}

/// Faults of a pod's spreading over topologies.
pub(super) fn spread(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.items("topologySpreadConstraints");
    for (i, at) in all.iter().enumerate() {
        let skew = at.i64("maxSkew").unwrap_or(0);
        if skew <= 0 {
            at.invalid("maxSkew", skew, "must be greater than zero", errors);
        }
        if at.str("topologyKey").is_empty() {
            errors.required(&at.path.child("topologyKey"), "can not be empty");
        } else {
            at.check("topologyKey", names::qualified_name, errors);
        }
        let when = at.str("whenUnsatisfiable");
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                &at.path.child("whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        let twin =
            |o: &At<'_>| o.str("topologyKey") == at.str("topologyKey") && o.str("whenUnsatisfiable") == when;
        if all[..i].iter().any(twin) {
            let pair = format!("{{{}, {when}}}", at.str("topologyKey"));
            errors.duplicate(&at.path.child("{topologyKey, whenUnsatisfiable}"), api::field::Bare(pair));
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
        label_selector(&at.field("labelSelector"), errors);
    }
}
