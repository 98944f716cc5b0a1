//! Cluster roles whose rules are those of others, chosen by label.

use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;

use crate::context::{Context, Error};
use crate::ownership::matches;

struct Controller {
    context: Context,
    roles: Informer<ClusterRole>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let roles = context.informers.of::<ClusterRole>();
    let known = roles.clone();
    // Any role may be part of any aggregated one; there are few of those.
    roles.enqueue(&queue, move |change| {
        let mut names: Vec<String> = change.object().metadata.name.iter().cloned().collect();
        let aggregated = known.list().into_iter().filter(|role| role.aggregation_rule.is_some());
        names.extend(aggregated.filter_map(|role| role.metadata.name.clone()));
        names
    });
    roles.synced().await;
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, roles });
    client::run("clusterrole-aggregation", queue, Workers(1), controller, cancel).await;
}

/// The rules of an aggregated role: those of the roles chosen, in the order of their names, each once.
fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref()?;
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.iter().map(Labels::from_label_selector) {
        let mut chosen: Vec<_> = all
            .iter()
            .filter(|other| other.metadata.name != role.metadata.name)
            .filter(|other| matches(&selector, other.metadata.labels.as_ref()))
            .collect();
        chosen.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in chosen.into_iter().flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

impl Reconcile for Controller {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, key: &String) -> Result<Option<Duration>, Error> {
        let Some(role) = self.roles.get(&ObjectKey::cluster(key)) else { return Ok(None) };
        let Some(rules) = plan(&role, &self.roles.list()) else { return Ok(None) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(None);
        }
        let mut wanted = ClusterRole::clone(&role);
        wanted.rules = Some(rules);
        let api: Api<ClusterRole> = Api::all(self.context.client.clone());
        let written = write::replace(&api, &*role, &wanted).await;
        write::found(written).map_err(Error::api(format!("rules of cluster role {key}")))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn role(value: Value) -> ClusterRole {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn rules_are_gathered_once_each() {
        let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]});
        let part = |name: &str, rules: Value| {
            Arc::new(role(json!({"metadata": {"name": name, "labels": {"to": "edit"}}, "rules": rules})))
        };
        let all = [part("b", json!([rule("get"), rule("list")])), part("a", json!([rule("get")]))];
        let edit = role(json!({"metadata": {"name": "edit"},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"to": "edit"}}]}}));
        let rules = plan(&edit, &all).unwrap();
        assert_eq!(rules.iter().map(|rule| rule.verbs.join(",")).collect::<Vec<_>>(), ["get", "list"]);
        assert!(plan(&all[0], &all).is_none());
    }
}
