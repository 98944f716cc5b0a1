//! Services: addresses and ports that are the service's alone.

use std::collections::{BTreeMap, BTreeSet};

use api::field::Errors;
use api::{GroupResource, Object, Status, names};
use async_trait::async_trait;
use rand::seq::IteratorRandom;
use registry::resource::{Asked, Connect, Target};
use registry::{Claims, Engine, RequestContext};
use serde_json::{Value, json};

use super::serviceclaim::{Ranges, wants_health_port};
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
        crate::at::fill(spec, "sessionAffinity", "None");
        crate::at::fill(spec, "type", "ClusterIP");
        let kind = spec["type"].as_str().unwrap_or_default().to_owned();
        if spec["sessionAffinity"] == "ClientIP" {
            let config = api::object::map_entry(spec, "sessionAffinityConfig");
            api::object::map_entry(config, "clientIP").entry("timeoutSeconds").or_insert(json!(10800));
        }
        for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            let Value::Object(port) = port else { continue };
            crate::at::fill(port, "protocol", "TCP");
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
        let one = object.get_str(&["spec", "clusterIP"]).to_owned();
        if !one.is_empty() && texts(object, "clusterIPs").is_empty() {
            object.set(&["spec", "clusterIPs"], json!([one]));
        }
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        if !is_external_name(new) && !is_external_name(old) {
            keep_addresses(new, old);
        }
        follow_first_address(new, old);
        if holds_ports(new) && holds_ports(old) {
            keep_node_ports(new, old);
        }
        let health = ["spec", "healthCheckNodePort"];
        if wants_health_port(new)
            && wants_health_port(old)
            && new.get(&health).and_then(Value::as_i64).unwrap_or(0) == 0
            && let Some(port) = old.get(&health)
        {
            new.set(&health, port.clone());
        }
        drop_unwanted(new, old);
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        servicespec::warnings(new)
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

fn kind(service: &Object) -> &str {
    service.get_str(&["spec", "type"])
}

fn is_external_name(service: &Object) -> bool {
    kind(service) == "ExternalName"
}

fn holds_ports(service: &Object) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// The texts of a list in the spec.
fn texts<'a>(service: &'a Object, field: &str) -> Vec<&'a str> {
    let list = service.get(&["spec", field]).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Who does not say what was given out to the service keeps it.
fn keep_addresses(new: &mut Object, old: &Object) {
    for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        let missing = match new.get(&["spec", field]) {
            None | Some(Value::Null) => true,
            Some(Value::String(text)) => text.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if missing && let Some(value) = old.get(&["spec", field]) {
            new.set(&["spec", field], value.clone());
        }
    }
}

/// A service gives up what its new type does not hold, as long as the client did not change that too.
fn drop_unwanted(new: &mut Object, old: &Object) {
    let drop = |new: &mut Object, fields: &[&str]| {
        let set = |value: Option<&Value>| value.filter(|v| !v.is_null()).cloned();
        if fields.iter().all(|f| set(new.get(&["spec", f])) == set(old.get(&["spec", f]))) {
            for field in fields {
                new.remove(&["spec", field]);
            }
        }
    };
    if is_external_name(new) && !is_external_name(old) {
        drop(new, &["clusterIP", "clusterIPs"]);
        drop(new, &["ipFamilies"]);
        drop(new, &["ipFamilyPolicy"]);
        drop(new, &["internalTrafficPolicy"]);
    }
    let own_ports = |service: &Object| -> Vec<i64> {
        let all = At::of(service, "spec").items("ports");
        all.iter().filter_map(|port| port.i64("nodePort").filter(|n| *n != 0)).collect()
    };
    if holds_ports(old) && !holds_ports(new) {
        let before: BTreeSet<i64> = own_ports(old).into_iter().collect();
        if own_ports(new).iter().all(|port| before.contains(port)) {
            let list = new.0.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut);
            for port in list.into_iter().flatten().filter_map(Value::as_object_mut) {
                port.remove("nodePort");
            }
        }
    }
    if wants_health_port(old) && !wants_health_port(new) {
        drop(new, &["healthCheckNodePort"]);
    }
    if kind(old) == "LoadBalancer" && kind(new) != "LoadBalancer" {
        drop(new, &["allocateLoadBalancerNodePorts"]);
        drop(new, &["loadBalancerClass"]);
    }
    if servicespec::is_facing(&At::of(old, "spec")) && !servicespec::is_facing(&At::of(new, "spec")) {
        drop(new, &["externalTrafficPolicy"]);
    }
    let balancer = ["status", "loadBalancer"];
    if kind(new) != "LoadBalancer" && new.get(&balancer).is_some() {
        new.set(&balancer, json!({}));
    }
}

