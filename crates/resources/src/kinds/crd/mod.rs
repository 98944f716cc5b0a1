//! Custom resource definitions as stored objects: names, versions, conversion, printer columns.
//! The schemas inside are judged in [`structural`].

mod structural;
mod values;

use std::collections::BTreeSet;

use api::Object;
use api::field::{Bare, Errors, Path};
use api::names;
use registry::RequestContext;
use serde_json::{Value, json};

use super::webhook;
use crate::at::{At, immutable};

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn knows_its_finalizers(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Object) {
        let kind = object.get_str(&["spec", "names", "kind"]).to_owned();
        let spec = api::object::map_entry(&mut object.0, "spec");
        let names = api::object::map_entry(spec, "names");
        if !kind.is_empty() {
            crate::at::fill(names, "singular", &kind.to_lowercase());
            crate::at::fill(names, "listKind", &format!("{kind}List"));
        }
        let stored = object.get(&["status", "storedVersions"]).and_then(Value::as_array);
        if stored.is_none_or(Vec::is_empty)
            && let Some(name) = storage_versions(object).first().cloned()
        {
            object.set(&["status", "storedVersions"], json!([name]));
        }
    }

    /// What is accepted is found out later; what is stored is known at once.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        if let Some(name) = storage_versions(object).first().cloned() {
            object.set(&["status", "storedVersions"], json!([name]));
        }
    }

    /// A version that becomes the stored one is remembered: its objects stay when another one follows.
    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, _old: &Object) {
        let stored = new.get(&["status", "storedVersions"]).and_then(Value::as_array).cloned();
        let mut stored = stored.unwrap_or_default();
        let before = stored.len();
        let mut known: BTreeSet<String> =
            stored.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        for name in storage_versions(new) {
            if known.insert(name.clone()) {
                stored.push(name.into());
            }
        }
        if stored.len() > before {
            new.set(&["status", "storedVersions"], stored);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        name_of_object(object, errors);
        let spec = At::of(object, "spec");
        validate_spec(&spec, errors);
        stored_versions(object, errors);
        approval(object, errors);
        if spec.is("preserveUnknownFields") {
            let words = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            spec.invalid("preserveUnknownFields", true, words, errors);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let path = Path::new("spec");
        let keep = |names: &[&str], errors: &mut Errors| {
            let path = names[1..].iter().fold(path.clone(), |at, name| at.child(name));
            immutable(new.get(names), old.get(names), &path, errors);
        };
        keep(&["spec", "group"], errors);
        keep(&["spec", "names", "plural"], errors);
        // Once it is served, objects of it may be there.
        let established = At::of(old, "status")
            .items("conditions")
            .iter()
            .any(|c| c.str("type") == "Established" && c.str("status") == "True");
        if established {
            keep(&["spec", "scope"], errors);
            keep(&["spec", "names", "kind"], errors);
        }
    }

    fn validate_status(&self, new: &Object, old: &Object, errors: &mut Errors) {
        stored_versions(new, errors);
        let accepted = At::of(new, "status").field("acceptedNames");
        validate_names(&accepted, errors);
        let versions = At::of(new, "spec").items("versions");
        let versions: BTreeSet<&str> = versions.iter().map(|v| v.str("name")).collect();
        let listed = At::of(new, "status").items("storedVersions");
        let listed: BTreeSet<&str> = listed.iter().map(At::text).collect();
        for version in At::of(old, "status").items("storedVersions") {
            if listed.contains(version.text()) && !versions.contains(version.text()) {
                errors.invalid(&version.path, version.text(), "must appear in spec.versions");
            }
        }
    }
}

fn storage_versions(object: &Object) -> Vec<String> {
    let versions = object.get(&["spec", "versions"]).and_then(Value::as_array);
    let stored = versions.into_iter().flatten().filter(|v| v.get("storage") == Some(&Value::Bool(true)));
    stored.filter_map(|v| v.get("name")?.as_str().map(str::to_owned)).collect()
}

fn name_of_object(object: &Object, errors: &mut Errors) {
    let (plural, group) = (object.get_str(&["spec", "names", "plural"]), object.get_str(&["spec", "group"]));
    if !object.name().is_empty() && object.name() != format!("{plural}.{group}") {
        let words = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::new("metadata.name"), object.name(), words);
    }
}

fn joined(at: &At<'_>, faults: Vec<String>, words: &str, errors: &mut Errors) {
    if !faults.is_empty() {
        errors.invalid(&at.path, at.text(), words.to_owned() + &faults.join(","));
    }
}

