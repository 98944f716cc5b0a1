//! Joins crate `auth` to the API server.

use std::sync::Arc;

use api::Status;
use apiserver::{Access, Attributes, Decision, Identity, Tokens};
use async_trait::async_trait;
use http::request::Parts;
use registry::{Engine, RequestContext, User};
use serde_json::{Value, json};

pub struct Masters;

#[async_trait]
impl Access for Masters {
    async fn authenticate(&self, request: &Parts) -> Result<User, Status> {
        match request.extensions.get::<Identity>() {
            Some(Identity::InProcess(user)) => Ok(User::clone(user)),
            _ => Ok(User {
                name: "system:anonymous".into(),
                groups: vec!["system:unauthenticated".into()],
                ..User::default()
            }),
        }
    }

    fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision {
        if user.groups.iter().any(|g| g == "system:masters") {
            return Decision::Allow;
        }
        Decision::Deny(format!("User \"{}\" cannot {} path \"{}\"", user.name, attributes.verb, attributes.path))
    }

    fn rules(&self, _: &User, _: &str) -> Value {
        json!({"resourceRules": [], "nonResourceRules": [], "incomplete": false})
    }
}

pub struct NoTokens;

#[async_trait]
impl Tokens for NoTokens {
    async fn request(&self, _: &Engine, _: &RequestContext, _: (&str, &str), _: &api::Object) -> Result<Value, Status> {
        Err(Status::internal("no signing key"))
    }
    async fn review(&self, _: &Engine, _: &str, _: &[String]) -> Value {
        json!({"authenticated": false})
    }
}

pub fn admin() -> User {
    User { name: "admin".into(), groups: vec!["system:masters".into(), "system:authenticated".into()], ..User::default() }
}

pub type Shared = Arc<dyn Access>;
