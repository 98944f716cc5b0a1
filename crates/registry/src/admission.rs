//! Where admission plugs into the road of a write.

use api::{Object, Status};
use async_trait::async_trait;

use crate::engine::{Engine, RequestContext};
use crate::resource::Resource;
use crate::strategy::Claims;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One request as admission sees it.
pub struct Verdict<'a> {
    pub engine: &'a Engine,
    pub cx: &'a RequestContext,
    pub resource: &'a Resource,
    pub subresource: Option<&'a str>,
    pub operation: Operation,
    pub namespace: &'a str,
    pub name: &'a str,
    pub old: Option<&'a Object>,
}

/// A chain of admission plugins.
#[async_trait]
pub trait Admission: Send + Sync {
    /// May change the object.
    ///
    /// # Errors
    /// The request is refused.
    async fn mutate(&self, request: &Verdict<'_>, object: &mut Object) -> Result<(), Status>;

    /// May only refuse, or warn: what is answered goes to the client as warnings. `object` is absent for a
    /// delete.
    ///
    /// # Errors
    /// The request is refused.
    async fn validate(&self, request: &Verdict<'_>, object: Option<&Object>) -> Result<Vec<String>, Status>;

    /// What the object takes of what is shared, written in the same transaction. Called again when another
    /// write was faster.
    ///
    /// # Errors
    /// Not enough is left.
    async fn claim(&self, _request: &Verdict<'_>, _object: &Object) -> Result<Claims, Status> {
        Ok(Claims::default())
    }
}

/// Lets everything through.
pub struct AdmitAll;

#[async_trait]
impl Admission for AdmitAll {
    async fn mutate(&self, _: &Verdict<'_>, _: &mut Object) -> Result<(), Status> {
        Ok(())
    }
    async fn validate(&self, _: &Verdict<'_>, _: Option<&Object>) -> Result<Vec<String>, Status> {
        Ok(Vec::new())
    }
}
