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

    fn validate(&self, request: &Verdict<'_>, _: Option<&Object>) -> Result<Vec<String>, Status> {
        if request.operation == Operation::Delete && KEPT.contains(&request.name) {
            return Err(refuse(request, "this namespace may not be deleted"));
        }
        Ok(Vec::new())
    }

    /// Changes nothing, but comes first: nothing else is said of what is made in no namespace.
    fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
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
        let object = object.name();
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
