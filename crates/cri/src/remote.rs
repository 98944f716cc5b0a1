//! A runtime behind a socket: containerd, CRI-O or whatever else serves CRI v1 over gRPC.
//!
//! Messages pass as they are. What CRI leaves to HTTP comes as streams inside the process here too
//! (`streams`); where the runtime pushes no container events, the lists are compared (`events`).

mod events;
mod fault;
mod streams;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Request;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    AttachOptions, ByteStream, Error, EventStream, ExecOptions, ExecOutput, PullProgress, Result, Runtime,
    STOP_SIGNAL_ANNOTATION, Streams, v1,
};
use fault::About;
use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// How long a call may take that waits for nothing (`runtimeRequestTimeout`).
const PATIENCE: Duration = Duration::from_secs(120);
/// Longest answer, in bytes: a list of every container with its labels.
const LONGEST: usize = 16 << 20;

/// A remote runtime. Copies share the connection.
#[derive(Clone)]
pub struct Remote {
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Remote {
    /// Connects to the socket at `endpoint`: a path, or `unix://` and a path. Streams end with `stop`.
    ///
    /// # Errors
    /// [`Error::Unavailable`] where nobody listens there.
    pub async fn connect(endpoint: &str, stop: CancellationToken) -> Result<Self> {
        let path = PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint));
        let unreachable = |error: &dyn std::error::Error| Error::Unavailable {
            what: format!("container runtime at {}", path.display()),
            message: causes(error),
        };
        // The address is that of the socket; gRPC wants one of the network all the same.
        let channel = Endpoint::from_static("http://localhost");
        let socket = path.clone();
        let connector = tower::service_fn(move |_: Uri| open(socket.clone()));
        let channel = channel.connect_with_connector(connector).await.map_err(|error| unreachable(&error))?;
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(LONGEST),
            images: ImageServiceClient::new(channel).max_decoding_message_size(LONGEST),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    fn runtime(&self) -> RuntimeServiceClient<Channel> {
        self.runtime.clone()
    }

    fn images(&self) -> ImageServiceClient<Channel> {
        self.images.clone()
    }
}

async fn open(path: impl AsRef<Path>) -> io::Result<TokioIo<UnixStream>> {
    Ok(TokioIo::new(UnixStream::connect(path).await?))
}

/// An error with its causes.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// A call's message, with the time it may take.
fn within<T>(limit: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(limit);
    request
}

fn soon<T>(message: T) -> Request<T> {
    within(PATIENCE, message)
}

