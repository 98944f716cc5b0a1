//! The older Endpoints of Services with a selector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams};

use super::trigger::{self, Triggers};
use super::{HEADLESS, hostname, is_headless, is_selecting, pod_ips, publishes_not_ready, target_port};
use crate::context::{Context, Error};
use crate::pods;

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object, upstream's limit.
const MOST: usize = 1000;

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    endpoints: Informer<Endpoints>,
    triggers: Triggers,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let endpoints = context.informers.of::<Endpoints>();
    services.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    endpoints.enqueue(&queue, |change| change.is_deleted().then(|| ObjectKey::of(&**change.object())));
    super::watch_pods(&queue, &pods, &services);
    services.synced().await;
    pods.synced().await;
    endpoints.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller =
        Arc::new(Controller { context, services, pods, endpoints, triggers: Triggers::default() });
    client::run("endpoints", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let api: Api<Endpoints> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            self.triggers.forget(key);
            let ours = current.filter(|endpoints| is_ours(endpoints));
            if ours.is_some() {
                let deleted = api.delete(&key.name, &DeleteParams::default()).await;
                write::found(deleted.map(drop)).map_err(Error::api(format!("deleting endpoints {key}")))?;
            }
            return Ok(None);
        };
        if !is_selecting(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| super::selects(&service, pod));
        let mut wanted = plan(&service, &pods, current.as_deref());
        let changed = self.triggers.earliest(key, &service, &pods);
        if current.as_deref() == Some(&wanted) {
            return Ok(None);
        }
        trigger::note(&mut wanted.metadata.annotations, changed);
        let written = match current {
            None => api.create(&PostParams::default(), &wanted).await.map(drop),
            Some(current) => write::found(write::replace(&api, &*current, &wanted).await).map(drop),
        };
        match written {
            Err(error) if write::namespace_terminating(&error) => Ok(None),
            other => other.map(|()| None).map_err(Error::api(format!("writing endpoints {key}"))),
        }
    }
}

fn is_ours(endpoints: &Endpoints) -> bool {
    let labels = endpoints.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == MANAGER)
}

/// Name, number and protocol.
type Port = (String, i32, String);

fn plan(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    // The ready and the others.
    let mut by_ports: BTreeMap<Vec<Port>, [Vec<EndpointAddress>; 2]> = BTreeMap::new();
    let mut total = 0;
    for pod in pods {
        let late = publishes_not_ready(service);
        let Some(ip) = pod_ips(pod).into_iter().next() else { continue };
        if pods::is_terminal(pod) || (pods::is_deleting(pod) && !late) {
            continue;
        }
        let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let ports: Vec<_> = ports
            .filter_map(|port| {
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((port.name.clone().unwrap_or_default(), target_port(pod, port)?, protocol))
            })
            .collect();
        if ports.is_empty() && !is_headless(service) {
            continue;
        }
        total += 1;
        let [ready, not_ready] = by_ports.entry(ports).or_default();
        let list = if late || pods::is_ready(pod) { ready } else { not_ready };
        list.push(address(pod, ip, service));
    }
    let mut room = MOST;
    let subsets: Vec<EndpointSubset> = by_ports
        .into_iter()
        .map(|(ports, [ready, not_ready])| EndpointSubset {
            addresses: take(ready, &mut room),
            not_ready_addresses: take(not_ready, &mut room),
            ports: Some(ports.into_iter().map(port).collect::<Vec<_>>()).filter(|list| !list.is_empty()),
        })
        .collect();
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut endpoints = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..Default::default()
        },
        subsets: None,
    });
    endpoints.metadata.labels = Some(labels);
    endpoints.subsets = Some(subsets).filter(|list| !list.is_empty());
    let annotations = endpoints.metadata.annotations.get_or_insert_default();
    if total > MOST {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    endpoints.metadata.annotations = endpoints.metadata.annotations.filter(|all| !all.is_empty());
    endpoints
}

fn take(mut list: Vec<EndpointAddress>, room: &mut usize) -> Option<Vec<EndpointAddress>> {
    list.sort_by(|a, b| a.ip.cmp(&b.ip));
    list.truncate(*room);
    *room -= list.len();
    Some(list).filter(|list| !list.is_empty())
}

fn port((name, port, protocol): (String, i32, String)) -> EndpointPort {
    let name = Some(name).filter(|name| !name.is_empty());
    EndpointPort { app_protocol: None, name, port, protocol: Some(protocol) }
}

fn address(pod: &Pod, ip: String, service: &Service) -> EndpointAddress {
    EndpointAddress {
        ip,
        hostname: hostname(pod, service),
        node_name: pods::node(pod).map(str::to_owned),
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..Default::default()
        }),
    }
}
