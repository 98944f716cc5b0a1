//! Where pods and what they refer to come from.

pub mod objects;
pub mod pods;
pub mod services;
pub mod static_pods;
