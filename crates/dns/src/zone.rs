//! What the zone answers. Changes touch one Service's names; questions take a shared lock for the time of
//! a few map lookups.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::Event;
use parking_lot::RwLock;

use crate::records::{Data, Records, of_service};

/// Seconds an answer may be kept, also one that says no.
pub const TTL: u32 = 5;
/// The version of the DNS specification that is followed.
const SPECIFICATION: &str = "1.1.0";
/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records, and these that the asker will want next.
    Records(Vec<Record>, Vec<Record>),
    /// The name is another name's alias; the record, and what to ask next.
    Alias(Record, Name),
    /// The name is there, but has no such record.
    NoData(Record),
    /// There is no such name.
    NoName(Record),
    /// The name is not of this zone.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Node {
    data: Vec<Data>,
    /// How many names with data lie below.
    below: usize,
}

#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    records: Records,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<String, Node>,
    reverse: HashMap<IpAddr, Vec<String>>,
    known: HashMap<(String, String), Known>,
    serial: u32,
}

/// The zone of one cluster.
#[derive(Debug)]
pub struct Zone {
    domain: String,
    apex: Name,
    turn: AtomicUsize,
    state: RwLock<State>,
}

impl Zone {
    /// An empty zone. Fails where the domain is no name, e.g. `cluster.local` is one.
    pub fn new(domain: &str) -> Result<Self, hickory_proto::ProtoError> {
        let domain = domain.trim_matches('.').to_lowercase();
        let apex = Name::from_ascii(format!("{domain}."))?;
        let mut state = State::default();
        state.insert("dns-version", Data::Text(SPECIFICATION.into()));
        Ok(Self { domain, apex, turn: AtomicUsize::new(0), state: RwLock::new(state) })
    }

    /// Takes in a Service.
    pub fn service(&self, event: Event<Service>) {
        let (service, there) = match event {
            Event::Applied(service) => (service, true),
            Event::Deleted(service) => (service, false),
            Event::Synced => return,
        };
        let metadata = &service.metadata;
        let key = (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default());
        let mut state = self.state.write();
        state.known.entry(key.clone()).or_default().service = there.then_some(service);
        state.refresh(&key);
    }

    /// Takes in an EndpointSlice.
    pub fn slice(&self, event: Event<EndpointSlice>) {
        let (slice, there) = match event {
            Event::Applied(slice) => (slice, true),
            Event::Deleted(slice) => (slice, false),
            Event::Synced => return,
        };
        let metadata = &slice.metadata;
        let Some(owner) = metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)) else { return };
        let key = (metadata.namespace.clone().unwrap_or_default(), owner.clone());
        let name = metadata.name.clone().unwrap_or_default();
        let mut state = self.state.write();
        let known = state.known.entry(key.clone()).or_default();
        if there {
            known.slices.insert(name, slice);
        } else {
            known.slices.remove(&name);
        }
        state.refresh(&key);
    }

    /// Answers a question from memory. The asked name's letters come back as they were asked.
    pub fn answer(&self, asked: &Name, kind: RecordType) -> Answer {
        let lower = asked.to_lowercase().to_ascii();
        let lower = lower.trim_end_matches('.');
        if let Some(addr) = reverse_address(lower) {
            return self.reverse(asked, addr, kind);
        }
        let Some(relative) = self.relative(lower) else { return Answer::Elsewhere };
        let state = self.state.read();
        if relative.is_empty() {
            return match kind {
                RecordType::SOA | RecordType::ANY => Answer::Records(vec![self.soa(&state)], vec![]),
                RecordType::NS => {
                    let ns = RData::NS(hickory_proto::rr::rdata::NS(self.name("ns.dns")));
                    Answer::Records(vec![Record::from_rdata(asked.clone(), TTL, ns)], vec![])
                }
                _ => Answer::NoData(self.soa(&state)),
            };
        }
        if let Some(addr) = pod_address(relative) {
            return self.select(&state, asked, kind, &[Data::Address(addr)]);
        }
        match state.nodes.get(relative) {
            Some(node) => self.select(&state, asked, kind, &node.data),
            // `svc` and `pod` are there even while nothing is below them.
            None if matches!(relative, "svc" | "pod") => Answer::NoData(self.soa(&state)),
            None => Answer::NoName(self.soa(&state)),
        }
    }

    fn relative<'a>(&self, name: &'a str) -> Option<&'a str> {
        let before = name.strip_suffix(self.domain.as_str())?;
        if before.is_empty() { Some("") } else { before.strip_suffix('.') }
    }

    fn select(&self, state: &State, asked: &Name, kind: RecordType, data: &[Data]) -> Answer {
        let (mut records, mut targets) = (Vec::new(), Vec::new());
        for each in data {
            let rdata = match (each, kind) {
                (Data::Alias(target), _) => {
                    let Ok(target) = Name::from_ascii(format!("{target}.")) else { continue };
                    let record = Record::from_rdata(asked.clone(), TTL, RData::CNAME(CNAME(target.clone())));
                    return Answer::Alias(record, target);
                }
                (Data::Address(IpAddr::V4(a)), RecordType::A | RecordType::ANY) => RData::A(A(*a)),
                (Data::Address(IpAddr::V6(a)), RecordType::AAAA | RecordType::ANY) => RData::AAAA(AAAA(*a)),
                (Data::Text(text), RecordType::TXT | RecordType::ANY) => {
                    RData::TXT(TXT::new(vec![text.clone()]))
                }
                (Data::Srv { port, weight, target }, RecordType::SRV | RecordType::ANY) => {
                    targets.push(target.as_str());
                    RData::SRV(SRV::new(0, *weight, *port, self.name(target)))
                }
                _ => continue,
            };
            records.push(Record::from_rdata(asked.clone(), TTL, rdata));
        }
        if records.is_empty() {
            return Answer::NoData(self.soa(state));
        }
        // Whoever takes the first answer takes another one each time.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % records.len();
        records.rotate_left(turn);
        targets.sort_unstable();
        targets.dedup();
        let mut more = Vec::new();
        for target in targets {
            for data in state.nodes.get(target).iter().flat_map(|n| &n.data) {
                let rdata = match data {
                    Data::Address(IpAddr::V4(a)) => RData::A(A(*a)),
                    Data::Address(IpAddr::V6(a)) => RData::AAAA(AAAA(*a)),
                    _ => continue,
                };
                more.push(Record::from_rdata(self.name(target), TTL, rdata));
            }
        }
        Answer::Records(records, more)
    }

    fn reverse(&self, asked: &Name, addr: IpAddr, kind: RecordType) -> Answer {
        let state = self.state.read();
        let Some(names) = state.reverse.get(&addr) else { return Answer::Elsewhere };
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Answer::NoData(self.soa(&state));
        }
        let record = |name: &String| Record::from_rdata(asked.clone(), TTL, RData::PTR(PTR(self.name(name))));
        Answer::Records(names.iter().map(record).collect(), vec![])
    }

    /// An absolute name of the zone.
    fn name(&self, relative: &str) -> Name {
        let name = Name::from_ascii(format!("{relative}.{}.", self.domain));
        // The API's names are DNS labels; one that does not fit stands for the zone itself.
        name.unwrap_or_else(|_| self.apex.clone())
    }

    fn soa(&self, state: &State) -> Record {
        let soa =
            SOA::new(self.name("ns.dns"), self.name("hostmaster"), state.serial, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.apex.clone(), TTL, RData::SOA(soa))
    }
}

