//! Built-in admission: what is added to objects on their way in, and what is refused, beyond
//! validation.
//!
//! A [`Chain`] runs [`Plugin`]s in upstream's order; each looks only at what it [`Plugin::watches`]. Plugins
//! answer from the watch cache, never from the store.
//!
//! Not here: webhooks and policies' own languages (they will be plugins too), what is wrong with an
//! object whatever the cluster looks like (crate `resources`). Start at [`Chain`].

mod namespace_lifecycle;
mod node;
mod priority;
mod service_account;
mod tolerations;

use api::{Object, Status};
use async_trait::async_trait;
use registry::{Admission, Operation, Verdict};

/// One admission plugin.
pub trait Plugin: Send + Sync {
    /// Upstream's name of it.
    fn name(&self) -> &'static str;

    /// Whether a request concerns it.
    fn watches(&self, request: &Verdict<'_>) -> bool;

    /// # Errors
    /// The request is refused.
    fn mutate(&self, _request: &Verdict<'_>, _object: &mut Object) -> Result<(), Status> {
        Ok(())
    }

    /// # Errors
    /// The request is refused.
    fn validate(&self, _request: &Verdict<'_>, _object: Option<&Object>) -> Result<(), Status> {
        Ok(())
    }
}

/// Plugins, in order.
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// The plugins that are on by default, as far as they are built.
    pub fn built_in() -> Chain {
        Chain(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(service_account::ServiceAccount),
            Box::new(node::NodeRestriction),
            Box::new(node::TaintNodesByCondition),
            Box::new(priority::Priority),
            Box::new(tolerations::DefaultTolerationSeconds),
        ])
    }
}

#[async_trait]
impl Admission for Chain {
    async fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|p| p.watches(request)) {
            plugin.mutate(request, object)?;
        }
        Ok(())
    }

    async fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<(), Status> {
        for plugin in self.0.iter().filter(|p| p.watches(request)) {
            plugin.validate(request, object)?;
        }
        Ok(())
    }
}

/// Whether a request is about this resource of the core group itself.
fn is(request: &Verdict<'_>, plural: &str, operations: &[Operation]) -> bool {
    request.resource.group.is_empty()
        && request.resource.plural == plural
        && request.subresource.is_none()
        && operations.contains(&request.operation)
}

/// The 403 of an admission plugin.
fn refuse(request: &Verdict<'_>, why: &str) -> Status {
    Status::forbidden(&request.resource.group_resource(), request.name, why)
}
