//! Webhook configurations.

use std::collections::BTreeSet;

use api::Object;
use api::field::{Errors, Path};
use api::names;
use serde_json::Value;

use crate::at::{At, label_selector};

/// Of both kinds.
pub struct Configuration;

const VERSIONS: &[&str] = &["v1", "v1beta1"];

impl registry::Strategy for Configuration {
    fn knows_its_finalizers(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let all = At::of(object, "webhooks");
        let list = all.value.as_array().map_or(&[][..], Vec::as_slice);
        let mut seen = BTreeSet::new();
        for (i, hook) in list.iter().enumerate() {
            let at = At::new(hook, all.path.index(i));
            let again = !seen.insert(at.str("name"));
            one(&at, errors);
            review_versions(&at, errors);
            let named = !at.str("name").is_empty();
            if named && again {
                errors.duplicate(&at.path.child("name"), at.str("name"));
            }
        }
    }
}

fn one(at: &At<'_>, errors: &mut Errors) {
    fully_qualified(at, errors);
    for rule in at.items("rules") {
        operations(&rule, errors);
    }
    at.one_of_if_set("failurePolicy", &["Fail", "Ignore"], errors);
    at.one_of_if_set("matchPolicy", &["Equivalent", "Exact"], errors);
    match at.str("sideEffects") {
        "" => errors.required(&at.path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        "None" | "NoneOnDryRun" => {}
        other => errors.not_supported(&at.path.child("sideEffects"), other, &["None", "NoneOnDryRun"]),
    }
    if let Some(seconds) = at.i64("timeoutSeconds").filter(|s| !(1..=30).contains(s)) {
        let words = "the timeout value must be between 1 and 30 seconds";
        at.invalid("timeoutSeconds", seconds, words, errors);
    }
    label_selector(&at.field("namespaceSelector"), errors);
    label_selector(&at.field("objectSelector"), errors);
    at.one_of_if_set("reinvocationPolicy", &["IfNeeded", "Never"], errors);
    client_config(&at.field("clientConfig"), errors);
}

/// How a webhook is reached: by its address or through a service.
pub(super) fn client_config(client: &At<'_>, errors: &mut Errors) {
    match (client.some("url"), client.some("service")) {
        (Some(url), None) => check_url(&url, errors),
        (None, Some(service)) => check_service(&service, errors),
        _ => errors.required(&client.path, "exactly one of url or service is required"),
    }
}

fn fully_qualified(at: &At<'_>, errors: &mut Errors) {
    let name = at.str("name");
    let path = at.path.child("name");
    if name.is_empty() {
        errors.required(&path, "");
        return;
    }
    let faults = names::dns1123_subdomain(name);
    for fault in &faults {
        errors.invalid(&path, name, fault);
    }
    if faults.is_empty() && name.split('.').count() < 3 {
        errors.invalid(&path, name, "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(at: &At<'_>, errors: &mut Errors) {
    let versions = at.items("admissionReviewVersions");
    let path = at.path.child("admissionReviewVersions");
    if versions.is_empty() {
        errors.required(&path, "must specify one of v1, v1beta1");
        return;
    }
    let mut seen = BTreeSet::new();
    for version in &versions {
        let again = !seen.insert(version.text());
        if again {
            errors.invalid(&version.path, version.text(), "duplicate version");
            continue;
        }
        version.check_self(names::dns1035_label, errors);
    }
    if !versions.iter().any(|v| VERSIONS.contains(&v.text())) {
        let shown = at.raw("admissionReviewVersions").cloned().unwrap_or_default();
        errors.invalid(&path, &shown, "must include at least one of v1, v1beta1");
    }
}

fn operations(rule: &At<'_>, errors: &mut Errors) {
    let list = |field: &str| -> Vec<&str> { rule.items(field).iter().map(At::text).collect() };
    let shown = |field: &str| rule.raw(field).cloned().unwrap_or(Value::Null);
    let operations = list("operations");
    let supported = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    if operations.is_empty() {
        errors.required(&rule.path.child("operations"), "");
    }
    let star = |field: &str, words: &str, errors: &mut Errors| {
        let all = list(field);
        if all.contains(&"*") && all.len() > 1 {
            errors.invalid(&rule.path.child(field), shown(field), words);
        }
    };
    star("operations", "if '*' is present, must not specify other operations", errors);
    for (i, operation) in operations.iter().enumerate() {
        if !supported.contains(operation) {
            errors.not_supported(&rule.path.child("operations").index(i), *operation, &supported);
        }
    }
    for (field, words) in [
        ("apiGroups", "if '*' is present, must not specify other API groups"),
        ("apiVersions", "if '*' is present, must not specify other API versions"),
    ] {
        if list(field).is_empty() {
            errors.required(&rule.path.child(field), "");
        }
        star(field, words, errors);
    }
    for (i, version) in list("apiVersions").iter().enumerate() {
        if version.is_empty() {
            errors.required(&rule.path.child("apiVersions").index(i), "");
        }
    }
    let resources = list("resources");
    if resources.is_empty() {
        errors.required(&rule.path.child("resources"), "");
    }
    overlapping(&resources, &rule.path.child("resources"), &shown("resources"), errors);
    rule.one_of_if_set("scope", &["*", "Cluster", "Namespaced"], errors);
}

/// Resources that another entry covers already.
fn overlapping(resources: &[&str], path: &Path, shown: &Value, errors: &mut Errors) {
    let all: BTreeSet<&str> = resources.iter().copied().collect();
    if resources.len() > 1 && all.contains("*/*") {
        errors.invalid(path, shown, "if '*/*' is present, must not specify other resources");
    }
    for (i, resource) in resources.iter().enumerate() {
        if resource.is_empty() {
            errors.required(&path.index(i), "");
        }
        let Some((whole, part)) = resource.split_once('/') else {
            if *resource != "*" && all.contains("*") {
                // A star stands for every resource without its parts.
                errors.invalid(
                    path,
                    shown,
                    "if '*' is present, must not specify other resources without subresources",
                );
                return;
            }
            continue;
        };
        for cover in [format!("{whole}/*"), format!("*/{part}")] {
            if cover != *resource && all.contains(cover.as_str()) {
                errors.invalid(
                    &path.index(i),
                    *resource,
                    format!("if '{cover}' is present, must not specify {resource}"),
                );
            }
        }
    }
}

fn check_url(at: &At<'_>, errors: &mut Errors) {
    const FORM: &str = "; desired format: https://host[/path]";
    let text = at.text();
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    if scheme != "https" {
        errors.invalid(&at.path, scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(&at.path, host, format!("host must be specified{FORM}"));
    }
    if !user.is_empty() {
        errors.invalid(&at.path, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        errors.invalid(&at.path, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        errors.invalid(&at.path, query, "query parameters are not permitted in the URL");
    }
}

fn check_service(at: &At<'_>, errors: &mut Errors) {
    // Upstream's callers hand the two over the wrong way round, so each is missed under the other's name.
    if at.str("namespace").is_empty() {
        errors.required(&at.path.child("name"), "service name is required");
    }
    if at.str("name").is_empty() {
        errors.required(&at.path.child("namespace"), "service namespace is required");
    }
    let port = at.i64("port").unwrap_or(443);
    for fault in names::port_number(port) {
        at.invalid("port", port, &format!("port is not valid: {fault}"), errors);
    }
    let Some(path) = at.raw("path").and_then(Value::as_str) else { return };
    let field = at.path.child("path");
    if path == "/" || path.is_empty() {
        return;
    }
    if path == "//" {
        errors.invalid(&field, path, "segment[0] may not be empty");
        return;
    }
    if !path.starts_with('/') {
        errors.invalid(&field, path, "must start with a '/'");
    }
    let inner = path.strip_suffix('/').unwrap_or(path);
    let inner = inner.get(1..).unwrap_or_default();
    for (i, segment) in inner.split('/').enumerate() {
        if segment.is_empty() {
            errors.invalid(&field, path, format!("segment[{i}] may not be empty"));
            continue;
        }
        for fault in names::dns1123_subdomain(segment) {
            errors.invalid(&field, path, format!("segment[{i}]: {fault}"));
        }
    }
}
