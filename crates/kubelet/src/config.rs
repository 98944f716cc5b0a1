//! What the kubelet is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::Quantity;
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{Pod, Taint};

use crate::server::Authorizer;

/// Servers, searches and options of a pod, by its `dnsPolicy` and `dnsConfig`.
pub type PodDns = Arc<dyn Fn(&Pod) -> Result<cri::v1::DnsConfig, String> + Send + Sync>;

/// Waits until an address of the node's pods is no longer sent new connections by Services.
pub type Drained = Arc<dyn Fn(IpAddr) -> BoxFuture<'static, ()> + Send + Sync>;

/// The kubelet's settings, each named after the upstream flag or configuration field it stands for.
#[derive(Clone)]
pub struct Config {
    /// The node's name (`--hostname-override`).
    pub node_name: String,
    /// The node's addresses, the primary first (`--node-ip`).
    pub node_ips: Vec<IpAddr>,
    /// Labels the node registers with, beside those of the host (`--node-labels`).
    pub node_labels: BTreeMap<String, String>,
    /// Whether to make the Node object where it is missing (`--register-node`).
    pub register_node: bool,
    /// Taints the node registers with (`--register-with-taints`).
    pub register_with_taints: Vec<Taint>,
    /// Where pods' volumes and files are kept (`--root-dir`).
    pub root_dir: PathBuf,
    /// Where containers' logs are kept (`podLogsDir`).
    pub pod_logs_dir: PathBuf,
    /// Where static pods' manifests are read from (`--pod-manifest-path`).
    pub pod_manifest_path: Option<PathBuf>,
    /// The domain of the cluster's DNS (`--cluster-domain`).
    pub cluster_domain: String,
    /// How a pod's `resolv.conf` is decided (`--cluster-dns`, `--resolv-conf`). Without, pods have the
    /// runtime's own, usually the host's.
    pub pod_dns: Option<PodDns>,
    /// What a pod that is deleted waits for, a second at most, before its containers are told to end: so
    /// that no Service on this node sends to processes that no longer listen. Without, they are told at once.
    pub drained: Option<Drained>,
    /// The cgroup below which pods' cgroups are made (`--cgroup-root`).
    pub cgroup_root: String,
    /// Most pods this node takes (`--max-pods`).
    pub max_pods: u32,
    /// Taken off what pods may use (`--system-reserved` and `--kube-reserved`, added up): `cpu`, `memory`, ….
    pub reserved: BTreeMap<String, Quantity>,
    /// Kernel parameters pods may set beside the safe ones, by name or as `prefix*`
    /// (`--allowed-unsafe-sysctls`).
    pub allowed_unsafe_sysctls: Vec<String>,
    /// How often unchanged node status is written (`nodeStatusReportFrequency`).
    pub node_status_report_frequency: Duration,
    /// How long the node's lease lasts (`nodeLeaseDurationSeconds`); it is renewed four times as often.
    pub node_lease_duration: Duration,
    /// The size at which a container's log is rotated, in bytes (`containerLogMaxSize`).
    pub container_log_max_size: u64,
    /// How many log files a container keeps, the current one included (`containerLogMaxFiles`).
    pub container_log_max_files: u32,
    /// Percentage of the image file system from which unused images are removed
    /// (`--image-gc-high-threshold`).
    pub image_gc_high_threshold: u8,
    /// Percentage down to which they are removed (`--image-gc-low-threshold`).
    pub image_gc_low_threshold: u8,
    /// Age below which an unused image is kept (`--minimum-image-ttl-duration`).
    pub minimum_image_ttl: Duration,
    /// The HTTPS server; none is started without (`--address`, `--port`, `--tls-cert-file`,
    /// `--tls-private-key-file`, `--client-ca-file`, `--authentication-token-webhook`, …).
    pub server: Option<Server>,
}

/// The kubelet's HTTPS server.
#[derive(Clone)]
pub struct Server {
    /// Where to listen; 10250 is the usual port, 0 any free one.
    pub address: SocketAddr,
    /// The certificate to show, which may change while serving.
    pub certificate: Arc<dyn rustls::server::ResolvesServerCert>,
    /// Authorities whose client certificates are believed.
    pub client_ca: Arc<rustls::RootCertStore>,
    /// Who may do what.
    pub authorizer: Arc<dyn Authorizer>,
}

impl Config {
    /// Upstream's defaults for a node of this name and these addresses, without a server.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            node_labels: BTreeMap::new(),
            register_node: true,
            register_with_taints: Vec::new(),
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            pod_manifest_path: None,
            cluster_domain: "cluster.local".into(),
            pod_dns: None,
            drained: None,
            cgroup_root: "/".into(),
            max_pods: 110,
            reserved: BTreeMap::new(),
            allowed_unsafe_sysctls: Vec::new(),
            node_status_report_frequency: Duration::from_secs(300),
            node_lease_duration: Duration::from_secs(40),
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
            image_gc_high_threshold: 85,
            image_gc_low_threshold: 80,
            minimum_image_ttl: Duration::from_secs(120),
            server: None,
        }
    }

    /// The directory of a pod's files.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root_dir.join("pods").join(uid)
    }
}
