//! Services: addresses and ports that are the service's alone.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use api::field::{Errors, Path};
use api::{Object, Status, names};
use async_trait::async_trait;
use ipnet::IpNet;
use registry::resource::{Connect, Target};
use registry::{Claim, Claims, Engine, RequestContext};
use serde_json::{Value, json};

use super::servicespec;
use crate::Settings;

pub struct Strategy {
    cidr: IpNet,
    node_ports: RangeInclusive<u16>,
}

impl Strategy {
    pub fn new(settings: &Settings) -> Strategy {
        Strategy { cidr: settings.service_cidr, node_ports: settings.node_ports.clone() }
    }

    /// A free address; a different one each time, so that fast writers seldom meet.
    fn free_address(&self, engine: &Engine) -> Option<IpAddr> {
        let size = 1u128 << (self.cidr.max_prefix_len() - self.cidr.prefix_len());
        let taken = engine.cache("networking.k8s.io", "ipaddresses")?;
        // Static addresses are asked for at the front of the range: it is given out last.
        let front = (size / 16).clamp(16, 256).min(size / 2);
        let span = size.checked_sub(front + 1)?.max(1);
        let start = rand::random::<u64>() as u128 % span;
        let back = (0..span).map(|i| front + (start + i) % span);
        let rest = 1..front;
        let offset = back.chain(rest).find(|o| taken.get(&at(self.cidr, *o).to_string()).is_none())?;
        Some(at(self.cidr, offset))
    }

    fn free_port(&self, engine: &Engine, also: &[u16]) -> Option<u16> {
        let span = u32::from(self.node_ports.end() - self.node_ports.start()) + 1;
        let start = rand::random::<u32>() % span;
        let ports = (0..span).map(|i| self.node_ports.start() + ((start + i) % span) as u16);
        let used = used_ports(engine);
        ports.into_iter().find(|p| !used.contains(p) && !also.contains(p))
    }
}

/// The address that is `offset` behind the network's own.
fn at(cidr: IpNet, offset: u128) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + offset as u32).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + offset).into()),
    }
}

fn used_ports(engine: &Engine) -> Vec<u16> {
    let mut used = Vec::new();
    if let Some(cache) = engine.cache("", "services") {
        cache.scan("", None, |item| {
            if let Ok(service) = item.object() {
                used.extend(node_ports(&service));
            }
            true
        });
    }
    used
}

fn node_ports(service: &Object) -> Vec<u16> {
    let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
    let numbers = ports.into_iter().flatten().filter_map(|p| p.get("nodePort")?.as_u64());
    let health = service.get(&["spec", "healthCheckNodePort"]).and_then(Value::as_u64);
    numbers.chain(health).filter_map(|p| u16::try_from(p).ok()).filter(|p| *p != 0).collect()
}

