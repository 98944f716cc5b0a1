//! The kubelet: makes the pods bound to this node run, and says how they are.
//!
//! Each pod has one owner, a worker task ([`pod::worker`]) that is woken by the API's watch, the runtime's
//! events, its probes and the timers its plan names. It looks at what the runtime has, asks the pure
//! [`pod::plan`] what to do next, sets that going, and writes what the pure [`pod::status`] says.
//!
//! Invariants:
//! - Nothing polls. A worker without news sleeps.
//! - What a container or sandbox is, is read from the runtime; labels and annotations on them are enough to
//!   take over after a restart, and no container is ever restarted for the kubelet's sake.
//! - The terminal status of a pod is written before the pod is deleted from the API.
//! - What a pod was given on the host (mounts, directories, logs, cgroups) is taken back before that, too.
//!
//! Not here: images and namespaces (`runtime`), links and addresses (`network`), what a Service is (`proxy`).
//! Start at [`run`], then [`pod::plan`] and [`pod::worker`].

mod cgroup;
mod config;
mod context;
mod events;
mod gc;
mod logs;
mod names;
mod node;
mod pod;
mod probe;
mod run;
mod server;
mod source;
mod volume;
mod workers;

pub use config::{Config, PodDns, Server};
pub use run::{Error, run};
pub use server::{Authorizer, User};

/// The version this kubelet speaks for.
pub const VERSION: &str = "v1.37.0";
