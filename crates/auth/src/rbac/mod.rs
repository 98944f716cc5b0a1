//! RBAC: who may do what, as an index from subject to bindings, kept up by events.
//!
//! A decision touches only the bindings of the asker's own name and groups; each role answers from
//! its compiled [`Rules`](rules::Rules). Nothing is listed or decoded per request.

pub mod escalation;
mod rules;

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::field::quote;
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};

use crate::authorize::{Attributes, Authorizer, Verdict};
use crate::user::{User, service_account_name};

pub use rules::Rules;

/// A role's or a binding's place; no namespace for the cluster's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    namespace: Option<String>,
    name: String,
}

impl Key {
    /// The namespace and the name; none for the cluster's own.
    fn in_namespace(&self) -> Option<(&str, &str)> {
        Some((self.namespace.as_deref()?, &self.name))
    }
}

#[derive(Debug)]
struct Binding {
    key: Key,
    role: Key,
    subjects: Vec<Subject>,
}

/// Whom a binding names, in the form that requests are looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

/// The bindings of one subject, each in the order of their names.
#[derive(Debug, Default)]
struct Grants {
    cluster: Vec<(Arc<Binding>, usize)>,
    by_namespace: HashMap<String, Vec<(Arc<Binding>, usize)>>,
}

#[derive(Debug, Default)]
struct Index {
    roles: HashMap<Key, Arc<Rules>>,
    bindings: HashMap<Key, Arc<Binding>>,
    users: HashMap<String, Grants>,
    groups: HashMap<String, Grants>,
}