fn cluster_ips(service: &Object) -> Vec<String> {
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

fn port_key(port: u16) -> String {
    format!("/registry/ranges/servicenodeports/{port}")
}

fn address_key(address: &str) -> String {
    format!("/registry/ipaddresses/{address}")
}

/// What a service of a type holds.
fn wants_address(service: &Object) -> bool {
    service.get_str(&["spec", "type"]) != "ExternalName" && service.get_str(&["spec", "clusterIP"]) != "None"
}

fn wants_ports(service: &Object) -> bool {
    match service.get_str(&["spec", "type"]) {
        "NodePort" => true,
        "LoadBalancer" => {
            service.get(&["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool) != Some(false)
        }
        _ => false,
    }
}

#[async_trait]
impl registry::Strategy for Strategy {
    fn name_faults(&self, name: &str, generated: bool) -> Vec<String> {
        names::dns1123_label(if generated { name.trim_end_matches('-') } else { name })
    }

    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        spec.entry("sessionAffinity").or_insert("None".into());
        spec.entry("type").or_insert("ClusterIP".into());
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        if spec["sessionAffinity"] == "ClientIP" {
            let config = api::object::map_entry(spec, "sessionAffinityConfig");
            api::object::map_entry(config, "clientIP").entry("timeoutSeconds").or_insert(json!(10800));
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(port) = port else { continue };
            port.entry("protocol").or_insert("TCP".into());
            let same = matches!(port.get("targetPort"), None | Some(Value::Null))
                || port["targetPort"] == 0
                || port["targetPort"] == "";
            if let (true, Some(number)) = (same, port.get("port").cloned()) {
                port.insert("targetPort".into(), number);
            }
        }
        if spec["sessionAffinity"] == "None" {
            spec.remove("sessionAffinityConfig");
        }
        let external = spec.get("externalIPs").and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && external) {
            spec.entry("externalTrafficPolicy").or_insert("Cluster".into());
        }
        if kind == "LoadBalancer" {
            spec.entry("allocateLoadBalancerNodePorts").or_insert(true.into());
        }
        if kind != "ExternalName" {
            spec.entry("internalTrafficPolicy").or_insert("Cluster".into());
        }
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.0.insert("status".into(), json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        let changed = new.get_str(&["spec", "type"]) != old.get_str(&["spec", "type"]);
        if wants_address(new) && wants_address(old) {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if new.get(&["spec", field]).is_none()
                    && let Some(value) = old.get(&["spec", field])
                {
                    new.set(&["spec", field], value.clone());
                }
            }
        }
        if wants_ports(new) && wants_ports(old) {
            keep_node_ports(new, old);
        }
        if changed {
            drop_unwanted(new);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        servicespec::validate(object, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        servicespec::validate_update(new, old, errors);
    }

    async fn claim(&self, engine: &Engine, new: &mut Object, old: Option<&Object>) -> Result<Claims, Status> {
        let mut claims = Claims::default();
        self.claim_address(engine, new, old, &mut claims)?;
        self.claim_ports(engine, new, old, &mut claims)?;
        Ok(claims)
    }

    fn release(&self, old: &Object) -> Vec<String> {
        let addresses = cluster_ips(old).into_iter().map(|ip| address_key(&ip));
        addresses.chain(node_ports(old).into_iter().map(port_key)).collect()
    }
}

impl Strategy {
    fn claim_address(
        &self,
        engine: &Engine,
        new: &mut Object,
        old: Option<&Object>,
        claims: &mut Claims,
    ) -> Result<(), Status> {
        let held = old.map(cluster_ips).unwrap_or_default();
        if !wants_address(new) {
            claims.release.extend(held.iter().map(|ip| address_key(ip)));
            if new.get_str(&["spec", "clusterIP"]) == "None" {
                new.set(&["spec", "clusterIPs"], json!(["None"]));
                self.set_families(new);
            }
            return Ok(());
        }
        if cluster_ips(new).is_empty() {
            let address = self
                .free_address(engine)
                .ok_or_else(|| Status::internal("failed to allocate a serviceIP: range is full"))?;
            new.set(&["spec", "clusterIP"], address.to_string());
        }
        let wanted = cluster_ips(new);
        new.set(&["spec", "clusterIP"], wanted[0].as_str());
        new.set(&["spec", "clusterIPs"], json!(wanted));
        self.set_families(new);
        for address in wanted.iter().filter(|a| !held.contains(a)) {
            self.check_address(engine, new, address)?;
            claims
                .take
                .push(Claim { key: address_key(address), value: self.address_object(engine, new, address) });
        }
        claims.release.extend(held.iter().filter(|a| !wanted.contains(a)).map(|ip| address_key(ip)));
        Ok(())
    }

    fn check_address(&self, engine: &Engine, service: &Object, address: &str) -> Result<(), Status> {
        let inside = address.parse::<IpAddr>().is_ok_and(|ip| self.cidr.contains(&ip));
        let taken =
            engine.cache("networking.k8s.io", "ipaddresses").is_some_and(|c| c.get(address).is_some());
        let why = match (inside, taken) {
            (true, false) => return Ok(()),
            (true, true) => "provided IP is already allocated".to_owned(),
            (false, _) => {
                format!("provided IP is not in the valid range. The range of valid IPs is {}", self.cidr)
            }
        };
        let mut errors = Errors::default();
        let shown = service.get(&["spec", "clusterIPs"]).cloned().unwrap_or_default();
        errors.invalid(
            &Path::new("spec.clusterIPs"),
            &shown,
            format!("failed to allocate IP {address}: {why}"),
        );
        let kind = api::GroupKind { group: String::new(), kind: "Service".into() };
        Err(Status::invalid(&kind, service.name(), &errors))
    }

    fn address_object(&self, engine: &Engine, service: &Object, address: &str) -> bytes::Bytes {
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let object = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "IPAddress",
            "metadata": {
                "name": address,
                "uid": uuid::Uuid::new_v4().to_string(),
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

    fn set_families(&self, service: &mut Object) {
        let family = match self.cidr {
            IpNet::V4(_) => "IPv4",
            IpNet::V6(_) => "IPv6",
        };
        if service.get(&["spec", "ipFamilies"]).is_none() {
            service.set(&["spec", "ipFamilies"], json!([family]));
        }
        if service.get(&["spec", "ipFamilyPolicy"]).is_none() {
            service.set(&["spec", "ipFamilyPolicy"], "SingleStack");
        }
    }

    fn claim_ports(
        &self,
        engine: &Engine,
        new: &mut Object,
        old: Option<&Object>,
        claims: &mut Claims,
    ) -> Result<(), Status> {
        let held = old.map(node_ports).unwrap_or_default();
        if wants_ports(new) {
            let mut chosen = node_ports(new);
            let list = new.0.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut);
            for port in list.into_iter().flatten() {
                if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0 {
                    continue;
                }
                let free = self.free_port(engine, &chosen);
                let free =
                    free.ok_or_else(|| Status::internal("failed to allocate a nodePort: range is full"))?;
                chosen.push(free);
                port["nodePort"] = free.into();
            }
        }
        let mut wanted = node_ports(new);
        wanted.sort_unstable();
        wanted.dedup();
        let used = used_ports(engine);
        for port in wanted.iter().filter(|p| !held.contains(p)) {
            if used.contains(port) || !self.node_ports.contains(port) {
                return Err(self.port_refused(new, *port, used.contains(port)));
            }
            claims.take.push(Claim { key: port_key(*port), value: bytes::Bytes::from_static(b"{}") });
        }
        claims.release.extend(held.iter().filter(|p| !wanted.contains(p)).map(|p| port_key(*p)));
        Ok(())
    }

    fn port_refused(&self, service: &Object, port: u16, taken: bool) -> Status {
        let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
        let at = ports
            .into_iter()
            .flatten()
            .position(|p| p.get("nodePort").and_then(Value::as_u64) == Some(port.into()));
        let path = Path::new("spec.ports").index(at.unwrap_or(0)).child("nodePort");
        let why = if taken {
            "provided port is already allocated".to_owned()
        } else {
            format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.node_ports.start(),
                self.node_ports.end()
            )
        };
        let mut errors = Errors::default();
        errors.invalid(&path, u64::from(port), why);
        let kind = api::GroupKind { group: String::new(), kind: "Service".into() };
        Status::invalid(&kind, service.name(), &errors)
    }
}

/// A service that changed its type gives up what the new one does not hold.
fn drop_unwanted(service: &mut Object) {
    if service.get_str(&["spec", "type"]) == "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            service.remove(&["spec", field]);
        }
    }
    if !wants_ports(service) && service.get_str(&["spec", "type"]) != "LoadBalancer" {
        let list = service.0.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut);
        for port in list.into_iter().flatten() {
            if let Value::Object(port) = port {
                port.remove("nodePort");
            }
        }
        let external = service.get(&["spec", "externalIPs"]).and_then(Value::as_array);
        if external.is_none_or(Vec::is_empty) {
            service.remove(&["spec", "externalTrafficPolicy"]);
        }
        service.remove(&["spec", "healthCheckNodePort"]);
    }
}

