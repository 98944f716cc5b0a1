//! Ingresses, their classes, and network policies.

use api::Object;
use api::field::{Errors, Path};
use api::names;
use serde_json::{Value, json};

use crate::at::{At, immutable, label_selector, port_number_or_name};

pub struct Ingress;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

impl registry::Strategy for Ingress {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        super::balancer::validate(&At::of(new, "status").field("loadBalancer"), false, errors);
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        ingress_spec(&At::of(object, "spec"), errors);
        if let Some(class) = object.annotation(CLASS_ANNOTATION)
            && object.get(&["spec", "ingressClassName"]).is_some()
        {
            let path = Path::new("annotations").child(CLASS_ANNOTATION);
            errors.invalid(&path, class, "can not be set when the class field is also set");
        }
    }

    fn validate_update(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        ingress_spec(&At::of(new, "spec"), errors);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let annotated = new.annotation(CLASS_ANNOTATION).is_some();
        if old.is_some() || !annotated || new.get(&["spec", "ingressClassName"]).is_some() {
            return Vec::new();
        }
        let name = api::field::quote(CLASS_ANNOTATION);
        vec![format!("annotation {name} is deprecated, please use 'spec.ingressClassName' instead")]
    }
}

fn ingress_spec(spec: &At<'_>, errors: &mut Errors) {
    if spec.len("rules") == 0 && !spec.has("defaultBackend") {
        errors.invalid(&spec.path, spec.value, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = spec.some("defaultBackend") {
        ingress_backend(&backend, errors);
    }
    for rule in spec.items("rules") {
        host(&rule, errors);
        let Some(http) = rule.some("http") else { continue };
        if http.len("paths") == 0 {
            errors.required(&http.path.child("paths"), "");
        }
        for path in http.items("paths") {
            http_path(&path, errors);
        }
    }
    for tls in spec.items("tls") {
        for host in tls.items("hosts") {
            let wild = host.text().contains('*');
            host.check_self(
                if wild { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain },
                errors,
            );
        }
        tls.check_if_set("secretName", names::dns1123_subdomain, errors);
    }
    if spec.has("ingressClassName") {
        spec.check("ingressClassName", names::dns1123_subdomain, errors);
    }
}

fn host(rule: &At<'_>, errors: &mut Errors) {
    let host = rule.str("host");
    if host.is_empty() {
        return;
    }
    if host.parse::<std::net::IpAddr>().is_ok() {
        rule.invalid("host", host, "must be a DNS name, not an IP address", errors);
    }
    let wild = host.contains('*');
    rule.check(
        "host",
        if wild { names::wildcard_dns1123_subdomain } else { names::dns1123_subdomain },
        errors,
    );
}

fn http_path(at: &At<'_>, errors: &mut Errors) {
    let path = at.str("path");
    let absolute = "must be an absolute path";
    match at.str("pathType") {
        "" => errors.required(&at.path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !path.starts_with('/') {
                at.invalid("path", path, absolute, errors);
            }
            if !path.is_empty() {
                for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                    if path.contains(bad) {
                        at.invalid("path", path, &format!("must not contain '{bad}'"), errors);
                    }
                }
                for bad in ["/..", "/."] {
                    if path.ends_with(bad) {
                        at.invalid("path", path, &format!("cannot end with '{bad}'"), errors);
                    }
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !path.starts_with('/') {
                at.invalid("path", path, absolute, errors);
            }
        }
        other => errors.not_supported(
            &at.path.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        ),
    }
    ingress_backend(&at.field("backend"), errors);
}

fn ingress_backend(at: &At<'_>, errors: &mut Errors) {
    match (at.some("resource"), at.some("service")) {
        (Some(_), Some(_)) => errors.invalid(&at.path, "", "cannot set both resource and service backends"),
        (None, None) => errors.invalid(&at.path, "", "resource or service backend is required"),
        (Some(resource), None) => {
            typed_reference(&resource, errors);
        }
        (None, Some(service)) => {
            if service.required("name", errors) {
                service.check("name", names::dns1035_label, errors);
            }
            let port = service.field("port");
            let (name, number) = (port.str("name"), port.i64("number").unwrap_or(0));
            match (name.is_empty(), number) {
                (false, 0) => port.check("name", names::port_name, errors),
                (false, _) => errors.invalid(&at.path, "", "cannot set both port name & port number"),
                (true, 0) => errors.required(&at.path, "port name or number is required"),
                (true, n) => {
                    for fault in names::port_number(n) {
                        port.invalid("number", n, &fault, errors);
                    }
                }
            }
        }
    }
}

/// Faults of what is named by its group, kind and name.
fn typed_reference(at: &At<'_>, errors: &mut Errors) {
    if at.has("apiGroup") {
        at.check("apiGroup", names::dns1123_subdomain, errors);
    }
    for (field, words) in [("kind", "kind is required"), ("name", "name is required")] {
        if at.str(field).is_empty() {
            errors.required(&at.path.child(field), words);
        } else {
            at.check(field, names::path_segment, errors);
        }
    }
}

pub struct IngressClass;

impl registry::Strategy for IngressClass {
    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        if spec.str("controller").len() > 250 {
            errors.too_long(&spec.path.child("controller"), 250);
        }
        spec.check("controller", names::domain_prefixed_path, errors);
        let Some(at) = spec.some("parameters") else { return };
        typed_reference(&at, errors);
        match at.str("scope") {
            "" => errors.required(&at.path.child("scope"), ""),
            "Cluster" => {
                if at.has("namespace") {
                    errors.forbidden(&at.path.child("namespace"), "`parameters.scope` is set to 'Cluster'");
                }
            }
            "Namespace" => {
                if at.str("namespace").is_empty() {
                    errors.required(&at.path.child("namespace"), "`parameters.scope` is set to 'Namespace'");
                } else {
                    at.check("namespace", names::dns1123_label, errors);
                }
            }
            other => errors.not_supported(&at.path.child("scope"), other, &["Cluster", "Namespace"]),
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        self.validate(new, errors);
        let path = ["spec", "controller"];
        immutable(new.get(&path), old.get(&path), &Path::new("spec.controller"), errors);
    }
}

pub struct NetworkPolicy;

impl registry::Strategy for NetworkPolicy {
    fn default(&self, object: &mut Object) {
        let spec = api::object::map_entry(&mut object.0, "spec");
        if spec.get("policyTypes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let egress = spec.get("egress").and_then(Value::as_array).is_some_and(|e| !e.is_empty());
            let types = if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) };
            spec.insert("policyTypes".into(), types);
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let spec = At::of(object, "spec");
        label_selector(&spec.field("podSelector"), errors);
        for (rules, peers) in [("ingress", "from"), ("egress", "to")] {
            for rule in spec.items(rules) {
                for port in rule.items("ports") {
                    policy_port(&port, errors);
                }
                for peer in rule.items(peers) {
                    policy_peer(&peer, errors);
                }
            }
        }
        let types = spec.items("policyTypes");
        if types.len() > 2 {
            let shown = spec.raw("policyTypes").cloned().unwrap_or_default();
            spec.invalid("policyTypes", &shown, "may not specify more than two policyTypes", errors);
            return;
        }
        for kind in types {
            if !["Ingress", "Egress"].contains(&kind.text()) {
                errors.not_supported(&kind.path, kind.text(), &["Ingress", "Egress"]);
            }
        }
    }
}

fn policy_port(at: &At<'_>, errors: &mut Errors) {
    at.one_of_if_set("protocol", &["TCP", "UDP", "SCTP"], errors);
    let end = at.i64("endPort");
    let Some(port) = at.some("port") else {
        if let Some(end) = end {
            at.invalid("endPort", end, "may not be specified when `port` is not specified", errors);
        }
        return;
    };
    if let (Some(end), Value::String(_)) = (end, port.value) {
        at.invalid("endPort", end, "may not be specified when `port` is non-numeric", errors);
    }
    port_number_or_name(&port, errors);
    if let (Some(end), Some(n)) = (end, port.value.as_i64()) {
        if end < n {
            at.invalid("endPort", n, "must be greater than or equal to `port`", errors);
        }
        for fault in names::port_number(end) {
            at.invalid("endPort", end, &fault, errors);
        }
    }
}

fn policy_peer(at: &At<'_>, errors: &mut Errors) {
    let mut peers = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = at.some(selector) {
            peers += 1;
            label_selector(&selector, errors);
        }
    }
    let block = at.some("ipBlock");
    if let Some(block) = &block {
        peers += 1;
        ip_block(block, errors);
    }
    if peers == 0 {
        errors.required(&at.path, "must specify a peer");
    } else if peers > 1 && block.is_some() {
        errors.forbidden(&at.path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(at: &At<'_>, errors: &mut Errors) {
    if at.str("cidr").is_empty() {
        errors.required(&at.path.child("cidr"), "");
        return;
    }
    let bad = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
    let Ok(cidr) = at.str("cidr").parse::<ipnet::IpNet>() else {
        at.invalid("cidr", at.str("cidr"), bad, errors);
        return;
    };
    for except in at.items("except") {
        match except.text().parse::<ipnet::IpNet>() {
            Err(_) => errors.invalid(&except.path, except.text(), bad),
            Ok(inner) => {
                if !cidr.contains(&inner) || inner.prefix_len() <= cidr.prefix_len() {
                    errors.invalid(&except.path, except.text(), "must be a strict subset of `cidr`");
                }
            }
        }
    }
}
