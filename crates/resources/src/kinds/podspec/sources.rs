//! Faults of what a volume is made of.

use api::field::{Errors, Path};
use api::names;

use super::validate::{local_path, no_backsteps};
use super::{env, projected};
use crate::at::At;

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
const DOWNWARD: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Texts that a source must have.
const NEEDED: &[(&str, &[&str])] = &[
    ("gitRepo", &["repository"]),
    ("gcePersistentDisk", &["pdName"]),
    ("awsElasticBlockStore", &["volumeID"]),
    ("secret", &["secretName"]),
    ("nfs", &["server", "path"]),
    ("glusterfs", &["endpoints", "path"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("configMap", &["name"]),
    ("azureFile", &["secretName", "shareName"]),
    ("vsphereVolume", &["volumePath"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("csi", &["driver"]),
];

/// Faults of one source.
pub(super) fn one(kind: &str, at: &At<'_>, errors: &mut Errors) {
    // Disks of this kind are told of under a name of their own.
    let renamed;
    let at = if kind == "gcePersistentDisk" {
        let holder = at.path.as_str().strip_suffix(".gcePersistentDisk").unwrap_or_default();
        renamed = At::new(at.value, Path::new(holder).child("persistentDisk"));
        &renamed
    } else {
        at
    };
    for (_, fields) in NEEDED.iter().filter(|(k, _)| *k == kind) {
        for field in *fields {
            at.required(field, errors);
        }
    }
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
        // Only a host path has a type.
        "hostPath" | "local" if at.required("path", errors) => {
            no_backsteps(&at.path.child("path"), at.str("path"), errors);
            if kind == "hostPath" && at.has("type") && !HOST_PATH_TYPES.contains(&at.str("type")) {
                errors.not_supported(&at.path.child("type"), at.str("type"), HOST_PATH_TYPES);
            }
        }
        "gitRepo" => local_path(&at.path.child("directory"), at.str("directory"), errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            if let Some(n) = at.i64("partition").filter(|n| !(0..=255).contains(n)) {
                at.invalid("partition", n, "must be between 1 and 255, inclusive", errors);
            }
        }
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
        "projected" => projected::validate(at, errors),
        "iscsi" => iscsi(at, errors),
        "fc" => fibre_channel(at, errors),
        "rbd" => {
            monitors(at, errors);
            at.required("image", errors);
        }
        "cephfs" => monitors(at, errors),
        "quobyte" => quobyte(at, errors),
        "flocker" => flocker(at, errors),
        "cinder" => secret(at, errors),
        "azureFile" if at.has("secretNamespace") => {
            at.required("secretNamespace", errors);
        }
        "glusterfs" if at.has("endpointsNamespace") => {
            if at.str("endpointsNamespace").is_empty() {
                let words = "if the endpointnamespace is set, it must be a valid namespace name";
                at.invalid("endpointsNamespace", "", words, errors);
            }
            at.check_if_set("endpointsNamespace", names::dns1123_label, errors);
        }
        "flexVolume" => reserved_options(at, errors),
        "azureDisk" => azure_disk(at, errors),
        "storageos" => storage_os(at, errors),
        "csi" => csi(at, errors),
        "image" => {
            at.required("reference", errors);
            at.one_of_if_set("pullPolicy", &["Always", "IfNotPresent", "Never"], errors);
        }
        "ephemeral" => match at.some("volumeClaimTemplate") {
            None => errors.required(&at.path.child("volumeClaimTemplate"), ""),
            Some(template) => claim_template(&template, errors),
        },
        _ => {}
    }
}

/// A claim that is made with the pod: of its metadata only what is copied may be told.
fn claim_template(template: &At<'_>, errors: &mut Errors) {
    let meta = template.field("metadata");
    registry::meta::annotations(meta.raw("annotations"), &meta.path.child("annotations"), errors);
    registry::meta::labels(meta.raw("labels"), &meta.path.child("labels"), errors);
    for field in [
        "name",
        "generateName",
        "namespace",
        "selfLink",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "ownerReferences",
        "finalizers",
        "managedFields",
    ] {
        if meta.has(field) && !(meta.raw(field) == Some(&"".into()) || meta.i64(field) == Some(0)) {
            errors.forbidden(&meta.path.child(&go_name(field)), "cannot be set");
        }
    }
    crate::kinds::volumeclaim::validate_spec(&template.field("spec"), errors);
}

/// One field is told of by its name in Go, of which only the first letter is made small.
fn go_name(field: &str) -> String {
    if field == "uid" { "uID".to_owned() } else { field.to_owned() }
}

fn monitors(at: &At<'_>, errors: &mut Errors) {
    if at.len("monitors") == 0 {
        errors.required(&at.path.child("monitors"), "");
    }
}

fn quobyte(at: &At<'_>, errors: &mut Errors) {
    let words = "must be a host:port pair or multiple pairs separated by commas";
    let registry = at.str("registry");
    if registry.is_empty() {
        errors.required(&at.path.child("registry"), words);
    } else if at.str("tenant").len() >= 65 {
        let words = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&at.path.child("tenant"), words);
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            at.invalid("registry", registry, words, errors);
        }
    }
    at.required("volume", errors);
}

/// `host:port` or `[v6]:port`, either part of which may be empty.
fn is_host_and_port(pair: &str) -> bool {
    match pair.rsplit_once(':') {
        None => false,
        Some((host, _)) => match host.strip_prefix('[') {
            Some(host) => host.ends_with(']'),
            None => !host.contains([':', '[', ']']),
        },
    }
}

fn flocker(at: &At<'_>, errors: &mut Errors) {
    let (name, uuid) = (at.str("datasetName"), at.str("datasetUUID"));
    if name.is_empty() && uuid.is_empty() {
        errors.required(&at.path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let words = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid(&at.path, "resource", words);
    }
    if name.contains('/') {
        at.invalid("datasetName", name, "must not contain '/'", errors);
    }
}

/// Options under the system's own names are not for users.
fn reserved_options(at: &At<'_>, errors: &mut Errors) {
    for (key, option) in at.entries("options") {
        let domain = key.split_once('/').map_or(key, |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            errors.invalid(&option.path, key, "kubernetes.io and k8s.io namespaces are reserved");
        }
    }
}

fn azure_disk(at: &At<'_>, errors: &mut Errors) {
    at.one_of_if_set("cachingMode", &["None", "ReadOnly", "ReadWrite"], errors);
    at.one_of_if_set("kind", &["Dedicated", "Managed", "Shared"], errors);
    let (kind, uri) = (at.str("kind"), at.str("diskURI"));
    let form = match kind {
        "" => return,
        "Managed" if !uri.starts_with("/subscriptions/") => {
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}"
        }
        "Managed" => return,
        _ if !uri.starts_with("https://") => {
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd"
        }
        _ => return,
    };
    errors.not_supported(&at.path.child("diskURI"), uri, &[form]);
}

fn storage_os(at: &At<'_>, errors: &mut Errors) {
    if at.required("volumeName", errors) {
        at.check("volumeName", names::dns1123_label, errors);
    }
    at.check_if_set("volumeNamespace", names::dns1123_label, errors);
    secret(at, errors);
}

/// The secret of a volume. That of a persistent one is in some namespace.
fn secret(at: &At<'_>, errors: &mut Errors) {
    if let Some(secret) = at.some("secretRef") {
        secret.required("name", errors);
        if is_of_persistent(at) {
            secret.required("namespace", errors);
        }
    }
}

/// Secrets that a persistent volume's driver is told, and when.
const CSI_SECRETS: [&str; 4] = [
    "controllerPublishSecretRef",
    "controllerExpandSecretRef",
    "nodePublishSecretRef",
    "nodeExpandSecretRef",
];

fn csi(at: &At<'_>, errors: &mut Errors) {
    let driver = at.str("driver");
    if driver.len() > 63 {
        errors.too_long(&at.path.child("driver"), 63);
    }
    for fault in names::dns1123_subdomain(&driver.to_lowercase()) {
        at.invalid("driver", driver, &fault, errors);
    }
    // Only a persistent volume's source has a handle, and it must.
    if is_of_persistent(at) {
        at.required("volumeHandle", errors);
        for secret in CSI_SECRETS.iter().filter_map(|field| at.some(field)) {
            if secret.required("name", errors) {
                secret.check("name", names::dns1123_subdomain, errors);
            }
            if secret.required("namespace", errors) {
                secret.check("namespace", names::dns1123_label, errors);
            }
        }
    } else if let Some(secret) = at.some("nodePublishSecretRef")
        && secret.required("name", errors)
    {
        for fault in names::dns1123_subdomain(secret.str("name")) {
            at.invalid("name", secret.str("name"), &fault, errors);
        }
    }
}

/// Whether it is the source of a persistent volume, not of a pod's.
fn is_of_persistent(at: &At<'_>) -> bool {
    !at.path.as_str().contains("volumes[")
}

fn iscsi(at: &At<'_>, errors: &mut Errors) {
    at.required("targetPortal", errors);
    if at.required("iqn", errors)
        && let Some(fault) = initiator_fault(at.str("iqn"), is_of_persistent(at))
    {
        at.invalid("iqn", at.str("iqn"), fault, errors);
    }
    if let Some(lun) = at.i64("lun").filter(|lun| !(0..=255).contains(lun)) {
        at.invalid("lun", lun, "must be between 0 and 255, inclusive", errors);
    }
    if (at.is("chapAuthDiscovery") || at.is("chapAuthSession")) && !at.has("secretRef") {
        errors.required(&at.path.child("secretRef"), "");
    }
    if is_of_persistent(at)
        && let Some(secret) = at.some("secretRef")
    {
        secret.required("name", errors);
    }
    if at.has("initiatorName")
        && let Some(fault) = initiator_fault(at.str("initiatorName"), is_of_persistent(at))
    {
        at.invalid("initiatorname", at.str("initiatorName"), fault, errors);
    }
}

/// What is wrong with a name of RFC 3720. A persistent volume's is told of in fewer words.
fn initiator_fault(name: &str, short: bool) -> Option<&'static str> {
    let alphanumeric =
        |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let coded = |len: usize| name.get(4..).is_some_and(|rest| alphanumeric(rest, len));
    let good = match name.get(..3) {
        Some("iqn") => is_iqn(name),
        Some("eui") => coded(16),
        Some("naa") => coded(32),
        _ if short => false,
        _ => return Some("must be valid format starting with iqn, eui, or naa"),
    };
    (!good).then_some("must be valid format")
}

