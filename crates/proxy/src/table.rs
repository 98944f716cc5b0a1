//! One table: what is in the kernel, and the batch that brings it where it should be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use network::nft::{Batch, Chain, Client, Element, Family, Field, Key, Rule, Set, Value, Verdict};
use network::{NetlinkError, Protocol, digest};

use crate::chain::{Choice, DROP, LOCAL_SLOTS, Pool, REJECT, Sets};
use crate::service::{At, Config, Endpoint, Frontend, Policy};

/// The shape of the table; another shape in the kernel is replaced whole.
const SHAPE: u32 = 1;
/// Reading a set back takes the kernel time by the square of its size: of a table with more frontends than
/// these the endpoints are written anew (in one step with everything else) instead of read.
const READ_BACK: usize = 5_000;
/// Clients remembered per endpoint at most.
const REMEMBERED: u32 = 65_536;

/// A frontend as it is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Installed {
    /// The chain its connections go to; `None` where only leftovers of it are there.
    chain: Option<Arc<str>>,
    /// Slot numbers with their endpoints, in order.
    slots: Vec<(u32, Endpoint)>,
    sources: Vec<IpNet>,
    /// Endpoints on this node, each of which may talk to itself.
    own: Vec<IpAddr>,
    sticky: Vec<Arc<str>>,
}

/// A chain that remembers clients.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sticky {
    endpoints: Arc<Vec<Endpoint>>,
    timeout: Duration,
}

/// A UDP frontend that lost endpoints or got its first: flows to others than these are to be forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stale {
    /// The frontend.
    pub frontend: Frontend,
    /// Who answers now.
    pub live: Vec<Endpoint>,
}

/// What to do to the kernel.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// The transaction.
    pub batch: Batch,
    /// Flows to look through afterwards.
    pub stale: Vec<Stale>,
}

/// What one table holds. It believes that every batch it plans is applied; where one was not, load it
/// anew and plan everything again.
#[derive(Debug)]
pub struct Table {
    config: Arc<Config>,
    sets: Sets,
    installed: HashMap<Frontend, Installed>,
    /// How many frontends use each chain.
    chains: HashMap<Arc<str>, usize>,
    sticky: HashMap<Arc<str>, (Sticky, usize)>,
    hairpin: HashMap<IpAddr, usize>,
    /// The kernel has endpoints that were not read.
    unread: bool,
}

/// Operations in the order in which they can be done.
#[derive(Default)]
struct Steps {
    chains: BTreeMap<Arc<str>, Vec<Rule>>,
    sticky: BTreeMap<Arc<str>, (Option<Sticky>, Option<Sticky>)>,
    gone: [Vec<Element>; 7],
    new: [Vec<Element>; 7],
    /// Chains and hairpins whose use went down.
    released: BTreeSet<Arc<str>>,
    unpinned: BTreeSet<IpAddr>,
    pinned: BTreeSet<IpAddr>,
    stale: Vec<Stale>,
}

const SERVICE_IPS: usize = 0;
const NODE_PORTS: usize = 1;
const ENDPOINTS: usize = 2;
const NODE_PORT_ENDPOINTS: usize = 3;
const RESTRICTED: usize = 4;
const ALLOWED: usize = 5;
const HAIRPIN: usize = 6;

impl Table {
    /// An empty table and the batch that makes it, replacing what has its name.
    pub fn create(config: Arc<Config>, family: Family) -> (Self, Batch) {
        let sets = Sets::new(family, &config.table);
        let batch = sets.skeleton(&config, &comment(&config));
        let table = Self {
            config,
            sets,
            installed: HashMap::new(),
            chains: HashMap::new(),
            sticky: HashMap::new(),
            hairpin: HashMap::new(),
            unread: false,
        };
        (table, batch)
    }

    /// The table as the kernel has it; made anew where it is absent or of another shape.
    pub fn load(config: Arc<Config>, family: Family, client: &mut Client) -> Result<Self, NetlinkError> {
        let (mut table, create) = Self::create(config, family);
        if client.comment(&table.sets.table)? != Some(comment(&table.config)) || !table.read(client)? {
            (table.installed, table.chains, table.hairpin, table.unread) = Default::default();
            client.apply(&create)?;
        }
        Ok(table)
    }

