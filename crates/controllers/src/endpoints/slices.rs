//! EndpointSlices of Services with a selector.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use client::{Index, Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use super::{HEADLESS, hostname, is_headless, is_selecting, pod_ips, publishes_not_ready, target_port};
use crate::context::{Context, Error};
use crate::ownership::controller_ref;
use crate::pods;

const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
/// Endpoints in one slice, upstream's default.
const MOST: usize = 100;

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
}

fn ours(slice: &EndpointSlice) -> Option<ObjectKey> {
    let labels = slice
        .metadata
        .labels
        .as_ref()
        .filter(|labels| labels.get(MANAGED_BY).is_some_and(|by| by == MANAGER))?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), labels.get(SERVICE_NAME)?))
}

/// Our slices by namespace and name of the service.
fn by_service() -> Index<EndpointSlice> {
    Index { name: "service", values: |slice| ours(slice).map(|key| key.to_string()).into_iter().collect() }
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let slices = context.informers.of::<EndpointSlice>();
    let nodes = context.informers.of::<Node>();
    services.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    slices.enqueue(&queue, |change| ours(change.object()));
    super::watch_pods(&queue, &pods, &services);
    services.synced().await;
    pods.synced().await;
    slices.synced().await;
    nodes.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, services, pods, slices, nodes });
    client::run("endpointslice", queue, workers, controller, cancel).await;
}

/// What to write.
#[derive(Debug, Default)]
struct Plan {
    create: Vec<EndpointSlice>,
    update: Vec<(Arc<EndpointSlice>, EndpointSlice)>,
    delete: Vec<Arc<EndpointSlice>>,
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        // Slices of a service that is gone go with it, by their owner.
        let Some(service) = self.services.get(key) else { return Ok(None) };
        if !is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| super::selects(&service, pod));
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let zone = |node: &str| {
            let node = self.nodes.get(&ObjectKey::cluster(node))?;
            node.metadata.labels.as_ref()?.get("topology.kubernetes.io/zone").cloned()
        };
        let plan = plan(&service, &pods, self.slices.by(by_service(), &key.to_string()), zone);
        let api: Api<EndpointSlice> = Api::namespaced(self.context.client.clone(), &key.namespace);
        for slice in &plan.create {
            match api.create(&PostParams::default(), slice).await {
                Err(error) if write::namespace_terminating(&error) => return Ok(None),
                made => made.map_err(Error::api(format!("creating a slice of {key}")))?,
            };
        }
        for (old, new) in &plan.update {
            let written = write::replace(&api, &**old, new).await;
            write::found(written).map_err(Error::api(format!("updating a slice of {key}")))?;
        }
        for slice in &plan.delete {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            let deleted = api.delete(name, &DeleteParams::default()).await;
            write::found(deleted.map(drop))
                .map_err(Error::api(format!("deleting {}/{name}", key.namespace)))?;
        }
        Ok(None)
    }
}

type Ports = Vec<EndpointPort>;
type Group = (String, String);

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: Vec<Arc<EndpointSlice>>,
    zone: impl Fn(&str) -> Option<String>,
) -> Plan {
    let mut wanted: BTreeMap<Group, (Ports, Vec<Endpoint>)> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        let ports = ports_of(service, pod);
        for ip in pod_ips(pod) {
            let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
            if !families(service).iter().any(|asked| asked == family) {
                continue;
            }
            let group = (family.to_owned(), port_key(&ports));
            let slot = wanted.entry(group).or_insert_with(|| (ports.clone(), Vec::new()));
            slot.1.push(endpoint(service, pod, ip, &zone));
        }
    }
    // A service nobody stands behind has one empty slice for each family.
    for family in families(service) {
        if !wanted.keys().any(|(other, _)| *other == family) {
            wanted.insert((family, String::new()), (Vec::new(), Vec::new()));
        }
    }
    let mut plan = Plan::default();
    let mut slices: HashMap<Group, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let group = (slice.address_type.clone(), port_key(slice.ports.as_deref().unwrap_or_default()));
        slices.entry(group).or_default().push(slice);
    }
    for (group, (ports, endpoints)) in wanted {
        let mut old = slices.remove(&group).unwrap_or_default();
        old.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        fill(service, &group.0, ports, endpoints, old, &mut plan);
    }
    plan.delete.extend(slices.into_values().flatten());
    plan
}

/// Puts endpoints into slices: those already somewhere stay there, the others go where there is room.
fn fill(
    service: &Service,
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
        new.metadata.labels = Some(labels(service));
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
        plan.create.push(new_slice(service, family, &ports, endpoints));
    }
}

