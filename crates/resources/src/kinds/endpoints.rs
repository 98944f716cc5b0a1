//! Endpoints and endpoint slices.

use std::collections::BTreeSet;

use api::Object;
use api::field::{Errors, Path};
use api::names;
use registry::RequestContext;
use serde_json::Value;

use crate::at::{At, immutable};

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const TOPOLOGY_MAX: usize = 16;
const HINTS_MAX: usize = 8;

pub struct Endpoints;

impl registry::Strategy for Endpoints {
    fn create_on_update(&self) -> bool {
        true
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let all = At::of(object, "subsets");
        for (i, subset) in all.value.as_array().into_iter().flatten().enumerate() {
            let at = At::new(subset, all.path.index(i));
            if at.len("addresses") + at.len("notReadyAddresses") == 0 {
                errors.required(&at.path, "must specify `addresses` or `notReadyAddresses`");
            }
            for list in ["addresses", "notReadyAddresses"] {
                for address in at.items(list) {
                    address.check("ip", names::ip_address, errors);
                    address.check_if_set("hostname", names::dns1123_label, errors);
                    if address.has("nodeName") {
                        address.check("nodeName", names::dns1123_subdomain, errors);
                    }
                    reachable(&address.field("ip"), errors);
                }
            }
            let ports = at.items("ports");
            for port in &ports {
                if ports.len() > 1 {
                    port.required("name", errors);
                }
                port.check_if_set("name", names::dns1123_label, errors);
                let number = port.i64("port").unwrap_or(0);
                for fault in names::port_number(number) {
                    port.invalid("port", number, &fault, errors);
                }
                port.one_of("protocol", PROTOCOLS, errors);
                port.check_if_set("appProtocol", names::qualified_name, errors);
            }
        }
    }
}

/// An address that somebody else can reach; what is no address at all is told of here, too.
fn reachable(at: &At<'_>, errors: &mut Errors) {
    if names::ip_address(at.text()).is_empty() {
        at.check_self(names::endpoint_address, errors);
    } else {
        errors.invalid(&at.path, at.text(), "must be a valid IP address");
    }
}

/// A name with at least two labels.
fn qualified(at: &At<'_>, errors: &mut Errors) {
    if at.text().is_empty() {
        errors.required(&at.path, "");
        return;
    }
    let name = at.text().strip_suffix('.').unwrap_or(at.text());
    let faults = names::dns1123_subdomain(name);
    if !faults.is_empty() {
        errors.invalid(&at.path, name, faults.join(","));
        return;
    }
    if !name.contains('.') {
        let words = "should be a domain with at least two segments separated by dots";
        errors.invalid(&at.path, name, words);
        return;
    }
    for label in name.split('.') {
        let faults = names::dns1123_label(label);
        if !faults.is_empty() {
            errors.invalid(&at.path, label, faults.join(","));
            return;
        }
    }
}

pub struct EndpointSlice;

impl registry::Strategy for EndpointSlice {
    fn default(&self, object: &mut Object) {
        for port in object.0.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(port) = port {
                port.entry("name").or_insert("".into());
                port.entry("protocol").or_insert("TCP".into());
            }
        }
    }

    /// The topology map is what v1beta1 had; v1 shows what is stored of it and takes no more.
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        for endpoint in object.0.get_mut("endpoints").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(endpoint) = endpoint {
                endpoint.remove("deprecatedTopology");
            }
        }
    }

    fn prepare_update(&self, cx: &RequestContext, new: &mut Object, old: &Object) {
        // Labels count as the rest does: they say whose endpoints these are.
        if new.labels() != old.labels() {
            new.set_meta("generation", old.generation() + 1);
        }
        if new.0.get("endpoints") != old.0.get("endpoints") {
            let held = |o: &Object| {
                let list = o.0.get("endpoints").and_then(Value::as_array).cloned().unwrap_or_default();
                list.iter().any(|e| e.get("deprecatedTopology").is_some())
            };
            if !held(old) {
                self.prepare_create(cx, new);
            }
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let kind = At::of(object, "addressType");
        let supported = ["FQDN", "IPv4", "IPv6"];
        if kind.text().is_empty() {
            errors.required(&kind.path, "");
        } else if !supported.contains(&kind.text()) {
            errors.not_supported(&kind.path, kind.text(), &supported);
        }
        let all = At::of(object, "endpoints");
        let list = all.value.as_array().map_or(&[][..], Vec::as_slice);
        if list.len() > 1000 {
            errors.too_many(&all.path, list.len(), 1000);
        }
        for (i, endpoint) in list.iter().enumerate().filter(|_| list.len() <= 1000) {
            one(&At::new(endpoint, all.path.index(i)), kind.text(), errors);
        }
        ports(object, errors);
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let path = ["addressType"];
        immutable(new.get(&path), old.get(&path), &Path::new("addressType"), errors);
    }
}

fn one(at: &At<'_>, kind: &str, errors: &mut Errors) {
    let addresses = at.items("addresses");
    let path = at.path.child("addresses");
    if addresses.is_empty() {
        errors.required(&path, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        errors.too_many(&path, addresses.len(), 100);
    }
    for address in &addresses {
        let text = address.text();
        match kind {
            "IPv4" => {
                if text.parse::<std::net::Ipv4Addr>().is_err() {
                    errors.invalid(&address.path, text, "must be a valid IPv4 address");
                }
                reachable(address, errors);
            }
            "IPv6" => {
                if text.parse::<std::net::Ipv6Addr>().is_err() {
                    errors.invalid(&address.path, text, "must be a valid IPv6 address");
                }
                reachable(address, errors);
            }
            "FQDN" => qualified(address, errors),
            _ => {}
        }
    }
    at.check_if_set("nodeName", names::dns1123_subdomain, errors);
    if at.len("deprecatedTopology") > TOPOLOGY_MAX {
        let count = at.len("deprecatedTopology");
        errors.too_many(&at.path.child("deprecatedTopology"), count, TOPOLOGY_MAX);
    }
    registry::meta::labels(at.raw("deprecatedTopology"), &at.path.child("deprecatedTopology"), errors);
    at.check_if_set("hostname", names::dns1123_label, errors);
    for hints in ["forZones", "forNodes"] {
        let zones = at.field("hints").items(hints);
        if zones.len() > HINTS_MAX {
            errors.too_many(&at.path.child("hints").child(hints), zones.len(), HINTS_MAX);
            continue;
        }
        for (i, zone) in zones.iter().enumerate() {
            if zones[..i].iter().any(|z| z.str("name") == zone.str("name")) {
                errors.duplicate(&zone.path.child("name"), zone.str("name"));
            }
            zone.check("name", names::label_value, errors);
        }
    }
}

fn ports(object: &Object, errors: &mut Errors) {
    let all = At::of(object, "ports");
    let list = all.value.as_array().map_or(&[][..], Vec::as_slice);
    if list.len() > 20_000 {
        errors.too_many(&all.path, list.len(), 20_000);
    }
    let mut seen = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let at = At::new(port, all.path.index(i));
        at.check_if_set("name", names::dns1123_label, errors);
        let name = at.str("name");
        let again = !seen.insert(name);
        if again {
            errors.duplicate(&at.path.child("name"), name);
        }
        at.one_of("protocol", PROTOCOLS, errors);
        at.check_if_set("appProtocol", names::qualified_name, errors);
    }
}
