//! Volumes, claims, classes, drivers, devices.

use api::Object;
use registry::Cell;
use serde_json::Value;

use super::cells::{self, NONE, UNSET, age, count, list, or, plain, string, text as cell};
use super::{AGE, NAME, Spec, Table, col, free, text};

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn class(o: &Object) -> String {
    o.annotation(BETA_CLASS).unwrap_or_else(|| o.get_str(&["spec", "storageClassName"])).to_owned()
}

fn phase(o: &Object) -> Cell {
    if o.is_deleting() { "Terminating".into() } else { o.get_str(&["status", "phase"]).into() }
}

fn modes(values: &[Value]) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let held = known.iter().filter(|(long, _)| values.iter().any(|v| v == long));
    held.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

fn flag(o: &Object, path: &[&str], absent: bool) -> Cell {
    o.get(path).and_then(Value::as_bool).unwrap_or(absent).into()
}

pub fn persistent_volume() -> Table {
    const SPEC: &str = "api.core.v1.PersistentVolumeSpec";
    const STATUS: &str = "api.core.v1.PersistentVolumeStatus";
    const SPECS: &[Spec] = &[
        NAME,
        text("Capacity", SPEC, "capacity"),
        text("Access Modes", SPEC, "accessModes"),
        text("Reclaim Policy", SPEC, "persistentVolumeReclaimPolicy"),
        text("Status", STATUS, "phase"),
        text("Claim", SPEC, "claimRef"),
        free("StorageClass", "string", "StorageClass of the pv"),
        free("VolumeAttributesClass", "string", "VolumeAttributesClass of the pv"),
        text("Reason", STATUS, "reason"),
        AGE,
        text("VolumeMode", SPEC, "volumeMode").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let claim =
            o.get(&["spec", "claimRef"]).map(|c| format!("{}/{}", string(c, "namespace"), string(c, "name")));
        vec![
            o.name().into(),
            cell(o, &["spec", "capacity", "storage"], "0"),
            modes(list(o, &["spec", "accessModes"])).into(),
            o.get_str(&["spec", "persistentVolumeReclaimPolicy"]).into(),
            phase(o),
            claim.unwrap_or_default().into(),
            class(o).into(),
            cell(o, &["spec", "volumeAttributesClassName"], UNSET),
            o.get_str(&["status", "reason"]).into(),
            age(o, now),
            cell(o, &["spec", "volumeMode"], UNSET),
        ]
    })
}

pub fn persistent_volume_claim() -> Table {
    const SPEC: &str = "api.core.v1.PersistentVolumeClaimSpec";
    const STATUS: &str = "api.core.v1.PersistentVolumeClaimStatus";
    const SPECS: &[Spec] = &[
        NAME,
        text("Status", STATUS, "phase"),
        text("Volume", SPEC, "volumeName"),
        text("Capacity", STATUS, "capacity"),
        text("Access Modes", STATUS, "accessModes"),
        free("StorageClass", "string", "StorageClass of the pvc"),
        free("VolumeAttributesClass", "string", "VolumeAttributesClass of the pvc"),
        AGE,
        text("VolumeMode", SPEC, "volumeMode").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let volume = o.get_str(&["spec", "volumeName"]);
        let (capacity, held) = if volume.is_empty() {
            (String::new(), String::new())
        } else {
            let capacity = or(o.get_str(&["status", "capacity", "storage"]), "0");
            (capacity.to_owned(), modes(list(o, &["status", "accessModes"])))
        };
        vec![
            o.name().into(),
            phase(o),
            volume.into(),
            capacity.into(),
            held.into(),
            class(o).into(),
            cell(o, &["spec", "volumeAttributesClassName"], UNSET),
            age(o, now),
            cell(o, &["spec", "volumeMode"], UNSET),
        ]
    })
}

pub fn storage_class() -> Table {
    const CLASS: &str = "api.storage.v1.StorageClass";
    const SPECS: &[Spec] = &[
        NAME,
        text("Provisioner", CLASS, "provisioner"),
        text("ReclaimPolicy", CLASS, "reclaimPolicy"),
        text("VolumeBindingMode", CLASS, "volumeBindingMode"),
        text("AllowVolumeExpansion", CLASS, "allowVolumeExpansion"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let default = [
            "storageclass.kubernetes.io/is-default-class",
            "storageclass.beta.kubernetes.io/is-default-class",
        ]
        .iter()
        .any(|key| o.annotation(key) == Some("true"));
        let name = if default { format!("{} (default)", o.name()) } else { o.name().to_owned() };
        vec![
            name.into(),
            o.get_str(&["provisioner"]).into(),
            cell(o, &["reclaimPolicy"], "Delete"),
            cell(o, &["volumeBindingMode"], "Immediate"),
            flag(o, &["allowVolumeExpansion"], false),
            age(o, now),
        ]
    })
}

pub fn volume_attributes_class() -> Table {
    const SPECS: &[Spec] =
        &[NAME, text("DriverName", "api.storage.v1.VolumeAttributesClass", "driverName"), AGE];
    Table::new(SPECS, |o, now| vec![o.name().into(), o.get_str(&["driverName"]).into(), age(o, now)])
}

