//! Puts endpoints into slices: for those of pods and those that are mirrored alike.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{ObjectKey, write};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use kube::api::{DeleteParams, ObjectMeta, PostParams};
use kube::{Api, Client};

use crate::context::Error;

/// Endpoints in one slice, upstream's default.
const MOST: usize = 100;

pub(super) type Ports = Vec<EndpointPort>;

/// Endpoints by address type and ports.
#[derive(Debug, Default)]
pub(super) struct Wanted(BTreeMap<(String, String), (Ports, Vec<Endpoint>)>);

impl Wanted {
    pub fn add(&mut self, family: &str, ports: &Ports, endpoint: Endpoint) {
        let slot = self.0.entry((family.to_owned(), port_key(ports)));
        slot.or_insert_with(|| (ports.clone(), Vec::new())).1.push(endpoint);
    }

    /// Has at least an empty slice of a family.
    pub fn add_family(&mut self, family: &str) {
        if !self.0.keys().any(|(other, _)| other == family) {
            self.0.insert((family.to_owned(), String::new()), (Vec::new(), Vec::new()));
        }
    }
}

/// What to write.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub create: Vec<EndpointSlice>,
    pub update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    pub delete: Vec<Arc<EndpointSlice>>,
}

impl Plan {
    /// What is made and what is changed, as it is to be.
    pub fn written(&mut self) -> impl Iterator<Item = &mut EndpointSlice> {
        self.create.iter_mut().chain(self.update.iter_mut().map(|(_, new)| new))
    }

    /// Writes it. `false` when the namespace is going and nothing can be made.
    pub async fn apply(self, client: &Client, key: &ObjectKey) -> Result<bool, Error> {
        let api: Api<EndpointSlice> = Api::namespaced(client.clone(), &key.namespace);
        for slice in &self.create {
            match api.create(&PostParams::default(), slice).await {
                Err(error) if write::namespace_terminating(&error) => return Ok(false),
                made => made.map_err(Error::api(format!("creating a slice of {key}")))?,
            };
        }
        for (old, new) in &self.update {
            let written = write::replace(&api, &**old, new).await;
            write::found(written).map_err(Error::api(format!("updating a slice of {key}")))?;
        }
        for slice in &self.delete {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let deleted = api.delete(name, &DeleteParams::default()).await;
            write::found(deleted.map(drop))
                .map_err(Error::api(format!("deleting {}/{name}", key.namespace)))?;
        }
        Ok(true)
    }
}

/// The writes that bring `existing` to what is wanted. `face` is what all the slices have: a name to
/// generate theirs from, labels, annotations and owner.
pub(super) fn distribute(face: &ObjectMeta, wanted: Wanted, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut plan = Plan::default();
    let mut slices: HashMap<(String, String), Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let group = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
        slices.entry(group).or_default().push(slice);
    }
    for (group, (ports, endpoints)) in wanted.0 {
        let mut old = slices.remove(&group).unwrap_or_default();
        old.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        fill(face, &group.0, ports, endpoints, old, &mut plan);
    }
    plan.delete.extend(slices.into_values().flatten());
    plan
}

/// Puts endpoints into slices: those already somewhere stay there, the others go where there is room.
fn fill(
    face: &ObjectMeta,
    family: &str,
    ports: Ports,
    endpoints: Vec<Endpoint>,
    old: Vec<Arc<EndpointSlice>>,
    plan: &mut Plan,
) {
    let identity = |endpoint: &Endpoint| {
        let target = endpoint.target_ref.as_ref();
        (endpoint.addresses.clone(), target.and_then(|target| target.uid.clone()))
    };
    let mut left: Vec<Option<Endpoint>> = endpoints.into_iter().map(Some).collect();
    let mut at: HashMap<_, usize> = HashMap::new();
    for (place, endpoint) in left.iter().enumerate() {
        at.extend(endpoint.as_ref().map(|endpoint| (identity(endpoint), place)));
    }
    let mut kept: Vec<(Arc<EndpointSlice>, Vec<Endpoint>)> = Vec::new();
    for slice in old {
        let stay = slice.endpoints.iter().flatten();
        let stay = stay.filter_map(|endpoint| left[*at.get(&identity(endpoint))?].take()).collect();
        kept.push((slice, stay));
    }
    let mut left: std::collections::VecDeque<Endpoint> = left.into_iter().flatten().collect();
    for (_, endpoints) in &mut kept {
        while endpoints.len() < MOST {
            let Some(endpoint) = left.pop_front() else { break };
            endpoints.push(endpoint);
        }
    }
    let mut some = !left.is_empty();
    let last = kept.len();
    for (place, (slice, endpoints)) in kept.into_iter().enumerate() {
        // Of slices that are all empty one stays.
        if endpoints.is_empty() && (some || place + 1 < last) {
            plan.delete.push(slice);
            continue;
        }
        some = true;
        let mut new = EndpointSlice::clone(&slice);
        new.endpoints = Some(endpoints).filter(|list| !list.is_empty());
        new.metadata.labels.clone_from(&face.labels);
        if face.annotations.is_some() {
            new.metadata.annotations.clone_from(&face.annotations);
        }
        // The form the cache has an empty list in is not a change.
        if new.endpoints.is_none() && slice.endpoints.as_ref().is_none_or(Vec::is_empty) {
            new.endpoints.clone_from(&slice.endpoints);
        }
        if new != *slice {
            plan.update.push((slice, new));
        }
    }
    while !some || !left.is_empty() {
        some = true;
        let endpoints: Vec<Endpoint> = left.drain(..left.len().min(MOST)).collect();
        plan.create.push(new_slice(face, family, &ports, endpoints));
    }
}

fn new_slice(face: &ObjectMeta, family: &str, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: face.clone(),
        ports: Some(ports.clone()).filter(|ports| !ports.is_empty()),
        endpoints: Some(endpoints).filter(|list| !list.is_empty()),
    }
}

fn port_key(ports: &[EndpointPort]) -> String {
    let mut keys: Vec<String> = ports
        .iter()
        .map(|p| {
            let text = |value: &Option<String>| value.clone().unwrap_or_default();
            format!(
                "{}/{}/{}/{}",
                text(&p.name),
                text(&p.protocol),
                p.port.unwrap_or_default(),
                text(&p.app_protocol)
            )
        })
        .collect();
    keys.sort();
    keys.join(",")
}
