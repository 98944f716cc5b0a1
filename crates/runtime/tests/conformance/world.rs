//! A runtime with its own state for each test, and what a kubelet would do with it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cri::{Event, EventKind, EventStream, Runtime, v1};
use futures::StreamExt;
use runtime::{Config, Service, ShimCommand};

use crate::containerd::Containerd;
use crate::image::Image;
use crate::leftovers::{Leftovers, mounts};
use crate::suite::Case;

/// The image of most tests.
pub const BUSYBOX: &str = "docker.io/library/busybox:test";
/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One runtime, and a kubelet's place on this host.
pub struct World {
    pub runtime: Arc<dyn Runtime>,
    pub embedded: Option<Service>,
    containerd: Option<Containerd>,
    /// Before the directory: what is in it goes first.
    _leftovers: Leftovers,
    pub dir: tempfile::TempDir,
    pub cgroup: String,
    config: Option<Config>,
}

/// Which runtime a case is run against.
#[derive(Clone, Copy)]
pub enum Kind {
    Embedded,
    Containerd,
}

pub fn run(kind: Kind, case: &'static Case) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let world = match kind {
            Kind::Embedded => World::embedded().await,
            Kind::Containerd => World::containerd().await,
        };
        let world = tokio::time::timeout(PATIENCE * 2, (case.run)(world)).await.expect("the test hangs");
        world.leave().await;
    });
}