fn validate_spec(spec: &At<'_>, errors: &mut Errors) {
    let group = spec.field("group");
    if spec.required("group", errors) {
        joined(&group, names::dns1123_subdomain(group.text()), "", errors);
        if names::dns1123_subdomain(group.text()).is_empty() && !group.text().contains('.') {
            errors.invalid(&group.path, group.text(), "should be a domain with at least one dot");
        }
    }
    spec.one_of("scope", &["Cluster", "Namespaced"], errors);
    let versions = spec.items("versions");
    for version in versions.iter().filter(|v| v.is("served") && !v.field("schema").has("openAPIV3Schema")) {
        let path = version.path.child("schema").child("openAPIV3Schema");
        errors.required(&path, "schemas are required");
    }
    // One version is judged as if its parts stood in the spec itself, as they once did.
    let single = versions.len() == 1;
    for version in &versions {
        let name = version.field("name");
        joined(&name, names::dns1035_label(name.text()), "", errors);
        deprecation(version, errors);
        if !single {
            validate_version(version, &version.path, "schema", errors);
        }
    }
    let list = spec.path.child("versions");
    let shown = spec.raw("versions").cloned().unwrap_or(Value::Null);
    let mut seen = BTreeSet::new();
    if !versions.iter().all(|v| seen.insert(v.str("name"))) {
        errors.invalid(&list, &shown, "must contain unique version names");
    }
    if versions.iter().filter(|v| v.is("storage")).count() != 1 {
        errors.invalid(&list, &shown, "must have exactly one version marked as storage version");
    }
    if let Some(first) = versions.first() {
        let at = At::new(first.field("name").value, spec.path.child("version"));
        joined(&at, names::dns1035_label(at.text()), "", errors);
    }
    let own = spec.field("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        own.required(field, errors);
    }
    validate_names(&own, errors);
    if let (true, Some(version)) = (single, versions.first()) {
        validate_version(version, &spec.path, "validation", errors);
    }
    conversion(&spec.field("conversion"), errors);
}

/// The parts of a version, whose faults stand below `path`; its schema's below `schema` there.
fn validate_version(version: &At<'_>, path: &Path, schema: &str, errors: &mut Errors) {
    let parts = At::new(version.value, path.clone());
    let root = At::new(version.field("schema").value, path.child(schema));
    if let Some(root) = root.some("openAPIV3Schema") {
        structural::validate(&root, version.field("subresources").has("status"), errors);
    }
    if let Some(scale) = parts.field("subresources").some("scale") {
        for (field, under) in
            [("specReplicasPath", ".spec"), ("statusReplicasPath", ".status"), ("labelSelectorPath", "")]
        {
            scale_path(&scale, field, under, errors);
        }
    }
    for column in parts.items("additionalPrinterColumns") {
        printer_column(&column, errors);
    }
}

fn scale_path(scale: &At<'_>, field: &str, under: &str, errors: &mut Errors) {
    let text = scale.str(field);
    if text.is_empty() {
        if !under.is_empty() {
            errors.required(&scale.path.child(field), "");
        }
        return;
    }
    // Constrained paths: names and dots, nothing that could choose.
    let simple = text.starts_with('.') && !text.contains(['[', ']', '*', '?', '(', ' ']);
    if !simple {
        scale.invalid(field, text, "must be a simple json path with . separators", errors);
    } else if under.is_empty() {
        if !text.starts_with(".spec.") && !text.starts_with(".status.") {
            scale.invalid(field, text, "should be a json path under either .spec or .status", errors);
        }
    } else if !text.starts_with(&format!("{under}.")) {
        scale.invalid(field, text, &format!("should be a json path under {under}"), errors);
    }
}

fn printer_column(column: &At<'_>, errors: &mut Errors) {
    column.required("name", errors);
    let known = ["boolean", "date", "integer", "number", "string"];
    let kind = column.str("type");
    if kind.is_empty() {
        errors.required(&column.path.child("type"), &format!("must be one of {}", known.join(",")));
    } else if !known.contains(&kind) {
        column.invalid("type", kind, &format!("must be one of {}", known.join(",")), errors);
    }
    let formats = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    let format = column.str("format");
    if !format.is_empty() && !formats.contains(&format) {
        column.invalid("format", format, &format!("must be one of {}", formats.join(",")), errors);
    }
    // The field's name of old.
    let path = column.path.child("JSONPath");
    let text = column.str("jsonPath");
    if text.is_empty() {
        errors.required(&path, "");
    } else if !text.starts_with('.') {
        errors.invalid(&path, text, "must be a simple json path starting with .");
    }
}

fn deprecation(version: &At<'_>, errors: &mut Errors) {
    if !version.has("deprecationWarning") {
        return;
    }
    let text = version.str("deprecationWarning");
    if !version.is("deprecated") {
        version.invalid("deprecationWarning", text, "can only be set for deprecated versions", errors);
    }
    if text.len() > 256 {
        version.invalid("deprecationWarning", text, "must be <= 256 characters long", errors);
    }
    if text.is_empty() {
        version.invalid("deprecationWarning", text, "must not be an empty string", errors);
    }
    if text.chars().any(char::is_control) {
        version.invalid(
            "deprecationWarning",
            text,
            "must only contain printable UTF-8 characters; non-printable character found",
            errors,
        );
    }
}

