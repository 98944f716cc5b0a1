//! `pods/binding`: puts a pod on a node.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use registry::resource::Act;
use registry::{Engine, Part, RequestContext, UpdateOptions};
use serde_json::{Value, json};

pub struct Bind;

#[async_trait]
impl Act for Bind {
    fn type_name(&self) -> &'static str {
        "io.k8s.api.core.v1.Binding"
    }

    async fn act(
        &self,
        engine: &Arc<Engine>,
        cx: &RequestContext,
        (namespace, name): (&str, &str),
        posted: Object,
    ) -> Result<Object, Status> {
        if !name.is_empty() && posted.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let name = posted.name().to_owned();
        let node = posted.get_str(&["target", "name"]).to_owned();
        let kind = posted.get_str(&["target", "kind"]);
        let mut errors = api::field::Errors::default();
        if !kind.is_empty() && kind != "Node" {
            errors.not_supported(&api::field::Path::new("target.kind"), kind, &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required(&api::field::Path::new("target.name"), "");
        }
        if !errors.is_empty() {
            let kind = api::GroupKind { group: String::new(), kind: "Binding".into() };
            return Err(Status::invalid(&kind, &name, &errors));
        }
        let pods = engine.resource("", "pods").ok_or_else(Status::path_not_found)?.clone();
        let resource = pods.group_resource();
        let now = engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let uid = posted.uid().to_owned();
        let annotations = posted.metadata().and_then(|m| m.get("annotations")).cloned();
        let change = |pod: Option<&Object>| {
            let mut pod = pod.cloned().ok_or_else(|| Status::not_found(&resource, &name))?;
            let refuse = |why: String| Err(Status::conflict(&resource, &name, &why));
            if !uid.is_empty() && uid != pod.uid() {
                return refuse(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    pod.uid()
                ));
            }
            if pod.is_deleting() {
                return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let standing = pod.get_str(&["spec", "nodeName"]);
            if !standing.is_empty() {
                return refuse(format!(
                    "pod {name} is already assigned to node {}",
                    api::field::quote(standing)
                ));
            }
            if pod.get(&["spec", "schedulingGates"]).and_then(Value::as_array).is_some_and(|g| !g.is_empty())
            {
                return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            pod.set(&["spec", "nodeName"], node.as_str());
            for (key, value) in annotations.as_ref().and_then(Value::as_object).into_iter().flatten() {
                api::object::map_entry(pod.metadata_mut(), "annotations").insert(key.clone(), value.clone());
            }
            mark_scheduled(&mut pod, &now);
            pod.remove_meta("resourceVersion");
            Ok((pod, Vec::new()))
        };
        engine
            .update(
                &pods,
                cx,
                (namespace, &name),
                Part::Trusted("binding"),
                &change,
                &UpdateOptions::default(),
            )
            .await?;
        super::acted::success()
    }
}

/// `PodScheduled` becomes true.
fn mark_scheduled(pod: &mut Object, now: &str) {
    let status = api::object::map_entry(&mut pod.0, "status");
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    let Value::Array(list) = conditions else { return };
    list.retain(|c| c.get("type").and_then(Value::as_str) != Some("PodScheduled"));
    list.push(
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
    );
}
