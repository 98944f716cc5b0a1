//! The scheduler: which node each pod goes to.
//!
//! The core is synchronous and pure: [`Scheduler::schedule`] takes a [`Snapshot`] of nodes and a
//! [`PodInfo`] and answers with a node or a [`FitError`]. Around it: the [`queue`] of pods that wait,
//! the snapshot kept up to date by watches and by what was decided and not yet seen ("assumed"), and
//! the shell ([`run`]) that binds through the API.
//!
//! Invariants: a pod is decided on once at a time; a decision is in the snapshot before the next pod
//! is looked at; a pod that fits nowhere is looked at again when something changed that could help it.
//!
//! Decisions compare numbers, not text: the snapshot counts the pods on each node by [`Signature`], so that
//! whoever asks which pods a selector means asks once for each signature, and numbers the labels of nodes, so
//! that pods are counted by topology in arrays ([`numbers`]).
//!
//! Start at [`schedule`]; the rules are in [`filters`], [`topology`] and [`scores`].

pub mod claims;
pub mod filters;
pub mod numbers;
pub mod pod;
pub mod preemption;
pub mod queue;
pub mod resources;
pub mod schedule;
pub mod scores;
mod service;
pub mod snapshot;
pub mod topology;

pub use pod::{PodInfo, Signature};
pub use schedule::{FitError, Scheduler};
pub use service::{Config, run};
pub use snapshot::{NodeInfo, Snapshot};
