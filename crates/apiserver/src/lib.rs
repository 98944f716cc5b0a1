//! HTTP over the engine: routing, discovery, OpenAPI, negotiation, subresources, streaming.
//!
//! A request's road: [`serve`] (TLS, HTTP/1.1 and HTTP/2) or [`inprocess`] → [`Server::handle`] →
//! authentication and authorisation ([`auth::Access`]) → [`info`] (what is asked) → a handler. Handlers
//! speak to [`registry::Engine`] alone; kinds are rows, none is named here.
//!
//! Invariants: every answer that is no object is a `Status`, made in one place ([`respond`]); an
//! in-process client takes the same road as one behind TLS, with an identity of its own.

mod answer;
mod apply;
mod body;
mod connect;
mod decode;
mod discovery;
mod health;
mod info;
pub mod inprocess;
mod metrics;
mod negotiate;
mod openapi;
mod options;
mod patch;
mod resource;
mod respond;
mod serve;
mod server;
mod subresource;
mod table;
mod version;
mod watch;
mod write;

pub use body::Body;
pub use connect::{Dialer, Wire};
pub use health::{Health, Hook};
pub use serve::{Listener, serve, serve_plain};
pub use server::{Config, Issuer, Server};
