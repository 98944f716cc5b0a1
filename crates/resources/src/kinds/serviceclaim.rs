//! What a service holds for itself alone: cluster IPs, node ports, a health check's port.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::field::{Errors, Path};
use api::{Object, Status};
use bytes::Bytes;
use ipnet::IpNet;
use registry::{Claim, Claims, Engine};
use serde_json::{Value, json};

use super::rangeindex::RangeIndex;
use super::servicespec::doubled_node_ports;
use crate::Settings;

const ADDRESSES: &str = "/registry/ipaddresses/";
const PORTS: &str = "/registry/ranges/servicenodeports/";
/// Ports below are given out last, as upstream's static band.
const PORT_FRONT_MAX: u64 = 86;

/// The cluster's ranges, and what is free in them.
pub(super) struct Ranges {
    cidr: IpNet,
    node_ports: RangeInclusive<u16>,
    addresses: RangeIndex,
    ports: RangeIndex,
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// The address with a number: 0 is the one behind the network's own, which is nobody's.
fn address_at(cidr: IpNet, number: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => IpAddr::V4(u32::from(base).wrapping_add(number as u32 + 1).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(number) + 1).into()),
    }
}

fn number_of(cidr: IpNet, name: &str) -> Option<u64> {
    let offset = match (cidr.network(), name.parse().ok()?) {
        (IpAddr::V4(base), IpAddr::V4(ip)) => u128::from(u32::from(ip).checked_sub(u32::from(base))?),
        (IpAddr::V6(base), IpAddr::V6(ip)) => u128::from(ip).checked_sub(u128::from(base))?,
        _ => return None,
    };
    u64::try_from(offset.checked_sub(1)?).ok()
}

/// In order, each once.
pub(super) fn node_ports(service: &Object) -> Vec<u16> {
    let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
    let numbers = ports.into_iter().flatten().filter_map(|p| p.get("nodePort")?.as_u64());
    let health = service.get(&["spec", "healthCheckNodePort"]).and_then(Value::as_u64);
    let all = numbers.chain(health).filter_map(|p| u16::try_from(p).ok());
    let mut all: Vec<u16> = all.filter(|p| *p != 0).collect();
    all.sort_unstable();
    all.dedup();
    all
}

pub(super) fn cluster_ips(service: &Object) -> Vec<String> {
    let list = service.get(&["spec", "clusterIPs"]).and_then(Value::as_array);
    let mut all: Vec<String> =
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    let one = service.get_str(&["spec", "clusterIP"]);
    if all.is_empty() && !one.is_empty() {
        all.push(one.to_owned());
    }
    all.retain(|ip| !ip.is_empty() && ip != "None");
    all
}

fn address_key(address: &str) -> String {
    format!("{ADDRESSES}{address}")
}

fn port_key(port: u16) -> String {
    format!("{PORTS}{port}")
}

fn invalid(service: &Object, errors: &Errors) -> Status {
    let kind = api::GroupKind { group: String::new(), kind: "Service".into() };
    Status::invalid(&kind, service.name(), errors)
}

/// Whether a service of its type has an address.
pub(super) fn wants_address(service: &Object) -> bool {
    service.get_str(&["spec", "type"]) != "ExternalName" && service.get_str(&["spec", "clusterIP"]) != "None"
}

pub(super) fn wants_ports(service: &Object) -> bool {
    match service.get_str(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false)
        }
        _ => false,
    }
}

/// Whether a balancer asks each node if it has endpoints.
pub(super) fn wants_health_port(service: &Object) -> bool {
    service.get_str(&["spec", "type"]) == "LoadBalancer"
        && service.get_str(&["spec", "externalTrafficPolicy"]) == "Local"
}

