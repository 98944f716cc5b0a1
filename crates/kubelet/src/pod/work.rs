//! The work a pod's plan asks for, each piece a task of its own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::api::node::v1::RuntimeClass;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use runtime::cgroup::Cgroup;

use super::fields::Place;
use super::images::{self, Image, Missing};
use super::memory::Job;
use super::observed::Observed;
use super::plan::Action;
use super::start::{Refused, Start};
use super::stop::Stop;
use super::{patch, sandbox, spec};
use crate::cgroup;
use crate::context::Context;
use crate::events::Type;
use crate::names;
use crate::source::objects::Held;
use crate::volume::{self, Setup};

/// What became of a piece of work.
#[derive(Debug)]
pub enum Done {
    Sandbox(Result<(), String>),
    Volumes(Result<(), String>),
    Image { container: String, result: Result<Image, Missing> },
    Start { container: String, result: Result<(), Refused> },
    Stop(cri::Result<()>),
    Remove(cri::Result<()>),
    Resize(Result<(), String>),
    TearDown { remove: bool, result: Result<(), String> },
    Delete(kube::Result<()>),
    Status(Box<kube::Result<Option<Pod>>>),
}

/// One try to run a container.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub container: String,
    /// Its number.
    pub attempt: u32,
    pub sandbox: String,
    pub sandbox_attempt: u32,
    pub image: Image,
    /// The container whose processes it is to see.
    pub target: Option<String>,
}

/// What work needs to know of its pod.
#[derive(Clone)]
pub struct Work {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
    pub held: Arc<Held>,
    /// Addresses of the pod, or of the node where it has the node's network.
    pub ips: Vec<String>,
}

impl Work {
    fn pod_dir(&self) -> PathBuf {
        self.ctx.config.pod_dir(names::uid(&self.pod))
    }

    pub async fn sandbox(self, attempt: u32, stop: Option<String>) -> Done {
        let result = self.run_sandbox(attempt, stop).await;
        if let Err(message) = &result {
            let text = format!("Failed to create pod sandbox: {message}");
            self.ctx.recorder.pod(&self.pod, Type::Warning, "FailedCreatePodSandBox", text);
        }
        Done::Sandbox(result)
    }

