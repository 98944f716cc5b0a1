//! Faults of volumes: exactly one source each, and what each source needs.

use api::field::Errors;
use api::names;
use serde_json::Value;

use super::container::Volumes;
use super::env;
use super::validate::{local_path, no_backsteps};
use crate::at::At;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const DOWNWARD: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Sources in the order in which upstream looks for a second one.
const SOURCES: &[&str] = &[
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
    "local",
];

/// Texts that a source must have.
const NEEDED: &[(&str, &[&str])] = &[
    ("hostPath", &["path"]),
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("cinder", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
    ("local", &["path"]),
];

pub(super) fn validate<'a>(spec: &At<'a>, errors: &mut Errors) -> Volumes<'a> {
    let mut known = Volumes::new();
    for volume in spec.items("volumes") {
        let before = errors.0.len();
        let name = volume.str("name");
        sources(&volume, errors);
        let source_is_bad = errors.0.len() > before;
        if name.is_empty() {
            errors.required(&volume.path.child("name"), "");
        } else {
            volume.check("name", names::dns1123_label, errors);
            if known.contains_key(name) {
                errors.duplicate(&volume.path.child("name"), name);
            }
        }
        if !name.is_empty() && !source_is_bad {
            known.insert(name, volume.value);
        }
    }
    known
}

fn sources(volume: &At<'_>, errors: &mut Errors) {
    if source(volume, errors) == 0 {
        errors.required(&volume.path, "must specify a volume type");
    }
}

/// Checks the sources of a volume (or persistent volume) and answers how many there are.
pub(in crate::kinds) fn source(volume: &At<'_>, errors: &mut Errors) -> usize {
    let mut found = 0;
    for kind in SOURCES {
        let Some(at) = volume.some(kind) else { continue };
        found += 1;
        if found > 1 {
            errors.forbidden(&at.path, "may not specify more than 1 volume type");
            continue;
        }
        for (_, fields) in NEEDED.iter().filter(|(k, _)| k == kind) {
            for field in *fields {
                at.required(field, errors);
            }
        }
        special(kind, &at, errors);
    }
    found
}

fn special(kind: &str, at: &At<'_>, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            let limit = at.raw("sizeLimit").and_then(crate::at::quantity);
            if limit.is_some_and(|q| q.is_negative()) {
                errors.forbidden(
                    &at.path.child("sizeLimit"),
                    "SizeLimit field must be a valid resource quantity",
                );
            }
        }
        "hostPath" => {
            no_backsteps(&at.path.child("path"), at.str("path"), errors);
            if at.has("type") && !HOST_PATH_TYPES.contains(&at.str("type")) {
                errors.not_supported(&at.path.child("type"), at.str("type"), HOST_PATH_TYPES);
            }
        }
        "local" => no_backsteps(&at.path.child("path"), at.str("path"), errors),
        "nfs" if !at.str("path").starts_with('/') => {
            at.invalid("path", at.str("path"), "must be an absolute path", errors);
        }
        "secret" | "configMap" => {
            mode(at, "defaultMode", errors);
            keys_to_paths(at, errors);
        }
        "downwardAPI" => {
            mode(at, "defaultMode", errors);
            downward(at, errors);
        }
        "projected" => projected(at, errors),
        "iscsi" => iscsi(at, errors),
        "fc" => fibre_channel(at, errors),
        "rbd" => {
            monitors(at, errors);
            at.required("image", errors);
        }
        "cephfs" => monitors(at, errors),
        "flocker" if at.str("datasetName").is_empty() && at.str("datasetUUID").is_empty() => {
            errors.required(&at.path, "one of datasetName and datasetUUID is required");
        }
        "csi" => csi(at, errors),
        "ephemeral" => match at.some("volumeClaimTemplate") {
            None => errors.required(&at.path.child("volumeClaimTemplate"), ""),
            Some(template) => crate::kinds::volumeclaim::validate_spec(&template.field("spec"), errors),
        },
        _ => {}
    }
}

fn monitors(at: &At<'_>, errors: &mut Errors) {
    if at.len("monitors") == 0 {
        errors.required(&at.path.child("monitors"), "");
    }
}

fn csi(at: &At<'_>, errors: &mut Errors) {
    let driver = at.str("driver");
    if driver.len() > 63 {
        errors.too_long(&at.path.child("driver"), 63);
    }
    for fault in names::dns1123_subdomain(&driver.to_lowercase()) {
        at.invalid("driver", driver, &fault, errors);
    }
    // Only a persistent volume's source has a handle, and it must.
    if at.path.as_str() == "spec.csi" {
        at.required("volumeHandle", errors);
    }
}

