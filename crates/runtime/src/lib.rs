//! The embedded container runtime: images, sandboxes and containers without a daemon beside it.
//!
//! [`Service`] implements the contract [`cri::Runtime`]. It unpacks images, mounts and describes
//! containers, and talks to one [`shim`] per pod: the same program, started again, which holds the pod's
//! namespaces, starts its containers through libcontainer, reaps them, writes their logs, and outlives the
//! server. Bytes of exec and port-forward do not pass through it: pipes, terminals and sockets are handed
//! over as file descriptors.
//!
//! Invariants:
//! - No foreign process is started, and nothing polls: exits, output and requests all arrive at a `poll`.
//! - A shim has one thread. What allocates much (libcontainer) happens in a child of it that ends.
//! - What the server knows of pods can be lost: files below [`Config::state`] and the shims tell it again.
//! - Everything a pod leaves on the host (mounts, cgroups, processes) goes with `remove_pod_sandbox`.
//!
//! What does not belong: networks (see [`SandboxNetwork`]), pods, volumes, restart policies.
//!
//! Start at [`Service`], then `shim.rs`.

pub mod cgroup;
mod clock;
mod file;
pub mod images;
mod mount;
mod service;
pub mod shim;
mod spec;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

pub use service::Service;

/// What a runtime needs to know.
#[derive(Clone)]
pub struct Config {
    /// Where images, sandboxes and containers are kept. Made where it is missing.
    pub state: PathBuf,
    /// How to start a shim.
    pub shim: ShimCommand,
    /// What gives sandboxes their network. Without it they have a loopback interface only.
    pub network: Option<Arc<dyn SandboxNetwork>>,
    /// How registries are reached.
    pub registries: images::Registries,
}

/// How to start a shim: a program that calls [`shim::main`] with the arguments after `args`.
#[derive(Debug, Clone)]
pub struct ShimCommand {
    /// The program.
    pub program: PathBuf,
    /// What comes before the shim's own arguments.
    pub args: Vec<OsString>,
}

impl Default for ShimCommand {
    /// This program again, with the argument `shim`.
    fn default() -> Self {
        Self { program: "/proc/self/exe".into(), args: vec!["shim".into()] }
    }
}

/// Gives a sandbox its links and addresses, and takes them back.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Connects the network namespace at `namespace` and returns its addresses, the primary first. The
    /// loopback interface is up already.
    ///
    /// # Errors
    /// The reason, for the event that tells it to users.
    async fn attach(
        &self,
        sandbox: &str,
        namespace: &Path,
        config: &cri::v1::PodSandboxConfig,
    ) -> Result<Vec<IpAddr>, String>;

    /// Gives back what `attach` took. Repeatable; the namespace may be gone already.
    ///
    /// # Errors
    /// The reason; it will be tried again.
    async fn detach(&self, sandbox: &str, config: &cri::v1::PodSandboxConfig) -> Result<(), String>;
}
