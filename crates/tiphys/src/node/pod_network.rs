//! The node's pod network: open once the node has its share of addresses, routed to its peers, and with
//! the cluster's names answered on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use client::{Informer, Informers, Selection};
use futures::StreamExt;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::Resource;
use listen::Backoff;
use network::{Attach, Event, HostPort, LocalService, NodeId, NodeNetwork, Peer, Protocol};
use runtime::SandboxNetwork;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::kubelet::host_resolv;
use super::{Config, MTU, events};

const DNS_PORT: u16 = 53;
/// After how long routes that the kernel refused are tried again: at first, and at most.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Told when the network is open.
pub type Ready = watch::Sender<Option<Arc<NodeNetwork>>>;

/// Opens the pod network as soon as the node has its share of addresses.
///
/// # Errors
/// The node cannot be read, or the kernel refuses.
pub async fn open(
    config: &Config,
    client: kube::Client,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Arc<NodeNetwork>>> {
    let pod_cidr = tokio::select! {
        () = stop.cancelled() => return Ok(None),
        found = pod_cidr(&client, &config.node_name) => found?,
    };
    let settings = network::Config {
        id: NodeId::new(&config.id),
        state_dir: config.paths.network(),
        host_dir: crate::cluster::RUN.into(),
        pod_cidr,
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        node_ip: config.node_ip,
        mtu: MTU,
    };
    let opened = tokio::task::spawn_blocking(move || NodeNetwork::open(settings)).await?;
    Ok(Some(Arc::new(opened.context("the pod network")?)))
}

/// Answers names on the node: what its pods ask of the cluster's DNS address ends here.
///
/// # Errors
/// Sockets or rules are refused, or the server ends before `stop`.
pub async fn serve_names(
    config: Config,
    network: Arc<NodeNetwork>,
    informers: Informers,
    ready: Ready,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let sockets = dns::Sockets::bind(SocketAddr::new(network.gateway(), 0))
        .await
        .context("the DNS server's sockets")?;
    let served_at = sockets.local_addr()?;
    let service = SocketAddr::new(config.dns_ip, DNS_PORT);
    let local = [Protocol::Udp, Protocol::Tcp].map(|protocol| LocalService { service, protocol, served_at });
    let redirected = network.clone();
    tokio::task::spawn_blocking(move || redirected.set_local_services(&local)).await??;
    let zone = Arc::new(dns::Zone::new(&config.domain).map_err(|e| anyhow!("{}: {e}", config.domain))?);
    tasks.spawn(dns::follow(zone.clone(), events(&informers), events(&informers), stop.clone()));
    ready.send_replace(Some(network));
    dns::run(zone, sockets, host_resolv().upstreams(), stop).await.context("the DNS server")
}

/// Keeps a route to the pods of every other node. What the kernel refuses hinders neither the other routes
/// nor this node: it is told, and tried again with growing pauses.
///
/// # Errors
/// The watch of nodes ends.
pub async fn follow_peers(
    network: Arc<NodeNetwork>,
    own: String,
    informers: Informers,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut nodes = std::pin::pin!(events::<Node>(&informers));
    let mut peers: BTreeMap<String, Peer> = BTreeMap::new();
    let mut routes = Routes { network, refused: BTreeSet::new(), backoff: Backoff::new(RETRY, RETRY_MOST) };
    let mut synced = false;
    // When to try again; there is nothing to try where there is none.
    let mut again: Option<Instant> = None;
    loop {
        let due = async {
            match again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let event = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            event = nodes.next() => Some(event.context("the watch of nodes ended")?),
            () = due => None,
        };
        let before = (synced, peers.clone());
        let retried = event.is_none();
        match event {
            None => {}
            Some(Event::Synced) => synced = true,
            Some(Event::Applied(node)) => match peer(&node) {
                Some((name, peer)) if name != own => drop(peers.insert(name, peer)),
                _ => {}
            },
            Some(Event::Deleted(node)) => {
                peers.remove(&node.metadata.name.clone().unwrap_or_default());
            }
        }
        if synced && (retried || before != (synced, peers.clone())) {
            let pause = routes.set(peers.values().cloned().collect()).await?;
            again = pause.map(|pause| Instant::now() + pause);
        }
    }
}

/// The routes to other nodes, and what the kernel has against them.
struct Routes {
    network: Arc<NodeNetwork>,
    /// Told already.
    refused: BTreeSet<String>,
    backoff: Backoff,
}

impl Routes {
    /// Sets them; how long to wait before the next attempt, where one is needed.
    async fn set(&mut self, peers: Vec<Peer>) -> anyhow::Result<Option<Duration>> {
        let network = self.network.clone();
        let set = tokio::task::spawn_blocking(move || network.set_peers(&peers)).await?;
        let refused: BTreeSet<String> = match set {
            Ok(refused) => refused.iter().map(ToString::to_string).collect(),
            Err(error) => BTreeSet::from([error.to_string()]),
        };
        for error in refused.difference(&self.refused) {
            tracing::warn!(error, "no route to the pods of another node; trying again");
        }
        self.refused = refused;
        if self.refused.is_empty() {
            self.backoff.succeeded();
            return Ok(None);
        }
        Ok(Some(self.backoff.failed()))
    }
}

/// A node's name, pods and address, once it has both.
fn peer(node: &Node) -> Option<(String, Peer)> {
    let pod_cidr = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let internal = addresses.iter().find(|a| a.type_ == "InternalIP")?;
    Some((node.metadata.name.clone()?, Peer { pod_cidr, node_ip: internal.address.parse().ok()? }))
}

/// Waits for the node's `podCIDR`.
async fn pod_cidr(client: &kube::Client, name: &str) -> anyhow::Result<IpNet> {
    let own = Selection { fields: Some(format!("metadata.name={name}")), ..Selection::default() };
    let given = |nodes: &Informer<Node>| nodes.list().first()?.spec.as_ref()?.pod_cidr.clone();
    let text = client::informer::until(client.clone(), Node::url_path(&(), None), own, given).await;
    text.parse().with_context(|| format!("podCIDR {text}"))
}

/// The runtime's hook into the pod network, which may come to be after the first pod does.
pub struct PodNetwork {
    pub network: watch::Receiver<Option<Arc<NodeNetwork>>>,
}

impl PodNetwork {
    async fn network(&self) -> Result<Arc<NodeNetwork>, String> {
        let mut network = self.network.clone();
        let found = network.wait_for(Option::is_some).await.map_err(|_| "the node is stopping".to_owned())?;
        found.clone().ok_or_else(|| "the pod network is not open".to_owned())
    }
}

fn host_ports(config: &cri::v1::PodSandboxConfig) -> Vec<HostPort> {
    let number = |n: i32| u16::try_from(n).unwrap_or(0);
    let open = config.port_mappings.iter().filter(|p| p.host_port != 0);
    open.map(|p| HostPort {
        protocol: match p.protocol {
            1 => Protocol::Udp,
            2 => Protocol::Sctp,
            _ => Protocol::Tcp,
        },
        host_port: number(p.host_port),
        container_port: number(p.container_port),
        host_ip: p.host_ip.parse().ok(),
    })
    .collect()
}

#[async_trait]
impl SandboxNetwork for PodNetwork {
    async fn attach(
        &self,
        sandbox: &str,
        namespace: &Path,
        config: &cri::v1::PodSandboxConfig,
    ) -> Result<Vec<IpAddr>, String> {
        let network = self.network().await?;
        let (id, namespace, ports) = (sandbox.to_owned(), namespace.to_owned(), host_ports(config));
        let pod = config.metadata.as_ref().map(|m| format!("{}/{}", m.namespace, m.name)).unwrap_or_default();
        let attached = tokio::task::spawn_blocking(move || {
            network.attach(&Attach { id: &id, namespace: &namespace, pod: &pod, host_ports: &ports })
        });
        attached.await.map_err(|e| e.to_string())?.map(|a| a.ips).map_err(|e| e.to_string())
    }

    async fn detach(&self, sandbox: &str, _: &cri::v1::PodSandboxConfig) -> Result<(), String> {
        let network = self.network().await?;
        let id = sandbox.to_owned();
        let detached = tokio::task::spawn_blocking(move || network.detach(&id));
        detached.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}
