//! Services and the IPAddress objects that say who has which cluster IP (KEP-1880), kept in agreement.
//!
//! The API server takes an address in the transaction that writes its Service, so the two differ only
//! after somebody else's doing: an IPAddress deleted by hand, a store restored in part. Runs where the
//! API server runs, as upstream's repair loop does, but wakes by changes instead of the clock.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Informers, ObjectKey, Reconcile, WorkQueue, Workers, write};
use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::{IPAddress, IPAddressSpec, ParentReference};
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::context::{self, Config, Context, Error};

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";
/// An address may be seen before its Service; one older than this has none.
const GRACE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Service(ObjectKey),
    Address(String),
}

struct Controller {
    context: Context,
    cidr: IpNet,
    services: Informer<Service>,
    addresses: Informer<IPAddress>,
}

/// Starts the repair, which acts with `client` and ends with `cancel`. `cidr` is the Services' range.
pub fn start(client: &Client, cidr: IpNet, tasks: &TaskTracker, cancel: &CancellationToken) {
    let informers = Informers::new(client.clone(), cancel.clone());
    let config = Arc::new(Config::default());
    let name = "ipallocator-repair-controller";
    let context = context::for_component(&config, &informers, client.clone(), name, tasks, cancel);
    tasks.spawn(run(context, cidr));
}

async fn run(context: Context, cidr: IpNet) {
    let queue = WorkQueue::default();
    let services = context.informers.of::<Service>();
    let addresses = context.informers.of::<IPAddress>();
    services.enqueue(&queue, |change| {
        let before = change.old().map(|old| cluster_ips(old)).unwrap_or_default();
        let now = cluster_ips(change.object());
        let service = Key::Service(ObjectKey::of(&**change.object()));
        before.into_iter().chain(now).map(Key::Address).chain([service]).collect::<Vec<_>>()
    });
    addresses.enqueue(&queue, |change| {
        let address = change.object();
        let name = address.metadata.name.clone().unwrap_or_default();
        parent(address).map(Key::Service).into_iter().chain([Key::Address(name)]).collect::<Vec<_>>()
    });
    services.synced().await;
    addresses.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, cidr, services, addresses });
    client::run("cluster-ip-repair", queue, workers, controller, cancel).await;
}

fn cluster_ips(service: &Service) -> Vec<String> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let all = match &spec.cluster_ips {
        Some(ips) if !ips.is_empty() => ips.clone(),
        _ => spec.cluster_ip.iter().cloned().collect(),
    };
    all.into_iter().filter(|ip| !ip.is_empty() && ip != "None").collect()
}

/// The Service an address says it belongs to.
fn parent(address: &IPAddress) -> Option<ObjectKey> {
    let parent = &address.spec.parent_ref;
    let of_services = parent.group.as_deref().unwrap_or_default().is_empty() && parent.resource == "services";
    of_services.then(|| ObjectKey::new(parent.namespace.clone().unwrap_or_default(), parent.name.clone()))
}

/// What is wrong with one cluster IP of a Service.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    NotValid,
    OutOfRange,
    NotAllocated,
    WrongReference,
    AlreadyAllocated,
}

/// Judges a cluster IP of the Service by the address object of its name.
fn plan_service(key: &ObjectKey, ip: &str, cidr: IpNet, address: Option<&IPAddress>) -> Option<Fault> {
    let Ok(parsed) = ip.parse::<IpAddr>() else { return Some(Fault::NotValid) };
    if !cidr.contains(&parsed) {
        return Some(Fault::OutOfRange);
    }
    let Some(address) = address else { return Some(Fault::NotAllocated) };
    match parent(address) {
        Some(parent) if parent == *key => None,
        Some(_) => Some(Fault::AlreadyAllocated),
        None => Some(Fault::WrongReference),
    }
}

/// What becomes of an address whose Service does not have it.
#[derive(Debug, PartialEq, Eq)]
enum Leak {
    None,
    /// Too young to tell.
    Perhaps(Duration),
    Certain,
}

