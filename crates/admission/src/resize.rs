//! NodeDeclaredFeatureValidator and PodResizeValidator: what a pod asks anew of the node it runs on.

use api::field::quote;
use api::k8s::api::core::v1::Pod;
use api::status::Cause;
use api::{Object, Quantity, Status};
use registry::{Operation, Verdict};
use serde_json::Value;

use crate::quota::decode;
use crate::{Plugin, items, look_up, refuse, text};

/// Whether it is another size that is asked for.
pub(crate) fn is_resize(request: &Verdict<'_>) -> bool {
    request.resource.group.is_empty()
        && request.resource.plural == "pods"
        && request.subresource == Some("resize")
        && request.operation == Operation::Update
}

/// The node of a pod whose size changes; none where it has none or nothing changes.
fn node(request: &Verdict<'_>, new: &Object) -> Result<Option<Object>, Status> {
    let name = new.get_str(&["spec", "nodeName"]);
    if name.is_empty() || request.old.is_none_or(|old| old.0.get("spec") == new.0.get("spec")) {
        return Ok(None);
    }
    let found = look_up(request, "", "nodes", name)?;
    found.map(Some).ok_or_else(|| refuse(request, &format!("node {} not found", quote(name))))
}

/// Only a node that declares that it can changes init containers, or a pod as a whole.
pub(crate) struct NodeDeclaredFeatureValidator;

impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is_resize(request)
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let (Some(new), Some(old)) = (object, request.old) else { return Ok(Vec::new()) };
        if let Some(node) = node(request, new)? {
            undeclared(new, old, &node).map_or(Ok(()), |why| Err(refuse(request, &why)))?;
        }
        Ok(Vec::new())
    }
}

/// What a change needs that the node does not declare.
fn undeclared(new: &Object, old: &Object, node: &Object) -> Option<String> {
    let spec = |pod: &Object| pod.0.get("spec").cloned().unwrap_or_default();
    let (new, old) = (spec(new), spec(old));
    let inits = items(&new, "initContainers").zip(items(&old, "initContainers"));
    let mut inits = inits.filter(|(_, was)| text(was, "restartPolicy") != "Always");
    let needed = [
        ("InPlacePodLevelResourcesVerticalScaling", new.get("resources") != old.get("resources")),
        (
            "InPlacePodVerticalScalingInitContainers",
            inits.any(|(now, was)| now.get("resources") != was.get("resources")),
        ),
    ];
    let status = node.0.get("status").unwrap_or(&Value::Null);
    let missing: Vec<&str> = needed
        .into_iter()
        .filter(|(feature, is_needed)| {
            *is_needed && !items(status, "declaredFeatures").any(|d| *d == *feature)
        })
        .map(|(feature, _)| feature)
        .collect();
    (!missing.is_empty()).then(|| {
        let (missing, node) = (missing.join(", "), quote(node.name()));
        format!("pod update requires features {missing} which are not available on node {node}")
    })
}

/// A pod does not outgrow its node.
pub(crate) struct PodResizeValidator;

impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is_resize(request)
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let Some(new) = object else { return Ok(Vec::new()) };
        let Some(node) = node(request, new)? else { return Ok(Vec::new()) };
        let Some((reason, why)) = unfit(new, &node)? else { return Ok(Vec::new()) };
        let mut status = refuse(request, &why);
        if let Some(details) = &mut status.details {
            details.causes.push(Cause { reason: reason.into(), ..Cause::default() });
        }
        Err(status)
    }
}

/// Why a node can't hold a pod.
fn unfit(pod: &Object, node: &Object) -> Result<Option<(&'static str, String)>, Status> {
    let system = node.labels().and_then(|labels| labels.get("kubernetes.io/os")?.as_str());
    if let Some(system) = system.filter(|system| *system != "linux") {
        let (name, system) = (quote(node.name()), quote(system));
        let why = format!("pod resize is only supported on linux nodes, node {name} is {system}");
        return Ok(Some(("UnsupportedPlatform", why)));
    }
    let asked = api::quota::requests(&decode::<Pod>(pod)?.spec.unwrap_or_default());
    let asked = |name: &str| asked.get(name).copied().unwrap_or(Quantity::ZERO);
    let has = |name: &str| {
        Quantity::parse(node.get_str(&["status", "allocatable", name])).unwrap_or(Quantity::ZERO)
    };
    let rows = [("cpu", Quantity::milli as fn(Quantity) -> i64), ("memory", Quantity::value)];
    let short: Vec<String> = rows
        .into_iter()
        .filter(|(name, _)| asked(name) > has(name))
        .map(|(name, shown)| {
            format!("{name}, requested: {}, allocatable: {}", shown(asked(name)), shown(has(name)))
        })
        .collect();
    let why = || format!("node didn't have enough allocatable resources: {}", short.join("; "));
    Ok((!short.is_empty()).then(|| ("NodeCapacity", why())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::object;

    #[test]
    fn a_node_declares_what_it_can_change() {
        let pod = |init: &str, sidecar: &str, whole: &str| {
            let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
            object(json!({"spec": {"resources": asks(whole), "initContainers": [
                {"name": "a", "resources": asks(init)},
                {"name": "b", "resources": asks(sidecar), "restartPolicy": "Always"},
            ]}}))
        };
        let node = |declared: &[&str]| {
            object(json!({"metadata": {"name": "n"}, "status": {"declaredFeatures": declared}}))
        };
        let (init, whole) =
            ("InPlacePodVerticalScalingInitContainers", "InPlacePodLevelResourcesVerticalScaling");
        let check = |new: Object, declared: &[&str], missing: &str| {
            let why = format!("pod update requires features {missing} which are not available on node \"n\"");
            let expected = Some(why).filter(|_| !missing.is_empty());
            assert_eq!(undeclared(&new, &pod("1", "1", "1"), &node(declared)), expected);
        };
        check(pod("1", "1", "1"), &[], "");
        check(pod("1", "2", "1"), &[], "");
        check(pod("2", "1", "1"), &[], init);
        check(pod("2", "1", "1"), &[init], "");
        check(pod("1", "1", "2"), &[init], whole);
        check(pod("2", "1", "2"), &[], &format!("{whole}, {init}"));
        check(pod("2", "1", "2"), &[whole, init], "");
    }

    #[test]
    fn a_pod_does_not_outgrow_its_node() {
        let check = |labels: Value, cpu: &str, memory: &str, expected: Option<(&'static str, &str)>| {
            let asks = json!({"requests": {"cpu": cpu, "memory": memory}});
            let pod = object(json!({"spec": {"containers": [{"name": "c", "resources": asks}]}}));
            let node = object(json!({
                "metadata": {"name": "n", "labels": labels},
                "status": {"allocatable": {"cpu": "2", "memory": "1Ki"}},
            }));
            let found = unfit(&pod, &node).unwrap();
            assert_eq!(found.as_ref().map(|(reason, why)| (*reason, why.as_str())), expected);
        };
        let short = |why: &'static str| Some(("NodeCapacity", why));
        check(json!({}), "2", "1024", None);
        check(
            json!({"kubernetes.io/os": "linux"}),
            "2001m",
            "1024",
            short("node didn't have enough allocatable resources: cpu, requested: 2001, allocatable: 2000"),
        );
        check(
            json!({}),
            "3",
            "2Ki",
            short(
                "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2048, allocatable: 1024",
            ),
        );
        check(
            json!({"kubernetes.io/os": "windows"}),
            "1",
            "1",
            Some((
                "UnsupportedPlatform",
                "pod resize is only supported on linux nodes, node \"n\" is \"windows\"",
            )),
        );
    }
}
