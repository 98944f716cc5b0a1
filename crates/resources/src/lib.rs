//! The table of built-in kinds: one row a kind, in one file a group, and one small module for each
//! kind that has something odd about it.
//!
//! To find a kind: its row is in [`groups`], its strategy (where it has one) in [`kinds`].
//! To add one: add its root to `schema/kinds.rs`, a row to its group's file, and a strategy only if
//! the engine's common behaviour is wrong for it.
//!
//! Invariants: rows are data; nothing here does I/O but through the engine that a hook is given.

mod at;
pub mod groups;
pub mod kinds;
mod row;
pub mod tables;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use registry::{Act, Resource};

pub use row::Row;

/// What rows need from rooms above: acts that sign tokens or ask the authoriser.
#[derive(Clone)]
pub struct Injected {
    pub token_request: Arc<dyn Act>,
    pub token_review: Arc<dyn Act>,
    pub self_subject_review: Arc<dyn Act>,
    pub subject_access_review: Arc<dyn Act>,
    pub self_subject_access_review: Arc<dyn Act>,
    pub local_subject_access_review: Arc<dyn Act>,
    pub self_subject_rules_review: Arc<dyn Act>,
}

/// What the table needs to know of its cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where cluster IPs come from.
    pub service_cidr: ipnet::IpNet,
    pub node_ports: std::ops::RangeInclusive<u16>,
}

/// Every built-in resource that v1.37 serves by default.
pub fn table(settings: &Settings, injected: &Injected) -> Vec<Arc<Resource>> {
    groups::rows(settings, injected).into_iter().map(|row| Arc::new(row.build())).collect()
}