/// Success where the thing is gone already: stopping and removing may be repeated.
fn gone_is_fine<T>(result: Result<T>) -> Result<()> {
    match result {
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn missing(what: &str) -> Error {
    Error::Other(format!("the runtime's answer has no {what}"))
}

/// The signal a container stops by has no field in older CRI; newer runtimes know the annotation no more
/// than older ones, so it goes only where it means something.
fn plain(mut config: v1::ContainerConfig) -> v1::ContainerConfig {
    config.annotations.remove(STOP_SIGNAL_ANNOTATION);
    config
}

#[async_trait]
impl Runtime for Remote {
    async fn version(&self) -> Result<v1::VersionResponse> {
        let request = v1::VersionRequest { version: "0.1.0".into() };
        let answer = self.runtime().version(soon(request)).await.map_err(|it| About::Runtime.fault(it))?;
        Ok(answer.into_inner())
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        let request = soon(v1::StatusRequest::default());
        let answer = self.runtime().status(request).await.map_err(|it| About::Runtime.fault(it))?;
        Ok(answer.into_inner())
    }

    async fn cgroup_driver(&self) -> Result<v1::CgroupDriver> {
        let request = soon(v1::RuntimeConfigRequest::default());
        match self.runtime().runtime_config(request).await.map_err(|it| About::Runtime.fault(it)) {
            Ok(answer) => Ok(answer.into_inner().linux.unwrap_or_default().cgroup_driver()),
            // Older runtimes do not say; what they are set to by default is this.
            Err(Error::Unimplemented(_)) => Ok(v1::CgroupDriver::Cgroupfs),
            Err(error) => Err(error),
        }
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        let name = config.metadata.as_ref().map(|metadata| metadata.name.clone()).unwrap_or_default();
        let request =
            v1::RunPodSandboxRequest { config: Some(config), runtime_handler: runtime_handler.to_owned() };
        // Twice as long: a sandbox may need its image.
        let answer = self.runtime().run_pod_sandbox(within(PATIENCE * 2, request)).await;
        Ok(answer.map_err(|it| About::Sandbox(&name).fault(it))?.into_inner().pod_sandbox_id)
    }

    async fn stop_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        let request = soon(v1::StopPodSandboxRequest { pod_sandbox_id: sandbox.to_owned() });
        let answer = self.runtime().stop_pod_sandbox(request).await;
        gone_is_fine(answer.map_err(|it| About::Sandbox(sandbox).fault(it)))
    }

    async fn remove_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        self.stop_pod_sandbox(sandbox).await?;
        let request = soon(v1::RemovePodSandboxRequest { pod_sandbox_id: sandbox.to_owned() });
        let answer = self.runtime().remove_pod_sandbox(request).await;
        gone_is_fine(answer.map_err(|it| About::Sandbox(sandbox).fault(it)))
    }

    async fn pod_sandbox_status(&self, sandbox: &str) -> Result<v1::PodSandboxStatus> {
        let request =
            soon(v1::PodSandboxStatusRequest { pod_sandbox_id: sandbox.to_owned(), verbose: false });
        let answer = self.runtime().pod_sandbox_status(request).await;
        let answer = answer.map_err(|it| About::Sandbox(sandbox).fault(it))?;
        answer.into_inner().status.ok_or_else(|| missing("status"))
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let request = soon(v1::ListPodSandboxRequest { filter: Some(filter) });
        let answer = self.runtime().list_pod_sandbox(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner().items)
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = soon(v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(plain(config)),
            sandbox_config: Some(sandbox_config.clone()),
        });
        let answer = self.runtime().create_container(request).await;
        Ok(answer.map_err(|it| About::Sandbox(sandbox).fault(it))?.into_inner().container_id)
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        let request = soon(v1::StartContainerRequest { container_id: container.to_owned() });
        let answer = self.runtime().start_container(request).await;
        answer.map(drop).map_err(|it| About::Container(container).fault(it))
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs_f64().ceil() as u64).unwrap_or(i64::MAX);
        let request = v1::StopContainerRequest { container_id: container.to_owned(), timeout };
        let answer = self.runtime().stop_container(within(PATIENCE + grace, request)).await;
        gone_is_fine(answer.map_err(|it| About::Container(container).fault(it)))
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        let request = soon(v1::RemoveContainerRequest { container_id: container.to_owned() });
        let answer = self.runtime().remove_container(request).await;
        gone_is_fine(answer.map_err(|it| About::Container(container).fault(it)))
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let request = soon(v1::ListContainersRequest { filter: Some(filter) });
        let answer = self.runtime().list_containers(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner().containers)
    }

    async fn container_status(&self, container: &str) -> Result<v1::ContainerStatus> {
        let request = soon(v1::ContainerStatusRequest { container_id: container.to_owned(), verbose: false });
        let answer = self.runtime().container_status(request).await;
        let answer = answer.map_err(|it| About::Container(container).fault(it))?;
        answer.into_inner().status.ok_or_else(|| missing("status"))
    }

    async fn update_container_resources(
        &self,
        container: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<()> {
        let request = soon(v1::UpdateContainerResourcesRequest {
            container_id: container.to_owned(),
            linux: Some(resources),
            ..Default::default()
        });
        let answer = self.runtime().update_container_resources(request).await;
        answer.map(drop).map_err(|it| About::Container(container).fault(it))
    }

    async fn exec_sync(
        &self,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        let seconds = timeout.map_or(0, |timeout| timeout.as_secs_f64().ceil() as i64);
        let request = v1::ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.to_vec(),
            timeout: seconds,
        };
        let request = match timeout {
            Some(timeout) => within(PATIENCE + timeout, request),
            None => Request::new(request),
        };
        let answer = self.runtime().exec_sync(request).await;
        let late = About::Command(container, timeout.unwrap_or_default());
        let answer = answer.map_err(|it| late.fault(it))?.into_inner();
        Ok(ExecOutput {
            stdout: answer.stdout.into(),
            stderr: answer.stderr.into(),
            exit_code: answer.exit_code,
        })
    }

    async fn exec(&self, container: &str, options: ExecOptions) -> Result<Streams> {
        self.open_exec(container, options).await
    }

    async fn attach(&self, container: &str, options: AttachOptions) -> Result<Streams> {
        self.open_attach(container, options).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<ByteStream> {
        self.open_port(sandbox, port).await
    }

    async fn container_stats(&self, container: &str) -> Result<v1::ContainerStats> {
        let request = soon(v1::ContainerStatsRequest { container_id: container.to_owned() });
        let answer = self.runtime().container_stats(request).await;
        let answer = answer.map_err(|it| About::Container(container).fault(it))?;
        answer.into_inner().stats.ok_or_else(|| missing("statistics"))
    }

    async fn list_container_stats(
        &self,
        filter: v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>> {
        let request = soon(v1::ListContainerStatsRequest { filter: Some(filter) });
        let answer = self.runtime().list_container_stats(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner().stats)
    }

    async fn pod_sandbox_stats(&self, sandbox: &str) -> Result<v1::PodSandboxStats> {
        let request = soon(v1::PodSandboxStatsRequest { pod_sandbox_id: sandbox.to_owned() });
        let answer = self.runtime().pod_sandbox_stats(request).await;
        let answer = answer.map_err(|it| About::Sandbox(sandbox).fault(it))?;
        answer.into_inner().stats.ok_or_else(|| missing("statistics"))
    }

    async fn list_pod_sandbox_stats(
        &self,
        filter: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>> {
        let request = soon(v1::ListPodSandboxStatsRequest { filter: Some(filter) });
        let answer = self.runtime().list_pod_sandbox_stats(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner().stats)
    }

    async fn list_images(&self, image: Option<v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        let filter = image.map(|image| v1::ImageFilter { image: Some(image) });
        let request = soon(v1::ListImagesRequest { filter });
        let answer = self.images().list_images(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner().images)
    }

    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>> {
        let name = image.image.clone();
        let request = soon(v1::ImageStatusRequest { image: Some(image), verbose: false });
        let answer = self.images().image_status(request).await;
        Ok(answer.map_err(|it| About::Image(&name).fault(it))?.into_inner().image)
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<&v1::PodSandboxConfig>,
        _progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<String> {
        let name = image.image.clone();
        let request =
            v1::PullImageRequest { image: Some(image), auth, sandbox_config: sandbox_config.cloned() };
        // However long it takes: the runtime itself gives up where nothing moves.
        let answer = self.images().pull_image(Request::new(request)).await;
        Ok(answer.map_err(|it| About::Pull(&name).fault(it))?.into_inner().image_ref)
    }

    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()> {
        let name = image.image.clone();
        let answer = self.images().remove_image(soon(v1::RemoveImageRequest { image: Some(image) })).await;
        gone_is_fine(answer.map_err(|it| About::Image(&name).fault(it)))
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        let request = soon(v1::ImageFsInfoRequest::default());
        let answer = self.images().image_fs_info(request).await;
        Ok(answer.map_err(|it| About::Runtime.fault(it))?.into_inner())
    }

    async fn reopen_container_log(&self, container: &str) -> Result<()> {
        let request = soon(v1::ReopenContainerLogRequest { container_id: container.to_owned() });
        let answer = self.runtime().reopen_container_log(request).await;
        answer.map(drop).map_err(|it| About::Container(container).fault(it))
    }

    async fn events(&self) -> Result<EventStream> {
        self.open_events().await
    }
}
