//! Faults of a service's spec.

use api::field::{Errors, Path};
use api::{Object, names};
use serde_json::Value;

use crate::at::{At, port_number_or_name};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Faults of a service, new or changed.
pub(super) fn validate(object: &Object, errors: &mut Errors) {
    let spec = At::of(object, "spec");
    let kind = spec.str("type");
    by_type(&spec, kind, errors);
    ports(&spec, kind, errors);
    registry::meta::labels(spec.raw("selector"), &spec.path.child("selector"), errors);
    affinity(&spec, errors);
    cluster_ips(&spec, kind, errors);
    families(&spec, kind, errors);
    for ip in spec.items("externalIPs") {
        ip.check_self(names::endpoint_address, errors);
    }
    if !TYPES.contains(&kind) {
        errors.not_supported(&spec.path.child("type"), kind, TYPES);
    }
    load_balancer(&spec, kind, errors);
    traffic(&spec, kind, errors);
}

fn by_type(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let headless = spec.str("clusterIP") == "None";
    if spec.len("ports") == 0 && !headless && kind != "ExternalName" {
        errors.required(&spec.path.child("ports"), "");
    }
    match kind {
        "LoadBalancer" | "NodePort" if headless => {
            let words = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&spec.path.child("clusterIPs").index(0), "None", words);
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.len(field) > 0 || !spec.str(field).is_empty() {
                    errors.forbidden(&spec.path.child(field), "may not be set for ExternalName services");
                }
            }
            let name = spec.str("externalName");
            let name = name.strip_suffix('.').unwrap_or(name);
            if name.is_empty() {
                errors.required(&spec.path.child("externalName"), "");
            } else {
                for fault in names::dns1123_subdomain(&name.to_lowercase()) {
                    spec.invalid("externalName", spec.str("externalName"), &fault, errors);
                }
            }
        }
        _ => {}
    }
}

fn ports(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let all = spec.items("ports");
    let named = all.len() > 1;
    for (i, port) in all.iter().enumerate() {
        let name = port.str("name");
        if name.is_empty() {
            if named {
                errors.required(&port.path.child("name"), "");
            }
        } else {
            port.check("name", names::dns1123_label, errors);
            if all[..i].iter().any(|p| p.str("name") == name) {
                errors.duplicate(&port.path.child("name"), name);
            }
        }
        let number = port.i64("port").unwrap_or(0);
        for fault in names::port_number(number) {
            port.invalid("port", number, &fault, errors);
        }
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
        port_number_or_name(&port.field("targetPort"), errors);
        port.check_if_set("appProtocol", names::qualified_name, errors);
        let node = port.i64("nodePort").unwrap_or(0);
        if node != 0 && matches!(kind, "ClusterIP" | "ExternalName") {
            errors
                .forbidden(&port.path.child("nodePort"), format!("may not be used when `type` is '{kind}'"));
        }
        let same = |p: &&At<'_>, field: &str| {
            p.i64(field) == port.i64(field) && p.str("protocol") == port.str("protocol")
        };
        if all[..i].iter().any(|p| same(&p, "port")) {
            errors.duplicate(&port.path, port.value);
        }
    }
}

fn affinity(spec: &At<'_>, errors: &mut Errors) {
    spec.one_of("sessionAffinity", &["ClientIP", "None"], errors);
    let config = spec.field("sessionAffinityConfig");
    if spec.str("sessionAffinity") == "ClientIP" {
        let client = config.field("clientIP");
        let seconds = client.i64("timeoutSeconds").unwrap_or(0);
        if !(1..=86400).contains(&seconds) {
            client.invalid("timeoutSeconds", seconds, "must be greater than 0 and less than 86400", errors);
        }
    } else if !config.is_absent() {
        errors.forbidden(
            &config.path,
            format!("must not be set when session affinity is {}", spec.str("sessionAffinity")),
        );
    }
}