    /// Reads the elements back; false where something in them is not ours.
    fn read(&mut self, client: &mut Client) -> Result<bool, NetlinkError> {
        let sets = self.sets.clone();
        let table = &sets.table;
        for name in client.chains(table)? {
            self.chains.insert(name.into(), 0);
        }
        for name in crate::chain::FIXED {
            self.chains.remove(name);
        }
        let mut whole = true;
        for (set, node_port) in [(&sets.service_ips, false), (&sets.node_ports, true)] {
            for element in client.elements(table, set)? {
                let found = self.frontend(&element.key, node_port);
                let (Some((frontend, _)), Some(Value::Verdict(Verdict::Goto(chain)))) =
                    (found, element.value)
                else {
                    whole = false;
                    continue;
                };
                if let Some(uses) = self.chains.get_mut(&chain) {
                    *uses += 1;
                }
                self.installed.entry(frontend).or_default().chain = Some(chain);
            }
        }
        self.unread = self.installed.len() > READ_BACK;
        for (set, node_port) in [(&sets.endpoints, false), (&sets.node_port_endpoints, true)] {
            if self.unread {
                break;
            }
            for element in client.elements(table, set)? {
                let found =
                    self.frontend(&element.key, node_port).and_then(|(f, rest)| Some((f, number(rest)?)));
                let (Some((frontend, slot)), Some(Value::Fields(value))) = (found, &element.value) else {
                    whole = false;
                    continue;
                };
                let Some(endpoint) = self.endpoint(value) else {
                    whole = false;
                    continue;
                };
                self.installed.entry(frontend).or_default().slots.push((slot, endpoint));
            }
        }
        for installed in self.installed.values_mut() {
            installed.slots.sort_unstable();
        }
        for element in client.elements(table, &sets.hairpin)? {
            let Some((addr, _)) = self.address(element.key.bytes()) else { return Ok(false) };
            self.hairpin.insert(addr, 0);
        }
        // Source ranges are rare: a table with some is made anew rather than read back.
        Ok(whole && client.elements(table, &sets.restricted)?.is_empty())
    }

