//! What is odd about each kind: one module a kind, none for a kind without oddities.

pub mod binding;
pub mod configmap;
pub mod csr;
pub mod endpointslice;
pub mod event;
pub mod eviction;
pub mod lease;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod podspec;
pub mod rbac;
pub mod scale;
pub mod secret;
pub mod service;
pub mod workload;
