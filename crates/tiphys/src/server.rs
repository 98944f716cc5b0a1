//! `tiphys server`: a whole cluster's control plane and its first node, in this process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, bail};
use api::User;
use clap::Args;
use ipnet::IpNet;
use lifecycle::kubeconfig::{self, Credentials, Entry};
use lifecycle::pki::{Pki, Request};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::claim::{Claim, holder};
use crate::cluster::{self, Name, NodeSettings, Settings};
use crate::control_plane::{self, ControlPlane};
use crate::{apiserver, control, controllers, node};

/// The kubelet's usual port.
const KUBELET_PORT: u16 = 10250;

#[derive(Args, Clone)]
pub struct Flags {
    /// The cluster's name.
    #[arg(long, default_value = "default")]
    pub name: Name,
    /// Port of the API.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub api_port: Option<u16>,
    /// Where pod addresses come from.
    #[arg(long)]
    pub pod_cidr: Option<IpNet>,
    /// Where service addresses come from.
    #[arg(long)]
    pub service_cidr: Option<IpNet>,
    /// The node's name; the host's where it is not given.
    #[arg(long, value_parser = node_name)]
    pub node_name: Option<String>,
    /// The node's address; that of the default route where it is not given.
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Port on loopback that serves plain HTTP, with every right, to whoever reaches it; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub insecure_port: u16,
    /// Port on loopback that serves the store's etcd API; 0 for none.
    #[arg(long, default_value_t = 0)]
    pub etcd_port: u16,
    /// Directory of static pods' manifests.
    #[arg(long)]
    pub pod_manifest_path: Option<PathBuf>,
    /// Registries (host or host:port) that speak plain HTTP; those on loopback always do.
    #[arg(long, value_delimiter = ',')]
    pub plain_http_registry: Vec<String>,
}

/// A name that the API takes for a node.
fn node_name(text: &str) -> Result<String, String> {
    match api::names::dns1123_subdomain(text).into_iter().next() {
        Some(fault) => Err(fault),
        None => Ok(text.to_owned()),
    }
}

