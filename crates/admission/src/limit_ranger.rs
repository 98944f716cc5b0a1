//! LimitRanger: what containers and claims may ask for in a namespace, and what they get unasked.

use std::collections::BTreeMap;

use api::{Object, Quantity, Status};
use registry::{Operation, Verdict};
use serde_json::{Map, Value, json};

use crate::resize::is_resize;
use crate::{Plugin, is, items, refuse, standing, text};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub(crate) struct LimitRanger;

type Amounts = BTreeMap<String, Quantity>;

/// Amounts that a pod's containers get unasked: each may get all of a range's.
const MOST_GIVEN: usize = 100_000;
/// Faults behind which no container is looked at any more: each may break every bound.
const MOST_FAULTS: usize = 1_000;

impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        // A pod's containers ask for the same all their life, unless they are resized.
        is(request, "pods", &[Operation::Create])
            || is_resize(request)
            || is(request, "persistentvolumeclaims", &[Operation::Create, Operation::Update])
    }

    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        if request.resource.plural != "pods" {
            return Ok(());
        }
        let mut left = MOST_GIVEN;
        for item in standing(request, "", "limitranges", request.namespace) {
            let too_many = || refuse(request, "limit ranges give its containers too many amounts");
            fill(&item.object()?, object, &mut left).ok_or_else(too_many)?;
        }
        Ok(())
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let Some(object) = object else { return Ok(Vec::new()) };
        for item in standing(request, "", "limitranges", request.namespace) {
            let range = item.object()?;
            let mut faults = Vec::new();
            for limit in range.0.get("spec").into_iter().flat_map(|spec| items(spec, "limits")) {
                check(request, limit, object, &mut faults);
            }
            match faults.as_slice() {
                [] => {}
                [one] => return Err(refuse(request, one)),
                several => return Err(refuse(request, &format!("[{}]", several.join(", ")))),
            }
        }
        Ok(Vec::new())
    }
}

fn amounts(value: &Value, list: &str) -> Amounts {
    let list = value.get(list).and_then(Value::as_object);
    // What was validated parses.
    let read = |v: &Value| v.as_str().and_then(|t| Quantity::parse(t).ok());
    list.into_iter().flatten().filter_map(|(name, v)| Some((name.clone(), read(v)?))).collect()
}

