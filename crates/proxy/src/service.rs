//! A Service and its EndpointSlices as frontends: who can be talked to, and who answers.
//!
//! Follows upstream's kube-proxy: readiness with the fallback to serving endpoints that terminate
//! (KEP-1669), internal and external traffic policies, topology hints (KEP-2433, KEP-3015).

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};
use network::Protocol;
use network::nft::Family;

/// What the proxy has to know about its node and cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the nf_tables tables; carries the cluster's and the node's id.
    pub table: String,
    /// The node's name, to tell its own endpoints.
    pub node_name: String,
    /// The node's zone (`topology.kubernetes.io/zone`), for topology hints.
    pub zone: Option<String>,
    /// Addresses of pods: what comes from elsewhere is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service addresses: connections to those without a Service are refused.
    pub service_cidrs: Vec<IpNet>,
    /// The addresses node ports are open on; every local address where empty.
    pub node_port_addresses: Vec<IpNet>,
    /// The bit of the packet mark that says "masquerade me" (upstream's default is bit 14).
    pub masquerade_bit: u8,
}

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name.
    pub name: Arc<str>,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What clients talk to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Frontend {
    /// Its address; any address of the node, for node ports.
    pub at: At,
    /// The protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// Where a frontend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum At {
    /// One address.
    Address(IpAddr),
    /// Every node, in this family (`true` for IPv6).
    NodePort {
        /// IPv6 instead of IPv4.
        v6: bool,
    },
}

impl Frontend {
    /// The table it belongs in.
    pub fn family(&self) -> Family {
        match self.at {
            At::Address(addr) => Family::of(addr),
            At::NodePort { v6 } => {
                if v6 {
                    Family::Ip6
                } else {
                    Family::Ip
                }
            }
        }
    }
}

/// Somebody who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub addr: IpAddr,
    /// The port.
    pub port: u16,
}

/// Who has their source address replaced, so that the answer comes back through this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Masquerade {
    /// Who is not a pod.
    Outsiders,
    /// Everybody.
    Everybody,
}

/// How a frontend's connections are dealt with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whose source address is replaced.
    pub masquerade: Masquerade,
    /// Endpoints anywhere (or, for a ClusterIP with `internalTrafficPolicy: Local`, on this node).
    pub endpoints: Arc<Vec<Endpoint>>,
    /// Endpoints on this node.
    pub own: Arc<Vec<Endpoint>>,
    /// Outsiders reach only endpoints on this node (`externalTrafficPolicy: Local`).
    pub external_local: bool,
    /// Without endpoints the packet is dropped, because other nodes have some.
    pub drop_if_empty: bool,
    /// How long a client is remembered.
    pub affinity: Option<Duration>,
    /// Which Service and port this is, for what is remembered about clients.
    pub pool: Arc<str>,
    /// The only sources that may connect; all where empty.
    pub sources: Vec<IpNet>,
}

/// Local endpoints of Services with a health check port, for load balancers (data only).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// The port to serve on.
    pub port: u16,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Everything a Service asks of this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Frontends with their policies.
    pub frontends: Vec<(Frontend, Arc<Policy>)>,
    /// Its health check, if it has one.
    pub health: Option<HealthCheck>,
}

/// An endpoint of a slice that can be used at all.
struct Candidate<'a> {
    endpoint: Endpoint,
    ready: bool,
    terminating: bool,
    local: bool,
    api: &'a ApiEndpoint,
}