/// The RBAC authoriser. Fed with every role and binding as they come and go.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    fn write(&self, change: impl FnOnce(&mut Index)) {
        change(&mut self.index.write().unwrap_or_else(PoisonError::into_inner));
    }

    fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn put_cluster_role(&self, role: &ClusterRole) {
        let key = Key { namespace: None, name: role.metadata.name.clone().unwrap_or_default() };
        let rules = Arc::new(Rules::new(role.rules.clone().unwrap_or_default()));
        self.write(|index| drop(index.roles.insert(key, rules)));
    }

    pub fn put_role(&self, role: &Role) {
        let key = Key {
            namespace: Some(role.metadata.namespace.clone().unwrap_or_default()),
            name: role.metadata.name.clone().unwrap_or_default(),
        };
        let rules = Arc::new(Rules::new(role.rules.clone().unwrap_or_default()));
        self.write(|index| drop(index.roles.insert(key, rules)));
    }

    pub fn put_cluster_role_binding(&self, binding: &ClusterRoleBinding) {
        let key = Key { namespace: None, name: binding.metadata.name.clone().unwrap_or_default() };
        self.put_binding(key, &binding.role_ref, binding.subjects.clone());
    }

    pub fn put_role_binding(&self, binding: &RoleBinding) {
        let key = Key {
            namespace: Some(binding.metadata.namespace.clone().unwrap_or_default()),
            name: binding.metadata.name.clone().unwrap_or_default(),
        };
        self.put_binding(key, &binding.role_ref, binding.subjects.clone());
    }

    fn put_binding(&self, key: Key, role: &RoleRef, subjects: Option<Vec<Subject>>) {
        let namespace = if role.kind == "Role" { key.namespace.clone() } else { None };
        let role = Key { namespace, name: role.name.clone() };
        let binding = Arc::new(Binding { key, role, subjects: subjects.unwrap_or_default() });
        self.write(|index| index.put(binding));
    }

    pub fn remove_cluster_role(&self, name: &str) {
        self.write(|index| drop(index.roles.remove(&Key { namespace: None, name: name.into() })));
    }

    pub fn remove_role(&self, namespace: &str, name: &str) {
        let key = Key { namespace: Some(namespace.into()), name: name.into() };
        self.write(|index| drop(index.roles.remove(&key)));
    }

    pub fn remove_cluster_role_binding(&self, name: &str) {
        self.write(|index| index.remove(&Key { namespace: None, name: name.into() }));
    }

    pub fn remove_role_binding(&self, namespace: &str, name: &str) {
        let key = Key { namespace: Some(namespace.into()), name: name.into() };
        self.write(|index| index.remove(&key));
    }

    /// Takes out the ClusterRoles whose name is not to be kept: the index's state is told anew.
    pub fn retain_cluster_roles(&self, keep: impl Fn(&str) -> bool) {
        self.write(|index| index.roles.retain(|key, _| key.namespace.is_some() || keep(&key.name)));
    }

    /// Takes out the Roles whose namespace and name are not to be kept.
    pub fn retain_roles(&self, keep: impl Fn(&str, &str) -> bool) {
        self.write(|index| index.roles.retain(|key, _| key.in_namespace().is_none_or(|(n, k)| keep(n, k))));
    }

    /// Takes out the ClusterRoleBindings whose name is not to be kept.
    pub fn retain_cluster_role_bindings(&self, keep: impl Fn(&str) -> bool) {
        self.write(|index| index.retain_bindings(|key| key.namespace.is_some() || keep(&key.name)));
    }

    /// Takes out the RoleBindings whose namespace and name are not to be kept.
    pub fn retain_role_bindings(&self, keep: impl Fn(&str, &str) -> bool) {
        self.write(|index| index.retain_bindings(|key| key.in_namespace().is_none_or(|(n, k)| keep(n, k))));
    }

    /// Puts all of a policy: for a server that has not read its store yet, and for tests.
    pub fn put_policy(&self, policy: &crate::bootstrap::Policy) {
        policy.cluster_roles.iter().for_each(|role| self.put_cluster_role(role));
        policy.roles.iter().for_each(|role| self.put_role(role));
        policy.cluster_role_bindings.iter().for_each(|binding| self.put_cluster_role_binding(binding));
        policy.role_bindings.iter().for_each(|binding| self.put_role_binding(binding));
    }

    /// Every rule that holds for a user in a namespace, the cluster's first (SelfSubjectRulesReview;
    /// upstream's `RulesFor`). Rules bound in a namespace have their paths taken out.
    pub fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.read(|index| {
            let mut bindings: Vec<&Arc<Binding>> = index
                .grants(user)
                .flat_map(|g| g.cluster.iter().chain(g.by_namespace.get(namespace).into_iter().flatten()))
                .map(|(binding, _)| binding)
                .collect();
            bindings.sort_by(|a, b| a.key.cmp(&b.key));
            bindings.dedup_by(|a, b| a.key == b.key);
            let mut rules = Vec::new();
            for binding in bindings {
                for rule in index.roles.get(&binding.role).iter().flat_map(|r| r.source.iter()) {
                    if binding.key.namespace.is_none() || rule.non_resource_urls.is_none() {
                        rules.push(rule.clone());
                    }
                }
            }
            rules
        })
    }

    /// The rules of the role that a binding in `namespace` (none: a ClusterRoleBinding) refers to.
    pub fn rules_of(&self, role: &RoleRef, namespace: Option<&str>) -> Option<Arc<Vec<PolicyRule>>> {
        let namespace = if role.kind == "Role" { namespace.map(str::to_owned) } else { None };
        let key = Key { namespace, name: role.name.clone() };
        self.read(|index| index.roles.get(&key).map(|rules| rules.source.clone()))
    }
}

impl Index {
    fn put(&mut self, binding: Arc<Binding>) {
        self.remove(&binding.key);
        for (i, who) in binding.subjects.iter().enumerate().filter_map(|(i, s)| Some((i, who(s, &binding)?)))
        {
            let grants = match who {
                Who::User(name) => self.users.entry(name).or_default(),
                Who::Group(name) => self.groups.entry(name).or_default(),
            };
            let list = match &binding.key.namespace {
                None => &mut grants.cluster,
                Some(namespace) => grants.by_namespace.entry(namespace.clone()).or_default(),
            };
            let at = list.partition_point(|(other, _)| other.key <= binding.key);
            list.insert(at, (binding.clone(), i));
        }
        self.bindings.insert(binding.key.clone(), binding);
    }

