//! What is odd about each kind: one module a kind (or a family), none for a kind without oddities.

pub mod binding;
pub mod configmap;
pub mod csr;
pub mod endpoints;
pub mod event;
pub mod eviction;
pub mod flowcontrol;
pub mod hpa;
pub mod job;
pub mod lease;
pub mod limits;
pub mod namespace;
pub mod network;
pub mod node;
pub mod pod;
pub mod podspec;
mod podupdate;
pub mod rbac;
pub mod scale;
pub mod secret;
pub mod service;
mod servicespec;
pub mod storage;
pub mod volumeclaim;
pub mod webhook;
pub mod workload;
