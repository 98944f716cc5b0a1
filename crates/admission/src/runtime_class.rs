//! RuntimeClass: a pod costs what its class says more, and goes where its class can run.

use api::{Object, Quantity, Status};
use registry::{Operation, Verdict};
use serde_json::{Map, Value};

use crate::{Plugin, is, items, look_up, refuse};

pub(crate) struct RuntimeClass;

const OVERHEAD: &[&str] = &["spec", "overhead"];

/// The class that a pod names.
fn class(request: &Verdict<'_>, pod: &Object) -> Result<Option<Object>, Status> {
    let name = pod.get_str(&["spec", "runtimeClassName"]);
    if name.is_empty() {
        return Ok(None);
    }
    let missing =
        || refuse(request, &format!("pod rejected: RuntimeClass {} not found", api::field::quote(name)));
    look_up(request, "node.k8s.io", "runtimeclasses", name)?.map(Some).ok_or_else(missing)
}

fn fixed(class: &Object) -> Option<&Map<String, Value>> {
    class.get(&["overhead", "podFixed"]).and_then(Value::as_object)
}

/// Whether two lists of amounts are the same amounts.
fn same(a: &Map<String, Value>, b: &Map<String, Value>) -> bool {
    let amount = |v: &Value| v.as_str().and_then(|t| Quantity::parse(t).ok());
    a.len() == b.len() && a.iter().all(|(name, v)| b.get(name).is_some_and(|w| amount(v) == amount(w)))
}

fn mismatch(request: &Verdict<'_>) -> Status {
    refuse(request, "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
}

impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "pods", &[Operation::Create])
    }

    fn mutate(&self, request: &Verdict<'_>, pod: &mut Object) -> Result<(), Status> {
        let Some(class) = class(request, pod)? else { return Ok(()) };
        if let Some(fixed) = fixed(&class) {
            match pod.get(OVERHEAD).and_then(Value::as_object) {
                Some(given) if !given.is_empty() && !same(given, fixed) => return Err(mismatch(request)),
                Some(given) if !given.is_empty() => {}
                _ => pod.set(OVERHEAD, fixed.clone()),
            }
        }
        schedule(request, &class, pod)
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let Some(pod) = object else { return Ok(Vec::new()) };
        let class = class(request, pod)?;
        let given = pod.get(OVERHEAD).and_then(Value::as_object).filter(|o| !o.is_empty());
        match (given, class.as_ref().and_then(fixed)) {
            (Some(_), None) => Err(refuse(
                request,
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            (Some(given), Some(fixed)) if !same(given, fixed) => Err(mismatch(request)),
            _ => Ok(Vec::new()),
        }
    }
}

/// Narrows the pod to the class's nodes, and lets it on them.
fn schedule(request: &Verdict<'_>, class: &Object, pod: &mut Object) -> Result<(), Status> {
    let Some(scheduling) = class.0.get("scheduling") else { return Ok(()) };
    let spec = api::object::map_entry(&mut pod.0, "spec");
    for (key, wanted) in scheduling.get("nodeSelector").and_then(Value::as_object).into_iter().flatten() {
        let selector = api::object::map_entry(spec, "nodeSelector");
        if let Some(given) = selector.get(key).filter(|given| *given != wanted) {
            let (wanted, given) = (wanted.as_str().unwrap_or_default(), given.as_str().unwrap_or_default());
            let why = format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {wanted}; pod.spec.nodeSelector[{key}] = {given}"
            );
            return Err(refuse(request, &why));
        }
        selector.insert(key.clone(), wanted.clone());
    }
    for toleration in items(scheduling, "tolerations") {
        let list = spec.entry("tolerations").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(list) = list
            && !list.contains(toleration)
        {
            list.push(toleration.clone());
        }
    }
    Ok(())
}
