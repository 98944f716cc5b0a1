//! What tests and measurements stand on: images made from Debian packages, a registry to pull them from,
//! clusters made with the built binary, a client for load, a look at what a host carries, and documents
//! whose commands are run.
//!
//! Invariants:
//! - Nothing here is linked into the product; nothing here knows the product's insides. A cluster is what
//!   its command line, its kubeconfig and the kernel show of it.
//! - What it makes, it takes away: directories are temporary, clusters go down when dropped.
//! - It waits on conditions (a watch, a closed pipe, a process that ends), never on a clock; each wait has
//!   an end.
//!
//! What doesn't belong: fixtures of one crate (they live beside it), anything the product needs.
//!
//! Unlike the product, it starts foreign processes: `apt-get`, `dpkg-deb`, `kubectl`, `nft`, `ip`.
//!
//! Start at [`Cluster`] for end-to-end tests, at [`images`] for something to run.

mod api_server;
mod cluster;
pub mod debian;
pub mod host;
mod https;
mod image;
pub mod images;
mod peer;
pub mod place;
mod process;
mod registry;
mod traces;
mod walk;

pub use api_server::ApiServer;
pub use cluster::{Cluster, Output, environment};
pub use https::{Connection, Target, Watch};
pub use image::{Config, Image, Layer};
pub use peer::Peer;
pub use registry::{Access, Registry};
pub use traces::Traces;
pub use walk::{Step, Walk};
