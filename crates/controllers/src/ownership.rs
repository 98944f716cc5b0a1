//! Who owns what: an object belongs to the controller its owner reference names. A controller adopts
//! what it selects and nobody owns, and lets go of what it owns and no longer selects.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use api::selector::Labels;
use client::{Index, Informer, write};
use futures::future::try_join_all;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::Error;

/// A namespaced kind that finds what it owns by labels.
pub trait Owner:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + PartialEq
    + DeserializeOwned
    + Serialize
    + Send
    + Sync
    + 'static
{
    /// A finalizer that what is owned carries until the owner has taken note of its end.
    const FINALIZER: Option<&'static str> = None;

    /// What it selects; the empty selector selects nothing.
    fn selector(&self) -> Labels;
}

/// The owner reference that makes `owner` the controller of an object.
pub fn controller_ref<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The controller of an object.
pub fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Objects without a controller, by namespace.
fn orphans<K: Resource>() -> Index<K> {
    Index {
        name: "orphans",
        values: |object| match controller_of(object) {
            Some(_) => Vec::new(),
            None => object.meta().namespace.iter().cloned().collect(),
        },
    }
}

pub fn matches(selector: &Labels, labels: Option<&BTreeMap<String, String>>) -> bool {
    selector.matches_with(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str))
}

/// What becomes of the objects that are, or could be, an owner's.
#[derive(Debug, PartialEq)]
pub struct Claim<K> {
    pub keep: Vec<Arc<K>>,
    pub adopt: Vec<Arc<K>>,
    pub release: Vec<Arc<K>>,
}

/// Sorts objects into those to keep, adopt and release. An owner that is being deleted adopts nothing,
/// and neither do objects that are.
pub fn plan_claim<K: Resource>(
    owner_deleting: bool,
    selector: &Labels,
    owned: Vec<Arc<K>>,
    orphans: Vec<Arc<K>>,
) -> Claim<K> {
    let selected = |object: &Arc<K>| !selector.is_empty() && matches(selector, object.meta().labels.as_ref());
    let (keep, mut release): (Vec<_>, Vec<_>) = owned.into_iter().partition(selected);
    if owner_deleting {
        release.clear();
    }
    let adopt = orphans
        .into_iter()
        .filter(|object| !owner_deleting && selected(object) && object.meta().deletion_timestamp.is_none());
    Claim { keep, adopt: adopt.collect(), release }
}

/// The objects of `informer` that are `owner`'s, after adopting and releasing.
pub async fn claim<O, K>(client: &Client, owner: &O, informer: &Informer<K>) -> Result<Vec<Arc<K>>, Error>
where
    O: Owner,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + Sync
        + 'static,
{
    let meta = owner.meta();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let Claim { mut keep, adopt, release } = plan_claim(
        meta.deletion_timestamp.is_some(),
        &owner.selector(),
        informer.controlled_by(uid),
        informer.by(orphans(), namespace),
    );
    if adopt.is_empty() && release.is_empty() {
        return Ok(keep);
    }
    if !adopt.is_empty() {
        // The cache may not know yet that the owner is gone or going.
        let owners: Api<O> = Api::namespaced(client.clone(), namespace);
        let name = meta.name.as_deref().unwrap_or_default();
        let live = owners.get(name).await.map_err(Error::api(format!("reading {namespace}/{name}")))?;
        if live.meta().uid != meta.uid || live.meta().deletion_timestamp.is_some() {
            return Err(Error::Waiting(format!("{namespace}/{name} is being replaced or deleted")));
        }
    }
    let objects: Api<K> = Api::namespaced(client.clone(), namespace);
    let adopted = adopt.iter().map(|object| {
        let mut owners = object.meta().owner_references.clone().unwrap_or_default();
        owners.push(controller_ref(owner));
        let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
        finalizers.extend(O::FINALIZER.filter(|f| !finalizers.iter().any(|has| has == f)).map(str::to_owned));
        set_owners(&objects, object, owners, finalizers)
    });
    let released = release.iter().map(|object| {
        let mut owners = object.meta().owner_references.clone().unwrap_or_default();
        owners.retain(|owner| owner.uid != uid);
        let mut finalizers = object.meta().finalizers.clone().unwrap_or_default();
        finalizers.retain(|has| Some(has.as_str()) != O::FINALIZER);
        set_owners(&objects, object, owners, finalizers)
    });
    let adopted = try_join_all(adopted).await?;
    try_join_all(released).await?;
    keep.extend(adopted.into_iter().flatten());
    Ok(keep)
}

/// Writes the owners and finalizers of an object as we last saw it; `None` when it is gone.
async fn set_owners<K>(
    api: &Api<K>,
    object: &K,
    owners: Vec<OwnerReference>,
    finalizers: Vec<String>,
) -> Result<Option<Arc<K>>, Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    let meta = object.meta();
    let name = meta.name.as_deref().unwrap_or_default();
    let patch = json!({"metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version,
        "ownerReferences": owners, "finalizers": finalizers,
    }});
    let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
    let found = write::found(patched).map_err(Error::api(format!("setting the owners of {name}")))?;
    Ok(found.map(Arc::new))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    fn pod(name: &str, label: &str, deleting: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.name = Some(name.into());
        pod.metadata.labels = Some([("app".to_string(), label.to_string())].into());
        if deleting {
            pod.metadata.deletion_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(jiff::Timestamp::UNIX_EPOCH));
        }
        Arc::new(pod)
    }

    fn check(owner_deleting: bool) -> [Vec<String>; 3] {
        let selector = Labels::parse("app=web").unwrap();
        let owned = vec![pod("kept", "web", false), pod("relabelled", "db", false)];
        let orphans = vec![pod("lost", "web", false), pod("going", "web", true), pod("other", "db", false)];
        let claim = plan_claim(owner_deleting, &selector, owned, orphans);
        [claim.keep, claim.adopt, claim.release]
            .map(|list| list.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect())
    }

    #[test]
    fn adopts_what_it_selects_and_releases_what_it_does_not() {
        assert_eq!(check(false), [vec!["kept"], vec!["lost"], vec!["relabelled"]]);
        assert_eq!(check(true), [vec!["kept"], vec![], vec![]]);
    }
}