pub fn csi_driver() -> Table {
    const SPEC: &str = "api.storage.v1.CSIDriverSpec";
    const SPECS: &[Spec] = &[
        NAME,
        col("AttachRequired", "boolean", SPEC, "attachRequired"),
        col("PodInfoOnMount", "boolean", SPEC, "podInfoOnMount"),
        col("StorageCapacity", "boolean", SPEC, "storageCapacity"),
        text("TokenRequests", SPEC, "tokenRequests"),
        col("RequiresRepublish", "boolean", SPEC, "requiresRepublish"),
        text("Modes", SPEC, "volumeLifecycleModes"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let audiences = o
            .get(&["spec", "tokenRequests"])
            .and_then(Value::as_array)
            .map(|all| all.iter().map(|t| string(t, "audience")).collect::<Vec<_>>().join(","));
        let modes: Vec<String> = list(o, &["spec", "volumeLifecycleModes"]).iter().map(plain).collect();
        vec![
            o.name().into(),
            flag(o, &["spec", "attachRequired"], true),
            flag(o, &["spec", "podInfoOnMount"], false),
            flag(o, &["spec", "storageCapacity"], false),
            audiences.unwrap_or_else(|| UNSET.into()).into(),
            flag(o, &["spec", "requiresRepublish"], false),
            or(&modes.join(","), NONE).into(),
            age(o, now),
        ]
    })
}

pub fn csi_node() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Drivers", "integer", "Drivers indicates the number of CSI drivers registered on the node"),
        AGE,
    ];
    Table::new(SPECS, |o, now| vec![o.name().into(), count(o, &["spec", "drivers"]).into(), age(o, now)])
}

pub fn csi_storage_capacity() -> Table {
    const CAPACITY: &str = "api.storage.v1.CSIStorageCapacity";
    const SPECS: &[Spec] = &[
        NAME,
        text("StorageClassName", CAPACITY, "storageClassName"),
        text("Capacity", CAPACITY, "capacity"),
    ];
    Table::new(SPECS, |o, _| {
        vec![o.name().into(), o.get_str(&["storageClassName"]).into(), cell(o, &["capacity"], UNSET)]
    })
}

pub fn volume_attachment() -> Table {
    const SPEC: &str = "api.storage.v1.VolumeAttachmentSpec";
    const SPECS: &[Spec] = &[
        NAME,
        text("Attacher", SPEC, "attacher").format("name"),
        text("PV", "api.storage.v1.VolumeAttachmentSource", "persistentVolumeName"),
        text("Node", SPEC, "nodeName"),
        col("Attached", "boolean", "api.storage.v1.VolumeAttachmentStatus", "attached"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        vec![
            o.name().into(),
            o.get_str(&["spec", "attacher"]).into(),
            o.get_str(&["spec", "source", "persistentVolumeName"]).into(),
            o.get_str(&["spec", "nodeName"]).into(),
            flag(o, &["status", "attached"], false),
            age(o, now),
        ]
    })
}

/// Name and age alone.
pub fn plain_age() -> Table {
    const SPECS: &[Spec] = &[NAME, AGE];
    Table::new(SPECS, |o, now| vec![o.name().into(), age(o, now)])
}

pub fn resource_claim() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("State", "string", "A summary of the current state (allocated, pending, reserved, etc.)."),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let mut states = Vec::new();
        if o.is_deleting() {
            states.push("deleted");
        }
        if o.get(&["status", "allocation"]).is_none() {
            if !o.is_deleting() {
                states.push("pending");
            }
        } else {
            states.push("allocated");
            if count(o, &["status", "reservedFor"]) > 0 {
                states.push("reserved");
            }
        }
        vec![o.name().into(), states.join(",").into(), age(o, now)]
    })
}

pub fn resource_slice() -> Table {
    const SPEC: &str = "api.resource.v1.ResourceSliceSpec";
    const SPECS: &[Spec] = &[
        NAME,
        text("Node", SPEC, "nodeName"),
        text("Driver", SPEC, "driver"),
        text("Pool", "api.resource.v1.ResourcePool", "name"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        vec![
            o.name().into(),
            o.get_str(&["spec", "nodeName"]).into(),
            o.get_str(&["spec", "driver"]).into(),
            o.get_str(&["spec", "pool", "name"]).into(),
            age(o, now),
        ]
    })
}

pub fn device_taint_rule() -> Table {
    const TAINT: &str = "api.resource.v1.DeviceTaint";
    const SPECS: &[Spec] = &[
        NAME,
        text("Key", TAINT, "key"),
        text("Value", TAINT, "value"),
        text("Effect", TAINT, "effect"),
        text("TimeAdded", TAINT, "timeAdded"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let field = |name: &str| o.get_str(&["spec", "taint", name]);
        let added = field("timeAdded");
        let added = if added.is_empty() { String::new() } else { cells::since(added, now) };
        vec![
            o.name().into(),
            field("key").into(),
            field("value").into(),
            field("effect").into(),
            added.into(),
            age(o, now),
        ]
    })
}
