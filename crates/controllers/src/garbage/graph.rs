//! Who depends on whom, over every kind, and what follows for one object.

use std::collections::{HashMap, HashSet};

use client::ObjectKey;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub(super) const ORPHAN: &str = "orphan";
pub(super) const FOREGROUND: &str = "foregroundDeletion";

/// What the graph keeps of an object.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    /// Its kind, as a place in the list of resources.
    pub resource: usize,
    pub key: ObjectKey,
    pub uid: String,
    pub resource_version: Option<String>,
    pub owners: Vec<OwnerReference>,
    pub finalizers: Vec<String>,
    pub deleting: bool,
}

impl Item {
    pub fn new(resource: usize, meta: &ObjectMeta) -> Self {
        Self {
            resource,
            key: ObjectKey::new(
                meta.namespace.clone().unwrap_or_default(),
                meta.name.clone().unwrap_or_default(),
            ),
            uid: meta.uid.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

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

#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    /// Uids of the dependents, by the uid of the owner, whether that is there or not.
    dependents: HashMap<String, HashSet<String>>,
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
    Orphan(Vec<Item>),
}

impl Graph {
    pub fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// Takes up an object; the uids to look at.
    pub fn set(&mut self, item: Item) -> Vec<String> {
        self.unlink(&item.uid);
        for owner in &item.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(item.uid.clone());
        }
        let mut look = Vec::new();
        if !item.owners.is_empty() || item.has(ORPHAN) || item.has(FOREGROUND) {
            look.push(item.uid.clone());
        }
        if item.waits_for_dependents() {
            look.extend(self.dependents.get(&item.uid).into_iter().flatten().cloned());
        }
        self.items.insert(item.uid.clone(), item);
        look
    }

    /// Forgets an object; the uids to look at: what depended on it and what waited for it.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        self.unlink(uid);
        let Some(item) = self.items.remove(uid) else { return Vec::new() };
        let dependents = self.dependents.get(uid).into_iter().flatten().cloned();
        let mut look: Vec<String> = dependents.collect();
        let waiting = item
            .owners
            .iter()
            .filter(|owner| self.items.get(&owner.uid).is_some_and(Item::waits_for_dependents));
        look.extend(waiting.map(|owner| owner.uid.clone()));
        look
    }

    fn unlink(&mut self, uid: &str) {
        let Some(item) = self.items.get(uid) else { return };
        for owner in &item.owners {
            if let Some(dependents) = self.dependents.get_mut(&owner.uid) {
                dependents.remove(uid);
                if dependents.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
    }

    fn dependents(&self, uid: &str) -> impl Iterator<Item = &Item> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|uid| self.items.get(uid))
    }

    /// Owners of an object that the graph does not have: whether they exist must be asked.
    pub fn unknown_owners(&self, item: &Item) -> Vec<OwnerReference> {
        item.owners.iter().filter(|owner| !self.items.contains_key(&owner.uid)).cloned().collect()
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
        let waits = |uid: &String| self.items.get(uid).is_some_and(Item::waits_for_dependents);
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
            resource: 0,
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
            graph.set(item.clone());
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
        assert_eq!(check(&all, "deployment", &[]), Step::Orphan(vec![set]));
    }

    #[test]
    fn what_depended_is_looked_at_when_an_owner_goes() {
        let mut graph = Graph::default();
        graph.set(item("deployment", &[], None));
        graph.set(item("set", &["deployment"], None));
        assert_eq!(graph.remove("deployment"), ["set"]);
        graph.set(item("deployment", &[], Some(FOREGROUND)));
        assert_eq!(graph.remove("set"), ["deployment"]);
    }
}
