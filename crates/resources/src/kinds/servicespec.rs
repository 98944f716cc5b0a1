//! Faults of a service's spec.

use std::collections::BTreeSet;

use api::field::{Errors, Path};
use api::{Object, names};
use serde_json::Value;

use crate::at::{At, port_number_or_name};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// The annotation that ranges of sources stood in before they had a field.
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
/// A node's own port: cloud balancers that open it would open the kubelet.
const KUBELET_PORT: i64 = 10250;

/// Faults of a service, new or changed.
pub(super) fn validate(object: &Object, errors: &mut Errors) {
    let spec = At::of(object, "spec");
    let kind = spec.str("type");
    let annotations = Path::new("metadata.annotations");
    if let (Some(mode), Some(hints)) = (object.annotation(MODE), object.annotation(HINTS))
        && mode != hints
    {
        let words = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&annotations.key(MODE), mode, words);
    }
    by_type(&spec, kind, errors);
    ports(&spec, errors);
    registry::meta::labels(spec.raw("selector"), &spec.path.child("selector"), errors);
    affinity(&spec, errors);
    if kind != "ExternalName" {
        addresses(&spec, errors);
    }
    for ip in spec.items("externalIPs") {
        ip.check_self(names::endpoint_address, errors);
    }
    spec.one_of("type", TYPES, errors);
    port_uses(&spec, kind, errors);
    load_balancer(&spec, kind, errors);
    if let (0, Some(text)) = (spec.len("loadBalancerSourceRanges"), object.annotation(RANGES)) {
        let path = annotations.key(RANGES);
        if kind != "LoadBalancer" {
            errors.forbidden(&path, "may only be used when `type` is 'LoadBalancer'");
        }
        for range in text.split(',').filter(|_| !text.trim().is_empty()) {
            source_range(range.trim(), &path, errors);
        }
    }
    balancer_fields(&spec, kind, errors);
    traffic(&spec, kind, errors);
}