    fn address<'a>(&self, bytes: &'a [u8]) -> Option<(IpAddr, &'a [u8])> {
        let (addr, rest) = bytes.split_at_checked(self.sets.table.family.address_len())?;
        let addr = match self.sets.table.family {
            Family::Ip => IpAddr::from(<[u8; 4]>::try_from(addr).ok()?),
            Family::Ip6 => IpAddr::from(<[u8; 16]>::try_from(addr).ok()?),
        };
        Some((addr, rest))
    }

    fn frontend<'a>(&self, key: &'a Key, node_port: bool) -> Option<(Frontend, &'a [u8])> {
        let (at, rest) = if node_port {
            (At::NodePort { v6: self.sets.table.family == Family::Ip6 }, key.bytes())
        } else {
            let (addr, rest) = self.address(key.bytes())?;
            (At::Address(addr), rest)
        };
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let protocol = all.into_iter().find(|p| Some(&p.number()) == rest.first())?;
        Some((Frontend { at, protocol, port: port(rest.get(4..)?)? }, rest.get(8..)?))
    }

    fn endpoint(&self, value: &Key) -> Option<Endpoint> {
        let (addr, rest) = self.address(value.bytes())?;
        Some(Endpoint { addr, port: port(rest)? })
    }

    /// The frontends in the kernel.
    pub fn frontends(&self) -> impl Iterator<Item = &Frontend> {
        self.installed.keys()
    }

    /// Brings these frontends to their policies; `None` takes one away. With `sweep`, what nothing uses
    /// goes too (after everything has been planned once).
    pub fn plan(&mut self, changes: &[(Frontend, Option<Arc<Policy>>)], sweep: bool) -> Plan {
        let mut steps = Steps::default();
        for (frontend, policy) in changes {
            let old = self.installed.remove(frontend).unwrap_or_default();
            let new = policy
                .as_ref()
                .map_or_else(Installed::default, |p| self.install(frontend, p, &old, &mut steps));
            self.diff(frontend, &old, &new, &mut steps);
            if policy.is_some() {
                self.installed.insert(*frontend, new);
            }
        }
        if sweep {
            steps.released.extend(self.chains.iter().filter(|(_, uses)| **uses == 0).map(|(c, _)| c.clone()));
            steps.unpinned.extend(self.hairpin.iter().filter(|(_, uses)| **uses == 0).map(|(a, _)| *a));
        }
        self.assemble(steps)
    }

    fn install(
        &mut self,
        frontend: &Frontend,
        policy: &Policy,
        old: &Installed,
        steps: &mut Steps,
    ) -> Installed {
        let sources = policy.sources.clone();
        let own: Vec<IpAddr> = policy.own.iter().map(|e| e.addr).collect();
        if policy.endpoints.is_empty() {
            let chain = if policy.drop_if_empty { DROP } else { REJECT };
            return Installed { chain: Some(chain.into()), sources, own, ..Installed::default() };
        }
        let mut new = Installed { sources, own, ..Installed::default() };
        let family = self.sets.table.family;
        let mut pool = |endpoints: &Arc<Vec<Endpoint>>, first: u32, which: &str| match policy.affinity {
            None => {
                new.slots.extend(slots(&old.slots, endpoints, first));
                Pool::Slots(endpoints.len() as u32)
            }
            Some(_) if endpoints.is_empty() => Pool::Slots(0),
            Some(timeout) => {
                let id = format!("{family:?} {which} {}", policy.pool);
                let name: Arc<str> = format!("sticky-{}", digest(&id, 12)).into();
                let now = Sticky { endpoints: endpoints.clone(), timeout };
                let before = self.sticky.insert(name.clone(), (now.clone(), 0));
                if let Some((_, uses)) = &before
                    && let Some(entry) = self.sticky.get_mut(&name)
                {
                    entry.1 = *uses;
                }
                let before = before.map(|(sticky, _)| sticky);
                let step = steps.sticky.entry(name.clone()).or_insert((before, None));
                step.1 = Some(now);
                new.sticky.push(name.clone());
                Pool::Sticky(name)
            }
        };
        let choice = Choice {
            node_port: matches!(frontend.at, At::NodePort { .. }),
            masquerade: policy.masquerade,
            pool: pool(&policy.endpoints, 0, "cluster"),
            local: policy.external_local.then(|| pool(&policy.own, LOCAL_SLOTS, "local")),
        };
        let chain: Arc<str> = choice.to_string().into();
        if !self.chains.contains_key(&chain) {
            self.chains.insert(chain.clone(), 0);
            steps.chains.insert(chain.clone(), choice.rules(&self.sets, &self.config));
        }
        new.chain = Some(chain);
        new
    }

    fn diff(&mut self, frontend: &Frontend, old: &Installed, new: &Installed, steps: &mut Steps) {
        let node_port = matches!(frontend.at, At::NodePort { .. });
        let (verdicts, endpoints) =
            if node_port { (NODE_PORTS, NODE_PORT_ENDPOINTS) } else { (SERVICE_IPS, ENDPOINTS) };
        if old.chain != new.chain {
            let element = |chain: &Arc<str>| {
                Element::mapped(key(frontend), Value::Verdict(Verdict::Goto(chain.clone())))
            };
            steps.gone[verdicts].extend(old.chain.iter().map(element));
            steps.new[verdicts].extend(new.chain.iter().map(element));
        }
        let element = |(slot, endpoint): &(u32, Endpoint)| {
            let value = Key::new().addr(endpoint.addr).port(endpoint.port);
            Element::mapped(key(frontend).mark(*slot), Value::Fields(value))
        };
        let differing = |a: &[(u32, Endpoint)], b: &[(u32, Endpoint)]| -> Vec<Element> {
            a.iter().filter(|entry| b.binary_search(entry).is_err()).map(element).collect()
        };
        steps.gone[endpoints].extend(differing(&old.slots, &new.slots));
        steps.new[endpoints].extend(differing(&new.slots, &old.slots));
        if old.sources != new.sources {
            for (list, installed) in [(&mut steps.gone, old), (&mut steps.new, new)] {
                if !installed.sources.is_empty() {
                    list[RESTRICTED].push(Element::new(key(frontend)));
                }
                list[ALLOWED].extend(installed.sources.iter().map(|net| Element {
                    last: Some(key(frontend).addr(net.broadcast())),
                    ..Element::new(key(frontend).addr(net.network()))
                }));
            }
        }
        self.count(old, new, steps);
        self.find_stale(frontend, old, new, steps);
    }

    /// Keeps count of what frontends share.
    fn count(&mut self, old: &Installed, new: &Installed, steps: &mut Steps) {
        if let Some(uses) = new.chain.as_ref().and_then(|c| self.chains.get_mut(c)) {
            *uses += 1;
        }
        if let Some(chain) = &old.chain
            && let Some(uses) = self.chains.get_mut(chain)
        {
            *uses -= 1;
            steps.released.insert(chain.clone());
        }
        for name in &new.sticky {
            self.sticky.entry(name.clone()).and_modify(|(_, uses)| *uses += 1);
        }
        for name in &old.sticky {
            if let Some((sticky, uses)) = self.sticky.get_mut(name) {
                *uses -= 1;
                steps
                    .sticky
                    .entry(name.clone())
                    .or_insert_with(|| (Some(sticky.clone()), Some(sticky.clone())));
            }
        }
        for addr in &new.own {
            *self.hairpin.entry(*addr).or_insert_with(|| {
                steps.pinned.insert(*addr);
                0
            }) += 1;
        }
        for addr in &old.own {
            if let Some(uses) = self.hairpin.get_mut(addr) {
                *uses -= 1;
                steps.unpinned.insert(*addr);
            }
        }
    }

    fn find_stale(&self, frontend: &Frontend, old: &Installed, new: &Installed, steps: &mut Steps) {
        if frontend.protocol != Protocol::Udp {
            return;
        }
        let live = |installed: &Installed| -> BTreeSet<Endpoint> {
            let sticky = installed.sticky.iter().filter_map(|name| self.sticky.get(name));
            let sticky = sticky.flat_map(|(s, _)| s.endpoints.iter().copied());
            installed.slots.iter().map(|(_, e)| *e).chain(sticky).collect()
        };
        let (before, now) = (live(old), live(new));
        if before.is_empty() != now.is_empty() || !before.is_subset(&now) || !new.sticky.is_empty() {
            steps.stale.push(Stale { frontend: *frontend, live: now.into_iter().collect() });
        }
    }

    fn assemble(&mut self, mut steps: Steps) -> Plan {
        let mut batch = Batch::new(self.sets.table.clone());
        let mut last = Batch::new(self.sets.table.clone());
        for (name, (before, now)) in &steps.sticky {
            let used = self.sticky.get(name).is_some_and(|(_, uses)| *uses > 0);
            if before == now && used {
                continue;
            }
            // A chain of that name from an earlier run counts as one whose rules are not known.
            self.chains.insert(name.clone(), 1);
            let (now, before) = (now.as_ref().filter(|_| used), before.as_ref());
            self.sticky_chains(name, before, now, &mut batch, &mut last);
            if !used {
                self.sticky.remove(name);
            }
        }
        for (name, rules) in std::mem::take(&mut steps.chains) {
            batch.add_chain(Chain::regular(name));
            for rule in rules {
                batch.add_rule(rule);
            }
        }
        for addr in steps.unpinned {
            if self.hairpin.get(&addr) == Some(&0) {
                self.hairpin.remove(&addr);
                steps.gone[HAIRPIN].push(Element::new(Key::new().addr(addr).addr(addr)));
            }
        }
        for addr in steps.pinned {
            if self.hairpin.contains_key(&addr) {
                steps.new[HAIRPIN].push(Element::new(Key::new().addr(addr).addr(addr)));
            }
        }
        let sets = self.sets.elements();
        if std::mem::take(&mut self.unread) {
            // The first plan after loading has every frontend in it.
            batch.flush_set(&sets[ENDPOINTS]);
            batch.flush_set(&sets[NODE_PORT_ENDPOINTS]);
        }
        for (set, elements) in sets.iter().zip(steps.gone) {
            batch.delete_elements(set, elements);
        }
        for (set, elements) in sets.iter().zip(steps.new) {
            batch.add_elements(set, elements);
        }
        for chain in steps.released {
            if self.chains.get(&chain) == Some(&0) {
                self.chains.remove(&chain);
                batch.delete_chain(chain.clone());
                if chain.starts_with("sticky-") && chain.matches('-').count() == 2 {
                    last.delete_set(&self.memory(&chain));
                }
            }
        }
        batch.extend(last);
        Plan { batch, stale: steps.stale }
    }

    /// The set in which an endpoint's clients are remembered, of the same name as the endpoint's chain.
    fn memory(&self, name: &str) -> Set {
        Set::new(name, vec![self.sets.table.family.address_type()]).filled_by_rules(REMEMBERED)
    }

    /// Rewrites a chain that remembers clients; endpoints that stay keep their clients.
    fn sticky_chains(
        &mut self,
        name: &Arc<str>,
        before: Option<&Sticky>,
        now: Option<&Sticky>,
        batch: &mut Batch,
        last: &mut Batch,
    ) {
        let family = self.sets.table.family;
        let of = |endpoint: &Endpoint| format!("{name}-{}", digest(&format!("{endpoint:?}"), 12));
        batch.add_chain(Chain::regular(name.clone()));
        batch.flush_chain(name.clone());
        if let Some(sticky) = now {
            for endpoint in sticky.endpoints.iter() {
                let chain = of(endpoint);
                let memory = self.memory(&chain);
                batch.add_set(&memory);
                batch.add_chain(Chain::regular(chain.as_str()));
                batch.flush_chain(chain.as_str());
                batch.add_rule(
                    Rule::new(family, chain.as_str())
                        .load(&[Field::Saddr])
                        .remember(&memory, sticky.timeout)
                        .dnat_to(endpoint.addr, endpoint.port),
                );
                batch.add_rule(
                    Rule::new(family, name.clone())
                        .load(&[Field::Saddr])
                        .in_set(&memory)
                        .goto(chain.as_str()),
                );
                self.chains.insert(chain.into(), 1);
            }
            let count = sticky.endpoints.len() as u32;
            for (n, endpoint) in sticky.endpoints.iter().enumerate() {
                let modulus = count - n as u32;
                let rule = Rule::new(family, name.clone());
                let rule =
                    if modulus > 1 { rule.load(&[Field::Random { modulus, offset: 0 }]).is(0) } else { rule };
                batch.add_rule(rule.goto(of(endpoint)));
            }
        }
        let stays = |e: &Endpoint| now.is_some_and(|s| s.endpoints.contains(e));
        for endpoint in before.iter().flat_map(|s| s.endpoints.iter()).filter(|e| !stays(e)) {
            let chain = of(endpoint);
            self.chains.remove(chain.as_str());
            last.delete_chain(chain.as_str());
            last.delete_set(&self.memory(&chain));
        }
        if now.is_none() {
            self.chains.remove(name);
            last.delete_chain(name.clone());
        }
    }
}

