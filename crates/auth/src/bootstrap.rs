//! The default policy: the roles and bindings that a cluster starts with, drawn from
//! `data/policy.txt` (a table in our own form; the facts are upstream's `rbac/bootstrappolicy`).

use std::collections::BTreeMap;

use k8s_openapi::api::rbac::v1::{
    AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

const TABLE: &str = include_str!("../data/policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";

/// Everything that is made anew at each start where it is absent or poorer than here.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    pub cluster_roles: Vec<ClusterRole>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
    pub roles: Vec<Role>,
    pub role_bindings: Vec<RoleBinding>,
}

/// One `role` or `controller` of the table.
#[derive(Default)]
struct Entry {
    name: String,
    namespace: Option<String>,
    aggregates: Option<String>,
    into: Option<String>,
    rules: Vec<PolicyRule>,
    binding: Option<(String, Vec<Subject>)>,
}

/// The default policy of v1.37.
pub fn policy() -> Policy {
    let mut policy = Policy::default();
    for entry in entries() {
        entry.add_to(&mut policy);
    }
    policy
}

fn entries() -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for line in TABLE.lines().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        match first {
            "role" => entries.push(role(words)),
            "controller" => {
                let name = words.next().unwrap_or_default();
                let full = format!("system:controller:{name}");
                let subjects = vec![subject(&format!("sa:kube-system/{name}"))];
                entries.push(Entry {
                    name: full.clone(),
                    binding: Some((full, subjects)),
                    ..Entry::default()
                });
            }
            "bind" => {
                let entry = entries.last_mut().expect("a bind follows its role");
                let (name, subjects) = line["bind".len()..].split_once("to").expect("`bind … to …`");
                let name = if name.trim().is_empty() { &entry.name } else { name.trim() };
                entry.binding = Some((name.to_owned(), subjects.split_whitespace().map(subject).collect()));
            }
            _ => {
                let entry = entries.last_mut().expect("a rule follows its role");
                entry.rules.push(rule(first, words.collect()));
            }
        }
    }
    entries
}

fn role<'a>(mut words: impl Iterator<Item = &'a str>) -> Entry {
    let mut entry = Entry { name: words.next().unwrap_or_default().to_owned(), ..Entry::default() };
    while let (Some(key), Some(value)) = (words.next(), words.next()) {
        let slot = match key {
            "in" => &mut entry.namespace,
            "aggregates" => &mut entry.aggregates,
            "into" => &mut entry.into,
            other => panic!("policy.txt: {other}"),
        };
        *slot = Some(value.to_owned());
    }
    entry
}

fn rule(first: &str, rest: Vec<&str>) -> PolicyRule {
    let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
    match (first, rest.as_slice()) {
        ("events", []) => PolicyRule {
            api_groups: Some(vec![String::new(), "events.k8s.io".into()]),
            resources: Some(vec!["events".into()]),
            verbs: verbs("create,patch,update"),
            ..PolicyRule::default()
        },
        ("url", [paths, given]) => {
            PolicyRule { non_resource_urls: Some(list(paths)), verbs: verbs(given), ..PolicyRule::default() }
        }
        (groups, [resources, given, names @ ..]) => PolicyRule {
            api_groups: Some(
                groups.split(',').map(|g| if g == "core" { String::new() } else { g.to_owned() }).collect(),
            ),
            resources: Some(list(resources)),
            resource_names: names.first().map(|n| list(n)),
            verbs: verbs(given),
            ..PolicyRule::default()
        },
        _ => panic!("policy.txt: a rule has at least three columns: {first}"),
    }
}

/// Upstream keeps the verbs of its default roles sorted.
fn verbs(text: &str) -> Vec<String> {
    let mut verbs: Vec<&str> = Vec::new();
    for word in text.split(',') {
        match word {
            "read" => verbs.extend(["get", "list", "watch"]),
            "write" => verbs.extend(["create", "delete", "deletecollection", "patch", "update"]),
            verb => verbs.push(verb),
        }
    }
    verbs.sort_unstable();
    verbs.into_iter().map(str::to_owned).collect()
}

