//! Persistent volumes and the claims to them.

use api::field::{Errors, Path};
use api::{Object, Quantity, names};
use registry::RequestContext;
use serde_json::Value;

use super::podspec;
use crate::at::{At, difference, immutable, label_selector, quantity};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &At<'_>, errors: &mut Errors) {
    let modes = spec.items("accessModes");
    let path = spec.path.child("accessModes");
    for mode in &modes {
        if !MODES.contains(&mode.text()) {
            errors.not_supported(&path, mode.text(), MODES);
        }
    }
    let known = modes.iter().map(At::text).filter(|m| MODES.contains(m));
    let (alone, shared): (Vec<&str>, Vec<&str>) = known.partition(|m| *m == "ReadWriteOncePod");
    if !alone.is_empty() && !shared.is_empty() {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Faults of a claim's spec, wherever it stands.
pub(super) fn validate_spec(spec: &At<'_>, errors: &mut Errors) {
    if spec.len("accessModes") == 0 {
        errors.required(&spec.path.child("accessModes"), "at least 1 access mode is required");
    }
    label_selector(&spec.field("selector"), errors);
    access_modes(spec, errors);
    let requests = spec.field("resources");
    let storage = requests.quantities("requests").into_iter().find(|(name, _, _)| *name == "storage");
    let path = spec.path.child("resources").key("storage");
    match storage {
        None => errors.required(&path, ""),
        Some((_, amount, at)) => {
            if amount.is_negative() || amount.is_zero() {
                errors.invalid(&path, at.text(), "must be greater than zero");
            }
        }
    }
    spec.check_if_set("storageClassName", names::dns1123_subdomain, errors);
    spec.one_of_if_set("volumeMode", &["Block", "Filesystem"], errors);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.some(field) {
            data_source(&source, errors);
        }
    }
    if let (Some(a), Some(b)) = (spec.some("dataSource"), spec.some("dataSourceRef")) {
        if !b.str("namespace").is_empty() {
            let words = "may not be specified when dataSourceRef.namespace is specified";
            errors.invalid(&spec.path, spec.value, words);
        } else if ["kind", "name", "apiGroup"].iter().any(|f| a.str(f) != b.str(f)) {
            errors.invalid(&spec.path, spec.value, "must match dataSourceRef");
        }
    }
    spec.check_if_set("volumeAttributesClassName", names::dns1123_subdomain, errors);
}

fn data_source(at: &At<'_>, errors: &mut Errors) {
    at.required("name", errors);
    at.required("kind", errors);
    let kind = at.str("kind");
    if at.str("apiGroup").is_empty() && kind != "PersistentVolumeClaim" {
        errors.invalid(
            &at.path,
            kind,
            "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
        );
    }
    at.check_if_set("apiGroup", names::dns1123_subdomain, errors);
    at.check_if_set("namespace", names::dns1123_label, errors);
}

pub struct Claim;

impl registry::Strategy for Claim {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        podspec::default_claim(spec);
        crate::at::fill(api::object::map_entry(&mut object.0, "status"), "phase", "Pending");
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.set(&["status", "phase"], "Pending");
        let spec = api::object::map_entry(&mut object.0, "spec");
        if spec.get("dataSource").is_some_and(|s| !known_source(s)) {
            spec.remove("dataSource");
        }
        mirror_source(spec);
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        let spec = api::object::map_entry(&mut new.0, "spec");
        let had = ["dataSource", "dataSourceRef"].iter().any(|f| old.get(&["spec", f]).is_some());
        if !had && spec.get("dataSource").is_some_and(|s| !known_source(s)) {
            spec.remove("dataSource");
        }
        mirror_source(spec);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        validate_spec(&At::of(object, "spec"), errors);
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        for (_, amount, at) in At::of(new, "status").quantities("capacity") {
            if amount.is_negative() {
                errors.invalid(&at.path, at.text(), "must be a valid resource quantity");
            }
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let gets_class = claim_class(new, old, errors);
        let bound = old.get_str(&["status", "phase"]) == "Bound";
        let rest = |o: &Object| {
            let mut spec = o.0.get("spec").cloned().unwrap_or_default();
            let requests = spec.get_mut("resources").and_then(|r| r.get_mut("requests")?.as_object_mut());
            if bound && let Some(requests) = requests {
                requests.remove("storage");
            }
            if let Value::Object(spec) = &mut spec {
                if bound {
                    spec.remove("volumeAttributesClassName");
                }
                // A claim without a volume gets one; one without a class may get it late.
                if old.get_str(&["spec", "volumeName"]).is_empty() {
                    spec.remove("volumeName");
                }
                if gets_class {
                    spec.remove("storageClassName");
                }
            }
            spec
        };
        let (is, was) = (rest(new), rest(old));
        if is != was {
            let words = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
            errors.forbidden(&Path::new("spec"), format!("{words}\n{}", difference(&was, &is)));
        }
        let size = |o: &Object, path: &[&str]| o.get(path).and_then(quantity).unwrap_or(Quantity::ZERO);
        let request = ["spec", "resources", "requests", "storage"];
        let held = size(old, &["status", "capacity", "storage"]);
        // A volume that could not grow may ask for less again, but not for less than it has.
        if size(new, &request) < size(old, &request) && size(new, &request) <= held {
            let words = "field can not be less than status.capacity";
            errors.forbidden(&Path::new(&request.join(".")), words);
        }
        let mode = ["spec", "volumeMode"];
        immutable(new.get(&mode), old.get(&mode), &Path::new("volumeMode"), errors);
        let class = ["spec", "volumeAttributesClassName"];
        let applied = old.get(&["status", "currentVolumeAttributesClassName"]).is_some();
        if applied && new.get(&class) != old.get(&class) && new.get_str(&class).is_empty() {
            let to = if new.get(&class).is_none() { "nil" } else { "empty string" };
            let words = format!(
                "update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil"
            );
            errors.forbidden(&Path::new(&class.join(".")), words);
        }
    }
}

