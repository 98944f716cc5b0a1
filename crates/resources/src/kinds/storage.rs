//! Storage classes, drivers, attachments, runtime classes: small kinds that mostly do not change.

use std::collections::{BTreeMap, BTreeSet};

use api::Object;
use api::field::{Errors, Path};
use api::names;
use serde_json::Value;

use super::podspec;
use crate::at::{At, immutable, label_selector};

/// Fields that must stay as they were.
fn keep(new: &Object, old: &Object, paths: &[&[&str]], errors: &mut Errors) {
    for path in paths {
        immutable(new.get(path), old.get(path), &Path::new(&path.join(".")), errors);
    }
}

const PARAMETERS_MAX: usize = 512;

pub struct StorageClass;

impl registry::Strategy for StorageClass {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let provisioner = At::of(object, "provisioner");
        if provisioner.text().is_empty() {
            errors.required(&provisioner.path, "");
        } else {
            let name = provisioner.text().to_lowercase();
            for fault in names::qualified_name(&name) {
                errors.invalid(&provisioner.path, &name, fault);
            }
        }
        let parameters = At::of(object, "parameters");
        let mut size = 0;
        if parameters.value.as_object().is_some_and(|map| map.len() > PARAMETERS_MAX) {
            errors.too_long(&parameters.path, PARAMETERS_MAX);
        }
        for (key, value) in parameters.value.as_object().into_iter().flatten() {
            if key.is_empty() {
                errors.invalid(&parameters.path, key, "field can not be empty.");
            }
            size += key.len() + value.as_str().map_or(0, str::len);
        }
        if size > 256 * 1024 {
            errors.too_long(&parameters.path, 256 * 1024);
        }
        choice(object, "reclaimPolicy", &["Delete", "Retain"], errors);
        choice(object, "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], errors);
        let topologies = At::of(object, "allowedTopologies");
        let mut terms = BTreeSet::new();
        for (i, term) in topologies.value.as_array().into_iter().flatten().enumerate() {
            let term = At::new(term, topologies.path.index(i));
            let mut keys = BTreeSet::new();
            for at in term.items("matchLabelExpressions") {
                let again = !keys.insert(at.str("key"));
                at.check("key", names::qualified_name, errors);
                if at.len("values") == 0 {
                    errors.required(&at.path.child("values"), "");
                }
                let mut values = BTreeSet::new();
                for value in at.items("values") {
                    if !values.insert(value.text()) {
                        errors.duplicate(&value.path, value.text());
                    }
                }
                if again {
                    errors.duplicate(&at.path.child("key"), at.str("key"));
                }
            }
            let again = !terms.insert(term.value.to_string());
            if again {
                errors.duplicate(&term.path.child("matchLabelExpressions"), "");
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        if new.0.get("parameters") != old.0.get("parameters") {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
        if new.0.get("provisioner") != old.0.get("provisioner") {
            errors.forbidden(&Path::new("provisioner"), "updates to provisioner are forbidden.");
        }
        if new.0.get("reclaimPolicy") != old.0.get("reclaimPolicy") {
            errors.forbidden(&Path::new("reclaimPolicy"), "updates to reclaimPolicy are forbidden.");
        }
        keep(new, old, &[&["volumeBindingMode"]], errors);
    }
}

fn choice(object: &Object, field: &str, supported: &[&str], errors: &mut Errors) {
    let at = At::of(object, field);
    if !at.is_absent() && !supported.contains(&at.text()) {
        errors.not_supported(&at.path, at.text(), supported);
    }
}

pub struct VolumeAttributesClass;

impl registry::Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Object, errors: &mut Errors) {
        driver_name(&At::of(object, "driverName"), errors);
        let parameters = At::of(object, "parameters");
        let map = parameters.value.as_object();
        if map.is_none_or(|m| m.is_empty()) {
            errors.required(&parameters.path, "must contain at least one key/value pair");
        }
        if let Some(map) = map.filter(|m| m.len() > 512) {
            errors.too_many(&parameters.path, map.len(), 512);
        }
        for key in map.into_iter().flatten().map(|(k, _)| k).filter(|k| k.is_empty()) {
            errors.invalid(&parameters.path, key, "field can not be empty.");
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        for field in ["driverName", "parameters"] {
            if new.0.get(field) != old.0.get(field) {
                errors.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
            }
        }
    }
}

pub struct CsiDriver;

impl registry::Strategy for CsiDriver {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        let modes = spec.entry("volumeLifecycleModes").or_insert_with(|| serde_json::json!([]));
        if modes.as_array().is_none_or(Vec::is_empty) {
            *modes = serde_json::json!(["Persistent"]);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        spec.one_of_if_set("fsGroupPolicy", &["File", "None", "ReadWriteOnceWithFSType"], errors);
        let tokens = spec.items("tokenRequests");
        let mut seen = BTreeSet::new();
        for token in &tokens {
            let again = !seen.insert(token.str("audience"));
            if again {
                errors.duplicate(&token.path.child("audience"), token.str("audience"));
                continue;
            }
            if let Some(seconds) = token.i64("expirationSeconds") {
                if seconds < 600 {
                    let words = "may not specify a duration less than 10 minutes";
                    token.invalid("expirationSeconds", seconds, words, errors);
                }
                if seconds > 1 << 32 {
                    let words = "may not specify a duration larger than 2^32 seconds";
                    token.invalid("expirationSeconds", seconds, words, errors);
                }
            }
        }
        for mode in spec.items("volumeLifecycleModes") {
            if !["Persistent", "Ephemeral"].contains(&mode.text()) {
                let path = spec.path.child("volumeLifecycleModes");
                errors.not_supported(&path, mode.text(), &["Persistent", "Ephemeral"]);
            }
        }
        if let Some(n) = spec.i64("nodeAllocatableUpdatePeriodSeconds").filter(|n| *n < 10) {
            let words = "must be greater than or equal to 10 seconds";
            spec.invalid("nodeAllocatableUpdatePeriodSeconds", n, words, errors);
        }
        if let Some(at) = spec.some("serviceAccountTokenInSecrets").filter(|_| tokens.is_empty()) {
            let words = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid(&at.path, at.value, words);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let attach = ["spec", "attachRequired"];
        immutable(new.get(&attach), old.get(&attach), &Path::new("spec.attachedRequired"), errors);
        keep(new, old, &[&["spec", "fsGroupPolicy"], &["spec", "volumeLifecycleModes"]], errors);
    }
}

const NODE_ID_MAX: usize = 192;

pub struct CsiNode;

impl registry::Strategy for CsiNode {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let mut seen = BTreeSet::new();
        for driver in At::of(object, "spec").items("drivers") {
            let again = !seen.insert(driver.str("name"));
            driver_name(&driver.field("name"), errors);
            driver.required("nodeID", errors);
            if driver.str("nodeID").len() > NODE_ID_MAX {
                let words = format!("must be {NODE_ID_MAX} characters or less");
                driver.invalid("nodeID", driver.str("nodeID"), &words, errors);
            }
            driver.field("allocatable").non_negative("count", errors);
            if again {
                errors.duplicate(&driver.path.child("name"), driver.str("name"));
            }
            let mut keys = BTreeSet::new();
            for key in driver.items("topologyKeys") {
                let again = !keys.insert(key.text());
                if key.text().is_empty() {
                    errors.required(&driver.path, "");
                }
                if again {
                    errors.duplicate(&driver.path, key.text());
                }
                for fault in names::qualified_name(key.text()) {
                    errors.invalid(&driver.path, key.text(), fault);
                }
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let mut before = BTreeMap::new();
        for driver in At::of(old, "spec").items("drivers") {
            before.entry(driver.str("name")).or_insert(driver);
        }
        for driver in At::of(new, "spec").items("drivers") {
            let twin = before.get(driver.str("name"));
            let strip = |at: &At<'_>| {
                let mut value = at.value.clone();
                if let Value::Object(map) = &mut value {
                    map.remove("allocatable");
                }
                value
            };
            if twin.is_some_and(|t| strip(t) != strip(&driver)) {
                errors.invalid(&Path::new("CSINodeDriver"), driver.value, "field is immutable");
            }
        }
    }
}

/// Faults of a driver's name, as a field of something else.
fn driver_name(at: &At<'_>, errors: &mut Errors) {
    let name = at.text();
    if name.is_empty() {
        errors.required(&at.path, "");
    }
    if name.len() > 63 {
        errors.too_long(&at.path, 63);
    }
    for fault in names::dns1123_subdomain(&name.to_lowercase()) {
        errors.invalid(&at.path, name, fault);
    }
}

pub struct CsiStorageCapacity;

impl registry::Strategy for CsiStorageCapacity {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn times_checked(&self) -> usize {
        2
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        label_selector(&At::of(object, "nodeTopology"), errors);
        At::of(object, "storageClassName").check_self(names::dns1123_subdomain, errors);
        let at = At::of(object, "capacity");
        if crate::at::quantity(at.value).is_some_and(|q| q.is_negative()) {
            errors.invalid(&at.path, at.text(), "must be greater than or equal to 0");
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        keep(new, old, &[&["nodeTopology"], &["storageClassName"]], errors);
    }
}

pub struct VolumeAttachment;

impl registry::Strategy for VolumeAttachment {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn reset_fields(&self, status: bool) -> &'static [&'static [&'static str]] {
        if status { &[&["metadata"]] } else { &[] }
    }

    /// A change of the status is one of nothing else.
    fn prepare_status(&self, _cx: &registry::RequestContext, new: &mut Object, old: &Object) {
        for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
            match old.metadata().and_then(|meta| meta.get(field)) {
                Some(value) => new.set_meta(field, value.clone()),
                None => new.remove_meta(field),
            }
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        spec.required("attacher", errors);
        driver_name(&spec.field("attacher"), errors);
        let source = spec.field("source");
        match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
            (true, true) => errors.forbidden(
                &source.path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (false, false) => errors.required(
                &source.path,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            ),
            (false, true) if source.str("persistentVolumeName").is_empty() => {
                let path = source.path.child("persistentVolumeName");
                errors.required(&path, "must specify non empty persistentVolumeName");
            }
            (false, true) => {}
            (true, false) => super::volumeclaim::inline(&source.field("inlineVolumeSpec"), errors),
        }
        spec.check("nodeName", names::dns1123_subdomain, errors);
        if source.has("persistentVolumeName") {
            source.check("persistentVolumeName", names::dns1123_subdomain, errors);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        keep(new, old, &[&["spec"]], errors);
    }
}

pub struct RuntimeClass;

impl registry::Strategy for RuntimeClass {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn knows_its_finalizers(&self) -> bool {
        false
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        At::of(object, "handler").check_self(names::dns1123_label, errors);
        let overhead = At::of(object, "overhead");
        let limits = overhead.path.child("limits");
        for (name, amount, at) in overhead.quantities("podFixed") {
            let at = At::new(at.value, limits.key(name));
            podspec::resource_name(name, &at, podspec::Place::Container, errors);
            if amount.is_negative() {
                errors.invalid(&at.path, at.text(), "must be greater than or equal to 0");
            }
        }
        let scheduling = At::of(object, "scheduling");
        registry::meta::labels(
            scheduling.raw("nodeSelector"),
            &scheduling.path.child("nodeSelector"),
            errors,
        );
        podspec::tolerations(&scheduling, errors);
        let mut seen = BTreeSet::new();
        for at in scheduling.items("tolerations") {
            let again = !seen.insert(at.value.to_string());
            if again {
                errors.duplicate(&at.path, at.value);
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        keep(new, old, &[&["handler"]], errors);
    }
}
