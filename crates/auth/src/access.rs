//! Who asks, and whether they may: crate `auth` at a request's door.

use std::sync::Arc;
use std::time::SystemTime;

use crate::impersonate::{Impersonation, Incomplete};
use crate::{Attributes, Authenticator, Authorizer, Chain, Connection, Rbac};
use api::{Status, User};
use http::request::Parts;
use serde_json::{Value, json};

/// Who is at the other end of a connection, as the transport knows it. In a request's extensions.
#[derive(Clone)]
pub enum Identity {
    /// What the connection's certificates say, found out once.
    Connection(Arc<Connection>),
    /// A component of this process, or everybody on the insecure local port.
    Trusted(Arc<User>),
}

/// Why it is not known who asks.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Status(#[from] Status),
    /// Told in plain text, as upstream does.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
}

/// Authentication and authorisation of one server.
pub struct Access {
    pub authenticator: Authenticator,
    pub chain: Chain,
    /// For the rules that a user may ask for.
    pub rbac: Arc<Rbac>,
}

impl Access {
    /// The user behind a request; impersonation is applied.
    ///
    /// # Errors
    /// 401 for credentials that are none, 403 for an impersonation that is not allowed, an
    /// impersonation of nobody.
    pub fn authenticate(&self, request: &Parts) -> Result<User, Refused> {
        let user = match request.extensions.get::<Identity>() {
            Some(Identity::Trusted(user)) => User::clone(user),
            Some(Identity::Connection(connection)) => {
                let now = SystemTime::now();
                self.authenticator.authenticate(connection, &request.headers, now).map_err(Status::from)?
            }
            None => self
                .authenticator
                .authenticate(&Connection::default(), &request.headers, SystemTime::now())
                .map_err(Status::from)?,
        };
        match Impersonation::parse(&request.headers)? {
            Some(impersonation) => Ok(impersonation.apply(&user, &self.chain)?),
            None => Ok(user),
        }
    }

    /// # Errors
    /// 403.
    pub fn check(&self, attributes: &Attributes<'_>) -> Result<(), Status> {
        self.chain.check(attributes)
    }

    pub fn allows(&self, attributes: &Attributes<'_>) -> (bool, String) {
        let verdict = self.chain.authorize(attributes);
        (verdict.allowed(), verdict.reason)
    }

    /// A SelfSubjectRulesReview's status.
    pub fn rules(&self, user: &User, namespace: &str) -> Value {
        let mut resources = Vec::new();
        let mut paths = Vec::new();
        for rule in self.rbac.rules_for(user, namespace) {
            if let Some(urls) = &rule.non_resource_urls {
                paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
                continue;
            }
            let mut value =
                json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(names) = rule.resource_names.filter(|n| !n.is_empty()) {
                value["resourceNames"] = json!(names);
            }
            resources.push(value);
        }
        json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
    }
}
