//! The cluster's zone, served from memory on each node, and the resolver configuration of pods.
//!
//! Follows "Kubernetes DNS-Based Service Discovery" 1.1. Names of the zone are answered from a map without
//! waiting for anything; other names are forwarded to the node's own resolvers.
//!
//! Invariants:
//! - An answer from the zone takes no lock that is held across a wait and touches no network.
//! - The zone outlives the API server: when watches fall silent, it keeps answering what it knows.
//! - Forwarding is bounded in number, in time and in what it remembers.
//!
//! Pods ask the cluster DNS address (a ClusterIP); `network::NodeNetwork::set_local_services` leads those
//! questions to the server on their own node.
//!
//! What does not belong here: how packets get here (`network`, `proxy`), and fetching the objects.
//!
//! Start with [`zone::Zone`] (what is answered), [`records`] (objects → records), [`server::run`] (the
//! loop); [`resolv`] stands alone.

pub mod forward;
pub mod records;
pub mod resolv;
pub mod server;
pub mod zone;

pub use network::Event;
pub use server::{Sockets, follow, run};
pub use zone::Zone;
