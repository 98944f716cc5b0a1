//! Pods: what each is to be, what it is, and the worker that closes the gap.
//!
//! [`plan`] and [`status`] are pure and know everything about order; [`worker`] owns one pod and only
//! carries out what they say.

pub mod admit;
mod auth;
pub mod backoff;
pub mod conditions;
pub mod container;
pub mod env;
pub mod fields;
pub mod hooks;
pub mod image_name;
pub mod images;
pub mod memory;
pub mod observed;
pub mod patch;
pub mod plan;
pub mod qos;
pub mod references;
pub mod resize;
pub mod sandbox;
pub mod security;
pub mod spec;
mod start;
pub mod status;
mod stop;
mod termination;
mod work;
pub mod worker;

use k8s_openapi::api::core::v1::Pod;

use crate::config::Config;

/// The pod's resolver configuration, where the kubelet decides it.
///
/// # Errors
/// What is wrong with the pod's DNS policy.
fn dns(config: &Config, pod: &Pod) -> Result<Option<cri::v1::DnsConfig>, String> {
    config.pod_dns.as_ref().map(|dns| dns(pod)).transpose()
}
