//! Services: addresses and ports that are the service's alone.

use api::field::Errors;
use api::{GroupResource, Object, Status, names};
use async_trait::async_trait;
use rand::seq::IteratorRandom;
use registry::resource::{Asked, Connect, Target};
use registry::{Claims, Engine, RequestContext};
use serde_json::{Value, json};

use super::serviceclaim::{Ranges, wants_address, wants_ports};
use super::servicespec;
use crate::Settings;
use crate::at::At;

pub struct Strategy {
    ranges: Ranges,
}

impl Strategy {
    pub fn new(settings: &Settings) -> Strategy {
        Strategy { ranges: Ranges::new(settings) }
    }
}

#[async_trait]
impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn create_on_update(&self) -> bool {
        true
    }

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
        if kind == "LoadBalancer" {
            default_modes(object);
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
            follow_first_address(new, old);
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

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        let balancer = At::of(new, "status").field("loadBalancer");
        if new.get_str(&["spec", "type"]) != "LoadBalancer" && balancer.len("ingress") > 0 {
            let words = "may only be used when `spec.type` is 'LoadBalancer'";
            errors.forbidden(&balancer.path.child("ingress"), words);
        } else {
            super::balancer::validate(&balancer, true, errors);
        }
    }

    async fn claim(&self, engine: &Engine, new: &mut Object, old: Option<&Object>) -> Result<Claims, Status> {
        self.ranges.claim(engine, new, old).await
    }

    fn release(&self, old: &Object) -> Vec<String> {
        self.ranges.release(old)
    }
}

/// Packets to a balancer's address keep it, where the balancer does not say otherwise.
fn default_modes(service: &mut Object) {
    let list = service.0.get_mut("status").and_then(|s| s.get_mut("loadBalancer")?.get_mut("ingress"));
    for ingress in list.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(ingress) = ingress
            && ingress.get("ip").and_then(Value::as_str).is_some_and(|ip| !ip.is_empty())
        {
            ingress.entry("ipMode").or_insert("VIP".into());
        }
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

/// A client that knows one address alone has changed it: the list goes with it, as long as it did not say
/// otherwise.
fn follow_first_address(new: &mut Object, old: &Object) {
    let address = new.get_str(&["spec", "clusterIP"]).to_owned();
    let changed = !address.is_empty() && address != old.get_str(&["spec", "clusterIP"]);
    if changed && new.get(&["spec", "clusterIPs"]) == old.get(&["spec", "clusterIPs"]) {
        let mut list: Vec<Value> =
            new.get(&["spec", "clusterIPs"]).and_then(Value::as_array).cloned().unwrap_or_default();
        if let Some(first) = list.first_mut() {
            *first = address.into();
            new.set(&["spec", "clusterIPs"], Value::Array(list));
        }
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

/// `services/NAME/proxy/…`: HTTP to one of its endpoints.
pub struct Proxy;

#[async_trait]
impl Connect for Proxy {
    fn verbs(&self) -> Vec<&'static str> {
        vec!["create", "delete", "get", "patch", "update"]
    }

    fn is_proxy(&self) -> bool {
        true
    }

    async fn target(
        &self,
        engine: &Engine,
        service: &Object,
        asked: &Asked<'_>,
    ) -> Result<Option<Target>, Status> {
        let quoted = api::field::quote(service.name());
        let ports = service.get(&["spec", "ports"]).and_then(Value::as_array);
        let name = match asked.port.parse::<u64>() {
            Err(_) => asked.port,
            Ok(number) => {
                let port = ports.into_iter().flatten().find(|port| port["port"].as_u64() == Some(number));
                let missing =
                    || Status::unavailable(format!("no service port {number} found for service {quoted}"));
                port.ok_or_else(missing)?.get("name").and_then(Value::as_str).unwrap_or_default()
            }
        };
        let key = format!("{}/{}", service.namespace(), service.name());
        let endpoints = engine.cache("", "endpoints").and_then(|cache| cache.get(&key));
        let endpoints = match endpoints {
            Some(item) => item.object()?,
            None => {
                let resource = GroupResource::new("", "endpoints");
                return Err(Status::not_found(&resource, service.name()));
            }
        };
        let (host, port) = endpoint(&endpoints, name)
            .ok_or_else(|| Status::unavailable(format!("no endpoints available for service {quoted}")))?;
        let path = super::pod::with_query(asked.path, asked.query);
        Ok(Some(Target { scheme: "http", host, port, path, kubelet: false }))
    }
}

/// A random ready address of a port of this name, and its number there.
fn endpoint(endpoints: &Object, name: &str) -> Option<(String, u16)> {
    let subsets = endpoints.0.get("subsets").and_then(Value::as_array);
    let list = |subset: &Value, field: &str| subset.get(field).and_then(Value::as_array).cloned();
    let mut found = Vec::new();
    for subset in subsets.into_iter().flatten() {
        let ports = list(subset, "ports").unwrap_or_default();
        let port =
            ports.iter().find(|port| port.get("name").and_then(Value::as_str).unwrap_or_default() == name);
        let Some(port) = port.and_then(|port| u16::try_from(port.get("port")?.as_u64()?).ok()) else {
            continue;
        };
        for address in list(subset, "addresses").unwrap_or_default() {
            found.extend(address.get("ip").and_then(Value::as_str).map(|ip| (ip.to_owned(), port)));
        }
    }
    found.into_iter().choose(&mut rand::rng())
}
