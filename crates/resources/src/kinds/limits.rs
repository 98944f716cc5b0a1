//! Limit ranges and resource quotas.

use std::collections::{BTreeMap, BTreeSet};

use api::field::{Errors, Path};
use api::{Object, Quantity, names};
use registry::RequestContext;
use serde_json::{Map, Value};

use super::podspec::{self, Place};
use crate::at::{At, quantity};

pub struct LimitRange;

impl registry::Strategy for LimitRange {
    fn create_on_update(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let limits = object.0.get_mut("spec").and_then(|s| s.get_mut("limits")?.as_array_mut());
        for item in limits.into_iter().flatten() {
            let Value::Object(item) = item else { continue };
            if item.get("type").and_then(Value::as_str) == Some("Container") {
                fill_missing(item, "default", "max");
                fill_missing(item, "defaultRequest", "default");
                fill_missing(item, "defaultRequest", "min");
            }
        }
    }

    /// A limit range without a name gets one.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        if object.name().is_empty() {
            object.set_meta("name", uuid::Uuid::new_v4().to_string());
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let mut seen = BTreeSet::new();
        for at in At::of(object, "spec").items("limits") {
            let kind = at.str("type");
            let again = !seen.insert(kind);
            at.check("type", limit_type, errors);
            if again {
                errors.duplicate(&at.path.child("type"), kind);
            }
            one(&at, kind, errors);
        }
    }
}

fn limit_type(value: &str) -> Vec<String> {
    let faults = names::qualified_name(value);
    if faults.is_empty()
        && !value.contains('/')
        && !matches!(value, "Pod" | "Container" | "PersistentVolumeClaim")
    {
        return vec!["must be a standard limit type or fully qualified".into()];
    }
    faults
}

fn fill_missing(item: &mut Map<String, Value>, into: &str, from: &str) {
    let Some(Value::Object(values)) = item.get(from).cloned() else { return };
    let target = api::object::map_entry(item, into);
    for (name, value) in values {
        target.entry(name).or_insert(value);
    }
}

fn one(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let place = if matches!(kind, "Container" | "Pod") { Place::Container } else { Place::Other };
    for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        if list == "maxLimitRequestRatio"
            && kind == "PersistentVolumeClaim"
            && !["min", "max"].iter().any(|l| at.field(l).has("storage"))
        {
            let words = "either minimum or maximum storage value is required, but neither was provided";
            errors.required(&at.path.child("limits"), words);
        }
        if kind == "Pod" && list.starts_with("default") {
            if at.len(list) > 0 {
                errors.forbidden(&at.path.child(list), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, _, entry) in at.quantities(list) {
            podspec::resource_name(name, &entry, place, errors);
        }
    }
    let amount = |list: &str, name: &str| {
        let unheard = kind == "Pod" && list.starts_with("default");
        at.field(list).raw(name).filter(|_| !unheard).and_then(quantity)
    };
    let mut names: Vec<&str> = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"]
        .iter()
        .flat_map(|list| at.entries(list).into_iter().map(|(name, _)| name))
        .collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let path = |list: &str| at.path.child(list).key(name);
        let mut over = |low: &str, low_word: &str, high: &str, high_word: &str, list: &str| {
            if let (Some(a), Some(b)) = (amount(low, name), amount(high, name))
                && a > b
            {
                let words = format!("{low_word} value {a} is greater than {high_word} value {b}");
                // A default that does not fit is told with the bound that it breaks.
                let shown = match list {
                    "default" if low == "min" => a,
                    "default" => b,
                    _ if list == low => a,
                    _ => b,
                };
                errors.invalid(&path(list), shown.to_string(), words);
            }
        };
        over("min", "min", "max", "max", "min");
        over("min", "min", "defaultRequest", "default request", "defaultRequest");
        over("defaultRequest", "default request", "max", "max", "defaultRequest");
        over("defaultRequest", "default request", "default", "default limit", "defaultRequest");
        over("min", "min", "default", "default", "default");
        over("default", "default", "max", "max", "default");
        if let Some(ratio) = amount("maxLimitRequestRatio", name) {
            check_ratio(
                ratio,
                amount("min", name),
                amount("max", name),
                &path("maxLimitRequestRatio"),
                errors,
            );
        }
        if let (Some(limit), Some(request)) = (amount("default", name), amount("defaultRequest", name))
            && !overcommitted(name)
            && limit != request
        {
            let words =
                format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            errors.invalid(&path("defaultRequest"), request.to_string(), words);
        }
    }
}