fn plan_address(address: &IPAddress, service: Option<&Service>, now: Timestamp) -> Leak {
    let name = address.metadata.name.as_deref().unwrap_or_default();
    let labels = address.metadata.labels.as_ref();
    let ours = labels.and_then(|labels| labels.get(MANAGED_BY)).is_some_and(|by| by == ALLOCATOR);
    let held = service.is_some_and(|service| cluster_ips(service).iter().any(|ip| ip == name));
    if !ours || held || parent(address).is_none() {
        return Leak::None;
    }
    let made = address.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let age = made.and_then(|made| Duration::try_from(now.duration_since(made)).ok()).unwrap_or_default();
    match GRACE.checked_sub(age) {
        Some(left) if !left.is_zero() => Leak::Perhaps(left),
        _ => Leak::Certain,
    }
}

fn allocation(service: &Service, ip: IpAddr) -> IPAddress {
    let labels = [(MANAGED_BY, ALLOCATOR), (FAMILY, if ip.is_ipv4() { "IPv4" } else { "IPv6" })];
    IPAddress {
        metadata: ObjectMeta {
            name: Some(ip.to_string()),
            labels: Some(labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: IPAddressSpec {
            parent_ref: ParentReference {
                group: None,
                resource: "services".into(),
                namespace: service.metadata.namespace.clone(),
                name: service.metadata.name.clone().unwrap_or_default(),
            },
        },
    }
}

impl Reconcile for Controller {
    type Key = Key;
    type Error = Error;

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, Error> {
        match key {
            Key::Service(key) => self.service(key).await.map(|()| None),
            Key::Address(name) => self.address(name).await,
        }
    }
}

impl Controller {
    fn api(&self) -> Api<IPAddress> {
        Api::all(self.context.client.clone())
    }

    async fn service(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(service) = self.services.get(key) else { return Ok(()) };
        for ip in cluster_ips(&service) {
            let cached = self.addresses.get(&ObjectKey::cluster(&ip));
            if plan_service(key, &ip, self.cidr, cached.as_deref()).is_none() {
                continue;
            }
            // The two watches are not in step: judge by what is true now.
            let reading = || Error::api(format!("reading service {key} and its address {ip}"));
            let live: Api<Service> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let live = live.get_opt(&key.name).await.map_err(reading())?;
            let Some(live) = live.filter(|live| cluster_ips(live).contains(&ip)) else { continue };
            let address = self.api().get_opt(&ip).await.map_err(reading())?;
            let fault = plan_service(key, &ip, self.cidr, address.as_ref());
            if let Some(fault) = fault {
                self.mend(&live, &ip, &fault, address.as_ref()).await?;
            }
        }
        Ok(())
    }

    async fn mend(
        &self,
        service: &Service,
        ip: &str,
        fault: &Fault,
        address: Option<&IPAddress>,
    ) -> Result<(), Error> {
        let key = ObjectKey::of(service);
        let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
        let (reason, message) = match fault {
            Fault::NotValid => {
                ("ClusterIPNotValid", format!("Cluster IP {ip} is not a valid IP; please recreate Service"))
            }
            Fault::OutOfRange => (
                "ClusterIPOutOfRange",
                format!(
                    "Cluster IP [{family}]: {ip} is not within any configured Service CIDR; please recreate service"
                ),
            ),
            Fault::NotAllocated => {
                ("ClusterIPNotAllocated", format!("Cluster IP [{family}]: {ip} is not allocated; repairing"))
            }
            Fault::WrongReference => (
                "ClusterIPNotAllocated",
                format!(
                    "the ClusterIP [{family}]: {ip} for Service {key} has a wrong reference; cleaning up"
                ),
            ),
            Fault::AlreadyAllocated => (
                "ClusterIPAlreadyAllocated",
                format!(
                    "the ClusterIP [{family}]: {ip} for Service {key} was assigned to multiple services; please recreate service"
                ),
            ),
        };
        self.context.recorder.warning(service, reason, message);
        if matches!(fault, Fault::NotValid | Fault::OutOfRange | Fault::AlreadyAllocated) {
            return Ok(());
        }
        let Ok(parsed) = ip.parse::<IpAddr>() else { return Ok(()) };
        if let Some(wrong) = address {
            self.delete(wrong).await?;
        }
        match self.api().create(&PostParams::default(), &allocation(service, parsed)).await {
            // Somebody was quicker; the watch tells of it.
            Err(error) if write::already_exists(&error) => Ok(()),
            made => made.map(drop).map_err(Error::api(format!("making the address {ip} of service {key}"))),
        }
    }

    async fn address(&self, name: &str) -> Result<Option<Duration>, Error> {
        let Some(address) = self.addresses.get(&ObjectKey::cluster(name)) else { return Ok(None) };
        let Some(parent) = parent(&address) else { return Ok(None) };
        match plan_address(&address, self.services.get(&parent).as_deref(), Timestamp::now()) {
            Leak::None => Ok(None),
            Leak::Perhaps(left) => Ok(Some(left)),
            Leak::Certain => {
                let message =
                    format!("IPAddress: {name} for Service {parent} appears to have leaked: cleaning up");
                self.context.recorder.warning(&*address, "IPAddressNotAllocated", message);
                self.delete(&address).await.map(|()| None)
            }
        }
    }

    async fn delete(&self, address: &IPAddress) -> Result<(), Error> {
        let name = address.metadata.name.as_deref().unwrap_or_default();
        let preconditions = Preconditions { uid: address.metadata.uid.clone(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let deleted = self.api().delete(name, &params).await;
        write::found(deleted.map(drop)).map(drop).map_err(Error::api(format!("deleting the address {name}")))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn address(resource: &str, service: &str) -> IPAddress {
        let parent = json!({"group": "", "resource": resource, "namespace": "ns", "name": service});
        let meta = json!({"name": "10.96.0.7", "creationTimestamp": "2025-01-01T00:00:00Z",
            "labels": {MANAGED_BY: ALLOCATOR}});
        serde_json::from_value(json!({"metadata": meta, "spec": {"parentRef": parent}})).unwrap()
    }

    fn service(ip: &str) -> Service {
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip]});
        serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "a"}, "spec": spec})).unwrap()
    }

    #[test]
    fn a_services_addresses_are_its_own() {
        let check = |ip: &str, address: Option<IPAddress>| {
            let cidr = "10.96.0.0/16".parse().unwrap();
            plan_service(&ObjectKey::new("ns", "a"), ip, cidr, address.as_ref())
        };
        assert_eq!(check("10.96.0.7", Some(address("services", "a"))), None);
        assert_eq!(check("10.96.0.7", None), Some(Fault::NotAllocated));
        assert_eq!(check("10.96.0.7", Some(address("services", "b"))), Some(Fault::AlreadyAllocated));
        assert_eq!(check("10.96.0.7", Some(address("gateways", "a"))), Some(Fault::WrongReference));
        assert_eq!(check("10.97.0.7", None), Some(Fault::OutOfRange));
        assert_eq!(check("10.96.0", None), Some(Fault::NotValid));
    }

    #[test]
    fn an_address_without_its_service_goes_after_a_minute() {
        let check = |service: Option<Service>, now: &str| {
            plan_address(&address("services", "a"), service.as_ref(), now.parse().unwrap())
        };
        let (early, late) = ("2025-01-01T00:00:20Z", "2025-01-01T00:01:00Z");
        assert_eq!(check(Some(service("10.96.0.7")), late), Leak::None);
        assert_eq!(check(Some(service("10.96.0.8")), late), Leak::Certain);
        assert_eq!(check(None, early), Leak::Perhaps(Duration::from_secs(40)));
        assert_eq!(check(None, late), Leak::Certain);
    }
}
