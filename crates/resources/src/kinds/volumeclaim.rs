//! Persistent volumes and the claims to them.

use api::Object;
use api::field::{Errors, Path};
use api::names;
use registry::RequestContext;
use serde_json::Value;

use super::podspec;
use crate::at::{At, difference, immutable, label_selector};

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn access_modes(spec: &At<'_>, missing: &str, errors: &mut Errors) {
    let modes = spec.items("accessModes");
    let path = spec.path.child("accessModes");
    if modes.is_empty() {
        errors.required(&path, missing);
    }
    for mode in &modes {
        if !MODES.contains(&mode.text()) {
            errors.not_supported(&path, mode.text(), MODES);
        }
    }
    if modes.len() > 1 && modes.iter().any(|m| m.text() == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Faults of a claim's spec, wherever it stands.
pub(super) fn validate_spec(spec: &At<'_>, errors: &mut Errors) {
    access_modes(spec, "at least 1 access mode is required", errors);
    label_selector(&spec.field("selector"), errors);
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
    spec.check_if_set("volumeAttributesClassName", names::dns1123_subdomain, errors);
    for field in ["dataSource", "dataSourceRef"] {
        if let Some(source) = spec.some(field) {
            data_source(&source, errors);
        }
    }
    if let (Some(a), Some(b)) = (spec.some("dataSource"), spec.some("dataSourceRef"))
        && ["kind", "name", "apiGroup"].iter().any(|f| a.str(f) != b.str(f))
    {
        errors.invalid(&spec.path, spec.value, "must match dataSourceRef");
    }
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
}

pub struct Claim;

impl registry::Strategy for Claim {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        podspec::default_claim(spec);
        super::workload::fill(api::object::map_entry(&mut object.0, "status"), "phase", "Pending");
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
        let bound = old.get_str(&["status", "phase"]) == "Bound";
        let rest = |o: &Object| {
            let mut spec = o.0.get("spec").cloned().unwrap_or_default();
            if bound && let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
                resources.remove("requests");
            }
            if let Value::Object(spec) = &mut spec {
                spec.remove("volumeAttributesClassName");
                // A claim without a volume gets one; one without a class may get it late.
                if old.get_str(&["spec", "volumeName"]).is_empty() {
                    spec.remove("volumeName");
                }
                if old.get(&["spec", "storageClassName"]).is_none() {
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
    }
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
        super::workload::fill(spec, "persistentVolumeReclaimPolicy", "Retain");
        super::workload::fill(spec, "volumeMode", "Filesystem");
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
        let (is, was) = (sources(new), sources(old));
        if is != was {
            let words = "spec.persistentvolumesource is immutable after creation";
            let path = Path::new("spec.persistentvolumesource");
            errors.forbidden(&path, format!("{words}\n{}", difference(&was, &is)));
        }
        let mode = ["spec", "volumeMode"];
        immutable(new.get(&mode), old.get(&mode), &Path::new("volumeMode"), errors);
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
    access_modes(spec, "", errors);
    if !inline {
        capacity(spec, errors);
    }
    if podspec::volumes::source(spec, errors) == 0 {
        errors.required(&spec.path, "must specify a volume type");
    }
    if inline {
        forbid("persistentVolumeReclaimPolicy", errors);
    }
    let reclaim = spec.str("persistentVolumeReclaimPolicy");
    let path = spec.path.child("persistentVolumeReclaimPolicy");
    spec.one_of_if_set("persistentVolumeReclaimPolicy", &["Delete", "Recycle", "Retain"], errors);
    if reclaim == "Recycle"
        && spec.field("hostPath").str("path").trim_end_matches('/').is_empty()
        && spec.has("hostPath")
    {
        errors.forbidden(&path, "may not be 'recycle' for a hostPath mount of '/'");
    }
    if inline {
        forbid("storageClassName", errors);
    } else {
        spec.check_if_set("storageClassName", names::dns1123_subdomain, errors);
    }
    if inline {
        forbid("volumeMode", errors);
    }
    spec.one_of_if_set("volumeMode", &["Block", "Filesystem"], errors);
    let affinity = spec.field("nodeAffinity");
    if inline {
        forbid("nodeAffinity", errors);
    } else if let Some(required) = affinity.some("required") {
        podspec::node_selector(&required, errors);
    } else if !affinity.is_absent() {
        errors.required(&affinity.path.child("required"), "must specify required node constraints");
    } else if spec.has("local") {
        errors.required(&affinity.path, "Local volume requires node affinity");
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