/// Whether more of a resource may be promised than there is.
fn overcommitted(name: &str) -> bool {
    (!name.contains('/') || name.contains("kubernetes.io/")) && !name.starts_with("hugepages-")
}

fn check_ratio(
    ratio: Quantity,
    min: Option<Quantity>,
    max: Option<Quantity>,
    path: &Path,
    errors: &mut Errors,
) {
    if ratio < Quantity::from_i64(1) {
        errors.invalid(path, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max)
        && !min.is_zero()
    {
        let limit = max.milli() as f64 / min.milli() as f64;
        if ratio.milli() as f64 / 1000.0 > limit {
            errors.invalid(
                path,
                ratio.to_string(),
                format!("ratio {ratio} is greater than max/min = {limit:.6}"),
            );
        }
    }
}

pub struct ResourceQuota;

const SCOPES: &[&str] = &[
    "Terminating",
    "NotTerminating",
    "BestEffort",
    "NotBestEffort",
    "PriorityClass",
    "CrossNamespacePodAffinity",
    "VolumeAttributesClass",
];

/// Faults of amounts that a quota limits or counts.
fn hard(at: &At<'_>, list: &str, errors: &mut Errors) {
    for (name, amount, entry) in at.quantities(list) {
        podspec::quantity(name, amount, &entry, Place::Other, errors);
        if !name.contains('/') && !is_quota(name) {
            errors.invalid(&entry.path, name, "must be a standard resource for quota");
        }
    }
}

/// Whether it is one of the resources that quotas know by themselves.
fn is_quota(name: &str) -> bool {
    let plain = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    let counted = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
        "requests.storage",
    ];
    matches!(plain, "cpu" | "memory" | "ephemeral-storage")
        || counted.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// How many of the resources are none of what a scope selects. They are counted once for each scope there is,
/// however often it is named.
struct Unfit<'a> {
    limited: Vec<&'a str>,
    counts: BTreeMap<&'a str, usize>,
}

impl<'a> Unfit<'a> {
    fn of(limited: Vec<&'a str>) -> Unfit<'a> {
        Unfit { limited, counts: BTreeMap::new() }
    }

    fn count(&mut self, scope: &'a str) -> usize {
        if !SCOPES.contains(&scope) {
            return 0;
        }
        let count = || self.limited.iter().filter(|name| !counts_in(scope, name)).count();
        *self.counts.entry(scope).or_insert_with(count)
    }

    /// A fault for each of them.
    fn tell(&mut self, scope: &'a str, path: &Path, shown: &Value, errors: &mut Errors) {
        for _ in 0..self.count(scope) {
            if errors.is_full() {
                return;
            }
            errors.invalid(path, shown, "unsupported scope applied to resource");
        }
    }
}

/// Whether what a scope selects has such a resource.
fn counts_in(scope: &str, name: &str) -> bool {
    let compute = ["cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    match scope {
        "BestEffort" => name == "pods",
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => name == "pods" || compute.contains(&name),
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// Scopes that nothing is in both of.
fn conflicts(scopes: &[&str], path: &Path, shown: &Value, errors: &mut Errors) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| scopes.contains(scope)) {
            errors.invalid(path, shown, "conflicting scopes");
        }
    }
}

