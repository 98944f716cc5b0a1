//! Which frontends changed: objects in, batches out.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use network::nft::{Client, Family};
use network::{Event, NetlinkError};

use crate::service::{Config, Frontend, HealthCheck, Policy, ServiceKey, compile};
use crate::table::{Plan, Table};
use crate::targets::Retarget;

/// Health check ports with what they should answer, by Service.
pub type Health = BTreeMap<ServiceKey, HealthCheck>;

/// The label that ties an EndpointSlice to its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    frontends: Vec<Frontend>,
    /// Addresses of endpoints that are ready and stay.
    ready: BTreeSet<IpAddr>,
}

/// Everything the proxy knows. Events are taken in at once; [`Proxy::plan`] turns what changed since the
/// last time into one batch per table.
#[derive(Debug)]
pub struct Proxy {
    config: Arc<Config>,
    known: HashMap<ServiceKey, Known>,
    dirty: BTreeSet<ServiceKey>,
    /// Who wants each frontend.
    claims: HashMap<Frontend, BTreeMap<ServiceKey, Arc<Policy>>>,
    tables: Vec<Table>,
    health: Health,
    retargeted: Vec<Retarget>,
    synced: (bool, bool),
    /// What the kernel held before is compared with what should be there.
    swept: bool,
}

impl Proxy {
    /// A proxy over what the kernel has.
    pub fn load(config: Config, client: &mut Client) -> Result<Self, NetlinkError> {
        let config = Arc::new(config);
        let tables = [Family::Ip, Family::Ip6]
            .into_iter()
            .map(|family| Table::load(config.clone(), family, client))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            config,
            known: HashMap::new(),
            dirty: BTreeSet::new(),
            claims: HashMap::new(),
            tables,
            health: Health::new(),
            retargeted: Vec::new(),
            synced: (false, false),
            swept: false,
        })
    }

    /// Reads the tables from the kernel again and plans everything anew: after a batch that was refused.
    pub fn reload(&mut self, client: &mut Client) -> Result<(), NetlinkError> {
        for (table, family) in self.tables.iter_mut().zip([Family::Ip, Family::Ip6]) {
            *table = Table::load(self.config.clone(), family, client)?;
        }
        self.swept = false;
        self.dirty = self.known.keys().cloned().collect();
        Ok(())
    }

    /// Takes in a Service.
    pub fn service(&mut self, event: Event<Service>) {
        match event {
            Event::Applied(service) => {
                let key = key(&service.metadata, service.metadata.name.as_deref());
                self.known.entry(key.clone()).or_default().service = Some(service);
                self.dirty.insert(key);
            }
            Event::Deleted(service) => {
                let key = key(&service.metadata, service.metadata.name.as_deref());
                self.known.entry(key.clone()).or_default().service = None;
                self.dirty.insert(key);
            }
            Event::Synced => self.synced.0 = true,
        }
    }

    /// Takes in an EndpointSlice.
    pub fn slice(&mut self, event: Event<EndpointSlice>) {
        let (slice, there) = match event {
            Event::Applied(slice) => (slice, true),
            Event::Deleted(slice) => (slice, false),
            Event::Synced => {
                self.synced.1 = true;
                return;
            }
        };
        let Some(owner) = slice.metadata.labels.as_ref().and_then(|l| l.get(SERVICE_NAME)) else { return };
        let key = key(&slice.metadata, Some(owner));
        let name = slice.metadata.name.clone().unwrap_or_default();
        let known = self.known.entry(key.clone()).or_default();
        if there {
            known.slices.insert(name, slice);
        } else {
            known.slices.remove(&name);
        }
        self.dirty.insert(key);
    }

    /// Both kinds have been told from the beginning: only then can rules be written without a gap.
    pub fn is_synced(&self) -> bool {
        self.synced == (true, true)
    }

    /// Something changed since the last plan.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.swept
    }

    /// Health check ports and what to answer on them.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Who began and ceased to be sent to by the plans so far, since this was last asked for.
    pub(crate) fn retargeted(&mut self) -> Vec<Retarget> {
        std::mem::take(&mut self.retargeted)
    }

    /// The batches for what changed since the last plan; nothing before both kinds are synced.
    pub fn plan(&mut self) -> Vec<Plan> {
        if !self.is_synced() {
            return Vec::new();
        }
        let mut changed = BTreeSet::new();
        for key in std::mem::take(&mut self.dirty) {
            self.recompile(&key, &mut changed);
        }
        let sweep = !std::mem::replace(&mut self.swept, true);
        if sweep {
            changed.extend(self.tables.iter().flat_map(Table::frontends));
        }
        let mut by_family: [Vec<_>; 2] = Default::default();
        for frontend in changed {
            let policy = self.claims.get(&frontend).and_then(|c| c.first_key_value()).map(|(_, p)| p.clone());
            by_family[usize::from(frontend.family() == Family::Ip6)].push((frontend, policy));
        }
        let tables = self.tables.iter_mut().zip(by_family);
        tables
            .map(|(table, changes)| table.plan(&changes, sweep))
            .filter(|p| !p.batch.is_empty() || !p.stale.is_empty())
            .collect()
    }

    /// Compiles a Service and hands its claims over; notes the frontends it had or has.
    fn recompile(&mut self, key: &ServiceKey, changed: &mut BTreeSet<Frontend>) {
        let Some(known) = self.known.get_mut(key) else { return };
        let compiled = match &known.service {
            Some(service) => compile(&self.config, service, known.slices.values().map(|s| &**s)),
            None => Default::default(),
        };
        for frontend in known.frontends.drain(..) {
            changed.insert(frontend);
            if let Some(claims) = self.claims.get_mut(&frontend) {
                claims.remove(key);
                if claims.is_empty() {
                    self.claims.remove(&frontend);
                }
            }
        }
        for (frontend, policy) in compiled.frontends {
            changed.insert(frontend);
            known.frontends.push(frontend);
            self.claims.entry(frontend).or_default().insert(key.clone(), policy);
        }
        let ready = match known.frontends.is_empty() {
            true => BTreeSet::new(),
            false => known.slices.values().flat_map(|slice| staying(slice)).collect(),
        };
        self.retargeted.extend(known.ready.difference(&ready).map(|addr| Retarget::Ceased(*addr)));
        self.retargeted.extend(ready.difference(&known.ready).map(|addr| Retarget::Begun(*addr)));
        known.ready = ready;
        match compiled.health {
            Some(health) => self.health.insert(key.clone(), health),
            None => self.health.remove(key),
        };
        if known.service.is_none() && known.slices.is_empty() {
            self.known.remove(key);
        }
    }
}

/// The addresses of a slice that are ready and not about to go.
fn staying(slice: &EndpointSlice) -> impl Iterator<Item = IpAddr> {
    let endpoints = slice.endpoints.iter().flatten().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|c| c.ready) != Some(false)
            && conditions.and_then(|c| c.terminating) != Some(true)
    });
    endpoints.flat_map(|endpoint| &endpoint.addresses).filter_map(|addr| addr.parse().ok())
}

fn key(metadata: &ObjectMeta, name: Option<&str>) -> ServiceKey {
    let namespace = metadata.namespace.as_deref().unwrap_or_default().into();
    ServiceKey { namespace, name: name.unwrap_or_default().into() }
}
