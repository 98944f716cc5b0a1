//! Faults of what a load balancer says of itself, in the status of a service or an ingress.

use api::field::Errors;
use api::names;

use crate::at::At;

/// Faults of `status.loadBalancer`; `with_mode` where an address says how packets come.
pub(super) fn validate(at: &At<'_>, with_mode: bool, errors: &mut Errors) {
    for ingress in at.items("ingress") {
        let ip = ingress.str("ip");
        if !ip.is_empty() {
            ingress.check("ip", names::ip_address, errors);
        }
        if with_mode {
            let path = ingress.path.child("ipMode");
            match (ingress.str("ipMode"), ip.is_empty()) {
                ("", false) => errors.required(&path, "must be specified when `ip` is set"),
                ("", true) => {}
                (_, true) => errors.forbidden(&path, "may not be specified when `ip` is not set"),
                ("VIP" | "Proxy", false) => {}
                (other, false) => errors.not_supported(&path, other, &["Proxy", "VIP"]),
            }
        }
        let host = ingress.str("hostname");
        if !host.is_empty() {
            ingress.check("hostname", names::dns1123_subdomain, errors);
            if host.parse::<std::net::IpAddr>().is_ok() {
                ingress.invalid("hostname", host, "must be a DNS name, not an IP address", errors);
            }
        }
    }
}
