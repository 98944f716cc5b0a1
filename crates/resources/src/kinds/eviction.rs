//! `pods/eviction`: a delete that asks the disruption budgets first.

use std::sync::Arc;

use api::selector::Labels;
use api::{Object, Status};
use async_trait::async_trait;
use registry::resource::Act;
use registry::{DeleteOptions, Engine, Part, Preconditions, RequestContext, UpdateOptions};
use serde_json::Value;

pub struct Evict;

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
        if !posted.name().is_empty() && posted.name() != name {
            return Err(Status::bad_request(
                "name in URL does not match name in Eviction object: ".to_owned()
                    + &format!("{name} != {}", posted.name()),
            ));
        }
        let pods = engine.resource("", "pods").ok_or_else(Status::path_not_found)?.clone();
        let pod = engine.get(&pods, namespace, name, None).await?.object()?;
        if !finished(&pod) {
            spend_budget(engine, cx, namespace, &pod).await?;
        }
        let number = |field: &str| posted.get(&["deleteOptions", field]).and_then(Value::as_i64);
        let text = |field: &str| {
            let found = posted.get(&["deleteOptions", "preconditions", field]).and_then(Value::as_str);
            found.map(str::to_owned)
        };
        let options = DeleteOptions {
            grace_period_seconds: number("gracePeriodSeconds"),
            propagation: None,
            preconditions: Preconditions { uid: text("uid"), resource_version: text("resourceVersion") },
        };
        engine.delete(&pods, cx, (namespace, name), &options).await?;
        let done = Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: "Success".into(),
            code: 201,
            ..Status::default()
        };
        match serde_json::to_value(done).map_err(Status::internal)? {
            Value::Object(map) => Ok(Object(map)),
            _ => Err(Status::internal("a Status is no map")),
        }
    }
}

fn finished(pod: &Object) -> bool {
    matches!(pod.get_str(&["status", "phase"]), "Succeeded" | "Failed" | "Pending") || pod.is_deleting()
}

/// Takes one disruption from the budget that covers the pod.
async fn spend_budget(
    engine: &Arc<Engine>,
    cx: &RequestContext,
    namespace: &str,
    pod: &Object,
) -> Result<(), Status> {
    let Some(budgets) = engine.resource("policy", "poddisruptionbudgets").cloned() else { return Ok(()) };
    let mut covering = Vec::new();
    if let Some(cache) = engine.cache("policy", "poddisruptionbudgets") {
        cache.scan(&format!("{namespace}/"), None, |item| {
            covering.push(item.clone());
            true
        });
    }
    let mut chosen = Vec::new();
    for item in covering {
        let budget = item.object()?;
        let selector =
            budget.get(&["spec", "selector"]).cloned().and_then(|s| serde_json::from_value(s).ok());
        if selector.is_some_and(|s| Labels::from_label_selector(&s).matches(pod.labels())) {
            chosen.push(budget);
        }
    }
    let budget = match chosen.as_slice() {
        [] => return Ok(()),
        [one] => one.name().to_owned(),
        _ => {
            return Err(Status::failure(
                500,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    let change = |current: Option<&Object>| {
        let mut current =
            current.cloned().ok_or_else(|| Status::not_found(&budgets.group_resource(), &budget))?;
        let allowed = current.get(&["status", "disruptionsAllowed"]).and_then(Value::as_i64).unwrap_or(0);
        if allowed <= 0 {
            let mut refused = Status::too_many_requests(
                "Cannot evict pod as it would violate the pod's disruption budget.",
                10,
            );
            if let Some(details) = &mut refused.details {
                details.causes.push(api::status::Cause {
                    reason: "DisruptionBudget".into(),
                    message: format!(
                        "The disruption budget {budget} needs {} healthy pods and has {} currently",
                        current.get(&["status", "desiredHealthy"]).and_then(Value::as_i64).unwrap_or(0),
                        current.get(&["status", "currentHealthy"]).and_then(Value::as_i64).unwrap_or(0)
                    ),
                    field: String::new(),
                });
                details.retry_after_seconds = None;
            }
            return Err(refused);
        }
        current.set(&["status", "disruptionsAllowed"], allowed - 1);
        let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        current.set(&["status", "disruptedPods", pod.name()], now);
        current.remove_meta("resourceVersion");
        Ok((current, Vec::new()))
    };
    engine
        .update(&budgets, cx, (namespace, &budget), Part::Status, &change, &UpdateOptions::default())
        .await?;
    Ok(())
}
