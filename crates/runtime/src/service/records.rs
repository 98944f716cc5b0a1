//! What the service knows of sandboxes and containers, in memory and on disk.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cri::{Error, Result, v1};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::client::Client;
use crate::file;
use crate::shim::protocol::Exit;

/// A sandbox.
pub struct Sandbox {
    /// Its directory.
    pub dir: PathBuf,
    /// What never changes.
    pub record: SandboxRecord,
    /// What does.
    pub live: Mutex<Live>,
}

/// What is known of a sandbox from its start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// Its identifier.
    pub id: String,
    /// What the kubelet asked for.
    pub config: v1::PodSandboxConfig,
    /// The runtime handler asked for.
    pub runtime_handler: String,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// Its addresses.
    pub ips: Vec<IpAddr>,
}

/// What changes about a sandbox.
#[derive(Default)]
pub struct Live {
    /// The way to its shim, while there is one.
    pub client: Option<Arc<Client>>,
    /// The first process of its PID namespace, where it shares one.
    pub pid_one: Option<i32>,
    /// Its shim's process.
    pub shim: i32,
}

impl SandboxRecord {
    /// Its namespaces' modes.
    pub fn namespaces(&self) -> v1::NamespaceOption {
        namespaces(&self.config)
    }

    /// Keeps it in `dir`. A power cut may take it: it takes what the record tells of too, and a start must
    /// not wait for a disk.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save(dir, "sandbox.json", self)
    }
}

/// The modes of a sandbox's namespaces.
pub fn namespaces(config: &v1::PodSandboxConfig) -> v1::NamespaceOption {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

impl Sandbox {
    /// The way to its shim.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] where it is stopped or its shim has died.
    pub fn client(&self) -> Result<Arc<Client>> {
        self.live.lock().client.clone().ok_or_else(|| Error::FailedPrecondition {
            what: format!("sandbox {}", self.record.id),
            message: "is not ready".into(),
        })
    }

    /// Whether containers can be started in it.
    pub fn is_ready(&self) -> bool {
        self.live.lock().client.is_some()
    }

    /// A container's directory.
    pub fn container_dir(&self, container: &str) -> PathBuf {
        self.dir.join("containers").join(container)
    }
}

/// A container.
pub struct Container {
    /// Its directory, which is its OCI bundle.
    pub dir: PathBuf,
    /// What never changes.
    pub record: ContainerRecord,
    /// What its process is doing.
    pub phase: watch::Sender<Phase>,
    /// Its limits, as they are now.
    pub resources: Mutex<Option<v1::LinuxContainerResources>>,
}

/// What is known of a container from its creation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// Its identifier.
    pub id: String,
    /// Its sandbox.
    pub sandbox: String,
    /// What the kubelet asked for.
    pub config: v1::ContainerConfig,
    /// The image's identifier.
    pub image: String,
    /// The image as its status names it.
    pub image_ref: String,
    /// The image's layers, which must stay while the container does.
    pub layers: Vec<String>,
    /// Nanoseconds since the Unix epoch.
    pub created_at: i64,
    /// The log, if any.
    pub log_path: Option<String>,
    /// The signal that asks it to stop.
    pub stop_signal: i32,
    /// Its cgroup, from the root of each hierarchy.
    pub cgroup: String,
    /// User, group, and supplementary groups.
    pub user: (u32, u32, Vec<u32>),
}

impl ContainerRecord {
    /// Keeps it in `dir`, as [`SandboxRecord::save`] does.
    pub fn save(&self, dir: &Path) -> Result<()> {
        save(dir, "container.json", self)
    }
}

/// What a container's process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    /// Not started.
    Created,
    /// Being started.
    Starting,
    /// Running.
    Running {
        /// The process, as the host numbers it.
        pid: i32,
        /// Nanoseconds since the Unix epoch.
        started_at: i64,
    },
    /// Ended, or never got to run.
    Exited {
        /// Nanoseconds since the Unix epoch, or 0 where it never ran.
        started_at: i64,
        /// How.
        exit: Exit,
        /// In one word.
        reason: &'static str,
        /// In more words, where there are any.
        message: String,
    },
}

impl Phase {
    /// The phase after `exit`.
    pub fn after(started_at: i64, exit: Exit) -> Self {
        let reason = match exit {
            Exit { oom: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        Self::Exited { started_at, exit, reason, message: String::new() }
    }

    /// Whether a process runs or may be about to.
    pub fn is_live(&self) -> bool {
        matches!(self, Self::Starting | Self::Running { .. })
    }
}

impl Container {
    /// The process, while it runs.
    ///
    /// # Errors
    /// [`Error::FailedPrecondition`] where none runs.
    pub fn pid(&self) -> Result<i32> {
        match *self.phase.borrow() {
            Phase::Running { pid, .. } => Ok(pid),
            _ => Err(Error::FailedPrecondition {
                what: format!("container {}", self.record.id),
                message: "is not running".into(),
            }),
        }
    }

    /// Notes that its process was started, as its shim tells a service that may not know it. It may have
    /// ended since.
    pub fn began(&self, pid: i32, started_at: i64) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::Created => {
                *phase = Phase::Running { pid, started_at };
                true
            }
            Phase::Exited { started_at: known, .. } => std::mem::replace(known, started_at) != started_at,
            Phase::Starting | Phase::Running { .. } => false,
        });
    }

    /// Notes that its process has ended. Returns whether that is news.
    pub fn exited(&self, exit: Exit) -> bool {
        self.phase.send_if_modified(|phase| {
            let started_at = match phase {
                Phase::Running { started_at, .. } => *started_at,
                // A service that came while it was being started was not told that it runs.
                Phase::Created | Phase::Starting => exit.at,
                Phase::Exited { .. } => return false,
            };
            *phase = Phase::after(started_at, exit);
            true
        })
    }
}

fn save(dir: &Path, name: &'static str, what: &impl Serialize) -> Result<()> {
    let path = dir.join(name);
    let json = serde_json::to_vec(what).map_err(|error| Error::Other(format!("{name}: {error}")))?;
    file::replace(&path, &json).map_err(Error::file("write", path))
}