/// A client that knows one address alone has changed it: the list goes with it, as long as it did not say
/// otherwise.
fn follow_first_address(new: &mut Object, old: &Object) {
    let address = new.get_str(&["spec", "clusterIP"]).to_owned();
    if address == old.get_str(&["spec", "clusterIP"]) || texts(new, "clusterIPs") != texts(old, "clusterIPs")
    {
        return;
    }
    if address.is_empty() {
        new.remove(&["spec", "clusterIPs"]);
    } else {
        new.set(&["spec", "clusterIPs"], json!([address]));
    }
}

fn node_port(port: &Value) -> u64 {
    port.get("nodePort").and_then(Value::as_u64).unwrap_or(0)
}

fn port_name(port: &Value) -> &str {
    port.get("name").and_then(Value::as_str).unwrap_or_default()
}

/// Ports that do not say a node port keep the one that was theirs, by their name.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let list = |service: &Object| -> Vec<Value> {
        service.get(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let before = list(old);
    // Of equal names the last.
    let mut held = BTreeMap::new();
    for port in &before {
        held.insert(port_name(port), node_port(port));
    }
    // What another port asks for is not free any more.
    let used: BTreeSet<u64> = list(new).iter().map(node_port).filter(|n| *n != 0).collect();
    let ports = new.0.get_mut("spec").and_then(|s| s.get_mut("ports")).and_then(Value::as_array_mut);
    for port in ports.into_iter().flatten() {
        if node_port(port) != 0 {
            continue;
        }
        let kept = held.get(port_name(port)).copied().unwrap_or(0);
        if kept != 0 && !used.contains(&kept) {
            port["nodePort"] = kept.into();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        crate::testing::object(json!({"spec": spec}))
    }

    #[test]
    fn a_new_type_drops_what_it_does_not_hold() {
        let balancer = json!({
            "type": "LoadBalancer", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "allocateLoadBalancerNodePorts": true, "loadBalancerClass": "a.b/c",
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "ports": [{"port": 80, "nodePort": 30080}],
        });
        let with = |changes: Value| {
            let mut spec = balancer.clone();
            for (field, value) in changes.as_object().into_iter().flatten() {
                spec[field] = value.clone();
            }
            service(spec)
        };
        let cases = [
            (
                json!({"type": "ClusterIP"}),
                json!({
                    "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}],
                }),
            ),
            (json!({"type": "ExternalName"}), json!({"type": "ExternalName", "ports": [{"port": 80}]})),
        ];
        for (changes, expected) in cases {
            let mut new = with(changes);
            drop_unwanted(&mut new, &with(json!({})));
            assert_eq!(new.0["spec"], expected);
        }
        let mut new = with(json!({"externalTrafficPolicy": "Cluster"}));
        drop_unwanted(&mut new, &with(json!({})));
        assert!(new.get(&["spec", "healthCheckNodePort"]).is_none());
    }

    #[test]
    fn node_ports_are_kept_by_name() {
        let old = service(json!({"ports": [
            {"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 30081},
        ]}));
        let mut new = service(json!({"ports": [
            {"name": "a", "port": 90}, {"name": "b", "port": 81}, {"name": "c", "port": 82, "nodePort": 30081},
        ]}));
        keep_node_ports(&mut new, &old);
        let numbers: Vec<u64> =
            new.0["spec"]["ports"].as_array().into_iter().flatten().map(node_port).collect();
        assert_eq!(numbers, [30080, 0, 30081]);
    }
}
