//! StorageObjectInUseProtection and PersistentVolumeClaimResize.

use api::{Object, Quantity, Status};
use registry::{Operation, Verdict};

use crate::{Plugin, is, look_up, refuse};

/// Volumes and claims wait with their end until nobody uses them: a controller takes the finalizer off.
pub(crate) struct StorageObjectInUseProtection;

const PROTECTED: &[(&str, &str)] = &[
    ("persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("persistentvolumes", "kubernetes.io/pv-protection"),
];

fn finalizer(request: &Verdict<'_>) -> Option<&'static str> {
    let found = PROTECTED.iter().find(|(plural, _)| is(request, plural, &[Operation::Create]));
    found.map(|(_, finalizer)| *finalizer)
}

impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        finalizer(request).is_some()
    }

    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        let Some(finalizer) = finalizer(request) else { return Ok(()) };
        let mut list: Vec<String> = object.finalizers().into_iter().map(ToOwned::to_owned).collect();
        if !list.iter().any(|standing| standing == finalizer) {
            list.push(finalizer.to_owned());
            object.set_meta("finalizers", list);
        }
        Ok(())
    }
}

/// A claim grows only where its class says that volumes can.
pub(crate) struct PersistentVolumeClaimResize;

const STORAGE: &[&str] = &["spec", "resources", "requests", "storage"];

fn size(claim: &Object) -> Quantity {
    // What was validated parses.
    Quantity::parse(claim.get_str(STORAGE)).unwrap_or(Quantity::ZERO)
}

fn class(claim: &Object) -> &str {
    let annotated = claim.annotation("volume.beta.kubernetes.io/storage-class");
    annotated.unwrap_or_else(|| claim.get_str(&["spec", "storageClassName"]))
}

impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "persistentvolumeclaims", &[Operation::Update])
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(Vec::new()) };
        if size(new) <= size(old) {
            return Ok(Vec::new());
        }
        let name = class(new);
        let grows = !name.is_empty()
            && name == class(old)
            && look_up(request, "storage.k8s.io", "storageclasses", name)?
                .is_some_and(|class| class.0.get("allowVolumeExpansion") == Some(&true.into()));
        if grows {
            return Ok(Vec::new());
        }
        let why = "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
        Err(refuse(request, why))
    }
}