fn new_slice(service: &Service, family: &str, ports: &Ports, endpoints: Vec<Endpoint>) -> EndpointSlice {
    let name = service.metadata.name.as_deref().unwrap_or_default();
    EndpointSlice {
        address_type: family.to_owned(),
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}-")),
            namespace: service.metadata.namespace.clone(),
            labels: Some(labels(service)),
            owner_references: Some(vec![controller_ref(service)]),
            ..Default::default()
        },
        ports: Some(ports.clone()).filter(|ports| !ports.is_empty()),
        endpoints: Some(endpoints).filter(|list| !list.is_empty()),
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn families(service: &Service) -> Vec<String> {
    let spec = service.spec.as_ref();
    let asked = spec.and_then(|spec| spec.ip_families.clone()).unwrap_or_default();
    if asked.is_empty() { vec!["IPv4".to_owned()] } else { asked }
}

fn ports_of(service: &Service, pod: &Pod) -> Ports {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    let found = ports.filter_map(|port| {
        Some(EndpointPort {
            app_protocol: port.app_protocol.clone(),
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(target_port(pod, port)?),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
        })
    });
    found.collect()
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

fn endpoint(service: &Service, pod: &Pod, ip: String, zone: impl Fn(&str) -> Option<String>) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_deleting(pod);
    let node = pods::node(pod).map(str::to_owned);
    Endpoint {
        addresses: vec![ip],
        conditions: Some(EndpointConditions {
            ready: Some(publishes_not_ready(service) || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: hostname(pod, service),
        zone: node.as_deref().and_then(zone),
        node_name: node,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn service(port: serde_json::Value) -> Service {
        let value = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s"}, "spec": {
            "selector": {"app": "web"}, "ipFamilies": ["IPv4"], "ports": [{"port": 80, "targetPort": port}]}});
        serde_json::from_value(value).unwrap()
    }

    fn pod(n: usize, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let value = json!({"metadata": {"name": format!("p{n}"), "namespace": "ns", "uid": format!("u{n}")},
            "spec": {"nodeName": "n1", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": format!("10.0.0.{n}"), "phase": "Running",
                       "conditions": [{"type": "Ready", "status": status}]}});
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn check(service: &Service, pods: &[Arc<Pod>], existing: &[EndpointSlice]) -> Plan {
        plan(service, pods, existing.iter().cloned().map(Arc::new).collect(), |_| None)
    }

    fn named(mut slice: EndpointSlice, name: &str) -> EndpointSlice {
        slice.metadata.name = Some(name.into());
        slice
    }

    #[test]
    fn nobody_behind_it_is_one_empty_slice_and_then_nothing_to_do() {
        let service = service(json!(80));
        let first = check(&service, &[], &[]);
        assert_eq!((first.create.len(), first.update.len(), first.delete.len()), (1, 0, 0));
        assert_eq!((&first.create[0].ports, &first.create[0].endpoints), (&None, &None));
        let made = named(first.create[0].clone(), "a");
        let again = check(&service, &[], &[made]);
        assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
    }

    #[test]
    fn named_ports_are_looked_up_and_readiness_is_told() {
        let plan = check(&service(json!("http")), &[pod(1, true), pod(2, false)], &[]);
        let slice = &plan.create[0];
        assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
        let ready: Vec<_> =
            slice.endpoints.iter().flatten().map(|e| e.conditions.as_ref().unwrap().ready.unwrap()).collect();
        assert_eq!(ready, [true, false]);
    }

    #[test]
    fn one_more_endpoint_touches_one_slice() {
        let service = service(json!(80));
        let pods: Vec<_> = (1..=150).map(|n| pod(n, true)).collect();
        let made = check(&service, &pods, &[]).create;
        assert_eq!(made.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect::<Vec<_>>(), [100, 50]);
        let made: Vec<_> = made.into_iter().zip(["a", "b"]).map(|(slice, name)| named(slice, name)).collect();
        let more: Vec<_> = (1..=151).map(|n| pod(n, true)).collect();
        let plan = check(&service, &more, &made);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 0));
        assert_eq!(plan.update[0].1.metadata.name.as_deref(), Some("b"));
    }

    #[test]
    fn a_slice_nobody_is_in_any_more_goes() {
        let service = service(json!(80));
        let pods: Vec<_> = (1..=150).map(|n| pod(n, true)).collect();
        let made = check(&service, &pods, &[]).create;
        let made: Vec<_> = made.into_iter().zip(["a", "b"]).map(|(slice, name)| named(slice, name)).collect();
        let plan = check(&service, &pods[..90], &made);
        assert_eq!((plan.create.len(), plan.update.len(), plan.delete.len()), (0, 1, 1));
    }
}