/// Compiles a Service.
pub fn compile<'a>(
    config: &Config,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
) -> Compiled {
    let Some(spec) = service.spec.as_ref() else { return Compiled::default() };
    if !has_frontends(service, spec) {
        return Compiled::default();
    }
    let name = (service.metadata.namespace.as_deref(), service.metadata.name.as_deref());
    let name = format!("{}/{}", name.0.unwrap_or_default(), name.1.unwrap_or_default());
    let mut compiled = Compiled::default();
    let mut local_addresses = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = Protocol::from_api(port.protocol.as_deref()) else { continue };
        for family in [Family::Ip, Family::Ip6] {
            let candidates = candidates(config, family, port, protocol, slices.clone());
            let chosen = Chosen::from(config, &candidates);
            local_addresses.extend(chosen.local.iter().map(|e| e.addr));
            let pool = format!("{name}:{}", port.name.as_deref().unwrap_or_default());
            frontends(service, spec, port, protocol, family, &chosen, pool.into(), &mut compiled.frontends);
        }
    }
    let health = spec.health_check_node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    compiled.health = health.map(|port| HealthCheck { port, local_endpoints: local_addresses.len() });
    compiled
}

/// A Service that this proxy serves: not headless, not an alias, not somebody else's.
fn has_frontends(service: &Service, spec: &ServiceSpec) -> bool {
    const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
    let labels = service.metadata.labels.as_ref();
    spec.type_.as_deref() != Some("ExternalName")
        && !matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"))
        && !labels.is_some_and(|l| l.contains_key(OTHER_PROXY))
}

fn candidates<'a>(
    config: &Config,
    family: Family,
    port: &ServicePort,
    protocol: Protocol,
    slices: impl Iterator<Item = &'a EndpointSlice>,
) -> Vec<Candidate<'a>> {
    let address_type = if family == Family::Ip { "IPv4" } else { "IPv6" };
    let wanted = port.name.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for slice in slices.filter(|s| s.address_type == address_type) {
        let matches = |p: &&k8s_openapi::api::discovery::v1::EndpointPort| {
            p.name.as_deref().unwrap_or_default() == wanted
                && Protocol::from_api(p.protocol.as_deref()) == Some(protocol)
        };
        let Some(number) = slice.ports.iter().flatten().find(matches).and_then(|p| p.port) else { continue };
        let Ok(number) = u16::try_from(number) else { continue };
        for api in slice.endpoints.iter().flatten() {
            let Some(addr) = api.addresses.first().and_then(|a| a.parse::<IpAddr>().ok()) else { continue };
            let conditions = api.conditions.as_ref();
            // An absent `ready` or `serving` counts as true, an absent `terminating` as false.
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            if !(ready || serving && terminating) {
                continue;
            }
            let local = api.node_name.as_deref() == Some(config.node_name.as_str());
            found.push(Candidate {
                endpoint: Endpoint { addr, port: number },
                ready,
                terminating,
                local,
                api,
            });
        }
    }
    found
}

/// The endpoints of one port, by traffic policy.
struct Chosen {
    cluster: Arc<Vec<Endpoint>>,
    local: Arc<Vec<Endpoint>>,
}

