//! One node's network: attaching sandboxes, routes to other nodes, and leaving no trace.

use std::collections::HashSet;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fs, io};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ipam::{self, Addresses, Record};
use crate::link::{Changes, End, Links, Mac, ROUTE_PROTOCOL, Route};
use crate::netns::Namespace;
use crate::nft::Client;
use crate::rules::{HostPort, LocalService, Rules};
use crate::{NetlinkError, NodeId, netns, sysctl};

/// The pod's end of every veth pair.
const POD_LINK: &str = "eth0";
/// The hardware address of the host's end of every veth pair: it is its own segment, so all can be alike.
const HOST_MAC: Mac = [0xee; 6];

/// Why the network could not do something.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A namespace could not be used.
    #[error(transparent)]
    Namespace(#[from] netns::Error),
    /// An address could not be given or taken back.
    #[error(transparent)]
    Address(#[from] ipam::Error),
    /// A kernel setting.
    #[error(transparent)]
    Sysctl(#[from] sysctl::Error),
    /// The node's directory.
    #[error("{}: {source}", path.display())]
    State {
        /// Which file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The host port is another sandbox's.
    #[error("host port {port} ({protocol:?}) is in use by {holder}")]
    HostPortTaken {
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: crate::Protocol,
        /// The pod that has it.
        holder: String,
    },
}

/// What a node's network is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Config {
    /// Names everything on the host.
    pub id: NodeId,
    /// Where addresses are kept. Survives restarts; may go on reboot.
    pub state_dir: PathBuf,
    /// Where all that share this host keep which kernel settings they hold; may go on reboot.
    pub host_dir: PathBuf,
    /// The node's share of the cluster's pod addresses.
    pub pod_cidr: IpNet,
    /// What pods reach without masquerading: the addresses of all pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Service addresses; the host gets a route to each, so that it reaches Services without a default
    /// route too.
    pub service_cidrs: Vec<IpNet>,
    /// The node's own address.
    pub node_ip: IpAddr,
    /// Largest packet of a pod, bytes.
    pub mtu: u32,
}

/// A sandbox to attach.
#[derive(Debug, Clone)]
pub struct Attach<'a> {
    /// Its id, unique on the node.
    pub id: &'a str,
    /// Its network namespace.
    pub namespace: &'a Path,
    /// The pod as `namespace/name`, for messages and records.
    pub pod: &'a str,
    /// Ports of the host that lead to it.
    pub host_ports: &'a [HostPort],
}

/// An attached sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Its addresses, primary first.
    pub ips: Vec<IpAddr>,
    /// The host's end of its veth pair.
    pub host_link: String,
}

/// Another node of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its pods.
    pub pod_cidr: IpNet,
    /// Where it is; must be a neighbour.
    pub node_ip: IpAddr,
}

/// The network of one node, in the network namespace of the thread that opened it. All methods block
/// shortly and may be called from any thread.
#[derive(Debug)]
pub struct NodeNetwork {
    config: Config,
    rules: Rules,
    gateway: IpAddr,
    kernel: Mutex<Kernel>,
    addresses: Mutex<Addresses>,
}

