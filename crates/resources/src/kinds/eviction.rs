//! `pods/eviction`: a delete that asks the disruption budgets first.

use std::sync::Arc;

use api::selector::Labels;
use api::status::Cause;
use api::{Object, Status};
use async_trait::async_trait;
use registry::resource::Act;
use registry::{DeleteOptions, Engine, Part, Preconditions, RequestContext, Resource, UpdateOptions};
use serde_json::{Value, json};

use super::acted;

pub struct Evict;

/// More pods than this that are told to go, and are not yet gone, are a budget whose controller is away.
const DISRUPTED_MAX: usize = 2000;

#[async_trait]
impl Act for Evict {
    fn type_name(&self) -> &'static str {
        "io.k8s.api.policy.v1.Eviction"
    }

    async fn act(
        &self,
        engine: &Arc<Engine>,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        posted: Object,
    ) -> Result<Object, Status> {
        if posted.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let pods = engine.resource("", "pods").ok_or_else(Status::path_not_found)?.clone();
        let pod = engine.get(&pods, namespace, name, None).await?.object()?;
        let options = options_of(&posted);
        is_meant(&pod, &options.preconditions)?;
        if !may_go(&pod) {
            spend_budget(engine, cx, namespace, &pod).await?;
        }
        if !cx.dry_run && !pod.is_deleting() {
            say_why(engine, cx, &pods, &pod).await?;
        }
        // The condition that was just written made a new revision.
        let mut options = options;
        options.preconditions.resource_version = None;
        engine.delete(&pods, cx, (namespace, name), &options).await?;
        acted::success()
    }
}

fn options_of(posted: &Object) -> DeleteOptions {
    let text = |field: &str| {
        let found = posted.get(&["deleteOptions", "preconditions", field]).and_then(Value::as_str);
        found.map(str::to_owned)
    };
    DeleteOptions {
        grace_period_seconds: posted.get(&["deleteOptions", "gracePeriodSeconds"]).and_then(Value::as_i64),
        propagation: None,
        preconditions: Preconditions { uid: text("uid"), resource_version: text("resourceVersion") },
    }
}

/// Whether the pod is the one that the caller speaks of.
fn is_meant(pod: &Object, wanted: &Preconditions) -> Result<(), Status> {
    let refuse = |why: String| Err(Status::conflict(&api::GroupResource::new("", "Pod"), pod.name(), &why));
    if let Some(uid) = wanted.uid.as_deref().filter(|u| *u != pod.uid()) {
        return refuse(format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            pod.uid()
        ));
    }
    if let Some(version) = wanted.resource_version.as_deref().filter(|v| *v != pod.resource_version()) {
        return refuse(format!(
            "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
            pod.resource_version()
        ));
    }
    Ok(())
}

/// What serves nobody needs no budget.
fn may_go(pod: &Object) -> bool {
    matches!(pod.get_str(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.is_deleting()
}

fn is_ready(pod: &Object) -> bool {
    let conditions = pod.get(&["status", "conditions"]).and_then(Value::as_array);
    let is = |c: &Value, field: &str, text: &str| c.get(field).and_then(Value::as_str) == Some(text);
    conditions.into_iter().flatten().any(|c| is(c, "type", "Ready") && is(c, "status", "True"))
}

/// Writes into the pod why it goes, for whoever counts failures.
async fn say_why(engine: &Engine, cx: &RequestContext, pods: &Resource, pod: &Object) -> Result<(), Status> {
    let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let change = |current: Option<&Object>| {
        let current = current.filter(|c| c.uid() == pod.uid());
        let mut current =
            current.cloned().ok_or_else(|| Status::not_found(&pods.group_resource(), pod.name()))?;
        let mut condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
            "lastProbeTime": null,
            "lastTransitionTime": now,
        });
        if current.generation() > 0 {
            condition["observedGeneration"] = current.generation().into();
        }
        let status = api::object::map_entry(&mut current.0, "status");
        if let Value::Array(list) = status.entry("conditions").or_insert_with(|| json!([])) {
            list.retain(|c| c.get("type").and_then(Value::as_str) != Some("DisruptionTarget"));
            list.push(condition);
        }
        current.remove_meta("resourceVersion");
        Ok((current, Vec::new()))
    };
    let at = (pod.namespace(), pod.name());
    engine.update(pods, cx, at, Part::Trusted("eviction"), &change, &UpdateOptions::default()).await?;
    Ok(())
}

/// The budgets that cover a pod; a pod without labels is covered by none.
fn budgets_of(engine: &Engine, namespace: &str, pod: &Object) -> Result<Vec<Object>, Status> {
    let mut items = Vec::new();
    let cache = engine.cache("policy", "poddisruptionbudgets");
    if let (Some(cache), true) = (cache, pod.labels().is_some_and(|l| !l.is_empty())) {
        cache.scan(&format!("{namespace}/"), None, |item| {
            items.push(item.clone());
            true
        });
    }
    let mut found = Vec::new();
    for item in items {
        let budget = item.object()?;
        let selector =
            budget.get(&["spec", "selector"]).cloned().and_then(|s| serde_json::from_value(s).ok());
        if selector.is_some_and(|s| Labels::from_label_selector(&s).matches(pod.labels())) {
            found.push(budget);
        }
    }
    Ok(found)
}

