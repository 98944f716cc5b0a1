//! Certificate signing requests: approval has a path of its own.

use std::collections::{BTreeMap, BTreeSet};

use api::Object;
use api::field::{Bare, Errors, Path};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry::RequestContext;
use registry::resource::PartHook;
use serde_json::{Value, json};

use crate::at::At;

pub struct Strategy;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl registry::Strategy for Strategy {
    fn reset_fields(&self, status: bool) -> &'static [&'static [&'static str]] {
        if status { &[] } else { &[&["spec"]] }
    }

    /// No rule for names but that they fit into a path.
    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    /// Who asks is the server's to say.
    fn prepare_create(&self, cx: &RequestContext, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        for field in ["username", "uid", "groups", "extra"] {
            spec.remove(field);
        }
        if !cx.user.name.is_empty() {
            spec.insert("username".into(), cx.user.name.as_str().into());
        }
        if !cx.user.uid.is_empty() {
            spec.insert("uid".into(), cx.user.uid.as_str().into());
        }
        if !cx.user.groups.is_empty() {
            spec.insert("groups".into(), json!(cx.user.groups));
        }
        if !cx.user.extra.is_empty() {
            let extra: serde_json::Map<String, Value> =
                cx.user.extra.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
            spec.insert("extra".into(), Value::Object(extra));
        }
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        // What was asked stands.
        if let Some(spec) = old.0.get("spec") {
            new.0.insert("spec".into(), spec.clone());
        }
    }

    /// Whether it is approved is said through a path of its own.
    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        conditions(new, old, &[], errors);
        let before = old.get_str(&["status", "certificate"]);
        if !before.is_empty() && new.get_str(&["status", "certificate"]) != before {
            let words = "updates may not change certificate once set";
            errors.forbidden(&Path::new("status.certificate"), words);
        }
    }

    fn prepare_status(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        stamp(new, old);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let request = BASE64_STANDARD.decode(spec.str("request")).unwrap_or_default();
        if !request.windows(PEM.len()).any(|w| w == PEM.as_bytes()) {
            let bytes: Vec<String> = request.iter().map(|b| format!("0x{b:x}")).collect();
            let shown = if request.is_empty() {
                "[]byte(nil)".to_owned()
            } else {
                format!("[]byte{{{}}}", bytes.join(", "))
            };
            errors.invalid(
                &Path::new("spec.request"),
                Bare(shown),
                "PEM block type must be CERTIFICATE REQUEST",
            );
        }
        let usages = spec.items("usages");
        if usages.is_empty() {
            errors.required(&spec.path.child("usages"), "");
        }
        let mut seen = BTreeSet::new();
        for usage in &usages {
            let again = !seen.insert(usage.text());
            if !USAGES.contains(&usage.text()) {
                errors.not_supported(&usage.path, usage.text(), USAGES);
            }
            if again {
                errors.duplicate(&usage.path, usage.text());
            }
        }
        signer_name(&spec, errors);
        if let Some(n) = spec.i64("expirationSeconds").filter(|n| *n < 600) {
            let words = "may not specify a duration less than 600 seconds (10 minutes)";
            spec.invalid("expirationSeconds", n, words, errors);
        }
    }
}

const PEM: &str = "-----BEGIN CERTIFICATE REQUEST-----";

fn signer_name(spec: &At<'_>, errors: &mut Errors) {
    let name = spec.str("signerName");
    if !spec.required("signerName", errors) {
        return;
    }
    let parts = name.split_once('/').filter(|(domain, path)| domain.contains('.') && !path.is_empty());
    let Some((domain, _)) = parts else {
        let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        spec.invalid("signerName", name, words, errors);
        return;
    };
    for fault in api::names::dns1123_subdomain(domain) {
        spec.invalid(
            "signerName",
            name,
            &format!("validating label {}: {fault}", api::field::quote(domain)),
            errors,
        );
    }
}

/// `certificatesigningrequests/NAME/approval`: the conditions alone.
pub struct Approval;

impl PartHook for Approval {
    fn prepare(&self, new: &mut Object, old: &Object) {
        let conditions = new.get(&["status", "conditions"]).cloned();
        for part in ["spec", "status"] {
            match old.0.get(part) {
                Some(value) => new.0.insert(part.into(), value.clone()),
                None => new.0.remove(part),
            };
        }
        match conditions {
            Some(conditions) => new.set(&["status", "conditions"], conditions),
            None => {
                new.remove(&["status", "conditions"]);
            }
        }
        stamp(new, old);
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        conditions(new, old, &["Approved", "Denied"], errors);
    }
}

