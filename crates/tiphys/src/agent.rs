//! `tiphys agent`: a node of a cluster whose API is elsewhere; and `tiphys kubelet`, the same without
//! service proxy and names.

use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use ipnet::IpNet;
use tokio_util::task::TaskTracker;

use crate::claim::Claim;
use crate::cluster::Place;
use crate::{cluster, control, node, server};

/// What the kubelet is told, under upstream's names of flags.
#[derive(Args)]
pub struct KubeletFlags {
    /// How the API is reached.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The node's name; the host's where it is not given.
    #[arg(long)]
    hostname_override: Option<String>,
    /// The node's address; that of the default route where it is not given.
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Port of the kubelet's HTTPS server.
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// Authorities whose client certificates are believed.
    #[arg(long)]
    client_ca_file: PathBuf,
    /// Certificate of the HTTPS server.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// Where the address is that pods ask for names.
    #[arg(long)]
    cluster_dns: IpAddr,
    /// The domain of the cluster's names.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Where images, pods, logs and addresses are kept.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Where the local socket and the process id are.
    #[arg(long, default_value = "/run/kubelet")]
    run_dir: PathBuf,
    /// The socket of a containerd or CRI-O that runs the pods, as unix:///run/containerd/containerd.sock, and
    /// gives them their network; without it both are done by this process.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Directory of static pods' manifests.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Where the addresses of all pods are.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: IpNet,
    /// Where the addresses of services are.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: IpNet,
    /// Registries (host or host:port) that speak plain HTTP; those on loopback always do.
    #[arg(long, value_delimiter = ',')]
    plain_http_registry: Vec<String>,
    /// What names everything of this node on the host; the node's name where it is not given.
    #[arg(long)]
    id: Option<String>,
    /// A network namespace to be the node's, with a host name of its own.
    #[arg(long)]
    network_namespace: Option<PathBuf>,
}

#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    pub kubelet: KubeletFlags,
    /// How the service proxy reaches the API.
    #[arg(long)]
    kube_proxy_kubeconfig: PathBuf,
}

impl KubeletFlags {
    /// Moves this thread, and all it starts, into the node's namespaces. Before there are others.
    ///
    /// # Errors
    /// The namespace is not there or may not be entered.
    pub fn enter(&self) -> anyhow::Result<()> {
        use nix::sched::{CloneFlags, setns, unshare};
        let Some(path) = &self.network_namespace else { return Ok(()) };
        let file = File::open(path).with_context(|| format!("--network-namespace {}", path.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("entering {}", path.display()))?;
        unshare(CloneFlags::CLONE_NEWUTS).context("a host name of the node's own")?;
        nix::unistd::sethostname(self.node_name()?).context("setting the node's host name")
    }

    fn node_name(&self) -> anyhow::Result<String> {
        match &self.hostname_override {
            Some(name) => Ok(name.clone()),
            None => Ok(nix::unistd::gethostname()?.to_string_lossy().to_lowercase()),
        }
    }

    fn config(&self) -> anyhow::Result<node::Config> {
        let node_name = self.node_name()?;
        Ok(node::Config {
            id: self.id.clone().unwrap_or_else(|| node_name.clone()),
            node_name,
            node_ip: self.node_ip.unwrap_or_else(cluster::host_address),
            kubelet_port: self.port,
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cluster_ip_range,
            dns_ip: self.cluster_dns,
            domain: self.cluster_domain.clone(),
            paths: node::Paths { root: self.root_dir.clone() },
            serving: node::Serving {
                certificate: read("--tls-cert-file", &self.tls_cert_file)?,
                key: read("--tls-private-key-file", &self.tls_private_key_file)?,
                client_ca: read("--client-ca-file", &self.client_ca_file)?,
            },
            manifests: self.pod_manifest_path.clone(),
            plain_http_registries: self.plain_http_registry.clone(),
        })
    }
}

fn read(flag: &str, path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("{flag} {}", path.display()))
}

/// Runs a node until it is told to stop; its pods stay.
///
/// # Errors
/// Files are unreadable, the host lacks something, or a component cannot start.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let proxy = client::remote::from_kubeconfig(&flags.kube_proxy_kubeconfig, "kube-proxy")?;
    serve(flags.kubelet, Some(proxy)).await
}

/// Runs a kubelet with its runtime and pod network alone.
///
/// # Errors
/// As [`run`].
pub async fn run_kubelet(flags: KubeletFlags) -> anyhow::Result<()> {
    serve(flags, None).await
}

async fn serve(flags: KubeletFlags, proxy: Option<kube::Client>) -> anyhow::Result<()> {
    server::check_host()?;
    let stop = crate::cli::stop_on_signal()?;
    let tasks = TaskTracker::new();
    std::fs::create_dir_all(&flags.root_dir)
        .with_context(|| format!("making {}", flags.root_dir.display()))?;
    let claim = Claim::take(&Place {
        state: flags.root_dir.clone(),
        run: flags.run_dir.clone(),
        namespace: flags.network_namespace.clone(),
    })?;
    let kubelet = client::remote::from_kubeconfig(&flags.kubeconfig, "kubelet")?;
    let clients = node::Clients { kubelet, proxy };
    let config = flags.config()?;
    let service = if let Some(endpoint) = &flags.container_runtime_endpoint {
        node::start_on(endpoint, &config, clients, &tasks, &stop).await?;
        None
    } else {
        let service = node::start(config, clients, &tasks, &stop).await?;
        control::serve(&flags.run_dir, service.clone(), &tasks, &stop)?;
        Some(service)
    };
    stop.cancelled().await;
    server::end(tasks, service, stop).await;
    claim.release()
}
