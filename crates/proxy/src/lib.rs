//! Services compiled to nf_tables maps: constant work per packet, updates by the elements that changed.
//!
//! A new connection costs two hash lookups, however many Services there are:
//!
//! ```text
//! service-ips    10.96.0.1 . tcp . 443                -> goto cluster-3
//! chain cluster-3: dnat to daddr . proto . dport . (random below 3) looked up in
//! endpoints      10.96.0.1 . tcp . 443 . 2            -> 10.244.1.7 . 6443
//! ```
//!
//! Chains say only *how* to choose (among how many, masquerading whom), so all Services of three endpoints
//! share one. Adding the fourth endpoint is one new element of `endpoints` and one changed element of
//! `service-ips`; taking one away moves the last endpoint into its slot. Session affinity is the exception:
//! such a Service has chains and sets of its own, which remember its clients.
//!
//! The stages, each a pure function of its inputs but the last:
//! [`service`] (objects → frontends), [`chain`] (ways of choosing → rules), [`table`] (frontends that
//! changed → a batch), [`Proxy`] (which frontends changed), [`run`] (streams of events → kernel).
//!
//! Invariants: a batch is applied whole or not at all; what [`table::Table`] holds is what the kernel
//! holds; a frontend claimed by two Services belongs to the first by name until that one lets go.
//!
//! What does not belong here: the language of nf_tables (`network::nft`) and pod links.

pub mod chain;
pub mod health;
mod proxy;
mod run;
pub mod service;
pub mod table;
mod targets;

pub use network::{Event, Protocol};
pub use proxy::{Health, Proxy};
pub use run::{Error, Kernel, run};
pub use service::{Config, ServiceKey};
pub use targets::Targets;
