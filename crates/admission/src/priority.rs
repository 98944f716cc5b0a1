//! Priority: a pod's priority is its class's.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::Value;

use crate::{Plugin, is, refuse};

/// Classes that every cluster has, should their objects be missing.
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(crate) struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "pods", &[Operation::Create])
    }

    fn mutate(&self, request: &Verdict<'_>, pod: &mut Object) -> Result<(), Status> {
        let asked = pod.get_str(&["spec", "priorityClassName"]).to_owned();
        let class =
            if asked.is_empty() { default_class(request)? } else { Some(named(request, pod, &asked)?) };
        let (name, value, preemption) =
            class.unwrap_or_else(|| (String::new(), 0, "PreemptLowerPriority".into()));
        let given = pod.get(&["spec", "priority"]).and_then(Value::as_i64);
        if given.is_some_and(|g| g != value) {
            return Err(refuse(
                request,
                &format!(
                    "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                    given.unwrap_or_default()
                ),
            ));
        }
        if !name.is_empty() {
            pod.set(&["spec", "priorityClassName"], name);
        }
        pod.set(&["spec", "priority"], value);
        if pod.get(&["spec", "preemptionPolicy"]).is_none() {
            pod.set(&["spec", "preemptionPolicy"], preemption);
        }
        Ok(())
    }
}

type Class = (String, i64, String);

fn read(class: &Object) -> Class {
    let value = class.0.get("value").and_then(Value::as_i64).unwrap_or(0);
    let policy = class.get_str(&["preemptionPolicy"]);
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    (class.name().to_owned(), value, policy.to_owned())
}

fn named(request: &Verdict<'_>, pod: &Object, name: &str) -> Result<Class, Status> {
    if let Some(found) =
        request.engine.cache("scheduling.k8s.io", "priorityclasses").and_then(|c| c.get(name))
    {
        return Ok(read(&found.object()?));
    }
    if let Some((name, value)) = SYSTEM.iter().find(|(n, _)| *n == name) {
        return Ok(((*name).to_owned(), *value, "PreemptLowerPriority".into()));
    }
    let resource = request.resource.group_resource();
    Err(Status::forbidden(&resource, pod.name(), &format!("no PriorityClass with name {name} was found")))
}

fn default_class(request: &Verdict<'_>) -> Result<Option<Class>, Status> {
    let mut best: Option<Class> = None;
    let Some(cache) = request.engine.cache("scheduling.k8s.io", "priorityclasses") else { return Ok(None) };
    let mut found = Vec::new();
    cache.scan("", None, |item| {
        found.push(item.clone());
        true
    });
    for item in found {
        let class = item.object()?;
        if class.0.get("globalDefault").and_then(Value::as_bool) != Some(true) {
            continue;
        }
        let class = read(&class);
        // Several defaults should not be; the lowest is taken.
        if best.as_ref().is_none_or(|b| class.1 < b.1) {
            best = Some(class);
        }
    }
    Ok(best)
}
