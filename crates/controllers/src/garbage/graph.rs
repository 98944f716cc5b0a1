//! Who depends on whom, over every kind, and what follows for one object.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use client::{Kept, ObjectKey};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde::de::IgnoredAny;

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// Shared by all who know of an object: there are as many as objects in the cluster.
pub(super) type Uid = Arc<str>;

/// What is kept of an object.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "Whole")]
pub(super) struct Item {
    pub key: ObjectKey,
    pub uid: Uid,
    pub resource_version: Option<Box<str>>,
    pub owners: Box<[OwnerReference]>,
    pub finalizers: Box<[String]>,
    pub deleting: bool,
}

/// An object as the API tells it.
#[derive(Deserialize)]
struct Whole {
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    resource_version: Option<Box<str>>,
    owner_references: Vec<OwnerReference>,
    finalizers: Vec<String>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl From<Whole> for Item {
    fn from(Whole { metadata }: Whole) -> Item {
        Item {
            key: ObjectKey::new(metadata.namespace, metadata.name),
            uid: metadata.uid.into(),
            resource_version: metadata.resource_version,
            owners: metadata.owner_references.into(),
            finalizers: metadata.finalizers.into(),
            deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

impl Kept for Item {
    fn key(&self) -> ObjectKey {
        self.key.clone()
    }

    fn uid(&self) -> Option<&str> {
        Some(&self.uid)
    }

    fn version(&self) -> Option<&str> {
        self.resource_version.as_deref()
    }
}

impl Item {
    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|other| other == finalizer)
    }

    /// Told to go, but only after its dependents.
    fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners.iter().any(|o| o.uid == owner && o.block_owner_deletion == Some(true))
    }
}

/// An object in the graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// Its kind, as a place in the list of resources.
    pub resource: usize,
    pub item: Arc<Item>,
}

impl Deref for Node {
    type Target = Item;

    fn deref(&self) -> &Item {
        &self.item
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    nodes: HashMap<Uid, Node>,
    /// Uids of the dependents, by the uid of the owner, whether that is there or not.
    dependents: HashMap<String, HashSet<Uid>>,
}

/// What is to be done about one object.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    Nothing,
    /// Take these owners (uids) off it: they are gone or going and it has others.
    Disown(Vec<String>),
    /// Delete it, in the way named.
    Delete(&'static str),
    /// Take the finalizer off it.
    Finish(&'static str),
    /// Let its dependents go free, then take the finalizer off it.
    Orphan(Vec<Node>),
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// Takes up an object; the uids to look at.
    pub fn set(&mut self, resource: usize, item: Arc<Item>) -> Vec<Uid> {
        self.unlink(&item.uid);
        for owner in &*item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        let mut look = Vec::new();
        if !item.owners.is_empty() || item.has(ORPHAN) || item.has(FOREGROUND) {
            look.push(item.uid.clone());
        }
        if item.waits_for_dependents() {
            look.extend(self.dependents.get(&*item.uid).into_iter().flatten().cloned());
        }
        self.nodes.insert(item.uid.clone(), Node { resource, item });
        look
    }

    /// Forgets an object; the uids to look at: what depended on it and what waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<Uid> {
        self.unlink(uid);
        let Some(node) = self.nodes.remove(uid) else { return Vec::new() };
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        let mut look: Vec<Uid> = dependents.collect();
        let owners = node.owners.iter().filter_map(|owner| self.nodes.get(&*owner.uid));
        look.extend(owners.filter(|owner| owner.waits_for_dependents()).map(|owner| owner.uid.clone()));
        look
    }

    fn unlink(&mut self, uid: &str) {
        let Some(node) = self.nodes.get(uid) else { return };
        for owner in &*node.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.nodes.get(uid))
    }

    /// Owners of an object that the graph does not have: whether they exist must be asked.
    pub fn unknown_owners(&self, item: &Item) -> Vec<OwnerReference> {
        item.owners.iter().filter(|owner| !self.nodes.contains_key(&*owner.uid)).cloned().collect()
    }

