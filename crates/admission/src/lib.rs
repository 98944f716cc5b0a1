//! Built-in admission: what is added to objects on their way in, and what is refused, beyond
//! validation.
//!
//! A [`Chain`] runs [`Plugin`]s in upstream's order; each looks only at what it [`Plugin::watches`]. Plugins
//! answer from the watch cache, never from the store.
//!
//! Not here: webhooks and policies' own languages (they will be plugins too), what is wrong with an
//! object whatever the cluster looks like (crate `resources`). Start at [`Chain`].

mod default_class;
mod limit_ranger;
mod namespace_lifecycle;
mod node;
mod pod_security;
mod priority;
mod quota;
mod resize;
mod role_escalation;
mod runtime_class;
mod service_account;
mod storage;
mod tolerations;

use api::{Object, Status};
use async_trait::async_trait;
use registry::{Admission, Claims, Item, Operation, Verdict};
use serde_json::Value;
use std::sync::Arc;

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

    /// Answers warnings to the client.
    ///
    /// # Errors
    /// The request is refused.
    fn validate(&self, _request: &Verdict<'_>, _object: Option<&Object>) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }

    /// What the object takes of what is shared.
    ///
    /// # Errors
    /// Not enough is left.
    fn claim(&self, _request: &Verdict<'_>, _object: &Object) -> Result<Claims, Status> {
        Ok(Claims::default())
    }
}

/// Plugins, in order.
pub struct Chain(Vec<Box<dyn Plugin>>);

impl Chain {
    /// The plugins that are on by default, as far as they are built. `access` knows what a user may grant.
    pub fn built_in(access: Arc<auth::Access>) -> Chain {
        Chain(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node::NodeRestriction),
            Box::new(node::TaintNodesByCondition),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(tolerations::DefaultTolerationSeconds),
            Box::new(default_class::DEFAULT_STORAGE_CLASS),
            Box::new(storage::StorageObjectInUseProtection),
            Box::new(storage::PersistentVolumeClaimResize),
            Box::new(runtime_class::RuntimeClass),
            Box::new(resize::NodeDeclaredFeatureValidator),
            Box::new(resize::PodResizeValidator),
            Box::new(default_class::DEFAULT_INGRESS_CLASS),
            Box::new(quota::ResourceQuota),
            Box::new(role_escalation::RoleEscalation(access)),
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

    async fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status> {
        let mut warnings = Vec::new();
        for plugin in self.0.iter().filter(|p| p.watches(request)) {
            warnings.extend(plugin.validate(request, object)?);
        }
        Ok(warnings)
    }

    async fn claim(&self, request: &Verdict<'_>, object: &Object) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        for plugin in self.0.iter().filter(|p| p.watches(request)) {
            claims.extend(plugin.claim(request, object)?);
        }
        Ok(claims)
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

/// What the cache has of a kind, in a namespace or (with an empty one) in the cluster.
fn standing(request: &Verdict<'_>, group: &str, plural: &str, namespace: &str) -> Vec<Arc<Item>> {
    let mut found = Vec::new();
    let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
    if let Some(cache) = request.engine.cache(group, plural) {
        cache.scan(&prefix, None, |item| {
            found.push(item.clone());
            true
        });
    }
    found
}

/// An object by its key behind the prefix.
fn look_up(request: &Verdict<'_>, group: &str, plural: &str, key: &str) -> Result<Option<Object>, Status> {
    let item = request.engine.cache(group, plural).and_then(|cache| cache.get(key));
    item.map(|item| item.object()).transpose()
}

/// A field of a JSON object as a list.
fn items<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// A field of a JSON object as text; empty where it is none.
fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => Object(map),
        other => panic!("{other}"),
    }
}