/// What a service says in vain.
pub(super) fn warnings(object: &Object) -> Vec<String> {
    let spec = At::of(object, "spec");
    let mut all = Vec::new();
    if object.annotation(HINTS).is_some() {
        all.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    if is_headless(&spec) {
        if !spec.str("loadBalancerIP").is_empty() {
            all.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if spec.len("externalIPs") > 0 {
            all.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.str("sessionAffinity") != "None" {
            all.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    all
}

fn is_headless(spec: &At<'_>) -> bool {
    let all = spec.items("clusterIPs");
    all.len() == 1 && all[0].text() == "None"
}

/// Whether it is reached from outside of the cluster.
pub(super) fn is_facing(spec: &At<'_>) -> bool {
    match spec.str("type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => spec.len("externalIPs") > 0,
        _ => false,
    }
}

fn by_type(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let headless = is_headless(spec);
    if spec.len("ports") == 0 && !headless && kind != "ExternalName" {
        errors.required(&spec.path.child("ports"), "");
    }
    for port in spec.items("ports").iter().filter(|_| kind == "LoadBalancer") {
        if let Some(number) = port.i64("port").filter(|n| *n == KUBELET_PORT) {
            let words = format!("may not expose port {number} externally since it is used by kubelet");
            errors.invalid(&port.path, number, words);
        }
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
                for fault in names::dns1123_subdomain(name) {
                    spec.invalid("externalName", name, &fault, errors);
                }
            }
        }
        _ => {}
    }
}

fn ports(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.items("ports");
    let named = all.len() > 1;
    let mut seen = BTreeSet::new();
    for port in &all {
        let name = port.str("name");
        let again = !seen.insert(name);
        if name.is_empty() {
            if named {
                errors.required(&port.path.child("name"), "");
            }
        } else {
            port.check("name", names::dns1123_label, errors);
            if again {
                errors.duplicate(&port.path.child("name"), name);
            }
        }
        let number = port.i64("port").unwrap_or(0);
        for fault in names::port_number(number) {
            port.invalid("port", number, &fault, errors);
        }
        port.one_of("protocol", &["SCTP", "TCP", "UDP"], errors);
        port_number_or_name(&port.field("targetPort"), errors);
        if port.has("appProtocol") {
            port.check("appProtocol", names::qualified_name, errors);
        }
    }
}

/// Faults of what the ports take: node ports that the type does not have, and numbers taken twice.
fn port_uses(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let all = spec.items("ports");
    for port in all.iter().filter(|p| kind == "ClusterIP" && p.i64("nodePort").unwrap_or(0) != 0) {
        errors.forbidden(&port.path.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
    }
    let mut seen = BTreeSet::new();
    for port in &all {
        let again = !seen.insert((port.i64("port"), port.str("protocol")));
        if again {
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
    } else if !config.is_absent() && spec.str("sessionAffinity") == "None" {
        errors.forbidden(&config.path, "must not be set when session affinity is None");
    }
}

/// Faults of the addresses and their families.
fn addresses(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.items("clusterIPs");
    let path = spec.path.child("clusterIPs");
    let shown = spec.raw("clusterIPs").cloned().unwrap_or(Value::Null);
    let first = all.first().map(At::text).unwrap_or_default();
    match (spec.str("clusterIP"), all.is_empty()) {
        ("", false) => errors.invalid(&path, &shown, "must be empty when `clusterIP` is not specified"),
        ("", true) => {}
        (_, true) => errors.required(&path, ""),
        (one, false) if one != first => errors.invalid(&path, &shown, "first value must match `clusterIP`"),
        _ => {}
    }
    families(spec, errors);
    let mut sound = true;
    for (i, ip) in all.iter().enumerate() {
        if i == 0 && ip.text() == "None" {
            if all.len() > 1 {
                sound = false;
                errors.invalid(&path, &shown, "'None' must be the first and only value");
            }
            continue;
        }
        sound &= names::ip_address(ip.text()).is_empty();
        ip.check_self(names::ip_address, errors);
    }
    if all.len() > 2 {
        errors.invalid(&path, &shown, "may only hold up to 2 values");
    }
    if !sound {
        return;
    }
    let v6 = |ip: &At<'_>| ip.text().contains(':');
    if all.len() > 1 && all.iter().all(v6) == all.iter().any(v6) {
        errors.invalid(&path, &shown, "may specify no more than one IP for each IP family");
    }
    if is_headless(spec) {
        return;
    }
    for (i, (ip, family)) in all.iter().zip(spec.items("ipFamilies")).enumerate() {
        if matches!((family.text(), v6(ip)), ("IPv4", true) | ("IPv6", false)) {
            let words = format!("expected an {} value as indicated by `ipFamilies[{i}]`", family.text());
            errors.invalid(&ip.path, ip.text(), words);
        }
    }
}

fn families(spec: &At<'_>, errors: &mut Errors) {
    let all = spec.items("ipFamilies");
    let mut seen = BTreeSet::new();
    for family in &all {
        let again = !seen.insert(family.text());
        if !["IPv4", "IPv6"].contains(&family.text()) {
            errors.not_supported(&family.path, family.text(), &["IPv4", "IPv6"]);
        }
        if again {
            errors.duplicate(&family.path, family.text());
        }
    }
    spec.one_of_if_set("ipFamilyPolicy", &["PreferDualStack", "RequireDualStack", "SingleStack"], errors);
}

fn source_range(text: &str, path: &Path, errors: &mut Errors) {
    if text.parse::<ipnet::IpNet>().is_err() {
        errors.invalid(path, text, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
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
        source_range(range.text().trim(), &path.index(i), errors);
    }
}

fn balancer_fields(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    if kind != "LoadBalancer" && spec.has("allocateLoadBalancerNodePorts") {
        errors.forbidden(&spec.path.child("allocateLoadBalancerNodePorts"), only);
    }
    balancer_class(spec, kind, errors);
}

fn balancer_class(spec: &At<'_>, kind: &str, errors: &mut Errors) {
    let only = "may only be used when `type` is 'LoadBalancer'";
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
    if !is_facing(spec) {
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
    let (is, was) = (At::of(new, "spec"), At::of(old, "spec"));
    // An address is kept for good, but for services that give it up by their type.
    if is.str("type") != "ExternalName" && was.str("type") != "ExternalName" {
        changed_addresses(&is, &was, errors);
    }
    if is.str("type") == "LoadBalancer" && was.str("type") == "LoadBalancer" {
        if is.raw("loadBalancerClass") != was.raw("loadBalancerClass") {
            let shown = is.raw("loadBalancerClass").cloned().unwrap_or(Value::Null);
            is.invalid("loadBalancerClass", &shown, "may not change once set", errors);
        }
        balancer_class(&is, "LoadBalancer", errors);
        let local = |spec: &At<'_>| spec.str("externalTrafficPolicy") == "Local";
        if local(&is) && local(&was) && is.i64("healthCheckNodePort") != was.i64("healthCheckNodePort") {
            errors.forbidden(&is.path.child("healthCheckNodePort"), "field is immutable");
        }
    } else {
        balancer_class(&is, is.str("type"), errors);
    }
    validate(new, errors);
    // Of a new service's ports, the second is told that the first has taken the number.
    for port in doubled_node_ports(new) {
        errors.duplicate(&port.path.child("nodePort"), port.i64("nodePort").unwrap_or(0));
    }
}

/// The first address stays; the second may come, and go where the policy says so.
fn changed_addresses(is: &At<'_>, was: &At<'_>, errors: &mut Errors) {
    if is_headless(is) && is_headless(was) {
        return;
    }
    let (after, before) = (is.items("clusterIPs"), was.items("clusterIPs"));
    let path = is.path.child("clusterIPs");
    let shown = is.raw("clusterIPs").cloned().unwrap_or(Value::Null);
    let compared = if after.len() == before.len() { before.len() } else { 1 };
    for (i, (a, b)) in after.iter().zip(&before).take(compared).enumerate() {
        if a.text() != b.text() {
            errors.invalid(&path.index(i), &shown, "may not change once set");
        }
    }
    let single = is.str("ipFamilyPolicy") == "SingleStack";
    if before.len() > after.len() {
        if after.is_empty() {
            errors.invalid(&path.index(0), &shown, "primary clusterIP can not be unset");
        } else if after.len() == 1 && !single {
            let policy = is.raw("ipFamilyPolicy").cloned().unwrap_or(Value::Null);
            let words = "must be set to 'SingleStack' when releasing the secondary clusterIP";
            is.invalid("ipFamilyPolicy", &policy, words, errors);
        }
    }
    if is_headless(is) || is_headless(was) {
        return;
    }
    let (after, before) = (is.items("ipFamilies"), was.items("ipFamilies"));
    let shown = is.raw("ipFamilies").cloned().unwrap_or(Value::Null);
    let path = is.path.child("ipFamilies").index(0);
    let compared = if after.len() == before.len() { before.len() } else { 1 };
    for (a, b) in after.iter().zip(&before).take(compared) {
        if a.text() != b.text() {
            errors.invalid(&path, &shown, "may not change once set");
        }
    }
}

/// Ports that ask for the node port of one before them, in the same protocol.
pub(super) fn doubled_node_ports(service: &Object) -> Vec<At<'_>> {
    let mut seen = BTreeSet::new();
    let mut all = At::of(service, "spec").items("ports");
    all.retain(|port| {
        let node = port.i64("nodePort").filter(|node| *node != 0);
        node.is_some_and(|node| !seen.insert((port.str("protocol").to_owned(), node)))
    });
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{object, told};

    fn service(spec: Value) -> Object {
        let mut whole = json!({
            "sessionAffinity": "None", "type": "ClusterIP", "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
        });
        for (field, value) in spec.as_object().into_iter().flatten() {
            whole[field] = value.clone();
        }
        if matches!(whole["type"].as_str(), Some("LoadBalancer" | "NodePort")) {
            whole["externalTrafficPolicy"] = "Cluster".into();
        }
        object(json!({"spec": whole}))
    }

    #[test]
    fn addresses_and_uses_are_checked() {
        let cases = [
            (json!({}), vec![]),
            (
                json!({"clusterIP": "bad", "clusterIPs": ["bad"]}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"bad\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                json!({"ipFamilies": ["IPv6"]}),
                vec![
                    "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                ],
            ),
            (
                json!({"type": "LoadBalancer", "ports": [{"port": 10250, "protocol": "TCP", "targetPort": 1}]}),
                vec![
                    "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
                ],
            ),
        ];
        for (spec, faults) in cases {
            let mut errors = Errors::default();
            validate(&service(spec), &mut errors);
            assert_eq!(told(&errors), faults);
        }
    }

    #[test]
    fn addresses_stay() {
        let cases = [
            (json!({}), vec![]),
            (
                json!({"clusterIP": "None", "clusterIPs": ["None"]}),
                vec!["spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"],
            ),
            (
                json!({"clusterIP": "10.96.0.8", "clusterIPs": ["10.96.0.8"]}),
                vec!["spec.clusterIPs[0]: Invalid value: [\"10.96.0.8\"]: may not change once set"],
            ),
        ];
        for (spec, faults) in cases {
            let mut errors = Errors::default();
            validate_update(&service(spec), &service(json!({})), &mut errors);
            assert_eq!(told(&errors), faults);
        }
    }
}
