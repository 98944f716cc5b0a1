//! NamespaceLifecycle: nothing is made in a namespace that is not there or is going; three stay.

use api::status::Cause;
use api::{GroupResource, Object, Status};
use registry::{Operation, Verdict};

use crate::{Plugin, refuse};

const KEPT: &[&str] = &["default", "kube-system", "kube-public"];

pub(crate) struct NamespaceLifecycle;

impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn watches(&self, request: &Verdict<'_>) -> bool {
        let own = request.resource.group.is_empty() && request.resource.plural == "namespaces";
        match request.operation {
            Operation::Delete => own,
            Operation::Create => request.resource.namespaced() && request.subresource.is_none(),
            _ => false,
        }
    }

    fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<(), Status> {
        if request.operation == Operation::Delete {
            if KEPT.contains(&request.name) {
                return Err(refuse(request, "this namespace may not be deleted"));
            }
            return Ok(());
        }
        let name = request.namespace;
        let found = request.engine.cache("", "namespaces").and_then(|c| c.get(name));
        let Some(found) = found else {
            return Err(Status::not_found(&GroupResource::new("", "namespaces"), name));
        };
        let namespace = found.object()?;
        if namespace.get_str(&["status", "phase"]) != "Terminating" {
            return Ok(());
        }
        let resource = request.resource.group_resource();
        let object = object.map(Object::name).unwrap_or_default();
        let mut status = Status::forbidden(
            &resource,
            object,
            &format!("unable to create new content in namespace {name} because it is being terminated"),
        );
        if let Some(details) = &mut status.details {
            details.causes.push(Cause {
                reason: "NamespaceTerminating".into(),
                message: format!("namespace {name} is being terminated"),
                field: "metadata.namespace".into(),
            });
        }
        Err(status)
    }
}
