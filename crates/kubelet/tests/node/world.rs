//! A kubelet with the embedded runtime, an API in memory, and a directory and cgroup of its own.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cri::Runtime;
use runtime::{SandboxNetwork, Service, ShimCommand};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::Api;
use crate::image::Image;

pub const IMAGE: &str = "docker.io/library/busybox:test";

pub struct World {
    pub api: Arc<Api>,
    pub dir: tempfile::TempDir,
    pub service: Service,
    pub config: kubelet::Config,
    stop: CancellationToken,
    kubelet: Option<JoinHandle<Result<(), kubelet::Error>>>,
}

/// Every pod is reached at the loopback address: what runs here needs no network.
struct Loopback;

#[async_trait::async_trait]
impl SandboxNetwork for Loopback {
    async fn attach(&self, _: &str, _: &Path, _: &cri::v1::PodSandboxConfig) -> Result<Vec<IpAddr>, String> {
        Ok(vec![[10, 1, 2, 3].into()])
    }

    async fn detach(&self, _: &str, _: &cri::v1::PodSandboxConfig) -> Result<(), String> {
        Ok(())
    }
}

impl World {
    pub async fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = runtime::Config {
            state: dir.path().join("runtime"),
            shim: ShimCommand { program: std::env::current_exe().unwrap(), args: vec!["shim".into()] },
            network: Some(Arc::new(Loopback)),
            registries: runtime::images::Registries::default(),
        };
        let service = Service::start(config).await.unwrap();
        let archive = Image::busybox(IMAGE).oci_archive(dir.path());
        runtime::images::import(service.images(), &archive).unwrap();
        let mut config = kubelet::Config::new("n1", vec![[192, 0, 2, 1].into()]);
        config.root_dir = dir.path().join("kubelet");
        config.pod_logs_dir = dir.path().join("logs");
        config.pod_manifest_path = Some(dir.path().join("manifests"));
        config.cgroup_root = format!("/tiphys-kubelet-{}-{name}", std::process::id());
        let mut world =
            Self { api: Api::new(), dir, service, config, stop: CancellationToken::new(), kubelet: None };
        world.start();
        world
    }

    pub fn start(&mut self) {
        self.stop = CancellationToken::new();
        let runtime: Arc<dyn Runtime> = Arc::new(self.service.clone());
        let run = kubelet::run(self.config.clone(), self.api.client(), runtime, self.stop.clone());
        self.kubelet = Some(tokio::spawn(run));
    }

    pub async fn stop(&mut self) {
        self.stop.cancel();
        self.kubelet.take().unwrap().await.unwrap().unwrap();
    }

    /// Creates a bound pod whose containers run shell scripts; `change` does the rest.
    pub fn pod(&self, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
        let path = format!("/api/v1/namespaces/default/pods/{name}");
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "default", "generation": 1, "labels": { "app": name } },
            "spec": {
                "nodeName": "n1", "restartPolicy": "Always", "terminationGracePeriodSeconds": 30,
                "enableServiceLinks": true,
                "containers": [container("main", script)],
            },
            "status": { "phase": "Pending" },
        });
        change(&mut pod);
        self.api.put(&path, pod);
        path
    }

    /// Removes all pods, stops everything, and checks that nothing stays on the host.
    pub async fn leave(mut self) {
        for entry in std::fs::read_dir(self.dir.path().join("manifests")).unwrap().flatten() {
            std::fs::remove_file(entry.path()).unwrap();
        }
        for pod in self.api.under("/api/v1/namespaces/default/pods/") {
            let path =
                format!("/api/v1/namespaces/default/pods/{}", pod["metadata"]["name"].as_str().unwrap());
            if pod["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_null() {
                self.api.delete_pod(&path, 1);
            }
            self.api.until(&path, "gone", Value::is_null).await;
        }
        let left = self.service.list_pod_sandboxes(cri::v1::PodSandboxFilter::default()).await.unwrap();
        assert!(left.is_empty(), "{left:?}");
        self.stop().await;
        self.service.shutdown().await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "mounts stay: {mounts}");
        let pods = std::fs::read_dir(self.config.root_dir.join("pods")).map(Iterator::count).unwrap_or(0);
        assert_eq!(pods, 0, "directories of pods stay");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let root = hierarchy.path().join(&self.config.cgroup_root[1..]);
            for group in ["kubepods/burstable", "kubepods/besteffort", "kubepods", ""] {
                let path = root.join(group);
                if path.exists() {
                    std::fs::remove_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                }
            }
        }
    }
}

pub fn container(name: &str, script: &str) -> Value {
    json!({
        "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    })
}

/// Whether a pod has the condition `Ready`.
pub fn ready(pod: &Value) -> bool {
    condition(pod, "Ready") == "True"
}

pub fn condition<'a>(pod: &'a Value, kind: &str) -> &'a str {
    let conditions = pod["status"]["conditions"].as_array();
    let found = conditions.and_then(|all| all.iter().find(|condition| condition["type"] == kind));
    found.and_then(|condition| condition["status"].as_str()).unwrap_or_default()
}

pub fn run(name: &str, case: impl AsyncFnOnce(&mut World)) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    tokio.block_on(async {
        let mut world = World::new(name).await;
        tokio::time::timeout(Duration::from_secs(90), case(&mut world)).await.expect("the test hangs");
        world.leave().await;
    });
}
