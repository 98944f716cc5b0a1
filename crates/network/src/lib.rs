//! Pod links, addresses and routes; nodes as namespaces; and the nf_tables client that the service proxy
//! uses too.
//!
//! Every pod hangs on a **routed veth pair**: the pod's address is a /32, its default route leads to the
//! node's gateway address over its own link, and the node has one /32 route to each pod. There is no
//! bridge. So each packet between two pods passes the node's IP layer and its nf_tables chains, also when
//! both pods are on the same node or are the same pod; with a bridge that would need `br_netfilter`, which
//! a node cannot always load. It is also the quicker way: no bridge forwarding table, no flooding, no ARP
//! (neighbours are pinned at both ends), and attaching is two netlink sends.
//!
//! The gateway address (the first of the pod CIDR) sits on the node's loopback link, once.
//!
//! Invariants:
//! - What this crate makes carries the node's id: table `tiphys-ID`, links with the id's prefix, routes
//!   with protocol [`link::ROUTE_PROTOCOL`]. [`NodeNetwork::remove_all`] finds it again by that alone.
//! - State in the kernel and in the node's directory survives the process; opening again adopts it.
//! - Calls block for microseconds to a few milliseconds and never wait for another process.
//!
//! What does not belong here: what a Service is (crate `proxy`), records and resolvers (crate `dns`), and
//! any knowledge of the API server.
//!
//! Start with [`NodeNetwork`]; [`nft`] and [`link`] are the two languages it speaks to the kernel,
//! [`hostns`] makes whole nodes out of namespaces.

pub mod conntrack;
pub mod hostns;
pub mod ipam;
pub mod link;
mod names;
mod netlink;
pub mod netns;
pub mod nft;
mod node;
mod rules;
mod sysctl;
mod watch;

pub use names::{NodeId, digest};
pub use netlink::Error as NetlinkError;
pub use node::{Attach, Attachment, Config, Error, NodeNetwork, Peer};
pub use rules::{HostPort, LocalService, Protocol};
pub use watch::Event;
