//! Flow schemas and priority levels.

use api::Object;
use api::field::Errors;
use serde_json::Value;

use crate::at::At;

pub struct FlowSchema;

const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

impl registry::Strategy for FlowSchema {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let precedence = spec.i64("matchingPrecedence").unwrap_or(0);
        if precedence <= 0 {
            spec.invalid("matchingPrecedence", precedence, "must be a positive value", errors);
        }
        if precedence > 10_000 {
            spec.invalid("matchingPrecedence", precedence, "must not be greater than 10000", errors);
        }
        if precedence == 1 && !matches!(object.name(), "exempt") {
            spec.invalid(
                "matchingPrecedence",
                precedence,
                "only the schema named 'exempt' may have matchingPrecedence 1",
                errors,
            );
        }
        spec.field("distinguisherMethod").one_of_if_set("type", &["ByNamespace", "ByUser"], errors);
        let level = spec.field("priorityLevelConfiguration");
        if level.str("name").is_empty() {
            errors.required(&level.path.child("name"), "must reference a priority level");
        }
        for rule in spec.items("rules") {
            if rule.len("subjects") == 0 {
                errors.required(&rule.path.child("subjects"), "subjects must contain at least one value");
            }
            for subject in rule.items("subjects") {
                check_subject(&subject, errors);
            }
            if rule.len("resourceRules") + rule.len("nonResourceRules") == 0 {
                errors.required(
                    &rule.path,
                    "at least one of resourceRules and nonResourceRules has to be non-empty",
                );
            }
            for at in rule.items("resourceRules") {
                resource_rule(&at, errors);
            }
            for at in rule.items("nonResourceRules") {
                verbs(&at, errors);
                filled(&at, "nonResourceURLs", "nonResourceURLs must contain at least one value", errors);
            }
        }
    }
}

fn check_subject(at: &At<'_>, errors: &mut Errors) {
    let parts = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = at.str("kind");
    let Some((_, field)) = parts.iter().find(|(k, _)| *k == kind) else {
        errors.not_supported(&at.path.child("kind"), kind, &["Group", "ServiceAccount", "User"]);
        return;
    };
    match at.some(field) {
        None => errors
            .required(&at.path.child(field), &format!("{field} is required when subject kind is '{kind}'")),
        Some(part) => {
            part.required("name", errors);
            if kind == "ServiceAccount" && part.str("namespace").is_empty() {
                errors.required(&part.path.child("namespace"), "must specify namespace for service account");
            }
        }
    }
    for (other, field) in parts.iter().filter(|(k, _)| *k != kind) {
        if at.has(field) {
            let words = format!("{field} is forbidden when subject kind is not '{other}'");
            errors.forbidden(&at.path.child(field), words);
        }
    }
}

fn filled(at: &At<'_>, field: &str, words: &str, errors: &mut Errors) {
    if at.len(field) == 0 {
        errors.required(&at.path.child(field), words);
    }
}

fn verbs(at: &At<'_>, errors: &mut Errors) {
    let all = at.items("verbs");
    let path = at.path.child("verbs");
    let shown = at.raw("verbs").cloned().unwrap_or(Value::Null);
    if all.is_empty() {
        errors.required(&path, "verbs must contain at least one value");
    } else if all.iter().any(|v| v.text() == "*") {
        if all.len() > 1 {
            errors.invalid(&path, &shown, "if '*' is present, must not specify other verbs");
        }
    } else if all.iter().any(|v| !VERBS.contains(&v.text())) {
        errors.not_supported(&path, &shown, VERBS);
    }
}

fn resource_rule(at: &At<'_>, errors: &mut Errors) {
    verbs(at, errors);
    filled(at, "apiGroups", "resource rules must supply at least one api group", errors);
    filled(at, "resources", "resource rules must supply at least one resource", errors);
    if at.len("namespaces") == 0 && !at.is("clusterScope") {
        errors.required(
            &at.path.child("namespaces"),
            "resource rules that are not cluster scoped must supply at least one namespace",
        );
    }
}

pub struct PriorityLevel;

impl registry::Strategy for PriorityLevel {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Object) {
        if object.get_str(&["spec", "type"]) == "Exempt" {
            let spec = api::object::map_entry(&mut object.0, "spec");
            let exempt = api::object::map_entry(spec, "exempt");
            exempt.entry("nominalConcurrencyShares").or_insert(0.into());
            exempt.entry("lendablePercent").or_insert(0.into());
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let kind = spec.str("type");
        if (object.name() == "exempt") != (kind == "Exempt") {
            spec.invalid("type", kind, "type must be 'Exempt' if and only if name is 'exempt'", errors);
        }
        match kind {
            "Exempt" => {
                if spec.has("limited") {
                    errors.forbidden(&spec.path.child("limited"), "must be nil if the type is not Limited");
                }
            }
            "Limited" => match spec.some("limited") {
                None => {
                    errors.required(&spec.path.child("limited"), "must not be empty when type is Limited")
                }
                Some(limited) => check_limited(&limited, errors),
            },
            other => errors.not_supported(&spec.path.child("type"), other, &["Exempt", "Limited"]),
        }
    }
}

fn check_limited(at: &At<'_>, errors: &mut Errors) {
    let shares = at.i64("nominalConcurrencyShares").unwrap_or(0);
    if shares < 0 {
        at.invalid("nominalConcurrencyShares", shares, "must be a non-negative integer", errors);
    }
    if let Some(n) = at.i64("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        at.invalid("lendablePercent", n, "must be between 0 and 100, inclusive", errors);
    }
    at.non_negative("borrowingLimitPercent", errors);
    let response = at.field("limitResponse");
    let queuing = response.some("queuing");
    match (response.str("type"), queuing) {
        ("Reject", None) => {}
        ("Reject", Some(queuing)) => {
            errors.forbidden(&queuing.path, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => errors.required(
            &response.path.child("queuing"),
            "must not be empty if limited.limitResponse.type is Limited",
        ),
        ("Queue", Some(queuing)) => queues(&queuing, errors),
        (other, _) => errors.not_supported(&response.path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn queues(at: &At<'_>, errors: &mut Errors) {
    let n = |field: &str| at.i64(field).unwrap_or(0);
    for field in ["queueLengthLimit", "queues"] {
        if n(field) <= 0 {
            at.invalid(field, n(field), "must be positive", errors);
        }
    }
    if n("queues") > 10_000_000 {
        at.invalid("queues", n("queues"), "must not be greater than 10000000", errors);
    }
    if n("handSize") <= 0 {
        at.invalid("handSize", n("handSize"), "must be positive", errors);
    } else if n("handSize") > n("queues") {
        let words = format!("should not be greater than queues ({})", n("queues"));
        at.invalid("handSize", n("handSize"), &words, errors);
    }
}