fn cluster_ips(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let all = spec.items("clusterIPs");
    let path = spec.path.child("clusterIPs");
    let shown = spec.raw("clusterIPs").cloned().unwrap_or(Value::Null);
    let first = all.first().map(At::text).unwrap_or_default();
    if spec.str("clusterIP").is_empty() && !all.is_empty() {
        errors.invalid(&path, &shown, "must be empty when `clusterIP` is not specified");
    } else if !all.is_empty() && spec.str("clusterIP") != first {
        errors.invalid(&path, &shown, "first value must match `clusterIP`");
    }
    if all.len() > 2 {
        errors.invalid(&path, &shown, "may only hold up to 2 values");
    }
    for (i, ip) in all.iter().enumerate() {
        let text = ip.text();
        if i > 0 && text == "None" {
            errors.invalid(&ip.path, text, "'None' must be the first and only value");
        } else if text != "None" && kind != "ExternalName" {
            ip.check_self(names::ip_address, errors);
        }
    }
}

fn families(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    if kind == "ExternalName" {
        return;
    }
    let all = spec.items("ipFamilies");
    for (i, family) in all.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(&family.text()) {
            errors.not_supported(&family.path, family.text(), &["IPv4", "IPv6"]);
        } else if all[..i].iter().any(|f| f.text() == family.text()) {
            errors.duplicate(&family.path, family.text());
        }
    }
    spec.one_of_if_set("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
}

fn load_balancer(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.items("loadBalancerSourceRanges");
    // The path has had a capital since the field was made.
    let path = spec.path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && kind != "LoadBalancer" {
        errors.forbidden(&path, only);
    }
    for (i, range) in ranges.iter().enumerate() {
        if range.text().trim().parse::<ipnet::IpNet>().is_err() {
            let words = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            errors.invalid(&path.index(i), range.text(), words);
        }
    }
    if kind != "LoadBalancer" && spec.has("allocateLoadBalancerNodePorts") {
        errors.forbidden(&spec.path.child("allocateLoadBalancerNodePorts"), only);
    }
    if spec.has("loadBalancerClass") {
        if kind == "LoadBalancer" {
            spec.check("loadBalancerClass", names::qualified_name, errors);
        } else {
            errors.forbidden(&spec.path.child("loadBalancerClass"), only);
        }
    }
}

fn traffic(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let policies = &["Cluster", "Local"];
    let external = spec.str("externalTrafficPolicy");
    let facing =
        matches!(kind, "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && spec.len("externalIPs") > 0);
    if !facing {
        if !external.is_empty() {
            let words = "may only be set for externally-accessible services";
            spec.invalid("externalTrafficPolicy", external, words, errors);
        }
    } else {
        spec.one_of("externalTrafficPolicy", policies, errors);
    }
    let health = spec.i64("healthCheckNodePort").unwrap_or(0);
    if health != 0 && !(kind == "LoadBalancer" && external == "Local") {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        spec.invalid("healthCheckNodePort", health, words, errors);
    }
    spec.one_of_if_set("internalTrafficPolicy", policies, errors);
    if spec.has("trafficDistribution") {
        let known = &["PreferClose", "PreferSameNode", "PreferSameZone"];
        spec.one_of_if_set("trafficDistribution", known, errors);
    }
}

/// Faults of a change.
pub(super) fn validate_update(new: &Object, old: &Object, errors: &mut Errors) {
    let kind = |o: &Object| o.get_str(&["spec", "type"]).to_owned();
    let (was, is) = (kind(old), kind(new));
    // An address is kept for good, but for services that give it up by their type.
    if was != "ExternalName" && is != "ExternalName" {
        let old_ips = old.get(&["spec", "clusterIPs"]).and_then(Value::as_array);
        let new_ips = new.get(&["spec", "clusterIPs"]).and_then(Value::as_array);
        if let (Some(before), Some(after)) =
            (old_ips.and_then(|l| l.first()), new_ips.and_then(|l| l.first()))
            && before != after
        {
            errors.invalid(&Path::new("spec.clusterIPs").index(0), after, "may not change once set");
        }
    }
    validate(new, errors);
    // Of a new service's ports, the second is told that the first has taken the number.
    for port in doubled_node_ports(new) {
        errors.duplicate(&port.path.child("nodePort"), port.i64("nodePort").unwrap_or(0));
    }
}

/// Ports that ask for the node port of one before them, in the same protocol.
pub(super) fn doubled_node_ports(service: &Object) -> Vec<At<'_>> {
    let mut seen = std::collections::BTreeSet::new();
    let mut all = At::of(service, "spec").items("ports");
    all.retain(|port| {
        let node = port.i64("nodePort").filter(|node| *node != 0);
        node.is_some_and(|node| !seen.insert((port.str("protocol").to_owned(), node)))
    });
    all
}
