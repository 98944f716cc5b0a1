//! Which owners a change of what they own, or could own, wakes.

use client::{Change, Expectations, Informer, ObjectKey};
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;

use crate::ownership::{self, Owner, controller_of};
use crate::pods;

/// The key of the owner of kind `O` that controls an object.
pub fn owner_key<O: Owner, K: Resource>(object: &K) -> Option<ObjectKey> {
    let owner = controller_of(object)?;
    let namespace = object.meta().namespace.as_deref().unwrap_or_default();
    (owner.kind == O::kind(&()) && owner.api_version == O::api_version(&()))
        .then(|| ObjectKey::new(namespace, &owner.name))
}

/// The owners a change is of interest to: the one that controls the object, the one that did before,
/// and, when nobody does, all that select it.
pub fn owners_of<O: Owner, K: Resource>(change: &Change<K>, owners: &Informer<O>) -> Vec<ObjectKey> {
    let object = &**change.object();
    let mut keys: Vec<ObjectKey> = owner_key::<O, K>(object).into_iter().collect();
    if let Change::Updated { old, .. } = change {
        let before = owner_key::<O, K>(old);
        if before.as_ref() != keys.first() {
            keys.extend(before);
        }
    }
    let meta = object.meta();
    if controller_of(object).is_none() && !change.is_deleted() && meta.deletion_timestamp.is_none() {
        let selecting = owners.in_namespace(meta.namespace.as_deref().unwrap_or_default());
        let selecting = selecting.into_iter().filter(|owner| {
            let selector = owner.selector();
            !selector.is_empty() && ownership::matches(&selector, meta.labels.as_ref())
        });
        keys.extend(selecting.map(|owner| ObjectKey::of(&*owner)));
    }
    keys
}

/// Notes that a pod which was to be made or deleted was.
pub fn observe<O: Owner>(change: &Change<Pod>, expectations: &Expectations) {
    let pod = &**change.object();
    let Some(key) = owner_key::<O, Pod>(pod) else { return };
    match change {
        // A pod that is told to end counts as deleted, even if we hear of it for the first time.
        _ if pods::is_deleting(pod) || change.is_deleted() => {
            expectations.deletion_observed(&key, pod.metadata.uid.as_deref().unwrap_or_default());
        }
        Change::Added(_) => expectations.creation_observed(&key),
        _ => {}
    }
}
