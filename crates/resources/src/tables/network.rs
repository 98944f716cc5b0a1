//! Services, endpoints, ingress, policies.

use api::Object;
use jiff::Timestamp;
use registry::Cell;
use serde_json::Value;

use super::cells::{
    NONE, UNKNOWN, UNSET, age, first_three, label_map, list, load_balancer, or, plain, selector, string,
    text as cell,
};
use super::{AGE, NAME, Spec, Table, free, text};

fn texts(values: &[Value]) -> Vec<String> {
    values.iter().map(plain).collect()
}

pub fn service() -> Table {
    const SPEC: &str = "api.core.v1.ServiceSpec";
    const SPECS: &[Spec] = &[
        NAME,
        text("Type", SPEC, "type"),
        text("Cluster-IP", SPEC, "clusterIP"),
        text("External-IP", SPEC, "externalIPs"),
        text("Port(s)", SPEC, "ports"),
        AGE,
        text("Selector", SPEC, "selector").wide(),
    ];
    Table::new(SPECS, |o, now| {
        let ips = texts(list(o, &["spec", "clusterIPs"]));
        vec![
            o.name().into(),
            o.get_str(&["spec", "type"]).into(),
            ips.first().map_or(NONE, String::as_str).into(),
            external(o).into(),
            ports(o).into(),
            age(o, now),
            label_map(o.get(&["spec", "selector"])).into(),
        ]
    })
}

/// Where the service is reached from outside.
fn external(o: &Object) -> String {
    let own = texts(list(o, &["spec", "externalIPs"]));
    match o.get_str(&["spec", "type"]) {
        "ClusterIP" | "NodePort" => or(&own.join(","), NONE).to_owned(),
        "LoadBalancer" => {
            let all = [load_balancer(o), own].concat();
            or(&all.join(","), "<pending>").to_owned()
        }
        "ExternalName" => o.get_str(&["spec", "externalName"]).to_owned(),
        _ => UNKNOWN.into(),
    }
}

