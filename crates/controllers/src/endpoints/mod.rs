//! Which pods stand behind a Service: as EndpointSlices, and as the older Endpoints.

mod distribute;
pub mod legacy;
pub mod mirroring;
pub mod slices;
mod trigger;

use std::sync::Arc;

use client::{Change, Index, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::pods;

const HEADLESS: &str = "service.kubernetes.io/headless";
const SERVICE_NAME: &str = "kubernetes.io/service-name";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

fn label<'a>(slice: &'a EndpointSlice, key: &str) -> Option<&'a String> {
    slice.metadata.labels.as_ref()?.get(key)
}

/// The service of a slice, if the slice is kept by `manager`.
fn managed(slice: &EndpointSlice, manager: &str) -> Option<ObjectKey> {
    let namespace = slice.metadata.namespace.clone().unwrap_or_default();
    let name =
        label(slice, SERVICE_NAME).filter(|_| label(slice, MANAGED_BY).is_some_and(|by| by == manager))?;
    Some(ObjectKey::new(namespace, name))
}

/// The slices of a service that `manager` keeps.
fn slices_of(
    slices: &Informer<EndpointSlice>,
    service: &ObjectKey,
    manager: &str,
) -> Vec<Arc<EndpointSlice>> {
    let by_service = Index {
        name: "service",
        values: |slice: &EndpointSlice| {
            let namespace = slice.metadata.namespace.clone().unwrap_or_default();
            label(slice, SERVICE_NAME)
                .map(|name| ObjectKey::new(namespace, name).to_string())
                .into_iter()
                .collect()
        },
    };
    let mut found = slices.by(by_service, &service.to_string());
    found.retain(|slice| label(slice, MANAGED_BY).is_some_and(|by| by == manager));
    found
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let Some(selector) = service.spec.as_ref().and_then(|spec| spec.selector.as_ref()) else { return false };
    let labels = pod.metadata.labels.as_ref();
    !selector.is_empty()
        && selector.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// Whether the endpoints of a service are ours to make.
fn is_selecting(service: &Service) -> bool {
    let Some(spec) = &service.spec else { return false };
    spec.selector.as_ref().is_some_and(|selector| !selector.is_empty())
        && spec.type_.as_deref() != Some("ExternalName")
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// What of a pod its endpoints show; a change of anything else is of no interest.
fn shown(pod: &Pod) -> impl PartialEq + '_ {
    (
        pod.metadata.labels.as_ref(),
        pod.metadata.deletion_timestamp.is_some(),
        pods::is_ready(pod),
        pods::is_terminal(pod),
        pods::node(pod),
        pod.status.as_ref().map(|status| (&status.pod_ip, &status.pod_ips)),
    )
}

/// Wakes the services a change of a pod matters to.
fn watch_pods(queue: &WorkQueue<ObjectKey>, pods: &Informer<Pod>, services: &Informer<Service>) {
    let services = services.clone();
    pods.enqueue(queue, move |change| {
        if let Change::Updated { old, new } = change
            && shown(old) == shown(new)
        {
            return Vec::new();
        }
        let namespace = change.object().metadata.namespace.clone().unwrap_or_default();
        let of_interest = services.in_namespace(&namespace).into_iter().filter(|service| {
            selects(service, change.object()) || change.old().is_some_and(|old| selects(service, old))
        });
        of_interest.map(|service| ObjectKey::of(&*service)).collect()
    });
}

/// The number of a service's port on a pod: its own, or that of the container port it names.
fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None | Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) if name.is_empty() => return Some(port.port),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let mut fitting = ports.filter(|container_port| {
        container_port.name.as_ref() == Some(name)
            && container_port.protocol.as_deref().unwrap_or("TCP") == protocol
    });
    fitting.next().map(|container_port| container_port.container_port)
}

/// A pod's host name within a headless service, if it asks for one.
fn hostname(pod: &Pod, service: &Service) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let subdomain = spec.subdomain.as_ref().filter(|name| !name.is_empty())?;
    (Some(subdomain) == service.metadata.name.as_ref())
        .then(|| spec.hostname.clone())?
        .filter(|name| !name.is_empty())
}

fn pod_ips(pod: &Pod) -> Vec<String> {
    let Some(status) = &pod.status else { return Vec::new() };
    let mut ips: Vec<String> = status.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.clone().filter(|ip| !ip.is_empty()));
    }
    ips
}

fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}
