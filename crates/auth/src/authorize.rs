//! What is asked, and the chain of those who may allow it.

use std::sync::Arc;

use api::field::quote;
use api::{GroupResource, Status};

use crate::user::{MASTERS, User};

/// What one request does, as authorisers see it (authorization.k8s.io SubjectAccessReviewSpec).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    /// Empty for what is not in a namespace, and for a request over all of them.
    pub namespace: &'a str,
    /// For list and watch: the name that a field selector asks for, if it asks for one.
    pub name: &'a str,
    /// The path of a request that is about no resource.
    pub path: &'a str,
    pub is_resource: bool,
    /// The equalities that a list's or a watch's field selector requires.
    pub fields: &'a [(&'a str, &'a str)],
}

impl<'a> Attributes<'a> {
    pub fn resource(user: &'a User, verb: &'a str, group: &'a str, resource: &'a str) -> Attributes<'a> {
        Attributes {
            user,
            verb,
            group,
            version: "*",
            resource,
            subresource: "",
            namespace: "",
            name: "",
            path: "",
            is_resource: true,
            fields: &[],
        }
    }

    pub fn path(user: &'a User, verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { path, is_resource: false, ..Attributes::resource(user, verb, "", "") }
    }

    pub fn namespace(self, namespace: &'a str) -> Attributes<'a> {
        Attributes { namespace, ..self }
    }

    pub fn name(self, name: &'a str) -> Attributes<'a> {
        Attributes { name, ..self }
    }

    pub fn subresource(self, subresource: &'a str) -> Attributes<'a> {
        Attributes { subresource, ..self }
    }

    /// `User "x" cannot list resource "pods" in API group "" in the namespace "d"`
    pub fn refusal(&self) -> String {
        let user = quote(&self.user.name);
        if !self.is_resource {
            return format!("User {user} cannot {} path {}", self.verb, quote(self.path));
        }
        let resource = match self.subresource {
            "" => quote(self.resource),
            sub => quote(&format!("{}/{sub}", self.resource)),
        };
        let group = quote(self.group);
        let place = match self.namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {}", quote(namespace)),
        };
        format!("User {user} cannot {} resource {resource} in API group {group} {place}", self.verb)
    }

    /// The 403 that says so, with the authoriser's reason if it has one.
    pub fn forbidden(&self, reason: &str) -> Status {
        let mut detail = self.refusal();
        if !reason.is_empty() {
            detail = format!("{detail}: {reason}");
        }
        Status::forbidden(&GroupResource::new(self.group, self.resource), self.name, &detail)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Allow,
    Deny,
    /// Somebody else may allow it.
    NoOpinion,
}

/// A decision and what is to be said of it; `reason` may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub decision: Decision,
    pub reason: String,
}

impl Verdict {
    pub fn allow(reason: impl Into<String>) -> Verdict {
        Verdict { decision: Decision::Allow, reason: reason.into() }
    }

    pub fn no_opinion(reason: impl Into<String>) -> Verdict {
        Verdict { decision: Decision::NoOpinion, reason: reason.into() }
    }

    pub fn allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// Decides from what it holds in memory; never waits.
pub trait Authorizer: Send + Sync {
    fn authorize(&self, attributes: &Attributes) -> Verdict;
}

/// Asks each in turn until one allows or denies; whoever is in `system:masters` passes unasked.
#[derive(Clone, Default)]
pub struct Chain(Vec<Arc<dyn Authorizer>>);

impl Chain {
    pub fn new(authorizers: Vec<Arc<dyn Authorizer>>) -> Chain {
        Chain(authorizers)
    }

    /// # Errors
    /// The 403 of a request that nobody allows.
    pub fn check(&self, attributes: &Attributes) -> Result<(), Status> {
        let verdict = self.authorize(attributes);
        if verdict.allowed() { Ok(()) } else { Err(attributes.forbidden(&verdict.reason)) }
    }
}

impl Authorizer for Chain {
    fn authorize(&self, attributes: &Attributes) -> Verdict {
        if attributes.user.in_group(MASTERS) {
            return Verdict::allow("");
        }
        let mut reason = String::new();
        for authorizer in &self.0 {
            let verdict = authorizer.authorize(attributes);
            if verdict.decision != Decision::NoOpinion {
                return verdict;
            }
            if !verdict.reason.is_empty() {
                if !reason.is_empty() {
                    reason.push('\n');
                }
                reason.push_str(&verdict.reason);
            }
        }
        Verdict::no_opinion(reason)
    }
}

/// Allows everything (`--authorization-mode=AlwaysAllow`, the insecure local port).
pub struct AlwaysAllow;

impl Authorizer for AlwaysAllow {
    fn authorize(&self, _: &Attributes) -> Verdict {
        Verdict::allow("")
    }
}
