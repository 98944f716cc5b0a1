//! Nodes as network namespaces on one host: `tiphys up --nodes 3` without virtual machines.
//!
//! A cluster has a bridge on the host; each node is a named namespace with a veth pair onto it, an address
//! and a default route through the host. The host masquerades what the nodes send outwards and has routes
//! to the nodes' pods and to the Services. Ranges are chosen by what is free on the host, so that clusters
//! coexist. Methods block shortly and act in the network namespace of the calling thread.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};

use crate::link::{Changes, End, Links, Route};
use crate::netns::{self, Namespace};
use crate::nft::{Batch, Chain, Client, Cmp, Family, Field, Flags, HookPoint, Rule, Table};
use crate::node::Error;
use crate::{NodeId, digest, sysctl};

/// Where a node's uplink is inside its namespace.
const UPLINK: &str = "uplink";
const MTU: u32 = 1500;
const SOURCE_NAT: i32 = 100;

/// The ranges of one cluster on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranges {
    /// Of the nodes' addresses; a /24.
    pub nodes: IpNet,
    /// Of the pods; a /16.
    pub pods: IpNet,
    /// Of the Services; a /16.
    pub services: IpNet,
}

/// Ranges that no address or route on this host touches: 10.244.0.0/16, 10.96.0.0/16 and 172.30.0.0/24
/// for the first cluster, the next ones for the next. `reserved` names ranges that are spoken for
/// (clusters that are down). `None` where all are taken.
pub fn free_ranges(links: &mut Links, reserved: &[IpNet]) -> Result<Option<Ranges>, Error> {
    let mut used: Vec<IpNet> = reserved.to_vec();
    used.extend(links.addresses()?.into_iter().map(|(_, net)| net.trunc()));
    used.extend(links.routes()?.into_iter().map(|(route, _)| route.to).filter(|net| net.prefix_len() > 0));
    let pick = |candidates: &mut dyn Iterator<Item = Ipv4Net>| {
        candidates.map(IpNet::V4).find(|net| !used.iter().any(|u| u.contains(net) || net.contains(u)))
    };
    let ten = |second: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, second, 0, 0), 16);
    let nodes = pick(&mut (0..=255).map(|n| Ipv4Net::new_assert(Ipv4Addr::new(172, 30, n, 0), 24)));
    let pods = pick(&mut (244..=255).chain(128..244).map(ten));
    let services = pick(&mut (96..128).map(ten));
    Ok(match (nodes, pods, services) {
        (Some(nodes), Some(pods), Some(services)) => Some(Ranges { nodes, pods, services }),
        _ => None,
    })
}

/// The address of node number `index` (from 1: the host itself has the first).
pub fn node_ip(ranges: &Ranges, index: u8) -> IpAddr {
    nth(ranges.nodes, u32::from(index) + 1)
}

/// What a node's process needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its network namespace.
    pub namespace: PathBuf,
    /// Its address.
    pub ip: IpAddr,
    /// The host's address on the cluster's bridge, which is the node's default gateway.
    pub host_ip: IpAddr,
}

/// The host's side of one cluster.
#[derive(Debug)]
pub struct HostNetwork {
    name: String,
    ranges: Ranges,
    /// Where the namespaces are named, e.g. `/run/tiphys/NAME/netns`.
    dir: PathBuf,
    host_dir: PathBuf,
    links: Links,
    nft: Client,
}

impl HostNetwork {
    /// Makes the cluster's bridge, the host's address on it and the masquerading, or takes over what is
    /// there. Namespaces are named in `dir`; `host_dir` is as in [`crate::Config`].
    pub fn open(
        cluster: &str,
        ranges: Ranges,
        dir: impl Into<PathBuf>,
        host_dir: impl Into<PathBuf>,
    ) -> Result<Self, Error> {
        let (links, nft, dir, host_dir) = (Links::new()?, Client::new()?, dir.into(), host_dir.into());
        let mut host = Self { name: cluster.into(), ranges, dir, host_dir, links, nft };
        fs::create_dir_all(&host.dir).map_err(|source| Error::State { path: host.dir.clone(), source })?;
        sysctl::hold(&host.host_dir, &host.dir, &[("net.ipv4.ip_forward", "1")])?;
        let mut changes = Changes::new();
        changes.bridge(&host.bridge(), MTU);
        host.links.apply(&changes)?;
        let bridge = host.links.index_of(&host.bridge())?;
        let mut changes = Changes::new();
        let address = IpNet::new(host.host_ip(), host.ranges.nodes.prefix_len())
            .expect("the prefix length comes from a network");
        changes.address(bridge, address);
        host.links.apply(&changes)?;
        host.nft.apply(&host.rules())?;
        Ok(host)
    }

    fn bridge(&self) -> String {
        format!("tpbr{}", digest(&self.name, 8))
    }

