//! The revisioned key space: etcd v3's data model behind one contract.
//!
//! Start at [`contract`]: what a store promises.

pub mod contract;
pub mod embedded;
pub mod etcd;
pub mod front;
mod lease;
pub mod memory;
mod txn;
mod wire;

pub use contract::*;