    /// What is to be done, given which of the owners the graph does not have are truly gone.
    pub fn plan(&self, item: &Item, gone: &HashSet<String>) -> Step {
        if item.deleting && item.has(ORPHAN) {
            return Step::Orphan(self.dependents(&item.uid).cloned().collect());
        }
        if item.waits_for_dependents() {
            let blocked = self.dependents(&item.uid).any(|dependent| dependent.blocks(&item.uid));
            return if blocked { Step::Nothing } else { Step::Finish(FOREGROUND) };
        }
        if item.deleting || item.owners.is_empty() {
            return Step::Nothing;
        }
        let waits = |uid: &String| self.nodes.get(&**uid).is_some_and(|node| node.waits_for_dependents());
        let uids = || item.owners.iter().map(|owner| owner.uid.clone());
        let leaving: Vec<String> = uids().filter(|uid| gone.contains(uid) || waits(uid)).collect();
        if leaving.is_empty() {
            return Step::Nothing;
        }
        if leaving.len() < item.owners.len() {
            return Step::Disown(leaving);
        }
        let has_dependents = self.dependents(&item.uid).next().is_some();
        if item.has(ORPHAN) {
            Step::Delete("Orphan")
        } else if item.has(FOREGROUND) || (has_dependents && uids().any(|uid| waits(&uid))) {
            Step::Delete("Foreground")
        } else {
            Step::Delete("Background")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(uid: &str, owners: &[&str], finalizer: Option<&str>) -> Item {
        let owners = owners.iter().map(|owner| OwnerReference {
            uid: (*owner).into(),
            block_owner_deletion: Some(true),
            ..Default::default()
        });
        Item {
            key: ObjectKey::new("ns", uid),
            uid: uid.into(),
            resource_version: None,
            owners: owners.collect(),
            finalizers: finalizer.iter().map(|f| (*f).to_string()).collect(),
            deleting: finalizer.is_some(),
        }
    }

    fn check(items: &[Item], uid: &str, gone: &[&str]) -> Step {
        let mut graph = Graph::default();
        for item in items {
            graph.set(0, item.clone().into());
        }
        let gone = gone.iter().map(|uid| (*uid).to_string()).collect();
        graph.plan(graph.get(uid).unwrap(), &gone)
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        let set = item("set", &["deployment"], None);
        assert_eq!(check(&[item("deployment", &[], None), set.clone()], "set", &[]), Step::Nothing);
        assert_eq!(check(std::slice::from_ref(&set), "set", &["deployment"]), Step::Delete("Background"));
        let two = item("set", &["deployment", "other"], None);
        let left = [item("other", &[], None), two];
        assert_eq!(check(&left, "set", &["deployment"]), Step::Disown(vec!["deployment".into()]));
    }

    #[test]
    fn foreground_goes_from_the_leaves_up() {
        let deployment = item("deployment", &[], Some(FOREGROUND));
        let set = item("set", &["deployment"], None);
        let pod = item("pod", &["set"], None);
        let all = [deployment.clone(), set.clone(), pod];
        assert_eq!(check(&all, "deployment", &[]), Step::Nothing);
        assert_eq!(check(&all, "set", &[]), Step::Delete("Foreground"));
        assert_eq!(check(&[deployment.clone(), set], "set", &[]), Step::Delete("Background"));
        assert_eq!(check(&[deployment], "deployment", &[]), Step::Finish(FOREGROUND));
    }

    #[test]
    fn orphans_are_let_go() {
        let set = item("set", &["deployment"], None);
        let all = [item("deployment", &[], Some(ORPHAN)), set.clone()];
        assert_eq!(
            check(&all, "deployment", &[]),
            Step::Orphan(vec![Node { resource: 0, item: set.into() }])
        );
    }

    #[test]
    fn what_depended_is_looked_at_when_an_owner_goes() {
        let mut graph = Graph::default();
        graph.set(0, item("deployment", &[], None).into());
        graph.set(0, item("set", &["deployment"], None).into());
        assert_eq!(graph.remove("deployment"), ["set".into()]);
        graph.set(0, item("deployment", &[], Some(FOREGROUND)).into());
        assert_eq!(graph.remove("set"), ["deployment".into()]);
    }
}