    fn host_ip(&self) -> IpAddr {
        nth(self.ranges.nodes, 1)
    }

    fn table(&self) -> Table {
        Table::new(Family::Ip, NodeId::new(&self.name).table("host"))
    }

    fn rules(&self) -> Batch {
        let mut batch = Batch::new(self.table());
        batch.remove_table();
        batch.add_table("");
        batch.add_chain(Chain::nat("postrouting", HookPoint::Postrouting, SOURCE_NAT));
        batch.add_rule(
            Rule::new(Family::Ip, "postrouting")
                .load(&[Field::Saddr])
                .in_network(Cmp::Eq, self.ranges.nodes)
                .load(&[Field::Daddr])
                .in_network(Cmp::Ne, self.ranges.nodes)
                .load(&[Field::Daddr])
                .in_network(Cmp::Ne, self.ranges.pods)
                .load(&[Field::Daddr])
                .in_network(Cmp::Ne, self.ranges.services)
                .masquerade(Flags::FULLY_RANDOM),
        );
        batch
    }

    /// Makes node number `index` (from 1), or finds it.
    pub fn create_node(&mut self, node: &str, index: u8) -> Result<Node, Error> {
        let path = self.dir.join(node);
        let ip = node_ip(&self.ranges, index);
        let made = Node { namespace: path.clone(), ip, host_ip: self.host_ip() };
        let namespace = if path.exists() { Namespace::open(&path)? } else { Namespace::create(&path)? };
        let here = self.uplink(node);
        if self.links.by_name(&here)?.is_none() {
            let mut changes = Changes::new();
            let host_end = End { name: here.clone(), mac: None, namespace: None };
            let node_end = End { name: UPLINK.into(), mac: None, namespace: Some(namespace.as_raw_fd()) };
            changes.veth(&host_end, &node_end, MTU);
            self.links.apply(&changes)?;
        }
        let (link, bridge) = (self.links.index_of(&here)?, self.links.index_of(&self.bridge())?);
        let mut changes = Changes::new();
        changes.enslave(link, bridge);
        self.links.apply(&changes)?;
        let (prefix, gateway) = (self.ranges.nodes.prefix_len(), made.host_ip);
        namespace.run(|| -> Result<(), Error> {
            let mut links = Links::new()?;
            let (loopback, uplink) = (links.index_of("lo")?, links.index_of(UPLINK)?);
            let mut changes = Changes::new();
            changes.up(loopback);
            changes.up(uplink);
            changes.address(uplink, IpNet::new(ip, prefix).expect("the prefix length comes from a network"));
            let everywhere = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
            changes.route(&Route::via(everywhere, gateway));
            Ok(links.apply(&changes)?)
        })??;
        // As with pods: the kernel is to notice the carrier before the first packet.
        self.links.by_name(&here)?;
        Ok(made)
    }

    fn uplink(&self, node: &str) -> String {
        format!("tpup{}", digest(&format!("{} {node}", self.name), 8))
    }

    /// The host reaches these ranges (a node's pods, or all Services) through a node.
    pub fn route(&mut self, range: IpNet, node: &Node) -> Result<(), Error> {
        let mut changes = Changes::new();
        changes.route(&Route::via(range, node.ip));
        Ok(self.links.apply(&changes)?)
    }

    /// Removes a node's link and namespace; what still runs in it keeps the namespace alive without a
    /// name. One that is absent is no error.
    pub fn delete_node(&mut self, node: &str) -> Result<(), Error> {
        let mut changes = Changes::new();
        changes.delete_link(&self.uplink(node));
        self.links.apply(&changes)?;
        Ok(netns::unbind(self.dir.join(node))?)
    }

    /// Removes every node, the bridge with its routes, the rules, and puts forwarding back as it was before the
    /// first cluster on this host, unless others still need it.
    pub fn remove_all(mut self) -> Result<(), Error> {
        for node in names_in(&self.dir)? {
            self.delete_node(&node)?;
        }
        let mut changes = Changes::new();
        changes.delete_link(&self.bridge());
        self.links.apply(&changes)?;
        let mut batch = Batch::new(self.table());
        batch.remove_table();
        self.nft.apply(&batch)?;
        sysctl::release(&self.host_dir, &self.dir)?;
        match fs::remove_dir(&self.dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::State { path: self.dir, source })
            }
            _ => Ok(()),
        }
    }
}

fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let failed = |source| Error::State { path: dir.into(), source };
    match fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(failed(e)),
        Ok(entries) => entries
            .map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned()))
            .collect(),
    }
}

/// The `n`th address of a network.
fn nth(net: IpNet, n: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a) + n)),
        IpAddr::V6(a) => IpAddr::V6((u128::from(a) + u128::from(n)).into()),
    }
}