    async fn run_sandbox(&self, attempt: u32, stop: Option<String>) -> Result<(), String> {
        let text = |error: cri::Error| error.to_string();
        if let Some(old) = stop {
            self.ctx.recorder.pod(
                &self.pod,
                Type::Normal,
                "SandboxChanged",
                "Pod sandbox changed, it will be killed and re-created.",
            );
            self.ctx.runtime.stop_pod_sandbox(&old).await.map_err(text)?;
        }
        let dns = super::dns(&self.ctx.config, &self.pod)?;
        let config = sandbox::config(&self.ctx.config, &self.pod, attempt, dns);
        let handler = self.runtime_handler().await?;
        let (root, pods, pod) = (self.ctx.config.cgroup_root.clone(), self.ctx.pods.list(), self.pod.clone());
        let made = tokio::task::spawn_blocking(move || cgroup::make(&root, &pods, &pod)).await;
        made.map_err(|error| error.to_string())?
            .map_err(|error| format!("failed to ensure that the pod's cgroup exists: {error}"))?;
        match self.ctx.runtime.run_pod_sandbox(config, &handler).await {
            // From a try that was cut off; whether it is of use is seen by looking.
            Ok(_) | Err(cri::Error::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// The runtime's handler for the pod's RuntimeClass.
    async fn runtime_handler(&self) -> Result<String, String> {
        let name = spec::spec(&self.pod).runtime_class_name.as_deref().unwrap_or_default();
        if name.is_empty() {
            return Ok(String::new());
        }
        let classes = self.ctx.informers.of::<RuntimeClass>();
        let listed = tokio::time::timeout(Duration::from_secs(1), classes.synced()).await;
        listed.map_err(|_| "failed to sync runtimeclass cache: timed out waiting for the condition")?;
        let class = classes.get(&ObjectKey::cluster(name));
        class
            .map(|class| class.handler.clone())
            .ok_or_else(|| format!("runtimeclasses.node.k8s.io {name:?} not found"))
    }

    pub async fn volumes(self) -> Done {
        let pod_dir = self.pod_dir();
        let setup = Setup {
            pod: &self.pod,
            pod_dir: &pod_dir,
            held: &self.held,
            tokens: &self.ctx.tokens,
            place: Place {
                pod_ips: &self.ips,
                host_ips: &self.ctx.host.ips,
                node: &self.ctx.config.node_name,
            },
            node: self.ctx.allocatable,
        };
        let result = volume::set_up(&setup).await.map_err(|error| error.to_string());
        if let Err(message) = &result {
            self.ctx.recorder.pod(&self.pod, Type::Warning, "FailedMount", message.clone());
        }
        Done::Volumes(result)
    }

    pub async fn image(self, container: String) -> Done {
        let result = match spec::find(&self.pod, &container) {
            Some((_, found)) => images::ensure(&self.ctx, &self.pod, &self.held, &found).await,
            None => Err(Missing { reason: "ErrImagePull", message: format!("no container {container:?}") }),
        };
        Done::Image { container, result }
    }

    pub async fn start(self, attempt: Attempt) -> Done {
        let name = attempt.container.clone();
        let result = match spec::find(&self.pod, &name) {
            Some((_, container)) => {
                let Work { ctx, pod, held, ips } = self;
                Start { ctx, pod, held, container, attempt, ips }.run().await
            }
            None => Ok(()),
        };
        Done::Start { container: name, result }
    }

    pub async fn stop(self, action: Action, again: bool) -> Done {
        let Action::Stop { id, container, why, grace, .. } = action else { return Done::Stop(Ok(())) };
        let Work { ctx, pod, ips, .. } = self;
        Done::Stop(Stop { ctx, pod, id, container, why, grace, ips, again }.run().await)
    }

    pub async fn resize(self, id: String, container: String) -> Done {
        Done::Resize(self.resized(&id, &container).await)
    }

    async fn resized(&self, id: &str, container: &str) -> Result<(), String> {
        let Some((_, container)) = spec::find(&self.pod, container) else { return Ok(()) };
        let resources = super::qos::resources(&self.pod, &container, self.ctx.memory);
        let path = super::qos::cgroup(&self.ctx.config.cgroup_root, &self.pod);
        let limits = super::qos::pod_resources(&self.pod);
        let whole = move || Cgroup::new(&path).set(&limits).map_err(|error| error.to_string());
        // A container may not have more than its pod: what grows begins with the pod, which refuses to
        // shrink below its containers and then follows them.
        let grown = tokio::task::spawn_blocking(whole.clone()).await.map_err(|error| error.to_string())?;
        let changed = self.ctx.runtime.update_container_resources(id, resources).await;
        changed.map_err(|error| error.to_string())?;
        match grown {
            Ok(()) => Ok(()),
            Err(_) => tokio::task::spawn_blocking(whole).await.map_err(|error| error.to_string())?,
        }
    }

    pub async fn remove(self, id: String, log_path: String) -> Done {
        let result = self.ctx.runtime.remove_container(&id).await;
        if result.is_ok() && !log_path.is_empty() {
            crate::logs::remove(&log_path);
        }
        Done::Remove(result)
    }

    /// Gives back network and volumes; with `remove`, the sandboxes, logs and all files too.
    pub async fn tear_down(self, observed: Observed, remove: bool) -> Done {
        let result = self.torn_down(&observed, remove).await;
        if let Err(error) = &result {
            tracing::warn!(pod = names::full(&self.pod), error, "cannot tear down");
        }
        Done::TearDown { remove, result }
    }

    async fn torn_down(&self, observed: &Observed, remove: bool) -> Result<(), String> {
        let text = |error: cri::Error| error.to_string();
        for sandbox in &observed.sandboxes {
            self.ctx.runtime.stop_pod_sandbox(&sandbox.id).await.map_err(text)?;
            if remove {
                self.ctx.runtime.remove_pod_sandbox(&sandbox.id).await.map_err(text)?;
            }
        }
        let pod_dir = self.pod_dir();
        let logs = names::log_dir(&self.ctx.config.pod_logs_dir, &self.pod);
        let uid = names::uid(&self.pod).to_owned();
        self.ctx.tokens.forget(&uid);
        let cgroup = super::qos::cgroup(&self.ctx.config.cgroup_root, &self.pod);
        let blocking = tokio::task::spawn_blocking(move || {
            if !remove {
                return volume::tear_down(&pod_dir.join("volumes"))
                    .and_then(|()| volume::tear_down(&pod_dir.join("volume-subpaths")))
                    .map_err(|error| error.to_string());
            }
            volume::tear_down(&pod_dir).map_err(|error| error.to_string())?;
            Cgroup::new(&cgroup).remove().map_err(|error| format!("remove cgroup {cgroup}: {error}"))?;
            match std::fs::remove_dir_all(&logs) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(format!("remove {}: {error}", logs.display()))
                }
                _ => Ok(()),
            }
        });
        blocking.await.map_err(|error| error.to_string())?
    }

    pub async fn delete(self) -> Done {
        let api = Api::<Pod>::namespaced(self.ctx.client.clone(), names::namespace(&self.pod));
        let uid = names::uid(&self.pod).to_owned();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid), ..Default::default() }),
            ..Default::default()
        };
        Done::Delete(match api.delete(names::name(&self.pod), &params).await {
            // Gone already, or another pod has its name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            result => result.map(|_| ()),
        })
    }

    /// Writes `status` to `target`, the pod or its mirror. The pod as the API has it then.
    pub async fn status(self, target: Arc<Pod>, status: PodStatus) -> Done {
        let old = target.status.clone().unwrap_or_default();
        let Some(patch) = patch::status(names::uid(&target), &old, &status) else {
            return Done::Status(Box::new(Ok(None)));
        };
        let api = Api::<Pod>::namespaced(self.ctx.client.clone(), names::namespace(&target));
        let written =
            api.patch_status(names::name(&target), &PatchParams::default(), &Patch::Strategic(patch)).await;
        Done::Status(Box::new(match written {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
            written => written.map(Some),
        }))
    }
}

/// The work an action stands for is in hand as this.
pub type Finished = (Option<Job>, Done);
