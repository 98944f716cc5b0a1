//! A cluster on this host: its name, where it keeps what, and the addresses it goes by.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where every cluster's state is, one directory a name.
const STATE: &str = "/var/lib/tiphys";
/// What lives while it runs. What all clusters on this host share is here too, wherever `TIPHYS_RUN` has the
/// rest.
pub const RUN: &str = "/run/tiphys";

/// A cluster's name: part of the names of links, tables and directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name(String);

impl std::str::FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Name, String> {
        let faults = api::names::dns1123_label(text);
        if text.len() > 20 {
            return Err("a cluster's name has at most 20 characters".into());
        }
        match faults.into_iter().next() {
            None => Ok(Name(text.to_owned())),
            Some(fault) => Err(fault),
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn state(&self) -> PathBuf {
        state_root().join(&self.0)
    }

    pub fn run(&self) -> PathBuf {
        let root = std::env::var_os("TIPHYS_RUN").map_or_else(|| PathBuf::from(RUN), PathBuf::from);
        root.join(&self.0)
    }

    pub fn settings_path(&self) -> PathBuf {
        self.state().join("cluster.json")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.state().join("kubeconfig")
    }

    /// Where the node number `index` of [`Settings::nodes`] lives. The first is on the host itself, in
    /// the server's process; the others have namespaces and a process of their own.
    pub fn place(&self, settings: &Settings, index: usize) -> Place {
        let node = &settings.nodes[index].name;
        if index == 0 {
            return Place { state: self.state(), run: self.run(), namespace: None };
        }
        Place {
            state: self.state().join("nodes").join(node),
            run: self.run().join("nodes").join(node),
            namespace: Some(self.namespaces().join(node)),
        }
    }

    /// Where the network namespaces of nodes are named.
    pub fn namespaces(&self) -> PathBuf {
        self.run().join("netns")
    }

    /// The ranges of all clusters on this host that are up or may come up again.
    ///
    /// # Errors
    /// A cluster's settings are unreadable.
    pub fn ranges_spoken_for() -> anyhow::Result<Vec<IpNet>> {
        let mut found = Vec::new();
        let entries = match std::fs::read_dir(state_root()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(found),
            entries => entries.with_context(|| format!("reading {}", state_root().display()))?,
        };
        for entry in entries {
            if let Some(settings) = Settings::read(&entry?.path().join("cluster.json"))? {
                found
                    .extend([settings.pod_cidr, settings.service_cidr].into_iter().chain(settings.node_cidr));
            }
        }
        Ok(found)
    }
}

fn state_root() -> PathBuf {
    std::env::var_os("TIPHYS_STATE").map_or_else(|| PathBuf::from(STATE), PathBuf::from)
}

/// Where a node is on this host.
pub struct Place {
    /// What it keeps.
    pub state: PathBuf,
    /// What lives while it runs.
    pub run: PathBuf,
    /// Its network namespace; the host's where there is none.
    pub namespace: Option<PathBuf>,
}

impl Place {
    pub fn pid_path(&self) -> PathBuf {
        self.run.join("server.pid")
    }

    pub fn log_path(&self) -> PathBuf {
        self.state.join("server.log")
    }
}

/// What a cluster was made with; kept, so that it comes back the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub api_port: u16,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    /// The nodes' own addresses, where there are several: the host's bridge and the nodes in namespaces.
    pub node_cidr: Option<IpNet>,
    pub domain: String,
    /// At least one.
    pub nodes: Vec<NodeSettings>,
}

/// One node of a cluster on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeSettings {
    pub name: String,
    pub ip: IpAddr,
    pub kubelet_port: u16,
}

impl Settings {
    /// # Errors
    /// The file is unreadable; `None` where there is none.
    pub fn read(path: &Path) -> anyhow::Result<Option<Settings>> {
        match std::fs::read(path) {
            Ok(text) => {
                let settings = serde_json::from_slice(&text).with_context(|| {
                    format!("{} is damaged; `tiphys down --purge` starts over", path.display())
                })?;
                Ok(Some(settings))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let beside = path.with_extension("new");
        std::fs::write(&beside, text).with_context(|| format!("writing {}", beside.display()))?;
        std::fs::rename(&beside, path).with_context(|| format!("writing {}", path.display()))
    }

    /// The node on the host itself.
    pub fn first(&self) -> &NodeSettings {
        &self.nodes[0]
    }

    /// The ranges of a cluster with several nodes.
    pub fn ranges(&self) -> Option<network::hostns::Ranges> {
        self.node_cidr.map(|nodes| network::hostns::Ranges {
            nodes,
            pods: self.pod_cidr,
            services: self.service_cidr,
        })
    }

    /// What names everything of a node on the host: the cluster's and the node's name.
    pub fn node_id(&self, cluster: &Name, index: usize) -> String {
        format!("{cluster}-{}", self.nodes[index].name)
    }

    /// The address of the service `kubernetes`: the first of the range.
    pub fn kubernetes_ip(&self) -> anyhow::Result<IpAddr> {
        nth(self.service_cidr, 1)
    }

    /// The address that pods ask for names: the tenth of the range.
    pub fn dns_ip(&self) -> anyhow::Result<IpAddr> {
        nth(self.service_cidr, 10)
    }

    pub fn api_url(&self) -> String {
        format!("https://127.0.0.1:{}", self.api_port)
    }
}

pub fn nth(range: IpNet, n: u32) -> anyhow::Result<IpAddr> {
    if range.max_prefix_len() - range.prefix_len() < 5 {
        bail!("{range} is too small for a cluster: give at least a /{}", range.max_prefix_len() - 5);
    }
    Ok(match range.network() {
        IpAddr::V4(base) => Ipv4Addr::from(u32::from(base) + n).into(),
        IpAddr::V6(base) => std::net::Ipv6Addr::from(u128::from(base) + u128::from(n)).into(),
    })
}

/// The address that this host is reached by: that of the default route's link, else of any link, else loopback.
pub fn host_address() -> IpAddr {
    let routed = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        // No packet is sent: connecting a datagram socket only looks up the route.
        s.connect("192.0.2.254:9")?;
        s.local_addr()
    });
    let routed = routed.map(|at| at.ip()).ok();
    routed.or_else(any_address).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// The first address of a host that has no route out.
fn any_address() -> Option<IpAddr> {
    let addresses = network::link::Links::new().and_then(|mut links| links.addresses());
    let addresses =
        addresses.inspect_err(|error| tracing::warn!(%error, "cannot ask for this host's addresses"));
    let mut own = addresses.ok()?.into_iter().map(|(_, address)| address.addr());
    own.find(|address| matches!(address, IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local()))
}