impl State {
    fn insert(&mut self, name: &str, data: Data) {
        let node = self.nodes.entry(name.to_string()).or_default();
        node.data.push(data);
        for parent in parents(name) {
            self.nodes.entry(parent.to_string()).or_default().below += 1;
        }
    }

    fn remove(&mut self, name: &str, data: &Data) {
        let Some(node) = self.nodes.get_mut(name) else { return };
        let Some(at) = node.data.iter().position(|d| d == data) else { return };
        node.data.remove(at);
        if node.data.is_empty() && node.below == 0 {
            self.nodes.remove(name);
        }
        for parent in parents(name) {
            if let Some(node) = self.nodes.get_mut(parent) {
                node.below -= 1;
                if node.data.is_empty() && node.below == 0 {
                    self.nodes.remove(parent);
                }
            }
        }
    }

    /// Brings the records of one Service up to date; changes only what differs.
    fn refresh(&mut self, key: &(String, String)) {
        let Some(mut known) = self.known.remove(key) else { return };
        let new = match &known.service {
            Some(service) => of_service(service, known.slices.values().map(|s| &**s)),
            None => Records::default(),
        };
        let old = std::mem::replace(&mut known.records, new);
        if old != known.records {
            self.serial = self.serial.wrapping_add(1);
            for (name, data) in &old.names {
                self.remove(name, data);
            }
            for (addr, name) in &old.addresses {
                if let Some(names) = self.reverse.get_mut(addr) {
                    names.retain(|n| n != name);
                    if names.is_empty() {
                        self.reverse.remove(addr);
                    }
                }
            }
            for (name, data) in &known.records.names {
                self.insert(name, data.clone());
            }
            for (addr, name) in &known.records.addresses {
                self.reverse.entry(*addr).or_default().push(name.clone());
            }
        }
        if known.service.is_some() || !known.slices.is_empty() {
            self.known.insert(key.clone(), known);
        }
    }
}

/// The names above, nearest first: `a.b.c` → `b.c`, `c`.
fn parents(name: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(name.split_once('.').map(|(_, rest)| rest), |n| {
        n.split_once('.').map(|(_, rest)| rest)
    })
}

/// `10-244-1-7.ns.pod` → 10.244.1.7
fn pod_address(relative: &str) -> Option<IpAddr> {
    let (label, rest) = relative.split_once('.')?;
    let (namespace, pod) = rest.split_once('.')?;
    if pod != "pod" || namespace.is_empty() {
        return None;
    }
    let v4 = label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4);
    v4.or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6)).ok()
}

/// `7.1.244.10.in-addr.arpa` → 10.244.1.7
fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<u8> = digits.split('.').rev().map(str::parse).collect::<Result<_, _>>().ok()?;
        return Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?));
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<u8> =
        digits.split('.').rev().map(|d| u8::from_str_radix(d, 16)).collect::<Result<_, _>>().ok()?;
    if nibbles.len() != 32 || nibbles.iter().any(|n| *n > 15) {
        return None;
    }
    let mut octets = [0; 16];
    for (octet, pair) in octets.iter_mut().zip(nibbles.chunks(2)) {
        *octet = pair[0] << 4 | pair[1];
    }
    Some(IpAddr::from(octets))
}

#[cfg(test)]
mod tests;
