//! What every client of the API shares: informers, work queues, expectations, events, leader
//! election and the way to a remote server.
//!
//! A component is handed a [`kube::Client`] (over HTTPS through [`remote`], or over the server's own
//! tower service in the same process) and an [`Informers`] factory. It registers handlers that turn
//! changes into keys on a [`WorkQueue`], and a [`Reconcile`] that brings one key in order.
//!
//! Invariants:
//! - one watch per kind and selection per process, however many components look at it;
//! - objects in a cache are shared and immutable: clone before changing;
//! - handlers run in the order of the watch, after the cache has been updated, and never block;
//! - nothing here is unbounded: queues hold each key once, subscriptions hold each object once,
//!   the event recorder drops what it cannot keep up with and counts it;
//! - every task belongs to the factory, queue or recorder that started it and ends by its token.
//!
//! No kind's behaviour belongs here. Start at [`Informers::of`] and [`run`].

pub mod account;
pub mod cache;
pub mod controller;
pub mod election;
pub mod events;
pub mod expectations;
pub mod informer;
pub mod key;
pub mod placement;
pub mod queue;
mod reflect;
pub mod remote;
pub mod unverified;
pub mod write;
pub mod written;

pub use account::Accounts;
pub use cache::Index;
pub use controller::{Reconcile, Workers, run};
pub use events::Recorder;
pub use expectations::Expectations;
pub use informer::{Change, Informer, Informers, Kept, Selection};
pub use key::ObjectKey;
pub use queue::WorkQueue;
pub use written::{Written, is_newer};
