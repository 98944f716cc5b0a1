//! Making a container and running it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};

use super::container::{self, Parts};
use super::env::{self, Sources};
use super::fields::Place;
use super::work::Attempt;
use super::{hooks, references, sandbox, security, spec};
use crate::context::Context;
use crate::events::Type;
use crate::names;
use crate::source::objects::Held;
use crate::source::services;
use crate::volume;

/// Why a container does not run: reason and message of its waiting state.
#[derive(Debug, Clone, PartialEq)]
pub struct Refused {
    pub reason: &'static str,
    pub message: String,
}

/// What a start needs to know.
pub struct Start {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
    pub held: Arc<Held>,
    pub container: Container,
    pub attempt: Attempt,
    pub ips: Vec<String>,
}

impl Start {
    /// Makes and runs the container; returns once its `postStart` hook has ended.
    ///
    /// # Errors
    /// Upstream's reasons. A container whose hook failed has been killed.
    pub async fn run(self) -> Result<(), Refused> {
        let name = self.container.name.clone();
        let tell = |kind, reason: &str, message: String| {
            self.ctx.recorder.container(&self.pod, &name, kind, reason, message);
        };
        let fail = |reason: &'static str, message: String| {
            tell(Type::Warning, "Failed", format!("Error: {message}"));
            Refused { reason, message }
        };
        let sandbox_config =
            self.sandbox_config().map_err(|message| fail("CreateContainerConfigError", message))?;
        let config = self.config().await.map_err(|message| fail("CreateContainerConfigError", message))?;
        let runtime = &self.ctx.runtime;
        let made = runtime.create_container(&self.attempt.sandbox, config.clone(), &sandbox_config).await;
        // Left over from a start that was cut off: it never ran.
        let made = match made {
            Err(cri::Error::AlreadyExists { id, .. }) => {
                let removed = runtime.remove_container(&id).await;
                removed.map_err(|error| fail("CreateContainerError", error.to_string()))?;
                runtime.create_container(&self.attempt.sandbox, config, &sandbox_config).await
            }
            made => made,
        };
        let id = made.map_err(|error| fail("CreateContainerError", error.to_string()))?;
        tell(Type::Normal, "Created", "Container created".into());
        let started = runtime.start_container(&id).await;
        started.map_err(|error| fail("RunContainerError", error.to_string()))?;
        tell(Type::Normal, "Started", "Container started".into());
        self.post_start(&id).await
    }

    fn sandbox_config(&self) -> Result<v1::PodSandboxConfig, String> {
        let dns = super::dns(&self.ctx.config, &self.pod)?;
        Ok(sandbox::config(&self.ctx.config, &self.pod, self.attempt.sandbox_attempt, dns))
    }

    async fn post_start(&self, id: &str) -> Result<(), Refused> {
        let lifecycle = self.container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
            return Ok(());
        };
        let target = hooks::Target { ctx: &self.ctx, container: &self.container, id, ips: &self.ips };
        let Err(error) = hooks::run(&target, handler).await else { return Ok(()) };
        let (pod, name) = (&self.pod, &self.container.name);
        self.ctx.recorder.container(
            pod,
            name,
            Type::Warning,
            "FailedPostStartHook",
            format!("PostStartHook failed: {error}"),
        );
        let why = "FailedPostStartHook";
        self.ctx.recorder.container(pod, name, Type::Normal, "Killing", why);
        if let Err(error) = self.ctx.runtime.stop_container(id, spec::grace(pod)).await {
            tracing::warn!(container = id, %error, "cannot stop a container whose postStart hook failed");
        }
        Err(Refused { reason: "PostStartHookError", message: error })
    }

    async fn config(&self) -> Result<v1::ContainerConfig, String> {
        security::verify_non_root(&self.pod, &self.container, &self.attempt.image.user)?;
        let sources = self.sources().await?;
        let place = Place {
            pod_ips: if names::host_network(&self.pod) { &self.ctx.host.ips } else { &self.ips },
            host_ips: &self.ctx.host.ips,
            node: &self.ctx.config.node_name,
        };
        let env = env::environment(&self.pod, &self.container, &sources, &place, self.ctx.allocatable)?;
        let pod_dir = self.ctx.config.pod_dir(names::uid(&self.pod));
        let mut mounts =
            volume::mounts(&pod_dir, &self.pod, &self.container, &env).map_err(|error| error.to_string())?;
        mounts.extend(self.own_mounts(&pod_dir, &mounts).map_err(|error| error.to_string())?);
        Ok(container::config(Parts {
            pod: &self.pod,
            container: &self.container,
            attempt: self.attempt.attempt,
            target: self.attempt.target.as_deref(),
            image: &self.attempt.image.reference,
            env,
            mounts,
            memory: self.ctx.memory,
        }))
    }

    async fn sources(&self) -> Result<Sources, String> {
        let mut single = Pod { metadata: self.pod.metadata.clone(), ..Default::default() };
        single.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            containers: vec![self.container.clone()],
            ..Default::default()
        });
        let wanted = references::of(&single);
        let mut sources = Sources {
            services: services::seen_from(&self.ctx.services, names::namespace(&self.pod)).await,
            ..Default::default()
        };
        for name in wanted.config_maps {
            let found = self.held.config_map(&name).await?;
            sources.config_maps.insert(name, found);
        }
        for name in wanted.secrets {
            let found = self.held.secret(&name).await?;
            sources.secrets.insert(name, found);
        }
        Ok(sources)
    }

    /// `/etc/hosts` and the termination log.
    fn own_mounts(&self, pod_dir: &Path, taken: &[v1::Mount]) -> Result<Vec<v1::Mount>, volume::Error> {
        let mut mounts = Vec::new();
        let bind = |container_path: &str, host_path: &Path| v1::Mount {
            container_path: container_path.to_owned(),
            host_path: host_path.to_string_lossy().into_owned(),
            ..Default::default()
        };
        if !taken.iter().any(|mount| mount.container_path == "/etc/hosts") {
            let path = pod_dir.join("etc-hosts");
            fs::create_dir_all(pod_dir).map_err(volume::Error::file("create", pod_dir))?;
            let host =
                names::host_network(&self.pod).then(|| fs::read_to_string("/etc/hosts").unwrap_or_default());
            let text = sandbox::hosts_file(&self.ctx.config, &self.pod, &self.ips, host.as_deref());
            // Containers have the file itself mounted: it is filled, never replaced.
            if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
                fs::write(&path, text).map_err(volume::Error::file("write", &path))?;
            }
            mounts.push(bind("/etc/hosts", &path));
        }
        if let Some(inside) =
            self.container.termination_message_path.as_deref().filter(|path| !path.is_empty())
        {
            let path = container::termination_file(pod_dir, &self.container.name, self.attempt.attempt);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(volume::Error::file("create", parent))?;
            }
            fs::write(&path, b"").map_err(volume::Error::file("create", &path))?;
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666))
                .map_err(volume::Error::file("chmod", &path))?;
            mounts.push(bind(inside, &path));
        }
        Ok(mounts)
    }
}