fn subject(text: &str) -> Subject {
    let (kind, name) = text.split_once(':').expect("policy.txt: KIND:NAME");
    let (kind, namespace, name) = match kind {
        "sa" => {
            let (namespace, name) = name.split_once('/').expect("policy.txt: sa:NAMESPACE/NAME");
            ("ServiceAccount", Some(namespace.to_owned()), name)
        }
        "group" => ("Group", None, name),
        _ => ("User", None, name),
    };
    let api_group = if namespace.is_none() { Some(GROUP.to_owned()) } else { None };
    Subject { api_group, kind: kind.into(), name: name.into(), namespace }
}

fn metadata(name: &str, namespace: &Option<String>, into: Option<&str>) -> ObjectMeta {
    let mut labels = BTreeMap::from([("kubernetes.io/bootstrapping".into(), "rbac-defaults".into())]);
    if let Some(into) = into {
        labels.insert(format!("rbac.authorization.k8s.io/aggregate-to-{into}"), "true".into());
    }
    let autoupdate = ("rbac.authorization.kubernetes.io/autoupdate".to_owned(), "true".to_owned());
    ObjectMeta {
        name: Some(name.into()),
        namespace: namespace.clone(),
        labels: Some(labels),
        annotations: Some([autoupdate].into()),
        ..ObjectMeta::default()
    }
}

impl Entry {
    fn add_to(self, policy: &mut Policy) {
        let metadata_of = |name: &str| metadata(name, &self.namespace, None);
        let kind = if self.namespace.is_some() { "Role" } else { "ClusterRole" };
        let role_ref = RoleRef { api_group: Some(GROUP.into()), kind: kind.into(), name: self.name.clone() };
        if let Some((name, subjects)) = self.binding {
            let metadata = metadata_of(&name);
            let subjects = if subjects.is_empty() { None } else { Some(subjects) };
            if self.namespace.is_some() {
                policy.role_bindings.push(RoleBinding { metadata, role_ref, subjects });
            } else {
                policy.cluster_role_bindings.push(ClusterRoleBinding { metadata, role_ref, subjects });
            }
        }
        let metadata = metadata(&self.name, &self.namespace, self.into.as_deref());
        let rules = if self.rules.is_empty() { None } else { Some(self.rules) };
        if self.namespace.is_some() {
            policy.roles.push(Role { metadata, rules });
            return;
        }
        let aggregation_rule = self.aggregates.map(|what| {
            let label = (format!("rbac.authorization.k8s.io/aggregate-to-{what}"), "true".to_owned());
            let selector = LabelSelector { match_labels: Some([label].into()), ..LabelSelector::default() };
            AggregationRule { cluster_role_selectors: Some(vec![selector]) }
        });
        policy.cluster_roles.push(ClusterRole { aggregation_rule, metadata, rules });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_holds_upstreams_roles() {
        let policy = policy();
        let names: Vec<&str> =
            policy.cluster_roles.iter().filter_map(|r| r.metadata.name.as_deref()).collect();
        for name in ["cluster-admin", "admin", "edit", "view", "system:node", "system:kube-scheduler"] {
            assert!(names.contains(&name), "{name}");
        }
        let mut unique = names.clone();
        unique.sort_unstable();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
        let known = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        let rare = ["*", "impersonate", "proxy", "approve", "sign", "escalate"];
        for role in &policy.cluster_roles {
            for rule in role.rules.iter().flatten() {
                assert!(rule.verbs.iter().all(|v| known.contains(&&**v) || rare.contains(&&**v)), "{rule:?}");
                assert!(rule.resources.is_some() != rule.non_resource_urls.is_some(), "{rule:?}");
            }
        }
        let node = policy.cluster_role_bindings.iter().find(|b| b.role_ref.name == "system:node").unwrap();
        assert_eq!(node.subjects, None);
        assert_eq!((policy.roles.len(), policy.role_bindings.len()), (7, 7));
        let edit = policy.cluster_roles.iter().find(|r| r.metadata.name.as_deref() == Some("edit")).unwrap();
        assert!(edit.aggregation_rule.is_some() && edit.rules.is_none());
        assert!(
            edit.metadata
                .labels
                .as_ref()
                .unwrap()
                .contains_key("rbac.authorization.k8s.io/aggregate-to-admin")
        );
    }
}