/// The settings that the cluster was made with, or new ones out of the flags and what is free here.
///
/// `count` is how many nodes a new cluster is to have; none: what it has, or one.
///
/// # Errors
/// Settings are unreadable, flags contradict them, or no range or port is free.
pub fn settings(flags: &Flags, count: Option<u8>) -> anyhow::Result<Settings> {
    if let Some(kept) = Settings::read(&flags.name.settings_path())? {
        if count.is_some_and(|count| kept.nodes.len() != usize::from(count)) {
            let (name, has) = (&flags.name, kept.nodes.len());
            bail!(
                "cluster {name} was made with --nodes {has}; `tiphys down --name {name} --purge` starts over"
            );
        }
        let mut runs = false;
        for index in 0..kept.nodes.len() {
            runs |= holder(&flags.name.place(&kept, index))?.is_some();
        }
        agree(flags, &kept, runs)?;
        return if runs { Ok(kept) } else { reopened(flags, kept) };
    }
    let (ranges, count) = (free_ranges()?, count.unwrap_or(1));
    if count > 1 && flags.node_ip.is_some() {
        bail!("--node-ip is for one node; with --nodes {count} they get addresses of their own");
    }
    let node_name = match &flags.node_name {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let settings = Settings {
        api_port: match flags.api_port {
            Some(port) => asked_port("--api-port", Ipv4Addr::UNSPECIFIED, port)?,
            None => free_port(6443)?,
        },
        pod_cidr: flags.pod_cidr.unwrap_or(ranges.pods),
        service_cidr: flags.service_cidr.unwrap_or(ranges.services),
        domain: "cluster.local".into(),
        node_cidr: (count > 1).then_some(ranges.nodes),
        nodes: nodes(flags, count, &node_name, &ranges)?,
    };
    other_ports(flags)?;
    let (pods, services) = (settings.pod_cidr, settings.service_cidr);
    if pods.contains(&services.network()) || services.contains(&pods.network()) {
        bail!("--pod-cidr {pods} and --service-cidr {services} overlap; choose ranges that are apart");
    }
    std::fs::create_dir_all(flags.name.state())
        .with_context(|| format!("making {}", flags.name.state().display()))?;
    settings.write(&flags.name.settings_path())?;
    Ok(settings)
}

/// The settings of a cluster that is down and is to come up again: at other ports where it is asked to, or where
/// nobody was told of the port and another program has it by now.
fn reopened(flags: &Flags, mut kept: Settings) -> anyhow::Result<Settings> {
    let before = (kept.api_port, kept.nodes[0].kubelet_port);
    let port = flags.api_port.unwrap_or(kept.api_port);
    if free_port(port)? != port {
        bail!("port {port} of the API is another program's by now; choose another with --api-port");
    }
    kept.api_port = port;
    // The first node is on the host; the others have networks of their own.
    kept.nodes[0].kubelet_port = free_port(before.1)?;
    other_ports(flags)?;
    if (kept.api_port, kept.nodes[0].kubelet_port) != before {
        kept.write(&flags.name.settings_path())?;
    }
    Ok(kept)
}

/// Whether the ports of this run alone are to be had.
fn other_ports(flags: &Flags) -> anyhow::Result<()> {
    let asked = [("--insecure-port", flags.insecure_port), ("--etcd-port", flags.etcd_port)];
    let asked = asked.into_iter().filter(|(_, port)| *port != 0);
    asked.map(|(flag, port)| asked_port(flag, Ipv4Addr::LOCALHOST, port)).try_for_each(|port| port.map(drop))
}

fn asked_port(flag: &str, at: Ipv4Addr, port: u16) -> anyhow::Result<u16> {
    if std::net::TcpListener::bind((at, port)).is_err() {
        bail!("{flag} {port}: another program has it; choose another, or leave it out");
    }
    Ok(port)
}

/// Refuses flags that ask for other settings than the cluster was made with, or runs with.
fn agree(flags: &Flags, kept: &Settings, runs: bool) -> anyhow::Result<()> {
    fn differs<T: PartialEq + std::fmt::Display>(asked: Option<&T>, kept: &T, flag: &str) -> Option<String> {
        asked.filter(|asked| *asked != kept).map(|_| format!("{flag} {kept}"))
    }
    let first = &kept.nodes[0];
    let differing = [
        differs(flags.api_port.as_ref().filter(|_| runs), &kept.api_port, "--api-port"),
        differs(flags.pod_cidr.as_ref(), &kept.pod_cidr, "--pod-cidr"),
        differs(flags.service_cidr.as_ref(), &kept.service_cidr, "--service-cidr"),
        differs(flags.node_name.as_ref(), &first.name, "--node-name"),
        differs(flags.node_ip.as_ref(), &first.ip, "--node-ip"),
    ];
    let made_with: Vec<String> = differing.into_iter().flatten().collect();
    if !made_with.is_empty() {
        let (name, made_with) = (&flags.name, made_with.join(" "));
        bail!("cluster {name} was made with {made_with}; `tiphys down --name {name} --purge` starts over");
    }
    Ok(())
}

/// The nodes by name, address and the kubelet's port. With several nodes the first has the host's address
/// on their bridge.
fn nodes(
    flags: &Flags,
    count: u8,
    name: &str,
    ranges: &network::hostns::Ranges,
) -> anyhow::Result<Vec<NodeSettings>> {
    let several = count > 1;
    let host = match flags.node_ip {
        Some(ip) => ip,
        None if several => cluster::nth(ranges.nodes, 1)?,
        None => cluster::host_address(),
    };
    if host.is_loopback() {
        bail!(
            "this host has no address but loopback, where pods cannot reach it; bring a link up, or give --node-ip"
        );
    }
    let mut nodes =
        vec![NodeSettings { name: name.into(), ip: host, kubelet_port: free_port(KUBELET_PORT)? }];
    for index in 1..count {
        nodes.push(NodeSettings {
            name: format!("{name}-{}", index + 1),
            ip: network::hostns::node_ip(ranges, index),
            kubelet_port: KUBELET_PORT,
        });
    }
    Ok(nodes)
}

fn free_ranges() -> anyhow::Result<network::hostns::Ranges> {
    let mut links = network::link::Links::new()?;
    let found = network::hostns::free_ranges(&mut links, &Name::ranges_spoken_for()?)?;
    found.context("no private address range is free on this host; give --pod-cidr and --service-cidr")
}

/// The preferred port where it is free, else any.
fn free_port(preferred: u16) -> anyhow::Result<u16> {
    let at = |port| std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let listener = at(preferred).or_else(|_| at(0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}

/// Refuses what will not work, with its mend, before anything is made.
pub fn check_host() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("a node needs root: run it with sudo");
    }
    for (path, what) in [("/proc/self/ns/net", "network namespaces"), ("/sys/fs/cgroup", "cgroups")] {
        if !std::path::Path::new(path).exists() {
            bail!("this kernel lacks {what} ({path} is not there)");
        }
    }
    let systems = std::fs::read_to_string("/proc/filesystems").context("reading /proc/filesystems")?;
    if !systems.lines().any(|l| l.ends_with("overlay")) {
        bail!("this kernel lacks overlayfs: load it with `modprobe overlay`");
    }
    Ok(())
}

pub async fn run(flags: Flags) -> anyhow::Result<()> {
    check_host()?;
    let stop = crate::cli::stop_on_signal()?;
    let settings = settings(&flags, None)?;
    let name = &flags.name;
    let (node, place) = (settings.first(), name.place(&settings, 0));
    let claim = Claim::take(&place)?;
    let tasks = TaskTracker::new();
    let store = apiserver::open_store(Some(&name.state().join("store"))).await?;
    let pki = Arc::new(Pki::open(&name.state().join("pki"), SystemTime::now())?);
    let listener =
        apiserver::bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), settings.api_port), "--api-port")
            .await?;
    let insecure = match flags.insecure_port {
        0 => None,
        port => {
            Some(apiserver::bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), "--insecure-port").await?)
        }
    };
    let plane = ControlPlane::start(
        control_plane::Config {
            store: store.clone(),
            pki: pki.clone(),
            service_cidr: settings.service_cidr,
            node_ports: 30000..=32767,
            advertise: SocketAddr::new(node.ip, settings.api_port),
            kubernetes_ip: settings.kubernetes_ip()?,
            dns_ip: settings.dns_ip()?,
            domain: settings.domain.clone(),
            listeners: vec![listener],
            insecure,
            names: vec![node.name.clone()],
            addresses: vec![node.ip],
        },
        &tasks,
        &stop,
    )
    .await?;
    if flags.etcd_port != 0 {
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), flags.etcd_port);
        let front = store::front::serve(
            apiserver::bind(address, "--etcd-port").await?,
            None,
            store.clone(),
            stop.clone(),
        );
        tasks.spawn(async move {
            if let Err(error) = front.await {
                tracing::error!(%error, "the store's etcd API ended");
            }
        });
    }
    write_kubeconfig(name, &settings, &pki)?;
    controllers::start(&plane, &pki, &settings, &tasks, &stop);
    let request = Request::kubelet_serving(&node.name, &[node.ip]);
    let serving = pki.ensure(&request, SystemTime::now())?;
    let service = node::start(
        node::Config {
            id: settings.node_id(name, 0),
            node_name: node.name.clone(),
            node_ip: node.ip,
            kubelet_port: node.kubelet_port,
            cluster_cidr: settings.pod_cidr,
            service_cidr: settings.service_cidr,
            dns_ip: settings.dns_ip()?,
            domain: settings.domain.clone(),
            paths: node::Paths { root: place.state.clone() },
            serving: node::Serving {
                certificate: serving.certificate,
                key: serving.key,
                client_ca: pki.cluster.certificate.clone(),
            },
            manifests: flags.pod_manifest_path.clone(),
            plain_http_registries: flags.plain_http_registry.clone(),
        },
        node::Clients {
            kubelet: plane
                .client(&User::new(format!("system:node:{}", node.name), ["system:nodes"]), "kubelet"),
            proxy: Some(plane.client(&User::new("system:kube-proxy", Vec::<String>::new()), "kube-proxy")),
        },
        &tasks,
        &stop,
    )
    .await?;
    control::serve(&name.run(), service.clone(), &tasks, &stop)?;
    stop.cancelled().await;
    end(tasks, Some(service), stop).await;
    claim.release()
}

/// Lets everything come to its end, the embedded runtime where there is one too; pods stay.
pub async fn end(tasks: TaskTracker, service: Option<runtime::Service>, stop: CancellationToken) {
    stop.cancel();
    tasks.close();
    let patience = std::time::Duration::from_secs(5);
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        tracing::warn!(left = tasks.len(), "some tasks did not end in time");
    }
    if let Some(service) = service {
        service.shutdown().await;
    }
}

fn write_kubeconfig(name: &Name, settings: &Settings, pki: &Pki) -> anyhow::Result<()> {
    let admin = pki.ensure(&Request::admin(), SystemTime::now())?;
    let entry = Entry {
        name: context_name(name),
        server: settings.api_url(),
        authority: Some(pki.cluster.certificate.clone()),
        credentials: Credentials::Certificate { certificate: admin.certificate, key: admin.key },
    };
    kubeconfig::write(&name.kubeconfig(), &entry)?;
    Ok(())
}

/// The name of a cluster's context in kubeconfig files.
pub fn context_name(name: &Name) -> String {
    if name.as_str() == "default" { "tiphys".into() } else { format!("tiphys-{name}") }
}
