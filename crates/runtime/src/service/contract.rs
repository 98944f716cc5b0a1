//! The contract, answered by the modules beside this one.

use std::time::Duration;

use async_trait::async_trait;
use cri::{
    AttachOptions, ByteStream, Error, Event, EventStream, ExecOptions, ExecOutput, PullProgress, Result,
    Runtime, Streams, v1,
};
use futures::StreamExt;
use tokio::sync::watch;
use tokio_stream::wrappers::BroadcastStream;

use super::Service;
use crate::shim::protocol::Request;

#[async_trait]
impl Runtime for Service {
    async fn version(&self) -> Result<v1::VersionResponse> {
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "tiphys".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: "v1".into(),
        })
    }

    async fn status(&self) -> Result<v1::StatusResponse> {
        let condition = |name: &str| v1::RuntimeCondition {
            r#type: name.into(),
            status: true,
            ..v1::RuntimeCondition::default()
        };
        Ok(v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady"), condition("NetworkReady")],
            }),
            features: Some(v1::RuntimeFeatures { supplemental_groups_policy: true }),
            runtime_handlers: vec![v1::RuntimeHandler {
                name: String::new(),
                features: Some(v1::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: true,
                    user_namespaces: false,
                }),
            }],
            ..v1::StatusResponse::default()
        })
    }

    async fn cgroup_driver(&self) -> Result<v1::CgroupDriver> {
        Ok(v1::CgroupDriver::Cgroupfs)
    }

    async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, runtime_handler: &str) -> Result<String> {
        self.make_sandbox(config, runtime_handler).await
    }

    async fn stop_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        self.halt_sandbox(sandbox).await
    }

    async fn remove_pod_sandbox(&self, sandbox: &str) -> Result<()> {
        self.drop_sandbox(sandbox).await
    }

    async fn pod_sandbox_status(&self, sandbox: &str) -> Result<v1::PodSandboxStatus> {
        self.describe_sandbox(sandbox)
    }

    async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        Ok(self.sandboxes(&filter))
    }

    async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: &v1::PodSandboxConfig,
    ) -> Result<String> {
        self.make_container(sandbox, config, sandbox_config).await
    }

    async fn start_container(&self, container: &str) -> Result<()> {
        self.run_container(container).await
    }

    async fn stop_container(&self, container: &str, grace: Duration) -> Result<()> {
        self.halt_container(container, grace).await
    }

    async fn remove_container(&self, container: &str) -> Result<()> {
        self.drop_container(container).await
    }

    async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        Ok(self.containers(&filter))
    }

    async fn container_status(&self, container: &str) -> Result<v1::ContainerStatus> {
        self.describe_container(container)
    }

    async fn update_container_resources(
        &self,
        container: &str,
        resources: v1::LinuxContainerResources,
    ) -> Result<()> {
        self.change_limits(container, resources).await
    }

    async fn exec_sync(
        &self,
        container: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecOutput> {
        self.run_command(container, command, timeout).await
    }

    async fn exec(&self, container: &str, options: ExecOptions) -> Result<Streams> {
        self.open_exec(container, options).await
    }

    async fn attach(&self, container: &str, options: AttachOptions) -> Result<Streams> {
        self.join_streams(container, options).await
    }

    async fn port_forward(&self, sandbox: &str, port: u16) -> Result<ByteStream> {
        self.connect_port(sandbox, port).await
    }

    async fn container_stats(&self, container: &str) -> Result<v1::ContainerStats> {
        self.measure_container(container).await
    }

    async fn list_container_stats(
        &self,
        filter: v1::ContainerStatsFilter,
    ) -> Result<Vec<v1::ContainerStats>> {
        self.measure_containers(&filter).await
    }

    async fn pod_sandbox_stats(&self, sandbox: &str) -> Result<v1::PodSandboxStats> {
        self.measure_sandbox(sandbox).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        filter: v1::PodSandboxStatsFilter,
    ) -> Result<Vec<v1::PodSandboxStats>> {
        self.measure_sandboxes(&filter).await
    }

    async fn list_images(&self, image: Option<v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        self.all_images(image.as_ref())
    }

    async fn image_status(&self, image: v1::ImageSpec) -> Result<Option<v1::Image>> {
        if image.image.is_empty() {
            let message = "is empty".into();
            return Err(Error::InvalidArgument { field: "image", message });
        }
        Ok(self.all_images(Some(&image))?.pop())
    }

    async fn pull_image(
        &self,
        image: v1::ImageSpec,
        auth: Option<v1::AuthConfig>,
        _sandbox_config: Option<&v1::PodSandboxConfig>,
        progress: Option<watch::Sender<PullProgress>>,
    ) -> Result<String> {
        self.fetch_image(image, auth, progress).await
    }

    async fn remove_image(&self, image: v1::ImageSpec) -> Result<()> {
        self.drop_image(image).await
    }

    async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(self.filesystem_info())
    }

    async fn reopen_container_log(&self, container: &str) -> Result<()> {
        let container = self.container(container)?;
        container.pid()?;
        let client = self.sandbox(&container.record.sandbox)?.client()?;
        client.call(Request::ReopenLog { id: container.record.id.clone() }, &[]).await.map(drop)
    }

    async fn events(&self) -> Result<EventStream> {
        let events = BroadcastStream::new(self.inner.events.subscribe());
        Ok(Box::pin(events.map(|event| event.unwrap_or(Event::Resync))))
    }
}
