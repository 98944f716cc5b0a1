//! What pods ask of nodes: node selector terms, and tolerations of taints. For all who place pods or
//! take them away.

use std::collections::BTreeMap;

use api::selector::{Labels, Requirement};
use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Pod, Taint, Toleration};

/// One term of a node selector: all its parts must match.
#[derive(Clone, Debug)]
pub struct NodeTerm {
    labels: Labels,
    fields: Labels,
}

impl NodeTerm {
    pub fn of(term: &NodeSelectorTerm) -> Self {
        let read = |list: Option<&Vec<NodeSelectorRequirement>>| {
            Labels(list.into_iter().flatten().filter_map(requirement).collect())
        };
        Self { labels: read(term.match_expressions.as_ref()), fields: read(term.match_fields.as_ref()) }
    }

    /// A term that asks for nothing matches nothing.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.labels.is_empty() && self.fields.is_empty() {
            return false;
        }
        let field = |key: &str| (key == "metadata.name").then_some(name);
        selected(&self.labels, labels) && self.fields.matches_with(field)
    }
}

fn requirement(from: &NodeSelectorRequirement) -> Option<Requirement> {
    let (key, values) = (from.key.clone(), from.values.clone().unwrap_or_default());
    let number = |values: &[String]| values.first().and_then(|value| value.parse().ok());
    Some(match from.operator.as_str() {
        "In" => Requirement::In(key, values),
        "NotIn" => Requirement::NotIn(key, values),
        "Exists" => Requirement::Exists(key),
        "DoesNotExist" => Requirement::NotExists(key),
        "Gt" => Requirement::GreaterThan(key, number(&values)?),
        "Lt" => Requirement::LessThan(key, number(&values)?),
        _ => return None,
    })
}

pub fn selected(selector: &Labels, labels: &BTreeMap<String, String>) -> bool {
    selector.matches_with(|key| labels.get(key).map(String::as_str))
}

/// Whether a pod's node selector and its required node affinity choose a node.
pub fn chooses(pod: &Pod, name: &str, labels: &BTreeMap<String, String>) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let chosen = spec.node_selector.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        affinity.and_then(|node| node.required_during_scheduling_ignored_during_execution.as_ref());
    let fits = |term: &NodeSelectorTerm| NodeTerm::of(term).matches(name, labels);
    chosen && required.is_none_or(|required| required.node_selector_terms.iter().any(fits))
}

/// Whether a toleration lets a pod stay with a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let effect = set(&toleration.effect).is_none_or(|effect| effect == taint.effect);
    let key = set(&toleration.key).is_none_or(|key| key == taint.key);
    let (have, want) =
        (taint.value.as_deref().unwrap_or_default(), toleration.value.as_deref().unwrap_or_default());
    let number = |text: &str| text.parse::<i64>().ok();
    let value = match toleration.operator.as_deref().filter(|text| !text.is_empty()).unwrap_or("Equal") {
        "Exists" => true,
        "Lt" => number(have).zip(number(want)).is_some_and(|(have, want)| have < want),
        "Gt" => number(have).zip(number(want)).is_some_and(|(have, want)| have > want),
        _ => have == want,
    };
    effect && key && value
}

pub fn tolerates_all<'a>(tolerations: &[Toleration], taints: impl IntoIterator<Item = &'a Taint>) -> bool {
    let tolerated = |taint: &Taint| tolerations.iter().any(|toleration| tolerates(toleration, taint));
    taints.into_iter().all(tolerated)
}
