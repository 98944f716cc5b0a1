//! Revisions of a pod template, kept as ControllerRevisions: the memory of DaemonSets and StatefulSets.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use client::{Informer, write};
use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Error;
use crate::ownership::{self, Owner, controller_of, controller_ref};

/// The longest name of an owner in that of its revisions.
const OWNER_NAME: usize = 223;

/// FNV-1a over a value and the number of collisions, in an alphabet that spells no words.
pub fn hash(of: &impl Serialize, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut bytes = serde_json::to_vec(of).unwrap_or_default();
    if let Some(collisions) = collisions {
        bytes.extend_from_slice(&collisions.to_le_bytes());
    }
    let fold = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619);
    let hash = bytes.iter().fold(2_166_136_261, fold);
    let digits = hash.to_string();
    digits.bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// The patch that gives an owner this template: what a revision holds.
pub fn patch_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Value::Object(fields) = &mut template {
        fields.insert("$patch".into(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

pub fn data(revision: &ControllerRevision) -> &Value {
    &revision.data.0
}

/// The template a revision holds.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let template = data(revision).get("spec")?.get("template")?;
    serde_json::from_value(template.clone()).ok()
}

pub fn name(revision: &ControllerRevision) -> &str {
    revision.metadata.name.as_deref().unwrap_or_default()
}

/// A revision for an owner's template. The label `hash_label` carries the hash that its name ends with.
pub fn revision_of<O: Owner>(
    owner: &O,
    template: &PodTemplateSpec,
    hash_label: &str,
    collisions: Option<i32>,
) -> ControllerRevision {
    let meta = owner.meta();
    let hash = hash(template, collisions);
    let stem: String = meta.name.iter().flat_map(|name| name.chars()).take(OWNER_NAME).collect();
    let mut labels: BTreeMap<String, String> =
        template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.into(), hash.clone());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(format!("{stem}-{hash}")),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: RawExtension(patch_of(template)),
        revision: Some(0),
    }
}

/// What becomes of the history.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// The newest revision is the owner's template.
    Current(Arc<ControllerRevision>),
    /// An older one is: it gets this number.
    Renumber(Arc<ControllerRevision>, i64),
    /// None is: this is made.
    Create(Box<ControllerRevision>),
}

/// `revisions` are the owner's; `wanted` is its template as a revision.
pub fn plan(revisions: &[Arc<ControllerRevision>], mut wanted: ControllerRevision) -> Step {
    let newest = revisions.iter().max_by_key(|r| (r.revision, r.metadata.creation_timestamp.clone()));
    let next = newest.and_then(|newest| newest.revision).unwrap_or_default() + 1;
    let same = revisions.iter().filter(|r| data(r) == data(&wanted)).max_by_key(|r| r.revision);
    match (same, newest) {
        (Some(same), Some(newest)) if same.revision == newest.revision => Step::Current(same.clone()),
        (Some(same), _) => Step::Renumber(same.clone(), next),
        _ => {
            wanted.revision = Some(next);
            Step::Create(Box::new(wanted))
        }
    }
}

/// The oldest revisions beyond `limit`, but none that is `live` (by name).
pub fn surplus(
    revisions: &[Arc<ControllerRevision>],
    limit: usize,
    live: &HashSet<String>,
) -> Vec<Arc<ControllerRevision>> {
    let mut old: Vec<_> = revisions.iter().filter(|r| !live.contains(name(r))).cloned().collect();
    old.sort_by_key(|r| r.revision);
    old.truncate(old.len().saturating_sub(limit));
    old
}

/// What came of bringing the history in order.
pub enum Outcome {
    Current(Arc<ControllerRevision>),
    /// Another revision has the name: another count of collisions makes another.
    Collision,
}

/// The revisions of an owner.
pub struct History<'a> {
    pub client: &'a Client,
    pub revisions: &'a Informer<ControllerRevision>,
}

impl History<'_> {
    fn api<O: Owner>(&self, owner: &O) -> Api<ControllerRevision> {
        let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
        Api::namespaced(self.client.clone(), namespace)
    }

    /// The owner's revisions, after adopting and releasing.
    pub async fn claim<O: Owner>(&self, owner: &O) -> Result<Vec<Arc<ControllerRevision>>, Error> {
        ownership::claim(self.client, owner, self.revisions).await
    }

    /// Does a step.
    pub async fn apply<O: Owner>(&self, owner: &O, step: Step) -> Result<Outcome, Error> {
        let api = self.api(owner);
        match step {
            Step::Current(revision) => Ok(Outcome::Current(revision)),
            Step::Renumber(revision, number) => {
                let name = name(&revision);
                let patch = json!({"metadata": {"uid": revision.metadata.uid}, "revision": number});
                let patched = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
                let patched = patched.map_err(Error::api(format!("renumbering revision {name}")))?;
                Ok(Outcome::Current(Arc::new(patched)))
            }
            Step::Create(revision) => {
                let name = name(&revision);
                let error = match api.create(&PostParams::default(), &*revision).await {
                    Ok(made) => return Ok(Outcome::Current(Arc::new(made))),
                    Err(error) => error,
                };
                if write::already_exists(&error) {
                    let found =
                        api.get_opt(name).await.map_err(Error::api(format!("reading revision {name}")))?;
                    let ours = |r: &ControllerRevision| {
                        controller_of(r).map(|o| &o.uid) == owner.meta().uid.as_ref()
                            && data(r) == data(&revision)
                    };
                    return Ok(match found.filter(ours) {
                        // Made by us, and not yet in the cache.
                        Some(found) => Outcome::Current(Arc::new(found)),
                        None => Outcome::Collision,
                    });
                }
                Err(Error::api(format!("creating revision {name}"))(error))
            }
        }
    }

    /// Deletes revisions.
    pub async fn delete<O: Owner>(&self, owner: &O, gone: Vec<Arc<ControllerRevision>>) -> Result<(), Error> {
        let api = self.api(owner);
        for revision in gone {
            let preconditions = Preconditions { uid: revision.metadata.uid.clone(), resource_version: None };
            let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
            let deleted = api.delete(name(&revision), &params).await;
            write::found(deleted.map(drop))
                .map_err(Error::api(format!("deleting revision {}", name(&revision))))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(name: &str, number: i64, image: &str) -> Arc<ControllerRevision> {
        let revision = json!({"metadata": {"name": name}, "revision": number, "data": {"image": image}});
        Arc::new(serde_json::from_value(revision).unwrap())
    }

    fn check(image: &str) -> String {
        let all = [revision("a", 1, "old"), revision("b", 2, "new")];
        match plan(&all, ControllerRevision::clone(&revision("wanted", 0, image))) {
            Step::Current(revision) => format!("current {}", name(&revision)),
            Step::Renumber(revision, number) => format!("renumber {} {number}", name(&revision)),
            Step::Create(revision) => format!("create {}", revision.revision.unwrap()),
        }
    }

    #[test]
    fn the_template_is_the_newest_revision() {
        assert_eq!(check("new"), "current b");
        assert_eq!(check("old"), "renumber a 3");
        assert_eq!(check("newer"), "create 3");
    }

    #[test]
    fn live_revisions_are_kept() {
        let all = [revision("a", 1, ""), revision("b", 2, ""), revision("c", 3, ""), revision("d", 4, "")];
        let live = HashSet::from(["a".to_string(), "d".to_string()]);
        let gone = surplus(&all, 1, &live);
        assert_eq!(gone.iter().map(|r| name(r)).collect::<Vec<_>>(), ["b"]);
    }
}
