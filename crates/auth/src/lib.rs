//! Who asks, and whether he may: authentication and authorisation.
//!
//! Authentication turns what a connection and a request carry into a [`User`]: [`certificate`],
//! [`token`] (service accounts, bootstrap tokens), anonymous, and [`impersonate`] on top.
//! Authorisation is a [`Chain`] of [`Authorizer`]s over [`Attributes`]: [`node`] for kubelets, [`Rbac`]
//! for all; [`bootstrap`] is the policy that a cluster starts with.
//!
//! Invariants: a decision never waits, reads no store and decodes nothing (compiled indexes, fed by
//! events); wording of refusals follows upstream, for clients and tests read it.
//!
//! Not here: which verb and resource a request is (crate `apiserver`), keeping keys and certificates
//! on disk (crate `lifecycle`), where the events come from.

pub mod access;
pub mod acts;
pub mod authenticate;
pub mod authorize;
pub mod bootstrap;
pub mod bound;
pub mod certificate;
pub mod impersonate;
pub mod node;
pub mod rbac;
pub mod token;
pub use api::user;

pub use access::{Access, Identity, Refused};
pub use authenticate::{Authenticator, Connection};
pub use authorize::{AlwaysAllow, Attributes, Authorizer, Chain, Decision, Verdict};
pub use node::NodeAuthorizer;
pub use rbac::Rbac;
pub use user::User;
