//! Nobody may grant what he does not hold, and how aggregated roles get their rules.

use std::collections::BTreeSet;

use api::field::quote;
use api::selector::Labels;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};

use super::Rbac;
use crate::authorize::{Attributes, Authorizer};
use crate::user::{MASTERS, User};

/// What a user lacks of the rules that he wants to grant; the text that upstream refuses it with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
    quote(.user), .groups.join(" "), .missing.join("\n"))]
pub struct Escalation {
    user: String,
    groups: Vec<String>,
    missing: Vec<String>,
}

impl Rbac {
    /// Whether a user holds every right of `rules` in `namespace` (empty: in the whole cluster).
    ///
    /// # Errors
    /// The rights that are missing.
    pub fn confirm_no_escalation(
        &self,
        user: &User,
        namespace: &str,
        rules: &[PolicyRule],
    ) -> Result<(), Escalation> {
        let held = self.rules_for(user, namespace);
        let missing = lacking(&held, rules);
        if missing.is_empty() {
            return Ok(());
        }
        let missing: BTreeSet<String> = missing.iter().map(text).collect();
        Err(Escalation {
            user: user.name.clone(),
            groups: user.groups.iter().map(|g| quote(g)).collect(),
            missing: missing.into_iter().collect(),
        })
    }
}

/// The rights of `wanted` that `held` lacks, in as few rules as their verbs allow (upstream's
/// `validation.Covers`).
pub fn lacking(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let wanted = wanted.iter().flat_map(broken_down);
    compact(wanted.filter(|rule| !held.iter().any(|h| covers(h, rule))).collect())
}

/// Whether a user may write a role with any rules at all (verb `escalate`).
pub fn may_escalate(authorizer: &dyn Authorizer, user: &User, namespace: &str, name: &str) -> bool {
    let resource = if namespace.is_empty() { "clusterroles" } else { "roles" };
    granted(authorizer, user, "escalate", resource, namespace, name)
}

/// Whether a user may bind a role whose rights he lacks (verb `bind`). `cluster_role`: the role
/// referred to is a ClusterRole; `namespace` is the binding's, empty for a ClusterRoleBinding.
pub fn may_bind(
    authorizer: &dyn Authorizer,
    user: &User,
    cluster_role: bool,
    namespace: &str,
    role: &str,
) -> bool {
    let resource = if cluster_role { "clusterroles" } else { "roles" };
    granted(authorizer, user, "bind", resource, namespace, role)
}

fn granted(
    authorizer: &dyn Authorizer,
    user: &User,
    verb: &str,
    resource: &str,
    namespace: &str,
    name: &str,
) -> bool {
    let attributes = Attributes::resource(user, verb, "rbac.authorization.k8s.io", resource)
        .namespace(namespace)
        .name(name);
    user.in_group(MASTERS) || authorizer.authorize(&attributes).allowed()
}

/// The rules of an aggregated role: those of every other role that its selectors match, in the order
/// of the roles' names, each rule once. None where the role aggregates nothing.
pub fn aggregate<'a>(
    role: &ClusterRole,
    all: impl Iterator<Item = &'a ClusterRole> + Clone,
) -> Option<Vec<PolicyRule>> {
    let aggregation = role.aggregation_rule.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in aggregation.cluster_role_selectors.iter().flatten() {
        let selector = Labels::from_label_selector(selector);
        let mut matching: Vec<&ClusterRole> = all
            .clone()
            .filter(|other| other.metadata.name != role.metadata.name)
            .filter(|other| {
                let labels = other.metadata.labels.as_ref();
                selector.matches_with(|key| labels?.get(key).map(String::as_str))
            })
            .collect();
        matching.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in matching.into_iter().flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

fn list(values: &Option<Vec<String>>) -> &[String] {
    values.as_deref().unwrap_or_default()
}

/// A rule as rules of one verb and one resource (and name) or path each.
fn broken_down(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut out = Vec::new();
    for verb in &rule.verbs {
        let base = PolicyRule { verbs: vec![verb.clone()], ..PolicyRule::default() };
        for url in list(&rule.non_resource_urls) {
            out.push(PolicyRule { non_resource_urls: one(url), ..base.clone() });
        }
        for group in list(&rule.api_groups) {
            for resource in list(&rule.resources) {
                let base = PolicyRule { api_groups: one(group), resources: one(resource), ..base.clone() };
                match list(&rule.resource_names) {
                    [] => out.push(base),
                    names => out
                        .extend(names.iter().map(|n| PolicyRule { resource_names: one(n), ..base.clone() })),
                }
            }
        }
    }
    out
}

/// Whether a rule covers one of [`broken_down`]'s.
fn covers(held: &PolicyRule, wanted: &PolicyRule) -> bool {
    let has = |held: &[String], wanted: &[String]| {
        held.iter().any(|h| h == "*") || wanted.iter().all(|w| held.contains(w))
    };
    let resource = |wanted: &String| {
        list(&held.resources).iter().any(|h| {
            h == "*"
                || h == wanted
                || h.strip_prefix("*/").is_some_and(|sub| wanted.split_once('/').is_some_and(|w| w.1 == sub))
        })
    };
    let url = |wanted: &String| {
        list(&held.non_resource_urls).iter().any(|h| match h.strip_suffix('*') {
            Some(prefix) => wanted.starts_with(prefix),
            None => h == wanted,
        })
    };
    let names = list(&held.resource_names);
    let wanted_names = list(&wanted.resource_names);
    has(&held.verbs, &wanted.verbs)
        && has(list(&held.api_groups), list(&wanted.api_groups))
        && list(&wanted.resources).iter().all(resource)
        && list(&wanted.non_resource_urls).iter().all(url)
        && (names.is_empty() || (!wanted_names.is_empty() && wanted_names.iter().all(|n| names.contains(n))))
}

/// Joins the verbs of rules that differ in nothing else.
fn compact(rules: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut out: Vec<PolicyRule> = Vec::new();
    for rule in rules {
        let same = |other: &&mut PolicyRule| {
            other.api_groups == rule.api_groups
                && other.resources == rule.resources
                && other.resource_names == rule.resource_names
                && other.non_resource_urls == rule.non_resource_urls
                && rule.non_resource_urls.is_none()
        };
        match out.iter_mut().find(same) {
            Some(other) if other.verbs.contains(&rule.verbs[0]) => {}
            Some(other) => other.verbs.extend(rule.verbs),
            None => out.push(rule),
        }
    }
    out
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
fn text(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", rule.verbs.as_slice()),
    ];
    let shown: Vec<String> = parts
        .iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(name, values)| {
            format!("{name}:[{}]", values.iter().map(|v| quote(v)).collect::<Vec<_>>().join(" "))
        })
        .collect();
    format!("{{{}}}", shown.join(", "))
}
