//! What the runtime holds of one pod.

use std::collections::BTreeMap;

use cri::v1::{self, ContainerState, PodSandboxState};
use futures::future::{try_join, try_join_all};
use k8s_openapi::jiff::Timestamp;

use crate::names;

/// A pod's sandboxes and containers, each newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    pub created_at: i64,
    /// The primary address first; none with the host's network.
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    Created,
    Running,
    Exited,
    #[default]
    Unknown,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub sandbox: String,
    pub restart_count: u32,
    pub state: State,
    pub created_at: i64,
    pub started_at: i64,
    pub finished_at: i64,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    pub image: String,
    pub image_id: String,
    pub hash: String,
    pub log_path: String,
    pub user: Option<v1::LinuxContainerUser>,
    pub resources: Option<v1::LinuxContainerResources>,
    pub annotations: BTreeMap<String, String>,
}

impl Observed {
    /// Asks the runtime. What has exited does not change any more and is taken from `before`.
    pub async fn load(runtime: &dyn cri::Runtime, uid: &str, before: &Observed) -> cri::Result<Observed> {
        let label_selector = BTreeMap::from([(names::POD_UID.to_owned(), uid.to_owned())]);
        let sandboxes = runtime.list_pod_sandboxes(v1::PodSandboxFilter {
            label_selector: label_selector.clone().into_iter().collect(),
            ..Default::default()
        });
        let containers = runtime.list_containers(v1::ContainerFilter {
            label_selector: label_selector.into_iter().collect(),
            ..Default::default()
        });
        let (sandboxes, containers) = try_join(sandboxes, containers).await?;
        let sandboxes = try_join_all(sandboxes.into_iter().map(|listed| sandbox(runtime, listed)));
        let containers = containers.into_iter().map(|listed| async {
            match before.container(&listed.id) {
                Some(known) if known.state == State::Exited => Ok(Some(known.clone())),
                _ => container(runtime, listed).await,
            }
        });
        let (sandboxes, containers) = try_join(sandboxes, try_join_all(containers)).await?;
        let mut observed = Observed {
            sandboxes: sandboxes.into_iter().flatten().collect(),
            containers: containers.into_iter().flatten().collect(),
        };
        observed.sandboxes.sort_by_key(|sandbox| std::cmp::Reverse((sandbox.attempt, sandbox.created_at)));
        observed.containers.sort_by_key(|one| std::cmp::Reverse((one.restart_count, one.created_at)));
        Ok(observed)
    }

    pub fn container(&self, id: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.id == id)
    }

    /// The newest container of this name.
    pub fn latest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// The newest container of this name in `sandbox`.
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name && container.sandbox == sandbox)
    }

    /// The one before the newest, of this name: what `kubectl logs --previous` shows.
    pub fn previous(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|container| container.name == name).nth(1)
    }

    /// Containers that run, or might.
    pub fn running(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|one| matches!(one.state, State::Running | State::Unknown))
    }
}

/// `None` where it has gone since it was listed.
fn present<T>(result: cri::Result<T>) -> cri::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn sandbox(runtime: &dyn cri::Runtime, listed: v1::PodSandbox) -> cri::Result<Option<Sandbox>> {
    let Some(status) = present(runtime.pod_sandbox_status(&listed.id).await)? else { return Ok(None) };
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    Ok(Some(Sandbox {
        attempt: listed.metadata.map_or(0, |metadata| metadata.attempt),
        ready: status.state == PodSandboxState::SandboxReady as i32,
        created_at: status.created_at,
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
        id: listed.id,
    }))
}

async fn container(runtime: &dyn cri::Runtime, listed: v1::Container) -> cri::Result<Option<Container>> {
    let Some(status) = present(runtime.container_status(&listed.id).await)? else { return Ok(None) };
    let metadata = listed.metadata.unwrap_or_default();
    let annotation = |key: &str| listed.annotations.get(key).cloned();
    let count = annotation(names::RESTART_COUNT).and_then(|text| text.parse().ok());
    Ok(Some(Container {
        sandbox: listed.pod_sandbox_id,
        name: listed.labels.get(names::CONTAINER_NAME).cloned().unwrap_or(metadata.name),
        restart_count: count.unwrap_or(metadata.attempt),
        state: match ContainerState::try_from(status.state) {
            Ok(ContainerState::ContainerCreated) => State::Created,
            Ok(ContainerState::ContainerRunning) => State::Running,
            Ok(ContainerState::ContainerExited) => State::Exited,
            _ => State::Unknown,
        },
        created_at: status.created_at,
        started_at: status.started_at,
        finished_at: status.finished_at,
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        hash: annotation(names::CONTAINER_HASH).unwrap_or_default(),
        log_path: status.log_path,
        user: status.user.and_then(|user| user.linux),
        resources: status.resources.and_then(|resources| resources.linux),
        annotations: listed.annotations.clone().into_iter().collect(),
        id: listed.id,
    }))
}

/// The runtime's nanoseconds as the API's time, which has whole seconds; `None` for "never".
pub fn time(nanoseconds: i64) -> Option<Timestamp> {
    if nanoseconds <= 0 {
        return None;
    }
    Timestamp::from_second(nanoseconds.div_euclid(1_000_000_000)).ok()
}
