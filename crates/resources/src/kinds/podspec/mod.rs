//! What every pod spec shares, in a pod or in a workload's template: defaults, faults, warnings.

mod container;
mod default;
mod env;
mod probe;
mod scheduling;
mod security;
mod validate;
pub(super) mod volumes;
mod warnings;

pub(crate) use container::{Place, quantity, resource_name, validate_of_pod};
pub use default::{default, default_claim, default_pod};
pub(crate) use scheduling::{node_selector, tolerations};
pub(crate) use validate::{template, validate};
pub(crate) use warnings::warnings;