fn ports(o: &Object) -> String {
    let all: Vec<String> = list(o, &["spec", "ports"])
        .iter()
        .map(|p| {
            let number = |field: &str| p.get(field).and_then(Value::as_i64).unwrap_or(0);
            let (port, protocol) = (number("port"), string(p, "protocol"));
            match number("nodePort") {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    or(&all.join(","), NONE).to_owned()
}

pub fn endpoints() -> Table {
    const SPECS: &[Spec] = &[NAME, text("Endpoints", "api.core.v1.Endpoints", "subsets"), AGE];
    Table::new(SPECS, |o, now| vec![o.name().into(), addresses(o).into(), age(o, now)])
}

fn addresses(o: &Object) -> String {
    let subsets = list(o, &["subsets"]);
    if subsets.is_empty() {
        return NONE.into();
    }
    let mut all = Vec::new();
    for subset in subsets {
        let of = |field: &str| subset.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let ips: Vec<&str> = of("addresses").iter().map(|a| string(a, "ip")).collect();
        if of("ports").is_empty() {
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in of("ports") {
            let port = port.get("port").and_then(Value::as_i64).unwrap_or(0);
            all.extend(
                ips.iter().map(|ip| {
                    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
                }),
            );
        }
    }
    first_three(&all)
}

pub fn endpoint_slice() -> Table {
    const SLICE: &str = "api.discovery.v1.EndpointSlice";
    const SPECS: &[Spec] = &[
        NAME,
        text("AddressType", SLICE, "addressType"),
        text("Ports", SLICE, "ports"),
        text("Endpoints", SLICE, "endpoints"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let ports: Vec<String> = list(o, &["ports"])
            .iter()
            .map(|p| match p.get("port") {
                Some(number) => plain(number),
                None => p.get("name").map_or_else(|| "*".to_owned(), plain),
            })
            .collect();
        let ips: Vec<String> = list(o, &["endpoints"])
            .iter()
            .filter_map(|e| e.get("addresses")?.as_array())
            .flat_map(|a| texts(a))
            .collect();
        let shown = |all: &[String]| or(&first_three(all), UNSET).to_owned();
        vec![
            o.name().into(),
            o.get_str(&["addressType"]).into(),
            shown(&ports).into(),
            shown(&ips).into(),
            age(o, now),
        ]
    })
}

pub fn ingress() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free(
            "Class",
            "string",
            "The name of the IngressClass resource that should be used for additional configuration",
        ),
        free("Hosts", "string", "Hosts that incoming requests are matched against before the ingress rule"),
        free("Address", "string", "Address is a list containing ingress points for the load-balancer"),
        free("Ports", "string", "Ports of TLS configurations that open"),
        AGE,
    ];
    Table::new(SPECS, ingress_row)
}

fn ingress_row(o: &Object, now: Timestamp) -> Vec<Cell> {
    let rules = list(o, &["spec", "rules"]);
    let hosts: Vec<String> =
        rules.iter().map(|r| string(r, "host").to_owned()).filter(|h| !h.is_empty()).collect();
    // Whatever rule comes after the third host counts, with a host of its own or not.
    let third = rules.iter().enumerate().filter(|(_, r)| !string(r, "host").is_empty()).nth(2);
    let more = third.is_some_and(|(at, _)| at + 1 < rules.len());
    let shown = hosts.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(",");
    let shown = if more { format!("{shown} + {} more...", rules.len() - 3) } else { shown };
    let tls = !list(o, &["spec", "tls"]).is_empty();
    vec![
        o.name().into(),
        cell(o, &["spec", "ingressClassName"], NONE),
        or(&shown, "*").into(),
        load_balancer(o).join(",").into(),
        if tls { "80, 443" } else { "80" }.into(),
        age(o, now),
    ]
}

pub fn ingress_class() -> Table {
    const SPECS: &[Spec] = &[
        NAME,
        free("Controller", "string", "Controller that is responsible for handling this class"),
        free("Parameters", "string", "A reference to a resource with additional parameters"),
        AGE,
    ];
    Table::new(SPECS, |o, now| {
        let parameters = o.get(&["spec", "parameters"]).map_or_else(
            || NONE.to_owned(),
            |p| {
                let group = string(p, "apiGroup");
                let group = if group.is_empty() { String::new() } else { format!(".{group}") };
                format!("{}{group}/{}", string(p, "kind"), string(p, "name"))
            },
        );
        vec![o.name().into(), o.get_str(&["spec", "controller"]).into(), parameters.into(), age(o, now)]
    })
}

pub fn network_policy() -> Table {
    const SPECS: &[Spec] =
        &[NAME, text("Pod-Selector", "api.networking.v1.NetworkPolicySpec", "podSelector"), AGE];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), selector(o.get(&["spec", "podSelector"]), NONE).into(), age(o, now)]
    })
}

pub fn service_cidr() -> Table {
    const SPECS: &[Spec] = &[NAME, text("CIDRs", "api.networking.v1.ServiceCIDRSpec", "cidrs"), AGE];
    Table::new(SPECS, |o, now| {
        vec![o.name().into(), texts(list(o, &["spec", "cidrs"])).join(",").into(), age(o, now)]
    })
}

pub fn ip_address() -> Table {
    const SPECS: &[Spec] = &[NAME, text("ParentRef", "api.networking.v1.IPAddressSpec", "parentRef")];
    Table::new(SPECS, |o, _| {
        let parent = o.get(&["spec", "parentRef"]).map_or_else(
            || NONE.to_owned(),
            |p| {
                let group = string(p, "group");
                let mut shown = string(p, "resource").to_lowercase();
                if !group.is_empty() {
                    shown = format!("{shown}.{group}");
                }
                match string(p, "namespace") {
                    "" => format!("{shown}/{}", string(p, "name")),
                    namespace => format!("{shown}/{namespace}/{}", string(p, "name")),
                }
            },
        );
        vec![o.name().into(), parent.into()]
    })
}