fn unique() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("tiphys-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl World {
    async fn embedded() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = Config {
            state: dir.path().join("state"),
            shim: ShimCommand { program: std::env::current_exe().unwrap(), args: vec!["shim".into()] },
            network: None,
            registries: runtime::images::Registries::default(),
        };
        let service = Service::start(config.clone()).await.unwrap();
        let archive = Image::busybox(BUSYBOX).oci_archive(dir.path());
        runtime::images::import(service.images(), &archive).unwrap();
        let cgroup = format!("/{}", unique());
        Self {
            runtime: Arc::new(service.clone()),
            embedded: Some(service),
            containerd: None,
            _leftovers: Leftovers { dir: dir.path().to_owned(), cgroup: cgroup.clone() },
            dir,
            cgroup,
            config: Some(config),
        }
    }

    async fn containerd() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cgroup = format!("/{}", unique());
        let leftovers = Leftovers { dir: dir.path().to_owned(), cgroup: cgroup.clone() };
        let containerd = Containerd::start(dir.path(), BUSYBOX).await;
        Self {
            runtime: Arc::new(containerd.remote.clone()),
            embedded: None,
            containerd: Some(containerd),
            _leftovers: leftovers,
            dir,
            cgroup,
            config: None,
        }
    }

    /// Ends the service and starts another on the same state, as a restart of the server does.
    pub async fn restart(&mut self) {
        let service = self.embedded.take().unwrap();
        service.shutdown().await;
        let service = Service::start(self.config.clone().unwrap()).await.unwrap();
        self.runtime = Arc::new(service.clone());
        self.embedded = Some(service);
    }

    /// Removes all pods and checks that nothing stays on the host.
    pub async fn leave(self) {
        for sandbox in self.runtime.list_pod_sandboxes(v1::PodSandboxFilter::default()).await.unwrap() {
            self.runtime.remove_pod_sandbox(&sandbox.id).await.unwrap();
        }
        if let Some(service) = &self.embedded {
            service.shutdown().await;
        }
        if let Some(containerd) = self.containerd {
            containerd.end();
        }
        let mounts = mounts(self.dir.path());
        assert!(mounts.is_empty(), "mounts stay: {mounts:?}");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let path = hierarchy.path().join(&self.cgroup[1..]);
            if let Ok(children) = std::fs::read_dir(&path) {
                for child in children.flatten() {
                    assert!(!child.file_type().unwrap().is_dir(), "cgroup stays: {:?}", child.path());
                }
                std::fs::remove_dir(&path).unwrap();
            }
        }
    }

    pub fn log_dir(&self) -> PathBuf {
        self.dir.path().join("logs")
    }

    /// A sandbox's configuration, as a kubelet writes it.
    pub fn sandbox(&self, name: &str) -> v1::PodSandboxConfig {
        v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            log_directory: self.log_dir().to_string_lossy().into_owned(),
            dns_config: Some(v1::DnsConfig {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
                options: vec!["ndots:5".into()],
            }),
            labels: HashMap::from([("app".into(), name.into())]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: self.cgroup.clone(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(namespaces()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    /// Runs a container to `script` in a sandbox of its own.
    pub async fn start(&self, name: &str, script: &str) -> (String, String) {
        self.start_with(name, script, |_| {}).await
    }

    /// As [`Self::start`], with a changed configuration.
    pub async fn start_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> (String, String) {
        let sandbox_config = self.sandbox(name);
        let sandbox = self.runtime.run_pod_sandbox(sandbox_config.clone(), "").await.unwrap();
        let mut config = container(name, script);
        change(&mut config);
        let container = self.runtime.create_container(&sandbox, config, &sandbox_config).await.unwrap();
        self.runtime.start_container(&container).await.unwrap();
        (sandbox, container)
    }

    /// Waits until `container` has exited, and returns its status.
    pub async fn exited(&self, container: &str, events: &mut EventStream) -> v1::ContainerStatus {
        loop {
            let status = self.runtime.container_status(container).await.unwrap();
            if status.state() == v1::ContainerState::ContainerExited {
                return status;
            }
            next(events, container, EventKind::Stopped).await;
        }
    }

    /// Runs `script` in a new container to its end, and returns its status and log.
    pub async fn run(&self, name: &str, script: &str) -> (v1::ContainerStatus, String) {
        self.run_with(name, script, |_| {}).await
    }

    /// As [`Self::run`], with a changed configuration.
    pub async fn run_with(
        &self,
        name: &str,
        script: &str,
        change: impl FnOnce(&mut v1::ContainerConfig),
    ) -> (v1::ContainerStatus, String) {
        let mut events = self.runtime.events().await.unwrap();
        let (_, container) = self.start_with(name, script, change).await;
        let status = self.exited(&container, &mut events).await;
        let log = self.log(name);
        (status, log)
    }

    /// The text of a container's log, without times.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log_dir().join(format!("{name}.log"))).unwrap();
        let line = |line: &str| {
            let (time, rest) = line.split_once(' ').unwrap();
            // Go leaves out the zeros at a fraction's end.
            assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "time {time:?}");
            format!("{rest}\n")
        };
        text.lines().map(line).collect()
    }

    /// Runs a command in a container and returns its exit code and output.
    pub async fn exec(&self, container: &str, script: &str) -> (i32, String) {
        let command = ["sh", "-c", script].map(str::to_owned);
        let output = self.runtime.exec_sync(container, &command, Some(PATIENCE)).await.unwrap();
        (output.exit_code, String::from_utf8(output.stdout.to_vec()).unwrap())
    }
}

/// Waits for one event.
pub async fn next(events: &mut EventStream, id: &str, wanted: EventKind) {
    let search = async {
        loop {
            match events.next().await.expect("events end") {
                Event::Container { container, kind, .. } if container == id && kind == wanted => return,
                Event::Resync => return,
                Event::Container { .. } => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, search).await.expect("no such event comes");
}

fn namespaces() -> v1::NamespaceOption {
    v1::NamespaceOption { pid: v1::NamespaceMode::Container as i32, ..Default::default() }
}

/// A container's configuration, as a kubelet writes it.
pub fn container(name: &str, script: &str) -> v1::ContainerConfig {
    v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(v1::ImageSpec { image: BUSYBOX.into(), ..Default::default() }),
        command: vec!["sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}.log"),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(v1::LinuxContainerResources {
                cpu_shares: 102,
                oom_score_adj: -997,
                ..Default::default()
            }),
            security_context: Some(v1::LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                masked_paths: vec!["/proc/kcore".into(), "/proc/keys".into(), "/proc/timer_list".into()],
                readonly_paths: vec!["/proc/sys".into(), "/proc/bus".into()],
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}