/// The class's name, before it was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// Whether a claim without a class gets one that it may have: the annotated one where one is annotated. The
/// annotation itself stays as it is, unless the field takes its place.
fn claim_class(new: &Object, old: &Object, errors: &mut Errors) -> bool {
    let named = |o: &Object| o.get(&["spec", "storageClassName"]).and_then(Value::as_str).map(str::to_owned);
    let (noted, was_noted) = (new.annotation(CLASS), old.annotation(CLASS));
    let got = named(new).filter(|_| named(old).is_none());
    let moved =
        was_noted.is_some() && got.as_deref() == was_noted && noted.is_none_or(|n| Some(n) == was_noted);
    if !moved && noted.unwrap_or_default() != was_noted.unwrap_or_default() {
        let path = Path::new("metadata.annotations").child(CLASS);
        errors.invalid(&path, noted.unwrap_or_default(), "field is immutable");
    }
    got.is_some_and(|class| was_noted.is_none_or(|noted| noted == class))
}

/// What `dataSource` may name; other things are dropped from it (`dataSourceRef` keeps them).
fn known_source(source: &Value) -> bool {
    let text = |field: &str| source.get(field).and_then(Value::as_str).unwrap_or_default();
    matches!(
        (text("apiGroup"), text("kind")),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// `dataSource` and `dataSourceRef` say the same; the one that is missing is filled.
fn mirror_source(spec: &mut serde_json::Map<String, Value>) {
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(reference)) if reference.get("namespace").is_none_or(Value::is_null) => {
            spec.insert("dataSource".into(), reference);
        }
        _ => {}
    }
}

pub struct Volume;

impl registry::Strategy for Volume {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        crate::at::fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        crate::at::fill(spec, "volumeMode", "Filesystem");
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        volume_spec(&At::of(object, "spec"), false, errors);
    }

    /// A volume begins without a claim.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.set(&["status", "phase"], "Pending");
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let sources = |o: &Object| {
            let mut spec = o.0.get("spec").cloned().unwrap_or_default();
            if let Value::Object(spec) = &mut spec {
                for field in CHANGEABLE {
                    spec.remove(*field);
                }
            }
            spec
        };
        let (mut is, was) = (sources(new), sources(old));
        // The secret for growing may come late.
        if was["csi"]["controllerExpandSecretRef"].is_null()
            && let Some(csi) = is.get_mut("csi").and_then(Value::as_object_mut)
        {
            csi.remove("controllerExpandSecretRef");
        }
        if is != was {
            let words = "spec.persistentvolumesource is immutable after creation";
            let path = Path::new("spec.persistentvolumesource");
            errors.forbidden(&path, format!("{words}\n{}", difference(&was, &is)));
        }
        let mode = ["spec", "volumeMode"];
        immutable(new.get(&mode), old.get(&mode), &Path::new("volumeMode"), errors);
        let affinity = ["spec", "nodeAffinity"];
        if let Some(before) = old.get(&affinity)
            && new.get(&affinity).map(with_stable_labels).as_ref() != Some(&with_stable_labels(before))
        {
            let shown = new.get(&affinity).cloned().unwrap_or_default();
            let words = "field is immutable, except for updating from beta label to GA";
            errors.invalid(&Path::new("nodeAffinity"), &shown, words);
        }
        let class = ["spec", "volumeAttributesClassName"];
        if old.get(&class).is_some() && new.get(&class).is_none() {
            let words = "update from non-nil value to nil is forbidden";
            errors.forbidden(&Path::new(&class.join(".")), words);
        }
    }
}