/// Takes one disruption from the budget that covers the pod.
async fn spend_budget(
    engine: &Arc<Engine>,
    cx: &RequestContext,
    namespace: &str,
    pod: &Object,
) -> Result<(), Status> {
    let Some(budgets) = engine.resource("policy", "poddisruptionbudgets").cloned() else { return Ok(()) };
    let covering = budgets_of(engine, namespace, pod)?;
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(Status::failure(
                500,
                "",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    if !is_ready(pod) && unhealthy_may_go(budget) {
        return Ok(());
    }
    let name = budget.name().to_owned();
    let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let change = |current: Option<&Object>| {
        let mut current =
            current.cloned().ok_or_else(|| Status::not_found(&budgets.group_resource(), &name))?;
        take_one(&mut current, pod.name(), &now)?;
        current.remove_meta("resourceVersion");
        Ok((current, Vec::new()))
    };
    let at = (namespace, name.as_str());
    engine.update(&budgets, cx, at, Part::Status, &change, &UpdateOptions::default()).await?;
    Ok(())
}

fn count(budget: &Object, field: &str) -> i64 {
    budget.get(&["status", field]).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether a pod that is not ready may go without being counted.
fn unhealthy_may_go(budget: &Object) -> bool {
    let (healthy, desired) = (count(budget, "currentHealthy"), count(budget, "desiredHealthy"));
    budget.get_str(&["spec", "unhealthyPodEvictionPolicy"]) == "AlwaysAllow"
        || (healthy >= desired && desired > 0)
}

fn refused(retry_after: Option<u32>, why: String) -> Status {
    let words = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(words, retry_after.unwrap_or_default());
    if let Some(details) = &mut status.details {
        details.causes.push(Cause { reason: "DisruptionBudget".into(), message: why, field: String::new() });
        details.retry_after_seconds = retry_after;
    }
    status
}

/// One disruption less in a budget's status, or why there is none to take.
fn take_one(budget: &mut Object, pod: &str, now: &str) -> Result<(), Status> {
    let name = budget.name().to_owned();
    if count(budget, "observedGeneration") < budget.generation() {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(refused(Some(10), why));
    }
    let allowed = count(budget, "disruptionsAllowed");
    let forbidden = |why: &str| {
        Err(Status::forbidden(&api::GroupResource::new("policy", "poddisruptionbudget"), &name, why))
    };
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let going = budget.get(&["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, |m| m.len());
    if going > DISRUPTED_MAX {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let why = match failed_sync(budget) {
            Some(message) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
            ),
            None => format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                count(budget, "desiredHealthy"),
                count(budget, "currentHealthy")
            ),
        };
        return Err(refused(None, why));
    }
    budget.set(&["status", "disruptionsAllowed"], allowed - 1);
    budget.set(&["status", "disruptedPods", pod], now);
    if allowed == 1 {
        none_left(budget, now);
    }
    Ok(())
}

fn failed_sync(budget: &Object) -> Option<String> {
    let conditions = budget.get(&["status", "conditions"])?.as_array()?;
    let text = |c: &Value, field: &str| c.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let found = conditions
        .iter()
        .find(|c| text(c, "type") == "DisruptionAllowed" && text(c, "reason") == "SyncFailed")?;
    Some(text(found, "message"))
}

fn none_left(budget: &mut Object, now: &str) {
    let generation = budget.generation();
    let status = api::object::map_entry(&mut budget.0, "status");
    let Value::Array(list) = status.entry("conditions").or_insert_with(|| json!([])) else { return };
    list.retain(|c| c.get("type").and_then(Value::as_str) != Some("DisruptionAllowed"));
    list.push(json!({
        "type": "DisruptionAllowed",
        "status": "False",
        "reason": "InsufficientPods",
        "message": "",
        "observedGeneration": generation,
        "lastTransitionTime": now,
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: Value, generation: i64, expected: Result<i64, &str>) {
        let mut budget = Object::default();
        budget.set_meta("name", "b");
        budget.set_meta("generation", generation);
        budget.0.insert("status".into(), status);
        let got = take_one(&mut budget, "p", "2026-01-01T00:00:00Z")
            .map(|()| count(&budget, "disruptionsAllowed"))
            .map_err(|e| e.details.and_then(|d| Some(d.causes.first()?.message.clone())).unwrap_or_default());
        assert_eq!(got, expected.map_err(str::to_owned));
    }

    #[test]
    fn a_budget_is_spent_one_by_one() {
        check(json!({"disruptionsAllowed": 2, "observedGeneration": 1}), 1, Ok(1));
        check(
            json!({"disruptionsAllowed": 2}),
            1,
            Err("The disruption budget b is still being processed by the server."),
        );
        check(
            json!({"observedGeneration": 1, "desiredHealthy": 2, "currentHealthy": 2}),
            1,
            Err("The disruption budget b needs 2 healthy pods and has 2 currently"),
        );
    }
}