/// A condition that is new or changed gets its times.
fn stamp(new: &mut Object, old: &Object) {
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let before: Vec<Value> =
        old.get(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let kind = |condition: &Value| condition.get("type").map(Value::to_string);
    // Of equal types the first.
    let mut twins = BTreeMap::new();
    for condition in &before {
        twins.entry(kind(condition)).or_insert(condition);
    }
    let list = new.0.get_mut("status").and_then(|s| s.get_mut("conditions")).and_then(Value::as_array_mut);
    for condition in list.into_iter().flatten() {
        let twin = twins.get(&kind(condition)).copied();
        let Value::Object(condition) = condition else { continue };
        let absent = |c: &serde_json::Map<String, Value>, f: &str| c.get(f).is_none_or(Value::is_null);
        if absent(condition, "lastTransitionTime") {
            let same = twin.filter(|t| t.get("status") == condition.get("status"));
            let then = same.and_then(|t| t.get("lastTransitionTime").cloned());
            condition.insert("lastTransitionTime".into(), then.unwrap_or_else(|| now.as_str().into()));
        }
        if absent(condition, "lastUpdateTime") {
            condition.insert("lastUpdateTime".into(), now.as_str().into());
        }
    }
}

/// Conditions stand for good where they are `settled`; approved and denied exclude each other.
fn conditions(new: &Object, old: &Object, settled: &[&str], errors: &mut Errors) {
    let all = At::of(new, "status").items("conditions");
    let path = Path::new("status.conditions");
    let decided = |at: &At<'_>| matches!(at.str("type"), "Approved" | "Denied");
    let mut seen = BTreeSet::new();
    for at in &all {
        let kind = at.str("type");
        at.required("type", errors);
        let again = !seen.insert(kind);
        if again {
            errors.duplicate(&at.path.child("type"), kind);
        }
        let known: &[&str] = match kind {
            "Approved" | "Denied" | "Failed" => &["True"],
            _ => &["False", "True", "Unknown"],
        };
        at.one_of("status", known, errors);
        let other = ["Approved", "Denied"].iter().any(|other| *other != kind && seen.contains(*other));
        if decided(at) && other {
            at.invalid("type", kind, "Approved and Denied conditions are mutually exclusive", errors);
        }
    }
    for before in At::of(old, "status").items("conditions") {
        let kind = before.str("type");
        if !seen.contains(kind) && ["Approved", "Denied", "Failed"].contains(&kind) {
            let words = format!("updates may not remove a condition of type {}", api::field::quote(kind));
            errors.forbidden(&path, words);
        }
    }
    let before = At::of(old, "status").items("conditions");
    let before: BTreeSet<&str> = before.iter().map(|c| c.str("type")).collect();
    for at in &all {
        let kind = at.str("type");
        if !before.contains(kind) && decided(at) && !settled.contains(&kind) {
            let words = format!("updates may not add a condition of type {}", api::field::quote(kind));
            errors.forbidden(&path, words);
        }
    }
}

/// Certificates to trust a signer by.
pub struct TrustBundle;

impl registry::Strategy for TrustBundle {
    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        let signer = spec.str("signerName");
        let name = Path::new("metadata.name");
        if signer.is_empty() {
            if object.name().contains(':') {
                let words = "ClusterTrustBundle without signer name must not have \":\" in its name";
                errors.invalid(&name, object.name(), words);
            }
        } else {
            signer_name(&spec, errors);
            let prefix = signer.replace('/', ":") + ":";
            if !object.name().starts_with(&prefix) {
                let words =
                    format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}");
                errors.invalid(&name, object.name(), words);
            }
        }
        let text = spec.str("trustBundle");
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            let words = "trust bundle must contain at least one PEM block of type CERTIFICATE";
            spec.invalid("trustBundle", api::field::Bare("\"<value omitted>\"".into()), words, errors);
        }
    }

    fn name_faults(&self, name: &str, _generated: bool) -> Vec<String> {
        api::names::path_segment(name)
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let path = ["spec", "signerName"];
        crate::at::immutable(new.get(&path), old.get(&path), &Path::new("spec.signerName"), errors);
    }
}
