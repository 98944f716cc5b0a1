//! The metadata that every object has: what a create sets, what an update may change, what is valid.

use api::field::{Bare, Errors, Path};
use api::{Object, gvk, names};
use serde_json::{Map, Value};

use crate::resource::Resource;

const ANNOTATIONS_MAX: usize = 256 * 1024;

/// Faults of a new object's metadata.
pub fn validate(resource: &Resource, object: &Object, errors: &mut Errors) {
    let path = Path::new("metadata");
    let Some(meta) = object.metadata() else { return };
    if let Some(base) = meta.get("generateName").and_then(Value::as_str) {
        for fault in resource.strategy.name_faults(base, true) {
            errors.invalid(&path.child("generateName"), base, fault);
        }
    }
    let name = object.name();
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for fault in resource.strategy.name_faults(name, false) {
            errors.invalid(&path.child("name"), name, fault);
        }
    }
    let namespace = object.namespace();
    if resource.namespaced() {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            for fault in names::dns1123_label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, fault);
            }
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    validate_common(resource, meta, &path, errors);
}

/// Faults that a new object and a changed one share.
fn validate_common(resource: &Resource, meta: &Map<String, Value>, path: &Path, errors: &mut Errors) {
    if meta.get("generation").and_then(Value::as_i64).is_some_and(|g| g < 0) {
        errors.invalid(&path.child("generation"), &meta["generation"], "must be greater than or equal to 0");
    }
    labels(meta.get("labels"), &path.child("labels"), errors);
    annotations(meta.get("annotations"), &path.child("annotations"), errors);
    owner_references(meta.get("ownerReferences"), &path.child("ownerReferences"), errors);
    let known = resource.strategy.knows_its_finalizers();
    finalizers(meta.get("finalizers"), known, &path.child("finalizers"), errors);
}

/// Faults of a map of labels.
pub fn labels(value: Option<&Value>, path: &Path, errors: &mut Errors) {
    for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
        for fault in names::qualified_name(key) {
            errors.invalid(path, key, fault);
        }
        let value = value.as_str().unwrap_or_default();
        for fault in names::label_value(value) {
            errors.invalid(path, value, fault);
        }
    }
}

/// Faults of a map of annotations.
pub fn annotations(value: Option<&Value>, path: &Path, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
        for fault in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key, fault);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(path, ANNOTATIONS_MAX);
    }
}

fn owner_references(value: Option<&Value>, path: &Path, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in value.and_then(Value::as_array).into_iter().flatten() {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or_default();
        let api_version = text("apiVersion");
        // `group/version` or `version`; anything else has neither.
        let version = match api_version.split('/').collect::<Vec<_>>().as_slice() {
            [version] | [_, version] => *version,
            _ => "",
        };
        if version.is_empty() {
            errors.invalid(&path.child("apiVersion"), api_version, "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.invalid(&path.child(field), "", format!("{field} must not be empty"));
            }
        }
        if gvk::NEVER_OWNERS.contains(&(api_version, text("kind"))) {
            let shown = go_owner(owner);
            errors.invalid(path, shown, "/v1, Kind=Event is disallowed from being an owner");
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let name = text("kind").to_owned() + "/" + text("name");
            if let Some(first) = &controller {
                let all = value.and_then(Value::as_array).into_iter().flatten();
                let all: Vec<String> = all.map(|o| go_owner(o).0).collect();
                errors.invalid(
                    path,
                    Bare(format!("[]v1.OwnerReference{{{}}}", all.join(", "))),
                    format!("Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"),
                );
            } else {
                controller = Some(name);
            }
        }
    }
}

/// Takes out owners that are named twice. Answers what the client is warned of.
pub(crate) fn dedup_owners(object: &mut Object) -> Option<String> {
    let Some(Value::Object(meta)) = object.0.get_mut("metadata") else { return None };
    let Some(Value::Array(owners)) = meta.get_mut("ownerReferences") else { return None };
    let mut doubled = Vec::new();
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            doubled.push(owner.get("uid").and_then(Value::as_str).unwrap_or_default().to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    (!doubled.is_empty()).then(|| {
        format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            doubled.join(", ")
        )
    })
}

