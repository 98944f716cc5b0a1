//! Priority: a pod's priority is its class's.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::Value;

use crate::{Plugin, is, look_up, refuse, standing};

/// Classes that every cluster has, should their objects be missing.
const SYSTEM: &[(&str, i64)] =
    &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub(crate) struct Priority;

impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "pods", &[Operation::Create]) || about_class(request)
    }

    fn mutate(&self, request: &Verdict<'_>, pod: &mut Object) -> Result<(), Status> {
        if about_class(request) {
            return Ok(());
        }
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
        let given = pod.get_str(&["spec", "preemptionPolicy"]);
        if !given.is_empty() && given != preemption {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {preemption} from the given PriorityClass name"
            );
            return Err(refuse(request, &why));
        }
        pod.set(&["spec", "preemptionPolicy"], preemption);
        Ok(())
    }

    /// Of all classes one at most is the default.
    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let defaults = |class: &Object| class.0.get("globalDefault") == Some(&Value::Bool(true));
        if !about_class(request) || !object.is_some_and(defaults) {
            return Ok(Vec::new());
        }
        if let Some((name, _, _)) = default_class(request)?.filter(|(name, _, _)| name != request.name) {
            let why =
                format!("PriorityClass {name} is already marked as default. Only one default can exist");
            return Err(refuse(request, &why));
        }
        Ok(Vec::new())
    }
}

fn about_class(request: &Verdict<'_>) -> bool {
    request.resource.group == "scheduling.k8s.io"
        && request.resource.plural == "priorityclasses"
        && matches!(request.operation, Operation::Create | Operation::Update)
}

type Class = (String, i64, String);

fn read(class: &Object) -> Class {
    let value = class.0.get("value").and_then(Value::as_i64).unwrap_or(0);
    let policy = class.get_str(&["preemptionPolicy"]);
    let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
    (class.name().to_owned(), value, policy.to_owned())
}

fn named(request: &Verdict<'_>, pod: &Object, name: &str) -> Result<Class, Status> {
    if let Some(class) = look_up(request, "scheduling.k8s.io", "priorityclasses", name)? {
        return Ok(read(&class));
    }
    if let Some((name, value)) = SYSTEM.iter().find(|(n, _)| *n == name) {
        return Ok(((*name).to_owned(), *value, "PreemptLowerPriority".into()));
    }
    let resource = request.resource.group_resource();
    Err(Status::forbidden(&resource, pod.name(), &format!("no PriorityClass with name {name} was found")))
}

fn default_class(request: &Verdict<'_>) -> Result<Option<Class>, Status> {
    let mut best: Option<Class> = None;
    for item in standing(request, "scheduling.k8s.io", "priorityclasses", "") {
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
