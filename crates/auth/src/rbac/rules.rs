//! Rules, compiled: a role answers "does any rule allow this" with one look-up by resource.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::rbac::v1::PolicyRule;

use crate::authorize::Attributes;

const VERBS: [&str; 8] = ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection"];
/// The bit of `*`.
const ANY_VERB: u16 = 1 << 8;

fn verb_bit(verb: &str) -> u16 {
    VERBS.iter().position(|v| *v == verb).map_or(0, |i| 1 << i)
}

#[derive(Debug)]
struct Rule {
    verbs: u16,
    other_verbs: Vec<String>,
    groups: Vec<String>,
    /// Empty: any name.
    names: Vec<String>,
    urls: Vec<String>,
}

impl Rule {
    fn new(rule: &PolicyRule) -> Rule {
        let mut verbs = 0;
        let mut other_verbs = Vec::new();
        for verb in &rule.verbs {
            match (verb.as_str(), verb_bit(verb)) {
                ("*", _) => verbs |= ANY_VERB,
                (_, 0) => other_verbs.push(verb.clone()),
                (_, bit) => verbs |= bit,
            }
        }
        Rule {
            verbs,
            other_verbs,
            groups: rule.api_groups.clone().unwrap_or_default(),
            names: rule.resource_names.clone().unwrap_or_default(),
            urls: rule.non_resource_urls.clone().unwrap_or_default(),
        }
    }

    fn has_verb(&self, verb: &str, bit: u16) -> bool {
        self.verbs & (ANY_VERB | bit) != 0 || (bit == 0 && self.other_verbs.iter().any(|v| v == verb))
    }

    fn allows_resource(&self, attributes: &Attributes, bit: u16) -> bool {
        self.has_verb(attributes.verb, bit)
            && self.groups.iter().any(|g| g == "*" || g == attributes.group)
            && (self.names.is_empty() || self.names.iter().any(|n| n == attributes.name))
    }

    fn allows_path(&self, attributes: &Attributes, bit: u16) -> bool {
        self.has_verb(attributes.verb, bit)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => attributes.path.starts_with(prefix),
                None => url == attributes.path,
            })
    }
}

/// A role's rules with their index.
#[derive(Debug, Default)]
pub struct Rules {
    /// As they were given.
    pub source: Arc<Vec<PolicyRule>>,
    rules: Vec<Rule>,
    by_resource: HashMap<String, Vec<usize>>,
    /// Rules over `*`.
    any_resource: Vec<usize>,
    /// Rules over `*/SUBRESOURCE`, by the subresource.
    any_with_subresource: HashMap<String, Vec<usize>>,
    with_urls: Vec<usize>,
}

impl Rules {
    pub fn new(source: Vec<PolicyRule>) -> Rules {
        let mut rules = Rules { rules: source.iter().map(Rule::new).collect(), ..Rules::default() };
        for (i, rule) in source.iter().enumerate() {
            for resource in rule.resources.iter().flatten() {
                let list = match (resource.as_str(), resource.strip_prefix("*/")) {
                    ("*", _) => &mut rules.any_resource,
                    (_, Some(sub)) => rules.any_with_subresource.entry(sub.to_owned()).or_default(),
                    (name, None) => rules.by_resource.entry(name.to_owned()).or_default(),
                };
                list.push(i);
            }
            if rule.non_resource_urls.as_ref().is_some_and(|urls| !urls.is_empty()) {
                rules.with_urls.push(i);
            }
        }
        rules.source = Arc::new(source);
        rules
    }

    /// Whether some rule allows it. The namespace is the binding's to judge.
    pub fn allow(&self, attributes: &Attributes) -> bool {
        let bit = verb_bit(attributes.verb);
        if !attributes.is_resource {
            return self.with_urls.iter().any(|i| self.rules[*i].allows_path(attributes, bit));
        }
        let passes = |list: &[usize]| list.iter().any(|i| self.rules[*i].allows_resource(attributes, bit));
        if passes(&self.any_resource) {
            return true;
        }
        if attributes.subresource.is_empty() {
            return self.by_resource.get(attributes.resource).is_some_and(|l| passes(l));
        }
        let combined = format!("{}/{}", attributes.resource, attributes.subresource);
        self.by_resource.get(&combined).is_some_and(|l| passes(l))
            || self.any_with_subresource.get(attributes.subresource).is_some_and(|l| passes(l))
    }
}