/// Gives containers what the range says where they say nothing, and notes it on the pod; nothing where that is more
/// than may be given.
fn fill(range: &Object, pod: &mut Object, left: &mut usize) -> Option<()> {
    let (mut requests, mut limits) = (Map::new(), Map::new());
    for limit in range.0.get("spec").into_iter().flat_map(|spec| items(spec, "limits")) {
        if text(limit, "type") == "Container" {
            let copy = |from: &str, into: &mut Map<String, Value>| {
                into.extend(limit.get(from).and_then(Value::as_object).cloned().into_iter().flatten());
            };
            copy("defaultRequest", &mut requests);
            copy("default", &mut limits);
        }
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.0.get_mut("spec").and_then(|s| s.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            let name = container.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
            let resources = api::object::map_entry(container, "resources");
            for (kind, given) in [("requests", &requests), ("limits", &limits)] {
                let set = merge(resources, kind, given);
                *left = left.checked_sub(set.len())?;
                if !set.is_empty() {
                    notes.push(format!(
                        "{} {} for {word} {name}",
                        set.join(", "),
                        kind.trim_end_matches('s')
                    ));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        api::object::map_entry(pod.metadata_mut(), "annotations").insert(ANNOTATION.into(), json!(note));
    }
    Some(())
}

/// Answers the names that were missing, in order.
fn merge(resources: &mut Map<String, Value>, kind: &str, given: &Map<String, Value>) -> Vec<String> {
    if given.is_empty() {
        return Vec::new();
    }
    let standing = api::object::map_entry(resources, kind);
    let mut set: Vec<String> = given.keys().filter(|name| !standing.contains_key(*name)).cloned().collect();
    set.sort_unstable();
    for name in &set {
        standing.insert(name.clone(), given[name].clone());
    }
    set
}

fn check(request: &Verdict<'_>, limit: &Value, object: &Object, faults: &mut Vec<String>) {
    let kind = text(limit, "type");
    let spec = object.0.get("spec").unwrap_or(&Value::Null);
    match (kind, request.resource.plural.as_str()) {
        ("Container", "pods") => {
            let bounds = Bounds::of(limit, kind);
            for container in items(spec, "containers").chain(items(spec, "initContainers")) {
                if faults.len() > MOST_FAULTS {
                    return;
                }
                let resources = container.get("resources").unwrap_or(&Value::Null);
                bounds.check(&amounts(resources, "requests"), &amounts(resources, "limits"), faults);
            }
        }
        ("Pod", "pods") => {
            Bounds::of(limit, kind).check(&total(spec, "requests"), &total(spec, "limits"), faults);
        }
        ("PersistentVolumeClaim", "persistentvolumeclaims") => {
            let requests = amounts(spec.get("resources").unwrap_or(&Value::Null), "requests");
            for (name, least) in amounts(limit, "min") {
                at_least(&name, kind, least, requests.get(&name), None, faults);
            }
            for (name, most) in amounts(limit, "max") {
                match requests.get(&name) {
                    None => faults
                        .push(format!("maximum {name} usage per {kind} is {most}. No request is specified")),
                    Some(asked) if *asked > most => {
                        faults.push(format!(
                            "maximum {name} usage per {kind} is {most}, but request is {asked}"
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        _ => {}
    }
}

/// What a pod's containers come to together, or more where starting it takes more.
fn total(spec: &Value, list: &str) -> Amounts {
    let of = |container: &Value| amounts(container.get("resources").unwrap_or(&Value::Null), list);
    let mut sum = Amounts::new();
    let mut add = |more: Amounts| {
        for (name, amount) in more {
            let slot = sum.entry(name).or_insert(Quantity::ZERO);
            *slot = *slot + amount;
        }
    };
    let sidecar = |c: &&Value| text(c, "restartPolicy") == "Always";
    items(spec, "containers").for_each(|c| add(of(c)));
    items(spec, "initContainers").filter(sidecar).for_each(|c| add(of(c)));
    for container in items(spec, "initContainers").filter(|c| !sidecar(c)) {
        for (name, amount) in of(container) {
            let slot = sum.entry(name).or_insert(Quantity::ZERO);
            *slot = (*slot).max(amount);
        }
    }
    sum
}

/// What containers or pods may ask for at least and at most.
struct Bounds<'a> {
    kind: &'a str,
    min: Amounts,
    max: Amounts,
    ratio: Amounts,
}

impl Bounds<'_> {
    fn of<'a>(limit: &Value, kind: &'a str) -> Bounds<'a> {
        let [min, max, ratio] = ["min", "max", "maxLimitRequestRatio"].map(|list| amounts(limit, list));
        Bounds { kind, min, max, ratio }
    }

    fn check(&self, requests: &Amounts, limits: &Amounts, faults: &mut Vec<String>) {
        let kind = self.kind;
        for (name, least) in &self.min {
            at_least(name, kind, *least, requests.get(name), limits.get(name), faults);
        }
        for (name, most) in &self.max {
            let so = format!("maximum {name} usage per {kind} is {most}");
            match (limits.get(name), requests.get(name)) {
                (None, _) => faults.push(format!("{so}. No limit is specified")),
                (Some(given), _) if given > most => faults.push(format!("{so}, but limit is {given}")),
                (_, Some(asked)) if asked > most => faults.push(format!("{so}, but request is {asked}")),
                _ => {}
            }
        }
        for (name, most) in &self.ratio {
            let so = format!("{name} max limit to request ratio per {kind} is {most}");
            let set = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
            match (set(requests), set(limits)) {
                (None, _) => faults.push(format!("{so}, but no request is specified or request is 0")),
                (_, None) => faults.push(format!("{so}, but no limit is specified or limit is 0")),
                (Some(asked), Some(given)) => {
                    let ratio = given.milli() as f64 / asked.milli() as f64;
                    if ratio * 1000.0 > most.milli() as f64 {
                        faults.push(format!("{so}, but provided ratio is {ratio:.6}"));
                    }
                }
            }
        }
    }
}

fn at_least(
    name: &str,
    kind: &str,
    least: Quantity,
    request: Option<&Quantity>,
    limit: Option<&Quantity>,
    faults: &mut Vec<String>,
) {
    let so = format!("minimum {name} usage per {kind} is {least}");
    match (request, limit) {
        (None, _) => faults.push(format!("{so}. No request is specified")),
        (Some(asked), _) if *asked < least => faults.push(format!("{so}, but request is {asked}")),
        (_, Some(given)) if *given < least => faults.push(format!("{so}, but limit is {given}")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object;

    #[test]
    fn containers_get_what_they_do_not_say_within_bounds() {
        let limit = json!({"type": "Container", "default": {"cpu": "2"}, "defaultRequest": {"cpu": "1", "memory": "1Gi"}});
        let range = object(json!({"spec": {"limits": [limit, {"type": "Pod", "default": {"cpu": "9"}}]}}));
        let containers = json!([
            {"name": "a", "resources": {"requests": {"cpu": "3"}}}, {"name": "b", "resources": {}},
        ]);
        let pod = || object(json!({"metadata": {}, "spec": {"containers": containers}}));
        let mut filled = pod();
        assert_eq!(fill(&range, &mut filled, &mut 5), Some(()));
        let full = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": "2"}});
        assert_eq!(filled.0["spec"]["containers"][0]["resources"], full("3"));
        assert_eq!(filled.0["spec"]["containers"][1]["resources"], full("1"));
        let note = "LimitRanger plugin set: memory request for container a; cpu limit for container a; \
            cpu, memory request for container b; cpu limit for container b";
        assert_eq!(filled.annotation(ANNOTATION), Some(note));
        assert_eq!(fill(&range, &mut pod(), &mut 4), None);
    }
}
