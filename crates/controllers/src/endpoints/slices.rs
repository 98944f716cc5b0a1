//! EndpointSlices of Services with a selector.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;

use super::distribute::{Plan, Ports, Wanted, distribute};
use super::trigger::{self, Triggers};
use super::{
    HEADLESS, MANAGED_BY, SERVICE_NAME, hostname, is_headless, is_selecting, pod_ips, publishes_not_ready,
    target_port,
};
use crate::context::{Context, Error};
use crate::ownership::controller_ref;
use crate::pods;

const MANAGER: &str = "endpointslice-controller.k8s.io";

struct Controller {
    context: Context,
    services: Informer<Service>,
    pods: Informer<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    triggers: Triggers,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let services = context.informers.of::<Service>();
    let pods = context.informers.of::<Pod>();
    let slices = context.informers.of::<EndpointSlice>();
    let nodes = context.informers.of::<Node>();
    services.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    slices.enqueue(&queue, |change| super::managed(change.object(), MANAGER));
    super::watch_pods(&queue, &pods, &services);
    services.synced().await;
    pods.synced().await;
    slices.synced().await;
    nodes.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller =
        Arc::new(Controller { context, services, pods, slices, nodes, triggers: Triggers::default() });
    client::run("endpointslice", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        // Slices of a service that is gone go with it, by their owner.
        let Some(service) = self.services.get(key) else {
            self.triggers.forget(key);
            return Ok(None);
        };
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
        let mut plan = plan(&service, &pods, super::slices_of(&self.slices, key, MANAGER), zone);
        let changed = self.triggers.earliest(key, &service, &pods);
        for slice in plan.written() {
            trigger::note(&mut slice.metadata.annotations, changed);
        }
        plan.apply(&self.context.client, key).await?;
        Ok(None)
    }
}

fn plan(
    service: &Service,
    pods: &[Arc<Pod>],
    existing: Vec<Arc<EndpointSlice>>,
    zone: impl Fn(&str) -> Option<String>,
) -> Plan {
    let mut wanted = Wanted::default();
    for pod in pods.iter().filter(|pod| !pods::is_terminal(pod)) {
        let ports = ports_of(service, pod);
        for ip in pod_ips(pod) {
            let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
            if families(service).iter().any(|asked| asked == family) {
                wanted.add(family, &ports, endpoint(service, pod, ip, &zone));
            }
        }
    }
    // A service nobody stands behind has one empty slice for each family.
    families(service).iter().for_each(|family| wanted.add_family(family));
    let face = ObjectMeta {
        generate_name: Some(format!("{}-", service.metadata.name.as_deref().unwrap_or_default())),
        namespace: service.metadata.namespace.clone(),
        labels: Some(labels(service)),
        owner_references: Some(vec![controller_ref(service)]),
        ..ObjectMeta::default()
    };
    distribute(&face, wanted, existing)
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