#[derive(Debug)]
struct Kernel {
    links: Links,
    nft: Client,
    local_services: Vec<LocalService>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Both states are changed only after the kernel or the disk agreed; a panic leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl NodeNetwork {
    /// The network that an earlier run opened with this directory, if one did: for who wants to remove it.
    pub fn reopen(state_dir: &Path) -> Result<Option<Self>, Error> {
        kept(state_dir)?.map(Self::open).transpose()
    }

    /// Lets go of the kernel settings of a network whose namespace is gone, and all the rest with it.
    pub fn forget(state_dir: &Path) -> Result<(), Error> {
        match kept(state_dir)? {
            Some(config) => Ok(sysctl::release(&config.host_dir, &config.state_dir)?),
            None => Ok(()),
        }
    }

    /// Opens the node's network: settings, gateway address, table and what earlier runs attached.
    pub fn open(config: Config) -> Result<Self, Error> {
        let addresses = Addresses::open(config.state_dir.join("addresses"), config.pod_cidr)?;
        // Before the first change, so that whatever is made can be found again.
        keep(config_file(&config.state_dir), &config)?;
        let settings = [
            ("net.ipv4.ip_forward", "1"),
            // Host ports answer on 127.0.0.1 too; the table keeps everybody else from loopback addresses.
            ("net.ipv4.conf.all.route_localnet", "1"),
        ];
        sysctl::hold(&config.host_dir, &config.state_dir, &settings)?;
        let mut links = Links::new()?;
        let gateway = addresses.gateway();
        let loopback = links.index_of("lo")?;
        let mut changes = Changes::new();
        changes.up(loopback);
        changes.address(loopback, gateway.into());
        for net in &config.service_cidrs {
            // The route only lends a source address and passes the packet to the chains, which translate
            // it and send it where it belongs; loopback's own packet size would be too large there.
            let source = Some(config.node_ip);
            changes.route(&Route { source, mtu: Some(config.mtu), ..Route::on_link(*net, loopback) });
        }
        links.apply(&changes)?;
        let rules = Rules::new(config.id.table(""));
        let mut nft = Client::new()?;
        let attached = addresses.records().map(|r| (r.ip, &r.host_ports[..]));
        nft.apply(&rules.plan(config.pod_cidr, &config.cluster_cidrs, attached, &[]))?;
        let kernel = Kernel { links, nft, local_services: Vec::new() };
        Ok(Self { config, rules, gateway, kernel: Mutex::new(kernel), addresses: Mutex::new(addresses) })
    }

    /// The address pods' default routes lead to; the node's services for its pods can listen on it.
    pub fn gateway(&self) -> IpAddr {
        self.gateway
    }

    /// Gives a sandbox a link and an address. A sandbox that is attached keeps what it has.
    pub fn attach(&self, request: &Attach<'_>) -> Result<Attachment, Error> {
        let namespace = Namespace::open(request.namespace)?;
        let record = {
            let mut addresses = locked(&self.addresses);
            check_host_ports(&addresses, request)?;
            addresses.allocate(|ip| self.record(request, ip), request.id)?
        };
        let attachment = Attachment { ips: vec![record.ip], host_link: record.link.clone() };
        if let Err(error) = self.connect(&record, &namespace) {
            if let Err(undoing) = self.detach(request.id) {
                tracing::warn!(sandbox = request.id, %undoing, "a failed attachment left something behind");
            }
            return Err(error);
        }
        Ok(attachment)
    }

    fn record(&self, request: &Attach<'_>, ip: IpAddr) -> Record {
        Record {
            id: request.id.into(),
            ip,
            link: self.config.id.link(request.id),
            pod: request.pod.into(),
            host_ports: request.host_ports.to_vec(),
        }
    }

    fn connect(&self, record: &Record, namespace: &Namespace) -> Result<(), Error> {
        let mac = pod_mac(record.ip);
        let host = End { name: record.link.clone(), mac: Some(HOST_MAC), namespace: None };
        let pod = End { name: POD_LINK.into(), mac: Some(mac), namespace: Some(namespace.as_raw_fd()) };
        let mut kernel = locked(&self.kernel);
        let link = match kernel.links.by_name(&record.link)? {
            Some(link) => link.index,
            None => {
                let mut changes = Changes::new();
                changes.veth(&host, &pod, self.config.mtu);
                kernel.links.apply(&changes)?;
                kernel.links.index_of(&record.link)?
            }
        };
        let mut changes = Changes::new();
        let source = Some(self.gateway);
        changes.route(&Route { source, ..Route::on_link(record.ip.into(), link) });
        changes.neighbour(link, record.ip, mac);
        kernel.links.apply(&changes)?;
        kernel.nft.apply(&self.rules.attach(record.ip, &record.host_ports))?;
        drop(kernel);
        namespace.run(|| self.configure_pod(record.ip))??;
        // The host's end has its carrier only now, and sends nothing until the kernel has noticed: asking
        // for the link makes it notice at once (Linux 6.8), instead of dropping the first packets.
        locked(&self.kernel).links.by_name(&record.link)?;
        Ok(())
    }

    /// The pod's side, on a thread inside its namespace.
    fn configure_pod(&self, ip: IpAddr) -> Result<(), Error> {
        let mut links = Links::new()?;
        let (loopback, link) = (links.index_of("lo")?, links.index_of(POD_LINK)?);
        let mut changes = Changes::new();
        changes.up(loopback);
        changes.up(link);
        changes.address(link, ip.into());
        changes.neighbour(link, self.gateway, HOST_MAC);
        changes.route(&Route::on_link(self.gateway.into(), link));
        let everywhere = IpNet::new(IpAddr::from([0, 0, 0, 0]), 0).expect("0 is a prefix length");
        changes.route(&Route { link: Some(link), ..Route::via(everywhere, self.gateway) });
        Ok(links.apply(&changes)?)
    }

    /// Takes a sandbox's link and address back. One that is not attached is no error; the sandbox's
    /// namespace may be gone.
    pub fn detach(&self, id: &str) -> Result<(), Error> {
        let Some(record) = locked(&self.addresses).get(id).cloned() else { return Ok(()) };
        {
            let mut kernel = locked(&self.kernel);
            match kernel.nft.apply(&self.rules.detach(record.ip, &record.host_ports)) {
                // An attachment that failed halfway has no elements.
                Err(error) if error.absent() => {}
                other => other?,
            }
            let mut changes = Changes::new();
            changes.delete_link(&record.link);
            kernel.links.apply(&changes)?;
        }
        // Last, so that an address is given again only when nothing refers to it.
        locked(&self.addresses).release(id)?;
        Ok(())
    }

    /// What is attached: sandbox ids with their addresses.
    pub fn attached(&self) -> Vec<(String, IpAddr)> {
        locked(&self.addresses).records().map(|r| (r.id.clone(), r.ip)).collect()
    }

    /// Detaches every sandbox that is not among `live` (after a reboot or a crash); gives their ids.
    pub fn reconcile(&self, live: &HashSet<String>) -> Result<Vec<String>, Error> {
        let stale: Vec<String> =
            self.attached().into_iter().map(|(id, _)| id).filter(|id| !live.contains(id)).collect();
        for id in &stale {
            self.detach(id)?;
        }
        let known: HashSet<String> = locked(&self.addresses).records().map(|r| r.link.clone()).collect();
        let prefix = self.config.id.link_prefix();
        let mut kernel = locked(&self.kernel);
        let mut changes = Changes::new();
        for link in kernel.links.links()? {
            if link.name.starts_with(&prefix) && !known.contains(&link.name) {
                changes.delete_link(&link.name);
            }
        }
        kernel.links.apply(&changes)?;
        Ok(stale)
    }

    /// Routes to the pods of exactly these nodes; changes only what differs. A route that the kernel refuses
    /// (through an address that is nobody's neighbour, say) is no hindrance to the others; gives the refusals.
    pub fn set_peers(&self, peers: &[Peer]) -> Result<Vec<NetlinkError>, Error> {
        let wanted: HashSet<(IpNet, IpAddr)> = peers
            .iter()
            .map(|p| (p.pod_cidr, p.node_ip))
            .filter(|(net, _)| *net != self.config.pod_cidr)
            .collect();
        let mut kernel = locked(&self.kernel);
        let present: HashSet<(IpNet, IpAddr)> = self.peer_routes(&mut kernel)?;
        let mut changes = Changes::new();
        for (to, via) in present.difference(&wanted) {
            // A route to the same pods by another way is replaced below, without a gap.
            if !wanted.iter().any(|(net, _)| net == to) {
                changes.delete_route(&Route::via(*to, *via));
            }
        }
        for (to, via) in wanted.difference(&present) {
            changes.route(&Route::via(*to, *via));
        }
        Ok(kernel.links.attempt(&changes)?)
    }

    fn peer_routes(&self, kernel: &mut Kernel) -> Result<HashSet<(IpNet, IpAddr)>, Error> {
        let ours = |net: &IpNet| self.config.cluster_cidrs.iter().any(|cluster| cluster.contains(net));
        let routes = kernel.links.routes()?.into_iter();
        Ok(routes
            .filter(|(route, protocol)| *protocol == ROUTE_PROTOCOL && ours(&route.to))
            .filter_map(|(route, _)| Some((route.to, route.via?)))
            .collect())
    }

    /// Sends what pods and the host ask of these service addresses to servers on this node, whether the
    /// API server is there or not. Replaces the former list.
    pub fn set_local_services(&self, services: &[LocalService]) -> Result<(), Error> {
        let mut kernel = locked(&self.kernel);
        if kernel.local_services != services {
            kernel.nft.apply(&self.rules.serve(services))?;
            kernel.local_services = services.to_vec();
        }
        Ok(())
    }

    /// Removes every trace: links, routes, rules, addresses, records; former settings come back, unless others
    /// here need ours. Must run in the node's network namespace.
    pub fn remove_all(self) -> Result<(), Error> {
        let mut kernel = locked(&self.kernel);
        kernel.nft.apply(&self.rules.remove())?;
        let prefix = self.config.id.link_prefix();
        let loopback = kernel.links.index_of("lo")?;
        let mut changes = Changes::new();
        for link in kernel.links.links()?.iter().filter(|l| l.name.starts_with(&prefix)) {
            changes.delete_link(&link.name);
        }
        for (to, via) in self.peer_routes(&mut kernel)? {
            changes.delete_route(&Route::via(to, via));
        }
        for net in &self.config.service_cidrs {
            changes.delete_route(&Route::on_link(*net, loopback));
        }
        changes.delete_address(loopback, self.gateway.into());
        kernel.links.apply(&changes)?;
        drop(kernel);
        let Config { host_dir, state_dir, .. } = self.config;
        sysctl::release(&host_dir, &state_dir)?;
        fs::remove_dir_all(&state_dir).map_err(|source| Error::State { path: state_dir, source })
    }
}

fn check_host_ports(addresses: &Addresses, request: &Attach<'_>) -> Result<(), Error> {
    for port in request.host_ports {
        let clashes = |other: &HostPort| {
            other.protocol == port.protocol
                && other.host_port == port.host_port
                && other.host_ip == port.host_ip
        };
        let mut others = addresses.records().filter(|r| r.id != request.id);
        if let Some(holder) = others.find(|r| r.host_ports.iter().any(clashes)) {
            let (port, protocol, holder) = (port.host_port, port.protocol, holder.pod.clone());
            return Err(Error::HostPortTaken { port, protocol, holder });
        }
    }
    Ok(())
}

fn config_file(state_dir: &Path) -> PathBuf {
    state_dir.join("config.json")
}

/// What an earlier run was opened with, if there was one.
fn kept(state_dir: &Path) -> Result<Option<Config>, Error> {
    let path = config_file(state_dir);
    let failed = |source| Error::State { path: path.clone(), source };
    let text = match fs::read(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(failed)?,
    };
    let config: Config = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
    Ok(Some(Config { state_dir: state_dir.to_owned(), ..config }))
}

fn keep(path: PathBuf, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec(value).map_err(io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(|source| Error::State { path, source })
}

/// A pod's hardware address, from its IP address.
fn pod_mac(ip: IpAddr) -> Mac {
    let tail = match ip {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x0a, 0x58, tail[0], tail[1], tail[2], tail[3]]
}