/// An owner as Go's `%#v` prints it.
fn go_owner(owner: &Value) -> Bare {
    let text = |field: &str| api::field::quote(owner.get(field).and_then(Value::as_str).unwrap_or_default());
    let pointer =
        |field: &str| owner.get(field).map_or("(*bool)(nil)".to_owned(), |v| format!("(*bool)({v})"));
    Bare(format!(
        "v1.OwnerReference{{APIVersion:{}, Kind:{}, Name:{}, UID:{}, Controller:{}, BlockOwnerDeletion:{}}}",
        text("apiVersion"),
        text("kind"),
        text("name"),
        text("uid"),
        pointer("controller"),
        pointer("blockOwnerDeletion")
    ))
}

fn finalizers(value: Option<&Value>, known: bool, path: &Path, errors: &mut Errors) {
    let all: Vec<&str> =
        value.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (i, name) in all.iter().enumerate() {
        for fault in names::qualified_name(name) {
            errors.invalid(path, *name, fault);
        }
        if known {
            standard_finalizer(name, &path.index(i), errors);
        }
    }
    if all.contains(&"orphan") && all.contains(&"foregroundDeletion") {
        let shown = api::field::Bare(format!(
            "[{}]",
            all.iter().map(|f| api::field::quote(f)).collect::<Vec<_>>().join(",")
        ));
        errors.invalid(path, shown, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Faults of one finalizer's name.
pub fn finalizer_name(name: &str, path: &Path, errors: &mut Errors) {
    for fault in names::qualified_name(name) {
        errors.invalid(path, name, fault);
    }
    standard_finalizer(name, path, errors);
}

fn standard_finalizer(name: &str, path: &Path, errors: &mut Errors) {
    if !name.contains('/') && !matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
        errors.invalid(path, name, "name is neither a standard finalizer name nor is it fully qualified");
    }
}

/// Fields that an update may leave out; the old value then stands.
const KEPT_WHEN_ABSENT: &[&str] = &["creationTimestamp", "uid", "name", "namespace", "generateName"];
/// Fields that only the server sets.
const OWNED: &[&str] = &["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"];

/// Puts back what an update may leave out or not touch.
pub fn carry_over(new: &mut Object, old: &Object) {
    let Some(old_meta) = old.metadata() else { return };
    let meta = new.metadata_mut();
    for field in KEPT_WHEN_ABSENT {
        if let (false, Some(value)) = (meta.contains_key(*field), old_meta.get(*field)) {
            meta.insert((*field).into(), value.clone());
        }
    }
    for field in OWNED {
        match old_meta.get(*field) {
            Some(value) => meta.insert((*field).into(), value.clone()),
            None => meta.remove(*field),
        };
    }
}

/// Faults of a changed object's metadata by themselves.
pub fn validate_changed(resource: &Resource, new: &Object, errors: &mut Errors) {
    if let Some(meta) = new.metadata() {
        validate_common(resource, meta, &Path::new("metadata"), errors);
    }
}

/// Faults of a changed object's metadata against the old.
pub fn validate_update(resource: &Resource, new: &Object, old: &Object, errors: &mut Errors) {
    let path = Path::new("metadata");
    let (Some(meta), Some(old_meta)) = (new.metadata(), old.metadata()) else { return };
    if old.is_deleting() {
        let before = old.finalizers();
        let added: Vec<&str> = new.finalizers().into_iter().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let list = added.iter().map(|f| api::field::quote(f)).collect::<Vec<_>>().join(", ");
            errors.forbidden(
                &path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{list}}}"),
            );
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (a, b) = (meta.get(field), old_meta.get(field));
        if a != b {
            errors.invalid(&path.child(field), a.unwrap_or(&Value::Null), "field is immutable");
        }
    }
    validate_common(resource, meta, &path, errors);
}
