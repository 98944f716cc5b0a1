//! One node, put together: runtime, pod network, service proxy, DNS and kubelet.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use async_trait::async_trait;
use client::Informers;
use futures::{FutureExt, Stream};
use ipnet::IpNet;
use k8s_openapi::api::authentication::v1::TokenReview;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, PostParams};
use lifecycle::pki::{Pki, Request};
use network::{Attach, Event, HostPort, LocalService, NodeId, NodeNetwork, Protocol};
use runtime::SandboxNetwork;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::tls;

/// The bit of the packet mark that asks for masquerading: upstream's.
const MASQUERADE_BIT: u8 = 14;
const MTU: u32 = 1500;
const DNS_PORT: u16 = 53;

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
    pub cluster_cidr: IpNet,
    pub service_cidr: IpNet,
    pub dns_ip: IpAddr,
    pub domain: String,
    pub paths: Paths,
    pub pki: Arc<Pki>,
    pub manifests: Option<PathBuf>,
    pub plain_http_registries: Vec<String>,
}

/// The clients of a node's components, each with its own identity.
pub struct Clients {
    pub kubelet: kube::Client,
    pub proxy: kube::Client,
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
pub async fn start(
    config: Config,
    clients: Clients,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<runtime::Service> {
    let (ready, network) = watch::channel(None);
    let hook: Arc<dyn SandboxNetwork> = Arc::new(PodNetwork { network: network.clone() });
    let service =
        runtime::Service::start(runtime_config(&config.paths, Some(hook), &config.plain_http_registries))
            .await?;
    let kubelet = kubelet_config(&config, &clients.kubelet)?;
    let runtime: Arc<dyn cri::Runtime> = Arc::new(service.clone());
    spawn(tasks, "kubelet", stop, kubelet::run(kubelet, clients.kubelet.clone(), runtime, stop.clone()));
    let informers = Informers::new(clients.proxy.clone(), stop.clone());
    spawn(tasks, "network", stop, {
        let (config, stop, informers, client, tasks) =
            (config.clone(), stop.clone(), informers.clone(), clients.kubelet.clone(), tasks.clone());
        async move { network_of(config, client, informers, ready, tasks, stop).await }
    });
    spawn(tasks, "proxy", stop, {
        let proxy = proxy_config(&config);
        let (services, slices) = (events::<Service>(&informers), events::<EndpointSlice>(&informers));
        let (health, _) = watch::channel(proxy::Health::default());
        let stop = stop.clone();
        async move {
            let kernel = proxy::Kernel::new()?;
            proxy::run(proxy, kernel, services, slices, health, stop).await?;
            anyhow::Ok(())
        }
    });
    Ok(service)
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

fn proxy_config(config: &Config) -> proxy::Config {
    proxy::Config {
        table: proxy_table(&config.id),
        node_name: config.node_name.clone(),
        zone: None,
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        node_port_addresses: Vec::new(),
        masquerade_bit: MASQUERADE_BIT,
    }
}

fn kubelet_config(config: &Config, client: &kube::Client) -> anyhow::Result<kubelet::Config> {
    let mut kubelet = kubelet::Config::new(config.node_name.clone(), vec![config.node_ip]);
    kubelet.root_dir = config.paths.kubelet();
    kubelet.pod_logs_dir = config.paths.logs();
    kubelet.pod_manifest_path.clone_from(&config.manifests);
    kubelet.cluster_domain.clone_from(&config.domain);
    kubelet.cgroup_root = format!("/tiphys-{}", config.id);
    let cluster = dns::resolv::Cluster { dns: vec![config.dns_ip], domain: config.domain.clone() };
    let host = host_resolv();
    kubelet.pod_dns = Some(Arc::new(move |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let (found, warnings) = dns::resolv::pod_config(&spec, &namespace, &cluster, &host);
        for warning in warnings {
            tracing::warn!(pod = pod.metadata.name, "{warning}");
        }
        Ok(cri::v1::DnsConfig {
            servers: found.nameservers.iter().map(ToString::to_string).collect(),
            searches: found.searches,
            options: found.options,
        })
    }));
    let pair = config
        .pki
        .ensure(&Request::kubelet_serving(&config.node_name, &[config.node_ip]), SystemTime::now())?;
    kubelet.server = Some(kubelet::Server {
        address: SocketAddr::new(config.node_ip, 10250),
        certificate: tls::resolver(&pair.certificate, &pair.key)?,
        client_ca: Arc::new(tls::roots(&config.pki.cluster.certificate)?),
        authorizer: Arc::new(Delegated { client: client.clone(), node: config.node_name.clone() }),
    });
    Ok(kubelet)
}

/// The host's resolvers; none where the file is not there.
fn host_resolv() -> dns::resolv::Config {
    match std::fs::read_to_string("/etc/resolv.conf") {
        Ok(text) => dns::resolv::Config::parse(&text),
        Err(error) => {
            tracing::warn!(%error, "/etc/resolv.conf cannot be read; names outside the cluster are not found");
            dns::resolv::Config::default()
        }
    }
}

/// Opens the pod network as soon as the node has its share of addresses, and serves DNS there.
async fn network_of(
    config: Config,
    client: kube::Client,
    informers: Informers,
    ready: watch::Sender<Option<Arc<NodeNetwork>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let pod_cidr = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        found = pod_cidr(&client, &config.node_name) => found?,
    };
    let settings = network::Config {
        id: NodeId::new(&config.id),
        state_dir: config.paths.network(),
        pod_cidr,
        cluster_cidrs: vec![config.cluster_cidr],
        service_cidrs: vec![config.service_cidr],
        node_ip: config.node_ip,
        mtu: MTU,
    };
    let opened = tokio::task::spawn_blocking(move || NodeNetwork::open(settings)).await?;
    let network = Arc::new(opened.context("the pod network")?);
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

/// Waits for the node's `podCIDR`.
async fn pod_cidr(client: &kube::Client, name: &str) -> anyhow::Result<IpNet> {
    let api: Api<Node> = Api::all(client.clone());
    let has =
        |node: Option<&Node>| node.is_some_and(|n| n.spec.as_ref().is_some_and(|s| s.pod_cidr.is_some()));
    let node = kube::runtime::wait::await_condition(api, name, has).await?;
    let text = node.and_then(|n| n.spec?.pod_cidr).context("the node has no podCIDR")?;
    text.parse().with_context(|| format!("podCIDR {text}"))
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

/// The runtime's hook into the pod network, which may come to be after the first pod does.
struct PodNetwork {
    network: watch::Receiver<Option<Arc<NodeNetwork>>>,
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

/// The kubelet asks the API server who a caller is and what he may do.
struct Delegated {
    client: kube::Client,
    node: String,
}

#[async_trait]
impl kubelet::Authorizer for Delegated {
    async fn authenticate(&self, token: &str) -> Option<kubelet::User> {
        let review: TokenReview =
            serde_json::from_value(json!({"metadata": {}, "spec": {"token": token}})).ok()?;
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await;
        let status = match answer {
            Ok(review) => review.status?,
            Err(error) => {
                tracing::warn!(%error, "a caller's token could not be reviewed");
                return None;
            }
        };
        let user = status.user.filter(|_| status.authenticated == Some(true))?;
        Some(kubelet::User { name: user.username?, groups: user.groups.unwrap_or_default() })
    }

    async fn authorize(&self, user: &kubelet::User, verb: &str, subresource: &str) -> bool {
        let review = json!({"metadata": {}, "spec": {
            "user": user.name,
            "groups": user.groups,
            "resourceAttributes": {
                "verb": verb, "version": "v1", "resource": "nodes", "subresource": subresource, "name": self.node,
            },
        }});
        let Ok(review) = serde_json::from_value::<SubjectAccessReview>(review) else { return false };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &review).await {
            Ok(review) => review.status.is_some_and(|s| s.allowed),
            Err(error) => {
                tracing::warn!(%error, "a caller's rights could not be reviewed");
                false
            }
        }
    }
}
