//! What a pod's worker knows beyond the pod and the runtime: work in hand, failures, probe results.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::jiff::Timestamp;

use super::backoff::Backoff;
use super::images::Image;
use super::observed;
use super::resize::Pending;

/// A piece of work; at most one of each is in hand.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    Sandbox,
    Volumes,
    /// The image of the container of this name.
    Image(String),
    /// The container of this name.
    Start(String),
    /// The container with this identifier, by when it has to be gone.
    Stop(String, Timestamp),
    Remove(String),
    /// The container with this identifier.
    Resize(String),
    TearDown,
    Delete,
}

/// Why a container waits.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub reason: &'static str,
    pub message: String,
    pub at: Timestamp,
    /// When to try again; `None` until something changes.
    pub retry_at: Option<Timestamp>,
}

impl Failure {
    /// Whether a container was made, and failed as it was to run: what follows is told by its restarts.
    pub fn of_start(&self) -> bool {
        matches!(self.reason, "RunContainerError" | "PostStartHookError")
    }
}

/// What a running container's probes have said.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Probed {
    pub started: Option<bool>,
    pub ready: Option<bool>,
    /// Set once the liveness probe, or the startup probe, has failed for good.
    pub dead: Option<Dead>,
}

/// A container found dead by a probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Dead {
    /// `liveness` or `startup`.
    pub probe: &'static str,
    /// The probe's own grace period.
    pub grace: Option<Duration>,
}

/// Why the kubelet ends a pod that nobody deleted.
#[derive(Debug, Clone, PartialEq)]
pub struct End {
    pub reason: String,
    pub message: String,
}

/// How much of a pod is left on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Torn {
    #[default]
    No,
    /// Network, volumes and cgroup are given back; containers and logs are kept.
    Stopped,
    /// Nothing is left.
    Removed,
}

#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub busy: BTreeSet<Job>,
    pub volumes_ready: bool,
    pub volumes_failed: Option<Failure>,
    pub sandbox_failed: Option<Failure>,
    /// The image to create a container with, by the container's name.
    pub images: BTreeMap<String, Image>,
    /// By the container's name.
    pub failures: BTreeMap<String, Failure>,
    /// By the container's name, and by `image/` and the container's name.
    pub backoffs: BTreeMap<String, Backoff>,
    /// By the container's identifier.
    pub probes: BTreeMap<String, Probed>,
    /// Why the pod has less or more than its spec asks for.
    pub resize: Option<Pending>,
    /// The pod is gone from the API, or its manifest from the node.
    pub gone: bool,
    pub end: Option<End>,
    /// When the worker began to end the pod.
    pub ending_since: Option<Timestamp>,
    pub torn: Torn,
    /// The API has been told that nothing is left.
    pub deleted: bool,
    /// The status as computed is what the API holds.
    pub status_written: bool,
    /// Containers a start of which has been tried since the worker began, for the next attempt's number.
    pub attempts: BTreeMap<String, u32>,
}

impl Memory {
    pub fn is_stopping(&self, id: &str) -> Option<Timestamp> {
        self.busy
            .iter()
            .filter_map(|job| match job {
                Job::Stop(stopping, by) if stopping == id => Some(*by),
                _ => None,
            })
            .min()
    }

    pub fn probed(&self, id: &str) -> Probed {
        self.probes.get(id).cloned().unwrap_or_default()
    }

    /// Whether a running container's `postStart` hook has not ended, or has failed and ends the container.
    pub fn in_hook(&self, container: &Container) -> bool {
        let has_hook = container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some());
        has_hook && self.busy.contains(&Job::Start(container.name.clone()))
    }

    /// Whether a running container has started up.
    pub fn started(&self, container: &Container, running: &observed::Container) -> bool {
        container.startup_probe.is_none() || self.probed(&running.id).started == Some(true)
    }

    /// Whether a running container is ready.
    pub fn ready(&self, container: &Container, running: &observed::Container) -> bool {
        self.started(container, running)
            && (container.readiness_probe.is_none() || self.probed(&running.id).ready == Some(true))
    }
}
