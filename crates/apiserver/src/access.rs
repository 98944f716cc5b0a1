//! Who asks, and whether they may. The means are crate `auth`'s.

use api::Status;
use async_trait::async_trait;
use http::request::Parts;
use registry::User;

/// What authorisation judges.
#[derive(Clone, Debug, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, … for resources; the method in lower case for paths.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub path: &'a str,
    pub is_resource: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    /// Nobody allowed it; why, where somebody said so.
    Deny(String),
}

/// Authentication and authorisation of one server.
#[async_trait]
pub trait Access: Send + Sync {
    /// The user behind a request: by the connection's client certificate (`Identity::Certificate`
    /// in the extensions), a bearer token, or nobody (`system:anonymous`); impersonation is applied.
    ///
    /// # Errors
    /// 401 for credentials that are none, 403 for an impersonation that is not allowed.
    async fn authenticate(&self, request: &Parts) -> Result<User, Status>;

    fn authorize(&self, user: &User, attributes: &Attributes<'_>) -> Decision;

    /// A SelfSubjectRulesReview's status.
    fn rules(&self, user: &User, namespace: &str) -> serde_json::Value;
}