/// Ports that do not say a node port keep the one they had.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let before: Vec<Value> =
        old.get(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let list = new.0.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut);
    for port in list.into_iter().flatten() {
        if port.get("nodePort").and_then(Value::as_u64).unwrap_or(0) != 0 {
            continue;
        }
        let same = before
            .iter()
            .find(|b| b.get("port") == port.get("port") && b.get("protocol") == port.get("protocol"));
        if let Some(number) = same.and_then(|b| b.get("nodePort")) {
            port["nodePort"] = number.clone();
        }
    }
}

/// `services/NAME/proxy/…`: HTTP to the cluster IP.
pub struct Proxy;

#[async_trait]
impl Connect for Proxy {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "delete", "get", "patch", "update"]
    }

    async fn target(&self, _: &Engine, service: &Object, path: &str, query: &str) -> Result<Target, Status> {
        let host = cluster_ips(service).into_iter().next();
        let host = host.ok_or_else(|| {
            Status::unavailable(format!(
                "no endpoints available for service {}",
                api::field::quote(service.name())
            ))
        })?;
        let port = service.get(&["spec", "ports"]).and_then(|p| p.get(0)?.get("port")?.as_u64());
        Ok(Target {
            scheme: "http",
            host,
            port: port.and_then(|p| u16::try_from(p).ok()).unwrap_or(80),
            path: super::pod::with_query(path, query),
            kubelet: false,
        })
    }
}