fn iscsi(at: &At<'_>, errors: &mut Errors) {
    at.required("targetPortal", errors);
    if at.required("iqn", errors) {
        let iqn = at.str("iqn");
        if !["iqn.", "eui.", "naa."].iter().any(|p| iqn.starts_with(p)) {
            at.invalid("iqn", iqn, "must be valid format", errors);
        }
    }
    let lun = at.i64("lun").unwrap_or(0);
    if !(0..=255).contains(&lun) {
        at.invalid("lun", lun, "must be between 0 and 255, inclusive", errors);
    }
}

fn fibre_channel(at: &At<'_>, errors: &mut Errors) {
    let (targets, wwids) = (at.len("targetWWNs") > 0, at.len("wwids") > 0);
    if targets == wwids {
        let words = "must specify either targetWWNs or wwids, but not both";
        if targets {
            let shown = at.raw("targetWWNs").cloned().unwrap_or_default();
            at.invalid("targetWWNs", &shown, "specify either targetWWNs or wwids, but not both", errors);
        } else {
            errors.required(&at.path.child("targetWWNs"), words);
        }
    }
    if targets && !at.has("lun") {
        errors.required(&at.path.child("lun"), "lun is required if targetWWNs is specified");
    }
}

fn mode(at: &At<'_>, field: &str, errors: &mut Errors) {
    if let Some(mode) = at.i64(field).filter(|m| !(0..=0o777).contains(m)) {
        at.invalid(field, mode, "must be a number between 0 and 0777 (octal), both inclusive", errors);
    }
}

fn keys_to_paths(at: &At<'_>, errors: &mut Errors) {
    for item in at.items("items") {
        item.required("key", errors);
        if item.required("path", errors) {
            local_path(&item.path.child("path"), item.str("path"), errors);
        }
        mode(&item, "mode", errors);
    }
}

/// The faults stand at the source, not at its items.
fn downward(at: &At<'_>, errors: &mut Errors) {
    for file in at.items("items") {
        let path = at.path.child("path");
        if file.str("path").is_empty() {
            errors.required(&path, "");
        } else {
            local_path(&path, file.str("path"), errors);
        }
        let here = At::new(file.value, at.path.clone());
        match (here.some("fieldRef"), here.some("resourceFieldRef")) {
            (Some(field), None) => env::field_ref(&field, DOWNWARD, errors),
            (None, Some(resource)) => env::resource_field_ref(&resource, errors),
            (Some(_), Some(_)) => {
                errors.invalid(
                    &at.path,
                    file.value,
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
            (None, None) => errors.required(&at.path, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(&here, "mode", errors);
    }
}

fn projected(at: &At<'_>, errors: &mut Errors) {
    mode(at, "defaultMode", errors);
    let mut taken: Vec<String> = Vec::new();
    for source in at.items("sources") {
        let kinds = [
            "secret",
            "configMap",
            "downwardAPI",
            "serviceAccountToken",
            "clusterTrustBundle",
            "podCertificate",
        ];
        let mut found = 0;
        for kind in kinds {
            let Some(part) = source.some(kind) else { continue };
            found += 1;
            if found > 1 {
                errors.forbidden(&part.path, "may not specify more than 1 volume type per source");
                continue;
            }
            projection(kind, &part, at, errors);
            let items = part.items("items");
            let paths: Vec<&str> =
                items.iter().map(|i| i.str("path")).chain(std::iter::once(part.str("path"))).collect();
            for path in paths.into_iter().filter(|p| !p.is_empty()) {
                if taken.iter().any(|t| t == path) {
                    let name = part.str("name");
                    errors.invalid(&at.path, name, format!("conflicting duplicate paths {path}"));
                }
                taken.push(path.to_owned());
            }
        }
    }
}

fn projection(kind: &str, part: &At<'_>, at: &At<'_>, errors: &mut Errors) {
    match kind {
        "secret" | "configMap" => {
            part.required("name", errors);
            keys_to_paths(part, errors);
        }
        "downwardAPI" => downward(part, errors),
        "serviceAccountToken" => {
            let seconds = part.i64("expirationSeconds").unwrap_or(3600);
            if seconds < 600 {
                part.invalid(
                    "expirationSeconds",
                    seconds,
                    "may not specify a duration less than 10 minutes",
                    errors,
                );
            }
            if seconds > 1 << 32 {
                part.invalid(
                    "expirationSeconds",
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                    errors,
                );
            }
            // This fault stands at the volume.
            if part.str("path").is_empty() {
                errors.required(&at.path.child("path"), "");
            }
        }
        _ => {
            part.raw("path").and_then(Value::as_str).into_iter().for_each(|p| {
                local_path(&part.path.child("path"), p, errors);
            });
        }
    }
}
