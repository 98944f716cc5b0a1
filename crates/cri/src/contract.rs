//! What a container runtime does for the kubelet.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{AttachOptions, ByteStream, EventStream, ExecOptions, ExecOutput, Result, Streams, v1};

/// Annotation of a `ContainerConfig` that names the signal which asks the container to stop (`SIGUSR1`),
/// over the image's own `StopSignal`. The kubelet sets it from `lifecycle.stopSignal`.
pub const STOP_SIGNAL_ANNOTATION: &str = "io.tiphys.stop-signal";

/// How far an image pull has come. `total` grows while manifests are still being read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Compressed bytes received so far.
    pub received: u64,
    /// Compressed bytes the image has in all, as far as known.
    pub total: u64,
    /// Layers unpacked and ready.
    pub layers_done: u32,
    /// Layers the image has.
    pub layers: u32,
}

/// A container runtime. Identifiers are the runtime's own opaque strings; unlike CRI front ends, callers
/// pass them in full.
///
/// Unless stated otherwise a call about something unknown fails with [`crate::Error::NotFound`].
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Names and versions of the runtime and of the API it speaks.
    async fn version(&self) -> Result<v1::VersionResponse>;

    /// The conditions `RuntimeReady` and `NetworkReady`, and the runtime's handlers.
    async fn status(&self) -> Result<v1::StatusResponse>;

    /// Whether the runtime names cgroups as systemd does or by path.
    async fn cgroup_driver(&self) -> Result<v1::CgroupDriver>;

    /// Makes a sandbox and its network, ready for containers, and returns its identifier.
    ///
    /// # Errors
    /// [`crate::Error::AlreadyExists`] where a sandbox of the same name, namespace, uid and attempt exists.
    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: &str) -> Result<String>;

    /// Kills the sandbox's containers and gives its network back. Repeatable; unknown sandboxes are fine.
    async fn stop_pod_sandbox(&self, sandbox: &str) -> Result<()>;

    /// Removes the sandbox with all its containers, stopping it first where needed. Repeatable.
    async fn remove_pod_sandbox(&self, sandbox: &str) -> Result<()>;

    /// One sandbox's state and addresses.
    async fn pod_sandbox_status(&self, sandbox: &str) -> Result<v1::PodSandboxStatus>;

    /// Sandboxes matching `filter`; the empty filter lists all.
    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>>;

    /// Prepares a container in a ready sandbox, and returns its identifier. Nothing of the image runs yet.
    /// The image must be present: `config.image.image` names it by identifier or reference.
    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String>;

    /// Runs a created container's process.
    async fn start_container(&self, container: &str) -> Result<()>;

    /// Asks the container to stop, and kills it after `grace`. Returns once it has exited. Repeatable;
    /// unknown containers are fine.
    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()>;

    /// Removes a container, killing it where it still runs. Logs stay: they are the kubelet's. Repeatable.
    async fn remove_container(&self, container: &str) -> Result<()>;

    /// Containers matching `filter`; the empty filter lists all.
    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>>;

    /// One container's state. `reason` is `Completed`, `Error`, `OOMKilled` or `StartError` once exited.
    async fn container_status(&self, container: &str) -> Result<v1::ContainerStatus>;

    /// Changes a running or created container's cgroup limits; zero fields stay as they are.
    async fn update_container_resources(
        &self,
        container: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<()>;

    /// Runs a command to its end in a running container, keeping at most 16 MiB of each output.
    ///
    /// # Errors
    /// [`crate::Error::DeadlineExceeded`] when `timeout` passes first; the command has then been killed.
    async fn exec_sync(
        &self,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput>;

    /// Runs a command in a running container with its streams here. Dropping the streams kills it.
    async fn exec(&self, container: &str, options: ExecOptions) -> Result<Streams>;

    /// Joins the streams of a running container's own process. Output from now on, not from its start.
    /// Runtimes behind a socket know no exit code here and say 0; the container's status has it.
    async fn attach(&self, container: &str, options: AttachOptions) -> Result<Streams>;

    /// Connects to a TCP port on the loopback address of a sandbox's network. A port that cannot be
    /// reached is an error here or, where the runtime answers before it connects, of the first read.
    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<ByteStream>;

    /// One container's use of CPU, memory and disk.
    async fn container_stats(&self, container: &str) -> Result<v1::ContainerStats>;

    /// Statistics of the containers matching `filter`.
    async fn list_container_stats(&self, filter: v1::ContainerStatsFilter)
    -> Result<Vec<v1::ContainerStats>>;

    /// A sandbox's use in all, its network's counters, and its containers' shares.
    async fn pod_sandbox_stats(&self, sandbox: &str) -> Result<v1::PodSandboxStats>;

    /// Statistics of the sandboxes matching `filter`.
    async fn list_pod_sandbox_stats(
        &self,
        filter: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>>;

    /// Images present; with a reference, at most the one it names.
    async fn list_images(&self, image: Option<v1::ImageSpec>) -> Result<Vec<v1::Image>>;

    /// The image a reference or identifier names, or `None` where it is not present.
    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>>;

    /// Fetches an image and returns the reference to create containers with. `progress` is kept up to
    /// date where the runtime can tell. Two pulls of the same image share the work.
    ///
    /// # Errors
    /// [`crate::Error::ImagePull`] with the kind of failure.
    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<&v1::PodSandboxConfig>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<String>;

    /// Removes an image and what only it uses. Unknown images are fine. Who asks sees to it that no
    /// container uses the image: containerd removes the name all the same.
    ///
    /// # Errors
    /// [`crate::Error::FailedPrecondition`] while a container still uses it, from the embedded runtime.
    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()>;

    /// What images and writable layers occupy.
    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse>;

    /// Opens the container's log file anew, after the kubelet has moved the old one away.
    async fn reopen_container_log(&self, container: &str) -> Result<()>;

    /// Container events from this moment on.
    async fn events(&self) -> Result<EventStream>;
}
