//! One node, put together: runtime, pod network, service proxy, DNS and kubelet.

mod kubelet;
mod pod_network;

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::Arc;

use client::Informers;
use futures::{FutureExt, Stream};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::{Event, NodeId};
use runtime::SandboxNetwork;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The bit of the packet mark that asks for masquerading: upstream's.
const MASQUERADE_BIT: u8 = 14;
/// Largest packet of a pod, bytes.
pub const MTU: u32 = 1500;

/// Where a node keeps what, by the cluster's state directory.
#[derive(Clone, Debug)]
pub struct Paths {
    pub root: PathBuf,
}

impl Paths {
    pub fn runtime(&self) -> PathBuf {
        self.root.join("runtime")
    }
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }
    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }
}

#[derive(Clone)]
pub struct Config {
    /// What names everything of this node on the host: the cluster's and the node's name.
    pub id: String,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub kubelet_port: u16,
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    pub dns_ip: IpAddr,
    pub domain: String,
    pub paths: Paths,
    pub serving: Serving,
    pub manifests: Option<PathBuf>,
    pub plain_http_registries: Vec<String>,
}

/// How the kubelet's HTTPS server is known, and whose client certificates it believes; PEM.
#[derive(Clone)]
pub struct Serving {
    pub certificate: String,
    pub key: String,
    pub client_ca: String,
}

/// The clients of a node's components, each with its own identity.
pub struct Clients {
    pub kubelet: kube::Client,
    /// Without it the node has no service proxy, no names and no routes to other nodes: others see to
    /// those.
    pub proxy: Option<kube::Client>,
}

pub fn runtime_config(
    paths: &Paths,
    network: Option<Arc<dyn SandboxNetwork>>,
    plain_http: &[String],
) -> runtime::Config {
    runtime::Config {
        state: paths.runtime(),
        shim: runtime::ShimCommand::default(),
        network,
        registries: runtime::images::Registries { plain_http: plain_http.to_vec() },
    }
}

/// Starts the node's components; they end with `stop`, pods stay.
///
/// # Errors
/// The runtime cannot start, or the kubelet's certificate does not read.
pub async fn start(
    config: Config,
    clients: Clients,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<runtime::Service> {
    let (ready, network) = watch::channel(None);
    let hook: Arc<dyn SandboxNetwork> = Arc::new(pod_network::PodNetwork { network });
    let service =
        runtime::Service::start(runtime_config(&config.paths, Some(hook), &config.plain_http_registries))
            .await?;
    let client = clients.kubelet.clone();
    let informers = start_kubelet(&config, clients, Arc::new(service.clone()), tasks, stop)?;
    spawn(tasks, "network", stop, {
        let (tasks, stop) = (tasks.clone(), stop.clone());
        async move {
            let Some(network) = pod_network::open(&config, client, &stop).await? else { return Ok(()) };
            let Some(informers) = informers else {
                ready.send_replace(Some(network));
                stop.cancelled().await;
                return Ok(());
            };
            let peers = pod_network::follow_peers(
                network.clone(),
                config.node_name.clone(),
                informers.clone(),
                stop.clone(),
            );
            let names = pod_network::serve_names(config, network, informers, ready, tasks, stop);
            tokio::try_join!(peers, names)?;
            anyhow::Ok(())
        }
    });
    Ok(service)
}

/// Starts the node's components on a runtime behind a socket, which sees to the pods' network by itself.
/// The cluster's names are for others to answer.
///
/// # Errors
/// Nobody listens at `endpoint`, or the kubelet's certificate does not read.
pub async fn start_on(
    endpoint: &str,
    config: &Config,
    clients: Clients,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let remote = cri::Remote::connect(endpoint, stop.clone()).await?;
    start_kubelet(config, clients, Arc::new(remote), tasks, stop)?;
    Ok(())
}

/// The kubelet and, where it has a client, the service proxy, whose view of the cluster it answers.
fn start_kubelet(
    config: &Config,
    clients: Clients,
    runtime: Arc<dyn cri::Runtime>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<Option<Informers>> {
    let mut kubelet = kubelet::config(config, &clients.kubelet)?;
    let targets = Arc::new(proxy::Targets::default());
    if clients.proxy.is_some() {
        let targets = targets.clone();
        kubelet.drained = Some(Arc::new(move |addr| {
            let targets = targets.clone();
            Box::pin(async move { targets.without(addr).await })
        }));
    }
    spawn(tasks, "kubelet", stop, ::kubelet::run(kubelet, clients.kubelet, runtime, stop.clone()));
    let informers = clients.proxy.map(|client| Informers::new(client, stop.clone()));
    if let Some(informers) = &informers {
        let proxy = proxy_config(&config.id, &config.node_name, config.cluster_cidr, config.service_cidr);
        start_proxy(proxy, informers, targets, tasks, stop);
    }
    Ok(informers)
}

/// Starts the service proxy, which tells `targets` who is sent to and ends with `stop`.
pub fn start_proxy(
    config: proxy::Config,
    informers: &Informers,
    targets: Arc<proxy::Targets>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let (services, slices) = (events::<Service>(informers), events::<EndpointSlice>(informers));
    let (health, told) = watch::channel(proxy::Health::default());
    tasks.spawn(proxy::health::serve(Ipv4Addr::UNSPECIFIED.into(), told, stop.clone()));
    let token = stop.clone();
    spawn(tasks, "proxy", stop, async move {
        let kernel = proxy::Kernel::new()?;
        proxy::run(config, kernel, services, slices, health, targets, token).await?;
        anyhow::Ok(())
    });
}

/// A component of the node: when it fails, the whole node stops with its message.
fn spawn<E: Into<anyhow::Error> + Send + 'static>(
    tasks: &TaskTracker,
    name: &'static str,
    stop: &CancellationToken,
    component: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move {
        if let Err(error) = component.await {
            let error: anyhow::Error = error.into();
            tracing::error!("{name}: {error:#}");
            stop.cancel();
        }
    });
}

pub fn proxy_table(id: &str) -> String {
    NodeId::new(id).table("proxy")
}

pub fn proxy_config(id: &str, node_name: &str, cluster_cidr: IpNet, service_cidr: IpNet) -> proxy::Config {
    proxy::Config {
        table: proxy_table(id),
        node_name: node_name.into(),
        zone: None,
        cluster_cidrs: vec![cluster_cidr],
        service_cidrs: vec![service_cidr],
        node_port_addresses: Vec::new(),
        masquerade_bit: MASQUERADE_BIT,
    }
}

/// An informer's changes as the network rooms take them.
fn events<K>(informers: &Informers) -> impl Stream<Item = Event<K>> + Send + 'static + use<K>
where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let informer = informers.of::<K>();
    let changes = informer.subscribe();
    let start = (informer, changes, false);
    futures::stream::unfold(start, |(informer, mut changes, synced)| async move {
        let told = |change: client::Change<K>| {
            if change.is_deleted() {
                Event::Deleted(change.object().clone())
            } else {
                Event::Applied(change.object().clone())
            }
        };
        if synced {
            let change = changes.next().await;
            return Some((told(change), (informer, changes, true)));
        }
        let change = tokio::select! {
            biased;
            change = changes.next() => Some(change),
            () = informer.synced() => changes.next().now_or_never(),
        };
        match change {
            Some(change) => Some((told(change), (informer, changes, false))),
            None => Some((Event::Synced, (informer, changes, true))),
        }
    })
}