impl Sets {
    /// In the order of the constants above.
    fn elements(&self) -> [Set; 7] {
        [
            &self.service_ips,
            &self.node_ports,
            &self.endpoints,
            &self.node_port_endpoints,
            &self.restricted,
            &self.allowed,
            &self.hairpin,
        ]
        .map(Clone::clone)
    }
}

/// What has to be the same for a table to be taken over.
fn comment(config: &Config) -> String {
    let Config { cluster_cidrs, service_cidrs, node_port_addresses, masquerade_bit, .. } = config;
    let fixed = format!("{cluster_cidrs:?} {service_cidrs:?} {node_port_addresses:?} {masquerade_bit}");
    format!("shape {SHAPE} {}", digest(&fixed, 12))
}

fn key(frontend: &Frontend) -> Key {
    let key = match frontend.at {
        At::Address(addr) => Key::new().addr(addr),
        At::NodePort { .. } => Key::new(),
    };
    key.proto(frontend.protocol.number()).port(frontend.port)
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]))
}

fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// Gives each endpoint a slot from `first` on without gaps. Who has one in that range keeps it.
///
/// Worked example: slots `0:a 1:b 2:c`, endpoints `a c d`: `a` stays in 0 and `c` in 2, `d` takes 1. With
/// endpoints `a c` the range is two slots, so `c` moves to 1.
fn slots(old: &[(u32, Endpoint)], endpoints: &[Endpoint], first: u32) -> Vec<(u32, Endpoint)> {
    let range = first..first + endpoints.len() as u32;
    let mut new: BTreeMap<u32, Endpoint> = BTreeMap::new();
    let mut homeless: BTreeSet<Endpoint> = endpoints.iter().copied().collect();
    for (slot, endpoint) in old.iter().filter(|(slot, _)| range.contains(slot)) {
        if homeless.remove(endpoint) {
            new.insert(*slot, *endpoint);
        }
    }
    let free: Vec<u32> = range.filter(|slot| !new.contains_key(slot)).collect();
    new.extend(free.into_iter().zip(homeless));
    new.into_iter().collect()
}
