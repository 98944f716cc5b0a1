//! Probes: each runs in a task of its own while its container runs, and tells its worker what changes.

mod count;
mod grpc;
pub mod http;
mod task;

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub use task::{Report, Set};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Startup,
    Liveness,
    Readiness,
}

impl Kind {
    /// As events name it.
    pub fn shown(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }
}

/// The number of a port given by number or by the name it has in `container`.
///
/// # Errors
/// For a name the container does not have, or a number that is no port.
pub fn port(container: &Container, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .map(|port| port.container_port)
            .or_else(|| name.parse().ok()),
    };
    match number.and_then(|number| u16::try_from(number).ok()) {
        Some(number @ 1..) => Ok(number),
        _ => Err(format!("invalid port: {port:?}")),
    }
}