fn validate_names(at: &At<'_>, errors: &mut Errors) {
    let check = |field: &str, mixed: bool, errors: &mut Errors| {
        let name = at.field(field);
        if name.text().is_empty() {
            return;
        }
        let (faults, words) = if mixed {
            let faults = names::dns1035_label(&name.text().to_lowercase());
            (faults, "may have mixed case, but should otherwise match: ")
        } else {
            (names::dns1035_label(name.text()), "")
        };
        joined(&name, faults, words, errors);
    };
    check("plural", false, errors);
    check("singular", false, errors);
    check("kind", true, errors);
    check("listKind", true, errors);
    for name in at.items("shortNames") {
        joined(&name, names::dns1035_label(name.text()), "", errors);
    }
    let kind = at.str("kind");
    if !kind.is_empty() && kind == at.str("listKind") {
        at.invalid("listKind", kind, "kind and listKind may not be the same", errors);
    }
    for name in at.items("categories") {
        joined(&name, names::dns1035_label(name.text()), "", errors);
    }
}

fn conversion(at: &At<'_>, errors: &mut Errors) {
    if at.is_absent() {
        return;
    }
    at.one_of("strategy", &["None", "Webhook"], errors);
    let hook = at.field("webhook");
    let config = At::new(hook.field("clientConfig").value, at.path.child("webhookClientConfig"));
    let versions =
        At::new(hook.field("conversionReviewVersions").value, at.path.child("conversionReviewVersions"));
    if at.str("strategy") != "Webhook" {
        let words = "should not be set when strategy is not set to Webhook";
        for part in [&config, &versions] {
            if !part.is_absent() {
                errors.forbidden(&part.path, words);
            }
        }
        return;
    }
    if config.is_absent() {
        errors.required(&config.path, "required when strategy is set to Webhook");
    } else {
        webhook::client_config(&config, errors);
    }
    let (path, versions) = (versions.path, hook.items("conversionReviewVersions"));
    if versions.is_empty() {
        errors.required(&path, "");
        return;
    }
    let known = ["v1", "v1beta1"];
    let mut seen = BTreeSet::new();
    for (i, version) in versions.iter().enumerate() {
        let here = At::new(version.value, path.index(i));
        let again = !seen.insert(version.text());
        if again {
            errors.invalid(&here.path, version.text(), "duplicate version");
        } else {
            joined(&here, names::dns1035_label(version.text()), "", errors);
        }
    }
    if !versions.iter().any(|v| known.contains(&v.text())) {
        let shown = hook.raw("conversionReviewVersions").cloned().unwrap_or_default();
        errors.invalid(&path, &shown, "must include at least one of v1, v1beta1");
    }
}

/// The stored versions are among the spec's, and the one that is stored now is among them.
fn stored_versions(object: &Object, errors: &mut Errors) {
    let stored = At::of(object, "status").items("storedVersions");
    let path = Path::new("status.storedVersions");
    if stored.is_empty() {
        errors.invalid(&path, Bare("[]string(nil)".into()), "must have at least one stored version");
        return;
    }
    let versions = At::of(object, "spec").items("versions");
    let versions: BTreeSet<&str> = versions.iter().map(|v| v.str("name")).collect();
    for version in &stored {
        if !versions.contains(version.text()) {
            errors.invalid(&version.path, version.text(), "must appear in spec.versions");
        }
    }
    let shown = object.get(&["status", "storedVersions"]).cloned().unwrap_or(Value::Null);
    let stored: BTreeSet<&str> = stored.iter().map(At::text).collect();
    for name in storage_versions(object) {
        if !stored.contains(name.as_str()) {
            errors.invalid(&path, &shown, format!("must have the storage version {name}"));
        }
    }
}

const APPROVED: &str = "api-approved.kubernetes.io";

/// The project's own groups need a reviewed change's address.
fn approval(object: &Object, errors: &mut Errors) {
    let group = object.get_str(&["spec", "group"]);
    let protected =
        ["k8s.io", "kubernetes.io"].iter().any(|g| group == *g || group.ends_with(&format!(".{g}")));
    if !protected {
        return;
    }
    let path = Path::new("metadata.annotations").key(APPROVED);
    match object.annotation(APPROVED).unwrap_or_default() {
        "" => errors.required(
            &path,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
        text if text.starts_with("https://") || text.starts_with("http://") || text.starts_with("unapproved") => {}
        text => errors.invalid(
            &path,
            text,
            "protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
        ),
    }
}