/// `iqn.2001-04.com.example:disk`
fn is_iqn(name: &str) -> bool {
    let Some((head, tail)) = name.strip_prefix("iqn.").and_then(|rest| rest.split_once(':')) else {
        return false;
    };
    let digits = |text: &str, len: usize| text.len() == len && text.bytes().all(|b| b.is_ascii_digit());
    let mut parts = head.splitn(2, '.');
    let (date, authority) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let dated = date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
    dated
        && !authority.is_empty()
        && authority.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && !tail.is_empty()
        && !tail.contains([',', ';', '*', '&', '$', '|'])
        && !tail.contains(|c: char| c.is_ascii_whitespace())
}

fn fibre_channel(at: &At<'_>, errors: &mut Errors) {
    let (targets, wwids) = (at.len("targetWWNs") > 0, at.len("wwids") > 0);
    if !targets && !wwids {
        let words = "must specify either targetWWNs or wwids, but not both";
        errors.required(&at.path.child("targetWWNs"), words);
    }
    if targets && wwids {
        let shown = at.raw("targetWWNs").cloned().unwrap_or_default();
        at.invalid("targetWWNs", &shown, "targetWWNs and wwids can not be specified simultaneously", errors);
    }
    if targets {
        match at.i64("lun") {
            None => {
                errors.required(&at.path.child("lun"), "lun is required if targetWWNs is specified");
            }
            Some(lun) if !(0..=255).contains(&lun) => {
                at.invalid("lun", lun, "must be between 0 and 255, inclusive", errors);
            }
            Some(_) => {}
        }
    }
}

