//! Faults of volumes: exactly one source each.

use api::field::Errors;
use api::names;

use super::container::Volumes;
use super::sources;
use crate::at::At;

/// Sources in the order in which upstream looks for a second one, with the name under which it tells of that.
const SOURCES: &[(&str, &str)] = &[
    ("emptyDir", "emptyDir"),
    ("hostPath", "hostPath"),
    ("gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret"),
    ("nfs", "nfs"),
    ("iscsi", "iscsi"),
    ("glusterfs", "glusterfs"),
    ("flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd"),
    ("cinder", "cinder"),
    ("cephfs", "cephFS"),
    ("quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI"),
    ("fc", "fc"),
    ("flexVolume", "flexVolume"),
    ("configMap", "configMap"),
    ("azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk"),
    ("storageos", "storageos"),
    ("projected", "projected"),
    ("scaleIO", "scaleIO"),
    ("csi", "csi"),
    ("ephemeral", "ephemeral"),
    ("image", "image"),
    ("local", "local"),
];

/// Answers the sound ones, which are all that containers can mount. `pod` is the name of the pod, where there
/// is one: claims of ephemeral volumes are named by it.
pub(super) fn validate<'a>(spec: &At<'a>, pod: Option<&str>, errors: &mut Errors) -> Volumes<'a> {
    let all = spec.items("volumes");
    let claim_of = |volume: &At<'_>| pod.map(|pod| format!("{pod}-{}", volume.str("name")));
    let made: Vec<String> = all.iter().filter(|v| v.has("ephemeral")).filter_map(claim_of).collect();
    let mut known = Volumes::new();
    for volume in &all {
        let before = errors.len();
        let name = volume.str("name");
        if source(volume, errors) == 0 {
            errors.required(&volume.path, "must specify a volume type");
        }
        if volume.has("ephemeral")
            && !name.is_empty()
            && let Some(claim) = claim_of(volume)
        {
            for fault in names::dns1123_subdomain(&claim) {
                let words = format!("PVC name {}: {fault}", api::field::quote(&claim));
                volume.invalid("name", name, &words, errors);
            }
        }
        if name.is_empty() {
            errors.required(&volume.path.child("name"), "");
        } else {
            volume.check("name", names::dns1123_label, errors);
        }
        if known.contains_key(name) {
            errors.duplicate(&volume.path.child("name"), name);
        }
        if errors.len() == before {
            known.insert(name, volume.value);
        }
        if let Some(claim) = volume.some("persistentVolumeClaim")
            && made.iter().any(|m| m == claim.str("claimName"))
        {
            let words = "must not reference a PVC that gets created for an ephemeral volume";
            claim.invalid("claimName", claim.str("claimName"), words, errors);
        }
    }
    known
}

/// Checks the sources of a volume (or persistent volume) and answers how many there are.
pub(in crate::kinds) fn source(volume: &At<'_>, errors: &mut Errors) -> usize {
    let mut found = 0;
    for (kind, told) in SOURCES {
        let Some(at) = volume.some(kind) else { continue };
        found += 1;
        if found > 1 {
            errors.forbidden(&volume.path.child(told), "may not specify more than 1 volume type");
        } else {
            sources::one(kind, &at, errors);
        }
        // A persistent volume's own name isn't known here.
        let length = volume.str("name").len() + 1 + at.str("targetPortal").len();
        if *kind == "iscsi" && volume.has("name") && at.has("initiatorName") && length > 64 {
            let words = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
            volume.invalid("name", volume.str("name"), words, errors);
        }
    }
    found
}