impl Chosen {
    fn from(config: &Config, candidates: &[Candidate<'_>]) -> Self {
        let hinted = hinted(config, candidates);
        let pick = |of: &dyn Fn(&Candidate<'_>) -> bool| {
            let ready: BTreeSet<Endpoint> =
                candidates.iter().filter(|c| c.ready && of(c)).map(|c| c.endpoint).collect();
            if !ready.is_empty() {
                return ready;
            }
            candidates.iter().filter(|c| c.terminating && of(c)).map(|c| c.endpoint).collect()
        };
        let cluster = match hinted {
            Some(hint) => pick(&|c| hint.takes(config, c.api)),
            None => pick(&|_| true),
        };
        let list = |set: BTreeSet<Endpoint>| Arc::new(set.into_iter().collect());
        Self { cluster: list(cluster), local: list(pick(&|c| c.local)) }
    }
}

/// By which hints endpoints are chosen.
#[derive(Clone, Copy, PartialEq)]
enum Hint {
    Node,
    Zone,
}

impl Hint {
    fn takes(self, config: &Config, api: &ApiEndpoint) -> bool {
        let Some(hints) = &api.hints else { return false };
        match self {
            Hint::Node => hints.for_nodes.iter().flatten().any(|n| n.name == config.node_name),
            Hint::Zone => hints.for_zones.iter().flatten().any(|z| Some(&z.name) == config.zone.as_ref()),
        }
    }
}

/// Hints count only if every ready endpoint has some and one of them is for this node or its zone.
fn hinted(config: &Config, candidates: &[Candidate<'_>]) -> Option<Hint> {
    let ready = || candidates.iter().filter(|c| c.ready).map(|c| c.api);
    let all = |has: &dyn Fn(&ApiEndpoint) -> bool| ready().all(has) && ready().next().is_some();
    let for_nodes =
        |e: &ApiEndpoint| e.hints.as_ref().is_some_and(|h| h.for_nodes.iter().flatten().next().is_some());
    let for_zones =
        |e: &ApiEndpoint| e.hints.as_ref().is_some_and(|h| h.for_zones.iter().flatten().next().is_some());
    if all(&for_nodes) && ready().any(|e| Hint::Node.takes(config, e)) {
        return Some(Hint::Node);
    }
    (all(&for_zones) && ready().any(|e| Hint::Zone.takes(config, e))).then_some(Hint::Zone)
}

#[expect(clippy::too_many_arguments, reason = "the parts of one port of one Service, used once")]
fn frontends(
    service: &Service,
    spec: &ServiceSpec,
    port: &ServicePort,
    protocol: Protocol,
    family: Family,
    chosen: &Chosen,
    pool: Arc<str>,
    out: &mut Vec<(Frontend, Arc<Policy>)>,
) {
    let Ok(number) = u16::try_from(port.port) else { return };
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| affinity_timeout(spec));
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let internal = Arc::new(Policy {
        masquerade: Masquerade::Outsiders,
        endpoints: if internal_local { &chosen.local } else { &chosen.cluster }.clone(),
        own: chosen.local.clone(),
        external_local: false,
        drop_if_empty: internal_local && !chosen.cluster.is_empty(),
        affinity,
        pool,
        sources: Vec::new(),
    });
    let of_family = |addr: &IpAddr| Family::of(*addr) == family;
    let parsed = |text: &str| text.parse::<IpAddr>().ok().filter(of_family);
    let cluster_ips: Vec<&str> = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.iter().map(String::as_str).collect(),
        _ => spec.cluster_ip.as_deref().into_iter().collect(),
    };
    let mut push = |at, port, policy: &Arc<Policy>| {
        out.push((Frontend { at, protocol, port }, policy.clone()));
    };
    let cluster_ips: Vec<IpAddr> = cluster_ips.into_iter().filter_map(parsed).collect();
    for addr in &cluster_ips {
        push(At::Address(*addr), number, &internal);
    }
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let external = Policy {
        masquerade: Masquerade::Everybody,
        endpoints: chosen.cluster.clone(),
        external_local,
        drop_if_empty: false,
        ..(*internal).clone()
    };
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let sources: Vec<IpNet> = ranges
        .filter_map(|range| range.trim().parse::<IpNet>().ok())
        .filter(|net| of_family(&net.addr()))
        .map(|net| net.trunc())
        .collect();
    let balanced = Arc::new(Policy { sources, ..external.clone() });
    let external = Arc::new(external);
    for addr in spec.external_ips.iter().flatten().filter_map(|ip| parsed(ip)) {
        push(At::Address(addr), number, &external);
    }
    let ingress =
        service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|l| l.ingress.as_ref());
    for addr in ingress
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|i| parsed(i.ip.as_deref()?))
    {
        push(At::Address(addr), number, &balanced);
    }
    let node_port = port.node_port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0);
    if let (Some(node_port), false) = (node_port, cluster_ips.is_empty()) {
        push(At::NodePort { v6: family == Family::Ip6 }, node_port, &external);
    }
}

/// Upstream's default is three hours.
fn affinity_timeout(spec: &ServiceSpec) -> Duration {
    let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
    let seconds = config.and_then(|c| c.timeout_seconds).and_then(|s| u64::try_from(s).ok());
    Duration::from_secs(seconds.unwrap_or(10_800))
}
