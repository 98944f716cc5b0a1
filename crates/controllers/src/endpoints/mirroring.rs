//! EndpointSlices of Endpoints that users keep for Services without a selector.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers};
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use kube::api::ObjectMeta;

use super::distribute::{Plan, Ports, Wanted, distribute};
use super::{MANAGED_BY, SERVICE_NAME};
use crate::context::{Context, Error};
use crate::ownership::controller_ref;

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations of Endpoints that are not their slices'.
const NOT_COPIED: &[&str] = &[super::trigger::ANNOTATION, "kubectl.kubernetes.io/last-applied-configuration"];
/// Addresses of one subset that are mirrored.
const MOST: usize = 1000;

struct Controller {
    context: Context,
    endpoints: Informer<Endpoints>,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let endpoints = context.informers.of::<Endpoints>();
    let services = context.informers.of::<Service>();
    let slices = context.informers.of::<EndpointSlice>();
    endpoints.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    services.enqueue(&queue, |change| {
        let selector = |service: &Service| service.spec.as_ref().and_then(|spec| spec.selector.clone());
        let turned = change.old().is_none_or(|old| selector(old) != selector(change.object()));
        (turned || change.is_deleted()).then(|| ObjectKey::of(&**change.object()))
    });
    slices.enqueue(&queue, |change| super::managed(change.object(), MANAGER));
    tokio::join!(endpoints.synced(), services.synced(), slices.synced());
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, endpoints, services, slices });
    client::run("endpointslicemirroring", queue, workers, controller, cancel).await;
}

fn is_mirrored(endpoints: &Endpoints, service: Option<&Service>) -> bool {
    let meta = &endpoints.metadata;
    let skipped = meta.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|skip| skip == "true");
    let leads = meta.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    let own = service.and_then(|service| service.spec.as_ref()).is_some_and(|spec| spec.selector.is_none());
    !skipped && !leads && own && meta.deletion_timestamp.is_none()
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let endpoints = self.endpoints.get(key);
        let service = self.services.get(key);
        let existing = super::slices_of(&self.slices, key, MANAGER);
        let plan = match endpoints.filter(|endpoints| is_mirrored(endpoints, service.as_deref())) {
            Some(endpoints) => plan(&endpoints, existing),
            None => Plan { delete: existing, ..Plan::default() },
        };
        plan.apply(&self.context.client, key).await?;
        Ok(None)
    }
}

fn plan(endpoints: &Endpoints, existing: Vec<Arc<EndpointSlice>>) -> Plan {
    let mut wanted = Wanted::default();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| EndpointPort {
            name: Some(port.name.clone().unwrap_or_default()),
            port: Some(port.port),
            protocol: Some(port.protocol.clone().unwrap_or_else(|| "TCP".into())),
            app_protocol: port.app_protocol.clone(),
        });
        let ports: Ports = ports.collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(not_ready).take(MOST) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            wanted.add(family, &ports, endpoint(address, ready));
        }
    }
    let meta = &endpoints.metadata;
    let name = meta.name.clone().unwrap_or_default();
    let mut labels = meta.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = meta.annotations.clone().unwrap_or_default();
    annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
    let face = ObjectMeta {
        generate_name: Some(format!("{name}-")),
        namespace: meta.namespace.clone(),
        labels: Some(labels),
        annotations: Some(annotations).filter(|all| !all.is_empty()),
        owner_references: Some(vec![controller_ref(endpoints)]),
        ..ObjectMeta::default()
    };
    distribute(&face, wanted, existing)
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn endpoints() -> Endpoints {
        serde_json::from_value(json!({
            "metadata": {"name": "db", "namespace": "ns", "uid": "e", "labels": {"a": "b"}},
            "subsets": [{"addresses": [{"ip": "10.1.1.1"}, {"ip": "fd00::1"}],
                "notReadyAddresses": [{"ip": "10.1.1.2"}], "ports": [{"name": "sql", "port": 5432}]}],
        }))
        .unwrap()
    }

    #[test]
    fn one_slice_for_each_family_and_then_nothing_to_do() {
        let made = plan(&endpoints(), Vec::new()).create;
        let shown: Vec<String> = made
            .iter()
            .map(|slice| {
                let all = slice.endpoints.iter().flatten();
                let all =
                    all.map(|e| format!("{} {:?}", e.addresses[0], e.conditions.as_ref().unwrap().ready));
                format!("{}: {}", slice.address_type, all.collect::<Vec<_>>().join(", "))
            })
            .collect();
        assert_eq!(shown, ["IPv4: 10.1.1.1 Some(true), 10.1.1.2 Some(false)", "IPv6: fd00::1 Some(true)"]);
        let again = plan(&endpoints(), made.into_iter().map(Arc::new).collect());
        assert_eq!((again.create.len(), again.update.len(), again.delete.len()), (0, 0, 0));
    }

    #[test]
    fn only_for_services_without_a_selector() {
        let service = |selector: serde_json::Value| -> Service {
            serde_json::from_value(json!({"spec": {"selector": selector}})).unwrap()
        };
        assert!(is_mirrored(&endpoints(), Some(&service(json!(null)))));
        assert!(!is_mirrored(&endpoints(), Some(&service(json!({"a": "b"})))));
        assert!(!is_mirrored(&endpoints(), None));
        let mut skipped = endpoints();
        skipped.metadata.labels = Some([(SKIP.to_string(), "true".to_string())].into());
        assert!(!is_mirrored(&skipped, Some(&service(json!(null)))));
    }
}
