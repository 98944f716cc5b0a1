//! NodeRestriction and TaintNodesByCondition.

use api::{Object, Status};
use registry::{Operation, Verdict};
use serde_json::{Value, json};

use crate::{Plugin, is, refuse};

const NODE_USER: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";

/// A kubelet changes its own node and its own pods alone.
pub(crate) struct NodeRestriction;

impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        request.cx.user.groups.iter().any(|g| g == NODES_GROUP)
            && request.resource.group.is_empty()
            && matches!(request.resource.plural.as_str(), "nodes" | "pods")
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let Some(node) = request.cx.user.name.strip_prefix(NODE_USER) else {
            return Err(refuse(
                request,
                &format!("could not determine node from user {}", api::field::quote(&request.cx.user.name)),
            ));
        };
        if request.resource.plural == "nodes" {
            let name = object.or(request.old).map_or(request.name, Object::name);
            if name == node {
                return Ok(Vec::new());
            }
            return Err(refuse(
                request,
                &format!(
                    "node {} is not allowed to modify node {}",
                    api::field::quote(node),
                    api::field::quote(name)
                ),
            ));
        }
        let pod = object.or(request.old);
        let on = pod.map(|p| p.get_str(&["spec", "nodeName"]).to_owned()).unwrap_or_default();
        let mirror = pod.is_some_and(|p| p.annotation("kubernetes.io/config.mirror").is_some());
        if request.operation == Operation::Create && request.subresource.is_none() && !mirror {
            let why = format!(
                "pod does not have \"kubernetes.io/config.mirror\" annotation, node {} can only create mirror pods",
                api::field::quote(node)
            );
            return Err(refuse(request, &why));
        }
        if on == node {
            return Ok(Vec::new());
        }
        let why =
            format!("node {} can only act on pods with spec.nodeName set to itself", api::field::quote(node));
        Err(refuse(request, &why))
    }
}

/// A new node takes no pods until its lifecycle controller has seen it ready.
pub(crate) struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        is(request, "nodes", &[Operation::Create])
    }

    fn mutate(&self, _: &Verdict<'_>, node: &mut Object) -> Result<(), Status> {
        let spec = api::object::map_entry(&mut node.0, "spec");
        let Value::Array(list) = spec.entry("taints").or_insert_with(|| json!([])) else { return Ok(()) };
        let taint = "node.kubernetes.io/not-ready";
        if !list.iter().any(|t| t.get("key").and_then(Value::as_str) == Some(taint)) {
            list.push(json!({"key": taint, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