impl registry::Strategy for ResourceQuota {
    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        let status = At::of(new, "status");
        for list in ["hard", "used"] {
            hard(&status, list, errors);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        hard(&spec, "hard", errors);
        let limited = spec.entries("hard").into_iter().map(|(name, _)| name).filter(|name| is_quota(name));
        let mut unfit = Unfit::of(limited.collect());
        let all = spec.field("scopes");
        let scopes = spec.items("scopes");
        for scope in &scopes {
            if !SCOPES.contains(&scope.text()) {
                errors.invalid(&all.path, all.value, "unsupported scope");
            }
            unfit.tell(scope.text(), &all.path, all.value, errors);
        }
        let scopes: Vec<&str> = scopes.iter().map(At::text).collect();
        conflicts(&scopes, &all.path, all.value, errors);
        let selector = spec.field("scopeSelector");
        // The faults stand at the list.
        let path = selector.path.child("matchExpressions");
        for at in selector.items("matchExpressions") {
            let (scope, operator, values) = (at.str("scopeName"), at.str("operator"), at.len("values"));
            if !SCOPES.contains(&scope) {
                errors.invalid(&path.child("scopeName"), scope, "unsupported scope");
            }
            unfit.tell(scope, &path, selector.value, errors);
            let exists_only =
                !matches!(scope, "PriorityClass" | "VolumeAttributesClass") && SCOPES.contains(&scope);
            if exists_only && operator != "Exists" {
                errors.invalid(
                    &path.child("operator"),
                    operator,
                    "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                );
            }
            match operator {
                "In" | "NotIn" if values == 0 => errors.required(
                    &path.child("values"),
                    "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                ),
                "Exists" | "DoesNotExist" if values > 0 => errors.invalid(
                    &path.child("values"),
                    at.raw("values").cloned().unwrap_or_default(),
                    "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
                ),
                "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
                other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
            }
        }
        let selected = selector.items("matchExpressions");
        let selected: Vec<&str> = selected.iter().map(|at| at.str("scopeName")).collect();
        conflicts(&selected, &path, all.value, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let scopes = |o: &Object| {
            let mut all: Vec<String> =
                At::of(o, "spec").items("scopes").iter().map(|s| s.text().to_owned()).collect();
            all.sort();
            all
        };
        let same = scopes(new) == scopes(old);
        if !same {
            let shown = new.get(&["spec", "scopes"]).cloned().unwrap_or_default();
            errors.invalid(&Path::new("spec.scopes"), &shown, "field is immutable");
        }
    }
}

#[cfg(test)]
mod tests {
    use registry::Strategy as _;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told};

    fn check(spec: Value, faults: &[&str]) {
        let mut errors = Errors::default();
        ResourceQuota.validate(&object(json!({"spec": spec})), &mut errors);
        assert_eq!(told(&errors), faults, "{spec}");
    }

    #[test]
    fn each_resource_that_a_scope_does_not_count_is_told_of() {
        let hard = json!({"pods": "1", "cpu": "1", "services": "1"});
        check(json!({"hard": hard, "scopes": []}), &[]);
        let unfit = |scopes: &str| {
            format!("spec.scopes: Invalid value: {scopes}: unsupported scope applied to resource")
        };
        let [one, two] = [r#"["BestEffort"]"#, r#"["NotBestEffort","NotBestEffort"]"#].map(unfit);
        check(json!({"hard": hard, "scopes": ["BestEffort"]}), &[&one, &one]);
        check(json!({"hard": hard, "scopes": ["NotBestEffort", "NotBestEffort"]}), &[&two, &two]);
        check(
            json!({"hard": hard, "scopes": ["Bad"]}),
            &["spec.scopes: Invalid value: [\"Bad\"]: unsupported scope"],
        );
        let selector = json!({"matchExpressions": [{"scopeName": "NotBestEffort", "operator": "Exists"}]});
        let fault = format!(
            "spec.scopeSelector.matchExpressions: Invalid value: {selector}: unsupported scope applied to resource"
        );
        check(json!({"hard": hard, "scopeSelector": selector}), &[&fault]);
    }

    #[test]
    fn faults_of_many_scopes_in_many_resources_are_bounded() {
        let hard: Map<String, Value> = (0..2_000).map(|i| (format!("hugepages-{i}Mi"), json!("1"))).collect();
        let quota = object(json!({"spec": {"hard": hard, "scopes": vec!["BestEffort"; 2_000]}}));
        let mut errors = Errors::default();
        ResourceQuota.validate(&quota, &mut errors);
        assert!(errors.is_full() && errors.len() < 1_000, "{}", errors.len());
    }
}