/// Labels of nodes that had other names when they were new.
const STABLE: &[(&str, &str)] = &[
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
];

/// An affinity with the labels' names of today.
fn with_stable_labels(affinity: &Value) -> Value {
    match affinity {
        Value::Object(map) => map.iter().map(|(k, v)| (k.clone(), with_stable_labels(v))).collect(),
        Value::Array(list) => list.iter().map(with_stable_labels).collect(),
        Value::String(text) => STABLE
            .iter()
            .find(|(beta, _)| *beta == text.as_str())
            .map_or(text.as_str(), |(_, now)| *now)
            .into(),
        other => other.clone(),
    }
}

/// Faults of a volume's spec that stands in an attachment.
pub(super) fn inline(spec: &At<'_>, errors: &mut Errors) {
    volume_spec(spec, true, errors);
}

fn volume_spec(spec: &At<'_>, inline: bool, errors: &mut Errors) {
    let words = "may not be specified in the context of inline volumes";
    let forbid = |field: &str, errors: &mut Errors| {
        if !spec.str(field).is_empty() || spec.len(field) > 0 {
            errors.forbidden(&spec.path.child(field), words);
        }
    };
    if inline {
        forbid("claimRef", errors);
        forbid("capacity", errors);
        if !spec.has("csi") {
            errors.required(&spec.path.child("csi"), "has to be specified in the context of inline volumes");
        }
    }
    if spec.len("accessModes") == 0 {
        errors.required(&spec.path.child("accessModes"), "");
    }
    access_modes(spec, errors);
    if !inline {
        capacity(spec, errors);
    }
    let reclaim = spec.str("persistentVolumeReclaimPolicy");
    let path = spec.path.child("persistentVolumeReclaimPolicy");
    if !inline {
        spec.one_of_if_set("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], errors);
    } else if !matches!(reclaim, "" | "Retain") {
        errors.forbidden(&path, "may only be Retain in the context of inline volumes");
    }
    let affinity = spec.field("nodeAffinity");
    if inline {
        forbid("nodeAffinity", errors);
    } else if let Some(required) = affinity.some("required") {
        podspec::node_selector(&required, errors);
    } else if !affinity.is_absent() {
        errors.required(&affinity.path.child("required"), "must specify required node constraints");
    }
    if podspec::volumes::source(spec, errors) == 0 {
        errors.required(&spec.path, "must specify a volume type");
    }
    if spec.has("local") && (inline || affinity.is_absent()) {
        errors.required(&affinity.path, "Local volume requires node affinity");
    }
    if reclaim == "Recycle"
        && spec.field("hostPath").str("path").trim_end_matches('/').is_empty()
        && spec.has("hostPath")
    {
        errors.forbidden(&path, "may not be 'recycle' for a hostPath mount of '/'");
    }
    if inline {
        forbid("storageClassName", errors);
        if !matches!(spec.str("volumeMode"), "" | "Filesystem") {
            let words = "may not specify volumeMode other than Filesystem in the context of inline volumes";
            errors.forbidden(&spec.path.child("volumeMode"), words);
        }
    } else {
        spec.check_if_set("storageClassName", names::dns1123_subdomain, errors);
        spec.one_of_if_set("volumeMode", &["Block", "Filesystem"], errors);
    }
    attributes_class(spec, errors);
}

fn attributes_class(spec: &At<'_>, errors: &mut Errors) {
    let Some(class) = spec.some("volumeAttributesClassName") else { return };
    if class.text().is_empty() {
        errors.required(&class.path, "an empty string is disallowed");
    } else {
        class.check_self(names::dns1123_subdomain, errors);
    }
    if !spec.has("csi") {
        errors.required(&spec.path.child("csi"), "has to be specified when using volumeAttributesClassName");
    }
}

const CHANGEABLE: &[&str] = &[
    "capacity",
    "accessModes",
    "claimRef",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "mountOptions",
    "volumeMode",
    "nodeAffinity",
    "volumeAttributesClassName",
];

fn capacity(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.quantities("capacity");
    let path = spec.path.child("capacity");
    if all.is_empty() {
        errors.required(&path, "");
    }
    if all.len() != 1 || all.iter().any(|(name, _, _)| *name != "storage") {
        errors.not_supported(&path, spec.raw("capacity").cloned().unwrap_or_default(), &["storage"]);
    }
    for (_, amount, at) in &all {
        if amount.is_negative() || amount.is_zero() {
            errors.invalid(&at.path, at.text(), "must be greater than zero");
        }
    }
}

#[cfg(test)]
mod tests {
    use registry::Strategy;
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told, with};

    const SIZE: &str = "/spec/resources/requests/storage";

    /// What is said where `changes` are made to a claim that is as it begins but for `before`.
    fn check(before: &[(&str, Value)], changes: &[(&str, Value)], faults: &[&str]) {
        let claim = json!({
            "metadata": {"name": "c", "annotations": {}},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}},
                "volumeMode": "Filesystem", "volumeName": "v",
            },
            "status": {"phase": "Bound", "capacity": {"storage": "2Gi"}},
        });
        let old = with(claim, before);
        let new = with(old.clone(), changes);
        let mut errors = Errors::default();
        Claim.validate_update(&object(new), &object(old), &mut errors);
        // What differs of a spec is told in a line of its own.
        let told: Vec<String> =
            told(&errors).iter().map(|fault| fault.lines().next().unwrap().to_owned()).collect();
        assert_eq!(told, faults, "{before:?} {changes:?}");
    }

    const FIXED: &str = "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

    #[test]
    fn a_bound_claim_grows_and_shrinks_to_more_than_it_has() {
        let less = "spec.resources.requests.storage: Forbidden: field can not be less than status.capacity";
        let size = |size: &str| [(SIZE, json!(size))];
        check(&[], &size("6Gi"), &[]);
        check(&[], &size("5120Mi"), &[]);
        check(&[], &size("3Gi"), &[]);
        check(&[], &size("2Gi"), &[less]);
        check(&[], &size("1Gi"), &[less]);
        let pending = [("/status", json!({"phase": "Pending"}))];
        check(&pending, &size("6Gi"), &[FIXED]);
        check(&pending, &size("4Gi"), &[FIXED]);
        let unknown = [("/status/capacity", Value::Null)];
        check(&unknown, &size("1Gi"), &[]);
        let zero = "spec.resources[storage]: Invalid value: \"0\": must be greater than zero";
        check(&unknown, &size("0"), &[zero, less]);
        check(&[], &[("/spec/resources/limits", json!({"storage": "9Gi"}))], &[FIXED]);
        check(&[], &[("/spec/accessModes", json!(["ReadOnlyMany"]))], &[FIXED]);
        check(&[], &[("/spec/volumeName", json!("w"))], &[FIXED]);
        check(&[("/spec/volumeName", Value::Null)], &[("/spec/volumeName", json!("w"))], &[]);
        let mode = "volumeMode: Invalid value: \"Block\": field is immutable";
        check(&[], &[("/spec/volumeMode", json!("Block"))], &[FIXED, mode]);
    }

    #[test]
    fn a_class_of_attributes_may_change_and_not_go_once_it_is_applied() {
        const AT: &str = "/spec/volumeAttributesClassName";
        let class = |name: &str| (AT, json!(name));
        check(&[], &[class("a")], &[]);
        check(&[class("a")], &[class("b")], &[]);
        check(&[class("a")], &[(AT, Value::Null)], &[]);
        check(&[class("a"), ("/status/phase", json!("Pending"))], &[class("b")], &[FIXED]);
        let applied = [class("a"), ("/status/currentVolumeAttributesClassName", json!("a"))];
        let gone = |to: &str| {
            format!(
                "spec.volumeAttributesClassName: Forbidden: update to {to} is forbidden when status.currentVolumeAttributesClassName is not nil"
            )
        };
        check(&applied, &[class("b")], &[]);
        check(&applied, &[(AT, Value::Null)], &[&gone("nil")]);
        check(&applied, &[class("")], &[&gone("empty string")]);
    }

    #[test]
    fn a_class_may_come_late_and_from_the_annotation() {
        const AT: &str = "/spec/storageClassName";
        let note = "/metadata/annotations/volume.beta.kubernetes.io~1storage-class";
        let class = |name: &str| (AT, json!(name));
        let kept = "metadata.annotations.volume.beta.kubernetes.io/storage-class: Invalid value: \"\": field is immutable";
        check(&[], &[class("a")], &[]);
        check(&[], &[class("")], &[]);
        check(&[class("a")], &[class("b")], &[FIXED]);
        check(&[class("a")], &[(AT, Value::Null)], &[FIXED]);
        let noted = [(note, json!("a"))];
        check(&noted, &[class("a")], &[]);
        check(&noted, &[class("a"), (note, Value::Null)], &[]);
        check(&noted, &[class("b")], &[FIXED]);
        check(&noted, &[(note, Value::Null)], &[kept]);
    }
}