pub(super) fn mode(at: &At<'_>, field: &str, errors: &mut Errors) {
    if let Some(mode) = at.i64(field).filter(|m| !(0..=0o777).contains(m)) {
        at.invalid(field, mode, "must be a number between 0 and 0777 (octal), both inclusive", errors);
    }
}

/// A path within a volume, where names that begin with dots are the kubelet's own.
pub(super) fn path_in_volume(path: &Path, text: &str, errors: &mut Errors) {
    local_path(path, text, errors);
    // The first part `..` alone was told of.
    if text.starts_with("..") && !text.starts_with("../") {
        errors.invalid(path, text, "must not start with '..'");
    }
}

pub(super) fn keys_to_paths(at: &At<'_>, errors: &mut Errors) {
    for item in at.items("items") {
        item.required("key", errors);
        item.required("path", errors);
        path_in_volume(&item.path.child("path"), item.str("path"), errors);
        mode(&item, "mode", errors);
    }
}

/// The faults stand at the source, not at its items.
pub(super) fn downward(at: &At<'_>, errors: &mut Errors) {
    for file in at.items("items") {
        let here = At::new(file.value, at.path.clone());
        here.required("path", errors);
        path_in_volume(&at.path.child("path"), file.str("path"), errors);
        match (here.some("fieldRef"), here.some("resourceFieldRef")) {
            (Some(field), resource) => {
                env::field_ref(&field, DOWNWARD, errors);
                if resource.is_some() {
                    let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    errors.invalid(&at.path, "resource", words);
                }
            }
            (None, Some(resource)) => env::resource_field_ref(&resource, true, errors),
            (None, None) => errors.required(&at.path, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(&here, "mode", errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn each_source_needs_what_it_is_found_by() {
        let table: &[(&str, &str, &[&str])] = &[
            (
                "gcePersistentDisk",
                r#"{"partition": 256}"#,
                &["persistentDisk.pdName", "persistentDisk.partition"],
            ),
            (
                "awsElasticBlockStore",
                r#"{"volumeID": "a", "partition": -1}"#,
                &["awsElasticBlockStore.partition"],
            ),
            ("hostPath", r#"{"type": "Bad"}"#, &["hostPath.path"]),
            ("gitRepo", r#"{"repository": "a", "directory": "../b"}"#, &["gitRepo.directory"]),
            ("iscsi", r#"{"targetPortal": "a", "iqn": "iqn.2001-04.com.example:disk"}"#, &[]),
            ("iscsi", r#"{"targetPortal": "a", "iqn": "bad", "lun": 256}"#, &["iscsi.iqn", "iscsi.lun"]),
            (
                "iscsi",
                r#"{"targetPortal": "a", "iqn": "eui.0123456789abcdef", "chapAuthSession": true}"#,
                &["iscsi.secretRef"],
            ),
            ("fc", r#"{"targetWWNs": ["a"], "wwids": ["b"]}"#, &["fc.targetWWNs", "fc.lun"]),
            ("quobyte", r#"{"registry": "a:1,b"}"#, &["quobyte.registry", "quobyte.volume"]),
            ("flocker", r#"{"datasetName": "a/b", "datasetUUID": "c"}"#, &["flocker", "flocker.datasetName"]),
            ("cinder", r#"{"volumeID": "a", "secretRef": {}}"#, &["cinder.secretRef.name"]),
            (
                "flexVolume",
                r#"{"driver": "a", "options": {"kubernetes.io/x": "y", "z": ""}}"#,
                &["flexVolume.options[kubernetes.io/x]"],
            ),
            ("azureDisk", r#"{"diskName": "a", "diskURI": "b", "kind": "Managed"}"#, &["azureDisk.diskURI"]),
            (
                "storageos",
                r#"{"volumeName": "A", "secretRef": {}}"#,
                &["storageos.volumeName", "storageos.secretRef.name"],
            ),
            ("csi", r#"{"driver": "a", "nodePublishSecretRef": {"name": "B_"}}"#, &["csi.name"]),
            ("image", r#"{}"#, &["image.reference"]),
            (
                "secret",
                r#"{"secretName": "a", "items": [{"key": "k", "path": "..b"}]}"#,
                &["secret.items[0].path"],
            ),
            (
                "downwardAPI",
                r#"{"items": [{"path": "a", "resourceFieldRef": {"resource": "limits.cpu"}}]}"#,
                &["downwardAPI.resourceFieldRef.containerName"],
            ),
        ];
        for (kind, text, faults) in table {
            let value: Value = serde_json::from_str(text).unwrap();
            let mut errors = Errors::default();
            one(kind, &At::new(&value, Path::new("volumes[0]").child(kind)), &mut errors);
            let fields: Vec<&str> =
                errors.iter().map(|e| e.field.strip_prefix("volumes[0].").unwrap()).collect();
            assert_eq!(&fields, faults, "{kind} {text}: {errors:?}");
        }
    }
}
