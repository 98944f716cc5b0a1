//! Addresses of a node's pods, kept in a directory: one file per attached sandbox, named by its address.
//!
//! The directory is the truth: it is read once when opened, and every change is on disk before it is
//! answered, so that a restarted node gives no address twice and forgets none.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::{fs, io};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

/// Why an address could not be given or taken back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory or a file in it.
    #[error("{}: {what}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The step.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A file that is not one of ours or is damaged.
    #[error("{}: not a record of a sandbox: {source}", path.display())]
    Record {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Every address is in use.
    #[error("no address left in {0}")]
    Exhausted(IpNet),
    /// The pod CIDR cannot hold pods.
    #[error("pod CIDR {0}: IPv4 and at most /30 is needed")]
    Range(IpNet),
}

/// What is kept about a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The sandbox's id.
    pub id: String,
    /// Its address.
    pub ip: IpAddr,
    /// The host's end of its veth pair.
    pub link: String,
    /// The pod's namespace and name, for people.
    pub pod: String,
    /// Ports of the host that lead to it.
    pub host_ports: Vec<crate::HostPort>,
}

/// The addresses of one pod CIDR. The first is the gateway's, the network's own and the last stay unused.
#[derive(Debug)]
pub struct Addresses {
    dir: PathBuf,
    net: Ipv4Net,
    by_ip: BTreeMap<Ipv4Addr, Record>,
    by_id: HashMap<String, Ipv4Addr>,
    /// The address given last: a freed address is reused as late as possible.
    last: u32,
}

fn failed(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_path_buf();
    move |source| Error::File { path, what, source }
}

impl Addresses {
    /// Opens a directory, made where absent, and reads what it holds. Records outside the range (the pod
    /// CIDR changed) are kept so that they can be detached.
    pub fn open(dir: impl Into<PathBuf>, net: IpNet) -> Result<Self, Error> {
        let dir = dir.into();
        let IpNet::V4(v4) = net else { return Err(Error::Range(net)) };
        if v4.prefix_len() > 30 {
            return Err(Error::Range(net));
        }
        fs::create_dir_all(&dir).map_err(failed(&dir, "create"))?;
        let last = u32::from(v4.network()) + 1;
        let mut addresses =
            Self { dir, net: v4.trunc(), by_ip: BTreeMap::new(), by_id: HashMap::new(), last };
        for entry in fs::read_dir(&addresses.dir).map_err(failed(&addresses.dir, "read"))? {
            let path = entry.map_err(failed(&addresses.dir, "read"))?.path();
            // A file without an address for a name is a write that never ended.
            let Some(ip) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse().ok()) else {
                fs::remove_file(&path).map_err(failed(&path, "remove"))?;
                continue;
            };
            let text = fs::read(&path).map_err(failed(&path, "read"))?;
            let record: Record = serde_json::from_slice(&text)
                .map_err(|source| Error::Record { path: path.clone(), source })?;
            addresses.last = addresses.last.max(u32::from(ip));
            addresses.by_id.insert(record.id.clone(), ip);
            addresses.by_ip.insert(ip, record);
        }
        Ok(addresses)
    }

    /// The address every pod's default route leads to.
    pub fn gateway(&self) -> IpAddr {
        Ipv4Addr::from(u32::from(self.net.network()) + 1).into()
    }

    /// The record of a sandbox.
    pub fn get(&self, id: &str) -> Option<&Record> {
        self.by_ip.get(self.by_id.get(id)?)
    }

    /// All records.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.by_ip.values()
    }

    /// Gives a sandbox an address; the one it has, where it has one.
    pub fn allocate(&mut self, record: impl FnOnce(IpAddr) -> Record, id: &str) -> Result<Record, Error> {
        if let Some(record) = self.get(id) {
            return Ok(record.clone());
        }
        let (first, end) = (u32::from(self.net.network()) + 2, u32::from(self.net.broadcast()));
        let range = end - first;
        let after = self.last.clamp(first - 1, end - 1) + 1 - first;
        let ip = (0..range)
            .map(|n| Ipv4Addr::from(first + (after + n) % range))
            .find(|ip| !self.by_ip.contains_key(ip))
            .ok_or(Error::Exhausted(self.net.into()))?;
        let record = record(ip.into());
        let (path, partial) = (self.dir.join(ip.to_string()), self.dir.join(format!("{ip}.partial")));
        let bytes =
            serde_json::to_vec(&record).map_err(|source| Error::Record { path: path.clone(), source })?;
        fs::write(&partial, bytes).map_err(failed(&partial, "write"))?;
        fs::rename(&partial, &path).map_err(failed(&path, "write"))?;
        self.last = u32::from(ip);
        self.by_id.insert(record.id.clone(), ip);
        self.by_ip.insert(ip, record.clone());
        Ok(record)
    }

    /// Takes a sandbox's address back.
    pub fn release(&mut self, id: &str) -> Result<Option<Record>, Error> {
        let Some(ip) = self.by_id.get(id).copied() else { return Ok(None) };
        let path = self.dir.join(ip.to_string());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(&path, "remove")(e)),
            _ => {}
        }
        self.by_id.remove(id);
        Ok(self.by_ip.remove(&ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(id: &str) -> impl FnOnce(IpAddr) -> Record {
        let id = id.to_string();
        move |ip| Record { id, ip, link: "tp0".into(), pod: "ns/pod".into(), host_ports: vec![] }
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_small_range_is_used_up_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut addresses = Addresses::open(dir.path(), net("10.244.3.0/29")).unwrap();
        assert_eq!(addresses.gateway().to_string(), "10.244.3.1");
        let mut take = |id: &str| addresses.allocate(record(id), id).map(|r| r.ip.to_string());
        let given: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|id| take(id).unwrap()).collect();
        assert_eq!(given, ["10.244.3.2", "10.244.3.3", "10.244.3.4", "10.244.3.5", "10.244.3.6"]);
        assert!(matches!(take("f"), Err(Error::Exhausted(_))));
        assert_eq!(take("c").unwrap(), "10.244.3.4");
        addresses.release("c").unwrap();
        assert_eq!(addresses.release("c").unwrap(), None);
        assert_eq!(addresses.allocate(record("f"), "f").unwrap().ip.to_string(), "10.244.3.4");
    }

    #[test]
    fn half_written_records_go_and_damaged_ones_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("10.0.0.2.partial"), "{").unwrap();
        Addresses::open(dir.path(), net("10.0.0.0/24")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        fs::write(dir.path().join("10.0.0.2"), "{").unwrap();
        let error = Addresses::open(dir.path(), net("10.0.0.0/24")).unwrap_err();
        assert!(error.to_string().contains("10.0.0.2: not a record"), "{error}");
    }

    proptest! {
        /// Whatever comes and goes, no two sandboxes share an address, and a reopened directory agrees.
        #[test]
        fn no_address_is_given_twice(steps in prop::collection::vec((0..9u8, any::<bool>()), 0..60)) {
            let dir = tempfile::tempdir().unwrap();
            let range = net("10.1.0.0/28");
            let mut addresses = Addresses::open(dir.path(), range).unwrap();
            for (n, take) in steps {
                let id = n.to_string();
                if take {
                    addresses.allocate(record(&id), &id).unwrap();
                } else {
                    addresses.release(&id).unwrap();
                }
                let held: Vec<_> = addresses.records().cloned().collect();
                let reopened = Addresses::open(dir.path(), range).unwrap();
                prop_assert_eq!(&held, &reopened.records().cloned().collect::<Vec<_>>());
                for record in &held {
                    prop_assert_eq!(addresses.get(&record.id), Some(record));
                }
            }
        }
    }
}
