//! The records of a Service (Kubernetes DNS specification 1.1, sections 2.3 to 2.5).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// What a name says.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Data {
    /// An address: A or AAAA.
    Address(IpAddr),
    /// A port of a Service or of one of its endpoints.
    Srv {
        /// The port.
        port: u16,
        /// Share among the records of the name.
        weight: u16,
        /// The name with the address, relative to the cluster domain.
        target: String,
    },
    /// Another name, absolute.
    Alias(String),
    /// Text.
    Text(String),
}

/// Names relative to the cluster domain, in lower case, with what they say; and addresses with their
/// names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Records {
    /// Forward.
    pub names: Vec<(String, Data)>,
    /// Reverse.
    pub addresses: Vec<(IpAddr, String)>,
}

/// All weights of a name together, as CoreDNS has it.
const WEIGHT: usize = 100;

/// The records of a Service with these slices.
pub fn of_service<'a>(service: &Service, slices: impl Iterator<Item = &'a EndpointSlice>) -> Records {
    let mut records = Records::default();
    let metadata = &service.metadata;
    let (Some(name), Some(namespace), Some(spec)) = (&metadata.name, &metadata.namespace, &service.spec)
    else {
        return records;
    };
    let base = format!("{name}.{namespace}.svc").to_lowercase();
    if spec.type_.as_deref() == Some("ExternalName") {
        let target = spec.external_name.as_deref().unwrap_or_default();
        match target.parse::<IpAddr>() {
            // An address is no name to point to, but people write it; CoreDNS answers with it.
            Ok(addr) => records.names.push((base, Data::Address(addr))),
            Err(_) if !target.is_empty() => {
                records.names.push((base, Data::Alias(target.trim_end_matches('.').to_string())));
            }
            Err(_) => {}
        }
        return records;
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        headless(&base, slices, &mut records);
        return records;
    }
    let ips = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
    let ips: std::collections::BTreeSet<IpAddr> = ips.filter_map(|ip| ip.parse().ok()).collect();
    if ips.is_empty() {
        return records;
    }
    for addr in ips {
        records.names.push((base.clone(), Data::Address(addr)));
        records.addresses.push((addr, base.clone()));
    }
    for port in spec.ports.iter().flatten() {
        let (Some(name), Ok(number)) = (&port.name, u16::try_from(port.port)) else { continue };
        let data = Data::Srv { port: number, weight: WEIGHT as u16, target: base.clone() };
        records.names.push((srv_name(name, port.protocol.as_deref(), &base), data));
    }
    records
}

fn srv_name(port: &str, protocol: Option<&str>, base: &str) -> String {
    format!("_{port}._{}.{base}", protocol.unwrap_or("TCP")).to_lowercase()
}

fn headless<'a>(base: &str, slices: impl Iterator<Item = &'a EndpointSlice>, records: &mut Records) {
    let mut srv: BTreeMap<String, Vec<(u16, String)>> = BTreeMap::new();
    for slice in slices.filter(|s| s.address_type != "FQDN") {
        for endpoint in slice.endpoints.iter().flatten().filter(|e| is_ready(e)) {
            for addr in endpoint.addresses.iter().filter_map(|a| a.parse::<IpAddr>().ok()) {
                let host = format!("{}.{base}", host_name(endpoint, addr));
                records.names.push((base.to_string(), Data::Address(addr)));
                records.names.push((host.clone(), Data::Address(addr)));
                records.addresses.push((addr, host.clone()));
                for port in slice.ports.iter().flatten() {
                    let name = port.name.as_deref().filter(|n| !n.is_empty());
                    let (Some(name), Some(Ok(number))) = (name, port.port.map(u16::try_from)) else {
                        continue;
                    };
                    let name = srv_name(name, port.protocol.as_deref(), base);
                    srv.entry(name).or_default().push((number, host.clone()));
                }
            }
        }
    }
    for (name, targets) in srv {
        let weight = (WEIGHT / targets.len()).max(1) as u16;
        for (port, target) in targets {
            records.names.push((name.clone(), Data::Srv { port, weight, target }));
        }
    }
    records.names.sort();
    records.names.dedup();
    records.addresses.sort();
    records.addresses.dedup();
}

/// Slices say `ready` of endpoints that a Service publishes before they are.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true)
}

/// An endpoint's own label: its hostname, or its address with dashes.
fn host_name(endpoint: &Endpoint, addr: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(name) if !name.is_empty() => name.to_lowercase(),
        _ => addr.to_string().replace(['.', ':'], "-"),
    }
}
