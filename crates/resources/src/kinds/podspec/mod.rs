//! What every pod spec shares, in a pod or in a workload's template: defaults, faults, warnings.

pub(super) mod annotations;
mod container;
mod default;
mod env;
mod mounts;
mod probe;
mod projected;
mod resources;
mod scheduling;
mod security;
mod sources;
mod validate;
pub(super) mod volumes;
mod warnings;
mod windows;

pub(crate) use container::validate_of_pod;
pub use default::{default, default_claim, default_pod};
pub(crate) use resources::{Place, quantity, resource_name};
pub(crate) use scheduling::{node_selector, tolerations};
pub(crate) use validate::{template, validate};
pub(crate) use warnings::{pod_warnings, template_warnings};