impl Ranges {
    pub fn new(settings: &Settings) -> Ranges {
        let cidr = settings.service_cidr;
        // Neither the network's own address nor, for IPv4, the broadcast address is given out.
        let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let spared = if matches!(cidr, IpNet::V4(_)) { 2 } else { 1 };
        let size = (1u128 << bits.min(127)).saturating_sub(spared);
        let front = (size / 16).clamp(16, 256).min(size / 2);
        let numbered = move |name: &str| number_of(cidr, name);
        let addresses = RangeIndex::new(ADDRESSES, size, front as u64, numbered);
        let ports = settings.node_ports.clone();
        let (first, count) = (*ports.start(), u64::from(ports.end() - ports.start()) + 1);
        let numbered = move |name: &str| name.parse::<u16>().ok()?.checked_sub(first).map(u64::from);
        let front = (count / 32).clamp(16, 128).min(PORT_FRONT_MAX).min(count / 2);
        let index = RangeIndex::new(PORTS, count.into(), front, numbered);
        Ranges { cidr, node_ports: ports, addresses, ports: index }
    }

    /// Takes what the service needs and writes it into it.
    ///
    /// # Errors
    /// What is asked for is taken or does not fit the cluster; nothing is left.
    pub async fn claim(
        &self,
        engine: &Engine,
        new: &mut Object,
        old: Option<&Object>,
    ) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        self.set_families(new)?;
        self.claim_addresses(engine, new, old, &mut claims).await?;
        self.claim_ports(engine, new, old, &mut claims).await?;
        Ok(claims)
    }

    pub fn release(&self, old: &Object) -> Vec<String> {
        let addresses = cluster_ips(old).into_iter().map(|ip| {
            self.addresses.mark(&ip, false);
            address_key(&ip)
        });
        let ports = node_ports(old).into_iter().map(|port| {
            self.ports.mark(&port.to_string(), false);
            port_key(port)
        });
        addresses.chain(ports).collect()
    }

    /// Families and policy, from what was asked and from the one family that the cluster has.
    fn set_families(&self, service: &mut Object) -> Result<(), Status> {
        if service.get_str(&["spec", "type"]) == "ExternalName" {
            return Ok(());
        }
        let own = family(self.cidr.network());
        let texts = |service: &Object, field: &str| -> Vec<String> {
            let list = service.get(&["spec", field]).and_then(Value::as_array);
            list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let mut families = texts(service, "ipFamilies");
        let policy = service.get_str(&["spec", "ipFamilyPolicy"]).to_owned();
        let path = Path::new("spec");
        let mut errors = Errors::default();
        if policy == "SingleStack" || policy.is_empty() {
            for (field, count) in
                [("clusterIPs", texts(service, "clusterIPs").len()), ("ipFamilies", families.len())]
            {
                if count > 1 && (policy == "SingleStack" || field == "clusterIPs") {
                    let words = format!(
                        "must be RequireDualStack or PreferDualStack when multiple {field} are specified"
                    );
                    let shown = if policy.is_empty() { Value::Null } else { policy.clone().into() };
                    errors.invalid(&path.child("ipFamilyPolicy"), &shown, words);
                }
            }
        }
        for (i, ip) in texts(service, "clusterIPs").iter().enumerate() {
            let Ok(ip) = ip.parse::<IpAddr>() else { break };
            if i < families.len() {
                continue;
            }
            if family(ip) == own {
                families.push(own.to_owned());
            } else {
                let shown = service.get(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
                let words = format!("{} is not configured on this cluster", family(ip));
                errors.invalid(&path.child("clusterIPs").index(i), &shown, words);
            }
        }
        if !errors.is_empty() {
            return Err(invalid(service, &errors));
        }
        let selector = service.get(&["spec", "selector"]).and_then(Value::as_object);
        if service.get_str(&["spec", "clusterIP"]) == "None" && selector.is_none_or(|s| s.is_empty()) {
            // Whoever writes its endpoints may do so in both families, whatever the cluster's are.
            if families.is_empty() {
                families.push(own.to_owned());
            }
            if families.len() < 2 && policy != "SingleStack" {
                families.push(if families[0] == "IPv4" { "IPv6" } else { "IPv4" }.to_owned());
            }
            let policy = if policy.is_empty() { "RequireDualStack".to_owned() } else { policy };
            put_families(service, &families, &policy);
            return Ok(());
        }
        for (i, asked) in families.iter().enumerate().filter(|(_, f)| *f != own) {
            let words = "not configured on this cluster";
            errors.invalid(&path.child("ipFamilies").index(i), asked, words);
        }
        if policy == "RequireDualStack" {
            let words = "this cluster is not configured for dual-stack services";
            errors.invalid(&path.child("ipFamilyPolicy"), &policy, words);
        }
        if !errors.is_empty() {
            return Err(invalid(service, &errors));
        }
        let policy = if policy.is_empty() { "SingleStack".to_owned() } else { policy };
        put_families(service, &[own.to_owned()], &policy);
        Ok(())
    }

    async fn claim_addresses(
        &self,
        engine: &Engine,
        new: &mut Object,
        old: Option<&Object>,
        claims: &mut Claims,
    ) -> Result<(), Status> {
        let held = old.map(cluster_ips).unwrap_or_default();
        if !wants_address(new) {
            self.give_back_addresses(&held, &[], claims);
            if new.get_str(&["spec", "clusterIP"]) == "None" {
                new.set(&["spec", "clusterIPs"], json!(["None"]));
            }
            return Ok(());
        }
        if cluster_ips(new).is_empty() {
            let number = self.addresses.take(&**engine.store()).await?;
            let number =
                number.ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            let address = address_at(self.cidr, number).to_string();
            new.set(&["spec", "clusterIP"], address);
        }
        let wanted = cluster_ips(new);
        new.set(&["spec", "clusterIP"], wanted[0].as_str());
        new.set(&["spec", "clusterIPs"], json!(wanted));
        for address in wanted.iter().filter(|a| !held.contains(a)) {
            self.check_address(engine, new, address).await?;
            let value = address_object(engine, new, address);
            self.addresses.mark(address, true);
            claims.take.push(Claim { key: address_key(address), value });
        }
        self.give_back_addresses(&held, &wanted, claims);
        Ok(())
    }

    fn give_back_addresses(&self, held: &[String], kept: &[String], claims: &mut Claims) {
        for address in held.iter().filter(|a| !kept.contains(a)) {
            self.addresses.mark(address, false);
            claims.release.push(address_key(address));
        }
    }

    async fn check_address(&self, engine: &Engine, service: &Object, address: &str) -> Result<(), Status> {
        let inside = address.parse::<IpAddr>().is_ok_and(|ip| self.cidr.contains(&ip));
        let why = if !inside {
            format!(
                "the provided IP ({address}) is not in the valid range. The range of valid IPs is {}",
                self.cidr
            )
        } else if self.addresses.is_held(&**engine.store(), address).await? {
            "provided IP is already allocated".to_owned()
        } else {
            return Ok(());
        };
        let mut errors = Errors::default();
        let shown = service.get(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
        let path = Path::new("spec.clusterIPs");
        errors.invalid(&path, &shown, format!("failed to allocate IP {address}: {why}"));
        Err(invalid(service, &errors))
    }

    async fn claim_ports(
        &self,
        engine: &Engine,
        new: &mut Object,
        old: Option<&Object>,
        claims: &mut Claims,
    ) -> Result<(), Status> {
        let held = old.map(node_ports).unwrap_or_default();
        self.check_ports(engine, new, &held).await?;
        if wants_ports(new) {
            self.fill_ports(engine, new).await?;
        }
        let health = new.get(&["spec", "healthCheckNodePort"]).and_then(Value::as_u64).unwrap_or(0);
        if wants_health_port(new) && health == 0 {
            let port = self.free_port(engine).await?;
            new.set(&["spec", "healthCheckNodePort"], port);
        }
        let wanted = node_ports(new);
        let owner = json!({"namespace": new.namespace(), "name": new.name()}).to_string();
        for port in wanted.iter().filter(|p| held.binary_search(p).is_err()) {
            self.ports.mark(&port.to_string(), true);
            claims.take.push(Claim { key: port_key(*port), value: Bytes::from(owner.clone()) });
        }
        for port in held.iter().filter(|p| wanted.binary_search(p).is_err()) {
            self.ports.mark(&port.to_string(), false);
            claims.release.push(port_key(*port));
        }
        Ok(())
    }

    async fn free_port(&self, engine: &Engine) -> Result<u16, Status> {
        let offset = self.ports.take(&**engine.store()).await?;
        let offset = offset.and_then(|o| u16::try_from(o).ok());
        let offset =
            offset.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
        Ok(self.node_ports.start() + offset)
    }

    /// Gives each port without a node port one: the same for the same number in two protocols.
    async fn fill_ports(&self, engine: &Engine, service: &mut Object) -> Result<(), Status> {
        let mut ports =
            service.get(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
        // By number the first port, and the first one after it in another protocol: there is nothing to find
        // behind them.
        let mut chosen: BTreeMap<String, Vec<(Value, u64)>> = BTreeMap::new();
        for port in &mut ports {
            let protocol = port["protocol"].clone();
            let twins = chosen.entry(port["port"].to_string()).or_default();
            let twin = twins.iter().find(|(p, _)| *p != protocol).map(|(_, node)| *node);
            let mut node = port.get("nodePort").and_then(Value::as_u64).unwrap_or(0);
            if node == 0 {
                node = match twin {
                    Some(node) => node,
                    None => self.free_port(engine).await?.into(),
                };
                port["nodePort"] = node.into();
            }
            if twins.iter().all(|(p, _)| *p != protocol) && twins.len() < 2 {
                twins.push((protocol, node));
            }
        }
        service.set(&["spec", "ports"], Value::Array(ports));
        Ok(())
    }

    /// Node ports that were asked for must be in the range and free.
    async fn check_ports(&self, engine: &Engine, service: &Object, held: &[u16]) -> Result<(), Status> {
        let mut errors = Errors::default();
        // Of equal node ports the first.
        let mut places = BTreeMap::new();
        let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
        for (i, port) in ports.into_iter().flatten().enumerate() {
            if let Some(number) = port.get("nodePort").and_then(Value::as_u64) {
                places.entry(number).or_insert(i);
            }
        }
        for port in node_ports(service).into_iter().filter(|p| held.binary_search(p).is_err()) {
            let inside = self.node_ports.contains(&port);
            let why = if !inside {
                format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    self.node_ports.start(),
                    self.node_ports.end()
                )
            } else if self.ports.is_held(&**engine.store(), &port.to_string()).await? {
                "provided port is already allocated".to_owned()
            } else {
                continue;
            };
            let path = match places.get(&u64::from(port)) {
                Some(i) => Path::new("spec.ports").index(*i).child("nodePort"),
                None => Path::new("spec.healthCheckNodePort"),
            };
            errors.invalid(&path, u64::from(port), why);
        }
        for port in doubled_node_ports(service) {
            let number = port.i64("nodePort").unwrap_or(0);
            errors.invalid(&port.path.child("nodePort"), number, "provided port is already allocated");
        }
        if errors.is_empty() { Ok(()) } else { Err(invalid(service, &errors)) }
    }
}

fn put_families(service: &mut Object, families: &[String], policy: &str) {
    service.set(&["spec", "ipFamilies"], json!(families));
    service.set(&["spec", "ipFamilyPolicy"], policy);
}

/// The `IPAddress` that says whose an address is.
fn address_object(engine: &Engine, service: &Object, address: &str) -> Bytes {
    let family = if address.contains(':') { "IPv6" } else { "IPv4" };
    let object = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address,
            "uid": engine.new_uid(),
            "creationTimestamp": engine.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": family,
                "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io",
            },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": service.namespace(), "name": service.name()}},
    });
    match object {
        Value::Object(map) => codec::stored::encode(&Object(map)),
        _ => unreachable!("a map was written above"),
    }
}
