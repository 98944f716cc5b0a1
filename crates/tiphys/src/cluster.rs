//! A cluster on this host: its name, where it keeps what, and the addresses it goes by.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Where every cluster's state is, one directory a name.
const STATE: &str = "/var/lib/tiphys";
/// What lives while it runs.
const RUN: &str = "/run/tiphys";

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
        let root = std::env::var_os("TIPHYS_STATE").map_or_else(|| PathBuf::from(STATE), PathBuf::from);
        root.join(&self.0)
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

    pub fn pid_path(&self) -> PathBuf {
        self.run().join("server.pid")
    }

    pub fn log_path(&self) -> PathBuf {
        self.state().join("server.log")
    }
}

/// What a cluster was made with; kept, so that it comes back the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    pub api_port: u16,
    pub pod_cidr: IpNet,
    pub service_cidr: IpNet,
    pub domain: String,
    pub node_name: String,
    pub node_ip: IpAddr,
    /// Nodes beyond the first, each in namespaces of its own.
    pub more_nodes: u16,
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

/// The address that this host is reached by: that of the default route's link, else loopback.
pub fn host_address() -> IpAddr {
    let probe = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        // No packet is sent: connecting a datagram socket only looks up the route.
        s.connect("192.0.2.254:9")?;
        s.local_addr()
    });
    probe.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip())
}
