//! `tiphys kube-apiserver`: the control plane's front alone, with upstream's names of flags.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use clap::Args;
use ipnet::IpNet;
use lifecycle::kubeconfig::{self, Credentials, Entry};
use lifecycle::pki::{Pki, Request};
use store::Store;
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::cluster;
use crate::control_plane::{Config, ControlPlane};

#[derive(Args)]
pub struct Flags {
    /// Where the embedded store keeps its data; without it nothing outlives the process.
    #[arg(long, conflicts_with = "etcd_servers")]
    data_dir: Option<PathBuf>,
    /// A real etcd to keep everything in: URLs, several with commas.
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// Authorities that signed etcd's certificate.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Certificate shown to etcd.
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Where certificates and keys are, and are made when absent.
    #[arg(long, default_value = "/var/run/kubernetes")]
    cert_dir: PathBuf,
    /// Where service addresses come from.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: IpNet,
    /// Ports that services may open on every node.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: PortRange,
    /// Address to serve HTTPS on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to serve HTTPS on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Address that others reach this server by; the host's own where it is not given.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Address of the insecure local port.
    #[arg(long, default_value = "127.0.0.1")]
    insecure_bind_address: IpAddr,
    /// Port that serves plain HTTP, with every right, to whoever reaches it; 0 for none.
    #[arg(long, default_value_t = 0)]
    insecure_port: u16,
    /// File to write an administrator's kubeconfig to; its certificate and key also lie in --cert-dir
    /// as admin.crt and admin.key.
    #[arg(long)]
    write_kubeconfig: Option<PathBuf>,
}

/// First and last.
pub type PortRange = (u16, u16);

pub fn port_range(text: &str) -> Result<PortRange, String> {
    let wrong = || format!("{text} is no range of ports: write it like 30000-32767");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let (first, last) = (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
    if first == 0 || first > last { Err(wrong()) } else { Ok((first, last)) }
}

/// Binds, or says which flag mends it.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            bail!("{address} is taken by another program; choose another port with {flag}")
        }
        Err(error) => Err(error).with_context(|| format!("listening on {address} ({flag})")),
    }
}

/// How long an etcd that is starting too is waited for, as upstream does.
const ETCD_STARTS: Duration = Duration::from_secs(20);

/// Connects to an etcd, which may not listen yet.
async fn connect(config: store::etcd::Config) -> Result<Arc<dyn Store>, store::Error> {
    let begun = Instant::now();
    let mut delay = Duration::from_millis(20);
    loop {
        match store::etcd::Engine::connect(config.clone()).await {
            Err(store::Error::Unavailable(reason)) if begun.elapsed() < ETCD_STARTS => {
                tracing::info!(reason, "etcd does not answer yet");
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(Duration::from_secs(1));
            }
            connected => return Ok(connected?),
        }
    }
}

/// Runs until it is told to stop.
pub async fn run(flags: Flags) -> anyhow::Result<()> {
    let stop = crate::cli::stop_on_signal()?;
    let tasks = TaskTracker::new();
    let store = match &flags.etcd_servers[..] {
        [] => open_store(flags.data_dir.as_deref()).await?,
        servers => {
            let config = store::etcd::Config {
                ca: flags.etcd_cafile.clone(),
                identity: flags.etcd_certfile.clone().zip(flags.etcd_keyfile.clone()),
                ..store::etcd::Config::new(servers.to_vec())
            };
            let connected = stop.run_until_cancelled(connect(config)).await;
            connected.context("told to stop")?.context("--etcd-servers")?
        }
    };
    let listener = bind(SocketAddr::new(flags.bind_address, flags.secure_port), "--secure-port").await?;
    let insecure = if flags.insecure_port == 0 {
        None
    } else {
        let address = SocketAddr::new(flags.insecure_bind_address, flags.insecure_port);
        Some(bind(address, "--insecure-port").await?)
    };
    let address = flags.advertise_address.unwrap_or_else(cluster::host_address);
    let port = listener.local_addr()?.port();
    let (first, last) = flags.service_node_port_range;
    let pki = Arc::new(Pki::open(&flags.cert_dir, SystemTime::now())?);
    let bound = listener.local_addr()?.ip();
    let plane = ControlPlane::start(
        Config {
            store,
            pki: pki.clone(),
            service_cidr: flags.service_cluster_ip_range,
            node_ports: first..=last,
            advertise: SocketAddr::new(address, port),
            kubernetes_ip: cluster::nth(flags.service_cluster_ip_range, 1)?,
            dns_ip: cluster::nth(flags.service_cluster_ip_range, 10)?,
            domain: "cluster.local".into(),
            listeners: vec![listener],
            insecure,
            names: Vec::new(),
            addresses: [address, bound].into_iter().filter(|a| !a.is_unspecified()).collect(),
        },
        &tasks,
        &stop,
    )
    .await?;
    if let Some(path) = &flags.write_kubeconfig {
        let reached = if bound.is_unspecified() { address } else { bound };
        write_kubeconfig(path, SocketAddr::new(reached, port), &pki)?;
    }
    println!("serving on https://{address}:{port}");
    stop.cancelled().await;
    drop(plane);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn write_kubeconfig(path: &std::path::Path, server: SocketAddr, pki: &Pki) -> anyhow::Result<()> {
    let admin = pki.ensure(&Request::admin(), SystemTime::now())?;
    let entry = Entry {
        name: "tiphys".into(),
        server: format!("https://{server}"),
        authority: Some(pki.cluster.certificate.clone()),
        credentials: Credentials::Certificate { certificate: admin.certificate, key: admin.key },
    };
    kubeconfig::write(path, &entry).with_context(|| format!("writing {}", path.display()))
}

/// The embedded store in a directory, or one in memory.
pub async fn open_store(directory: Option<&std::path::Path>) -> anyhow::Result<Arc<dyn Store>> {
    match directory {
        None => Ok(store::memory::Engine::new()),
        Some(directory) => {
            std::fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
            let engine = store::embedded::Engine::open(directory, store::embedded::Config::default()).await?;
            Ok(engine)
        }
    }
}
