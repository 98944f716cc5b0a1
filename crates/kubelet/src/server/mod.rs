//! The kubelet's HTTPS server.

use async_trait::async_trait;

/// Who asks: what a client certificate or a token says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub groups: Vec<String>,
}

/// Decides who may use the kubelet's API, for callers without a believed client certificate too.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// Who holds this bearer token; `None` where nobody does.
    async fn authenticate(&self, token: &str) -> Option<User>;

    /// Whether `user` may `verb` the node's `subresource` (`proxy`, `log`, `stats`, `metrics`, …).
    async fn authorize(&self, user: &User, verb: &str, subresource: &str) -> bool;
}