    fn remove(&mut self, key: &Key) {
        let Some(binding) = self.bindings.remove(key) else { return };
        for who in binding.subjects.iter().filter_map(|s| who(s, &binding)) {
            let (map, name) = match who {
                Who::User(name) => (&mut self.users, name),
                Who::Group(name) => (&mut self.groups, name),
            };
            let Some(grants) = map.get_mut(&name) else { continue };
            match &key.namespace {
                None => grants.cluster.retain(|(b, _)| b.key != *key),
                Some(namespace) => {
                    if let Some(list) = grants.by_namespace.get_mut(namespace) {
                        list.retain(|(b, _)| b.key != *key);
                        if list.is_empty() {
                            grants.by_namespace.remove(namespace);
                        }
                    }
                }
            }
            if grants.cluster.is_empty() && grants.by_namespace.is_empty() {
                map.remove(&name);
            }
        }
    }

    fn retain_bindings(&mut self, keep: impl Fn(&Key) -> bool) {
        let gone: Vec<Key> = self.bindings.keys().filter(|key| !keep(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
    }

    fn grants<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grants> {
        let groups = user.groups.iter().filter_map(|g| self.groups.get(g));
        self.users.get(&user.name).into_iter().chain(groups)
    }
}

fn who(subject: &Subject, binding: &Binding) -> Option<Who> {
    match subject.kind.as_str() {
        "User" => Some(Who::User(subject.name.clone())),
        "Group" => Some(Who::Group(subject.name.clone())),
        "ServiceAccount" => {
            let namespace = subject.namespace.as_ref().or(binding.key.namespace.as_ref())?;
            Some(Who::User(service_account_name(namespace, &subject.name)))
        }
        _ => None,
    }
}

impl Authorizer for Rbac {
    fn authorize(&self, attributes: &Attributes) -> Verdict {
        self.read(|index| {
            let find = |list: &[(Arc<Binding>, usize)]| {
                list.iter()
                    .find(|(b, _)| index.roles.get(&b.role).is_some_and(|r| r.allow(attributes)))
                    .map(|(binding, subject)| Verdict::allow(reason(binding, *subject)))
            };
            let cluster = index.grants(attributes.user).find_map(|grants| find(&grants.cluster));
            let in_namespace = || {
                if attributes.namespace.is_empty() || !attributes.is_resource {
                    return None;
                }
                index.grants(attributes.user).find_map(|g| find(g.by_namespace.get(attributes.namespace)?))
            };
            cluster.or_else(in_namespace).unwrap_or_else(|| Verdict::no_opinion(""))
        })
    }
}

/// `RBAC: allowed by RoleBinding "rb/ns" of Role "r" to User "jane"`
fn reason(binding: &Binding, subject: usize) -> String {
    let (binding_kind, binding_name) = match &binding.key.namespace {
        None => ("ClusterRoleBinding", binding.key.name.clone()),
        Some(namespace) => ("RoleBinding", format!("{}/{namespace}", binding.key.name)),
    };
    let role_kind = if binding.role.namespace.is_some() { "Role" } else { "ClusterRole" };
    let subject = &binding.subjects[subject];
    let subject_name = match (&subject.namespace, subject.kind.as_str()) {
        (Some(namespace), "ServiceAccount") => format!("{}/{namespace}", subject.name),
        _ => subject.name.clone(),
    };
    format!(
        "RBAC: allowed by {binding_kind} {} of {role_kind} {} to {} {}",
        quote(&binding_name),
        quote(&binding.role.name),
        subject.kind,
        quote(&subject_name)
    )
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
