//! nf_tables over netlink: tables, chains, rules, sets and maps as data, applied in one transaction.
//!
//! - [`Batch`] is what to do to one table, in order; its `Display` is nft's own language (near enough to
//!   read and to keep as a golden file).
//! - [`Rule`] builds a rule left to right: [`Rule::load`] puts fields of the packet side by side in the
//!   registers, the next step looks them up, compares them or uses them.
//! - [`Client`] sends a batch (all of it happens or none of it) and reads sets back for reconciliation.
//!
//! Tables are never owned by the socket (`NFT_TABLE_F_OWNER`): the rules stay when the process goes.
//!
//! ```
//! use network::nft::{Batch, Chain, Data, Family, Field, Rule, Set, Table, Type};
//!
//! let table = Table::new(Family::Ip, "demo");
//! let map = Set::map("services", vec![Type::Ipv4, Type::Proto, Type::Service], Data::Verdict);
//! let mut batch = Batch::new(table.clone());
//! batch.add_table("");
//! batch.add_chain(Chain::regular("services"));
//! batch.add_set(&map);
//! batch.add_rule(Rule::new(table.family, "services")
//!     .load(&[Field::Daddr, Field::L4Proto, Field::Dport])
//!     .vmap(&map));
//! assert!(batch.to_string().contains("ip daddr . meta l4proto . th dport vmap @services"));
//! ```

mod batch;
mod client;
mod encode;
mod render;
mod rule;
mod set;
mod sys;

pub use batch::{Batch, Chain, Hook, HookPoint};
pub use client::{Client, Dumped};
pub use rule::{Cmp, Expr, Field, Flags, Reject, Rule, Verdict};
pub use set::{Data, Element, Key, Set, Type, Value};

use std::sync::Arc;

/// The families a table can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
}

impl Family {
    /// The family of an address.
    pub fn of(addr: std::net::IpAddr) -> Self {
        if addr.is_ipv4() { Family::Ip } else { Family::Ip6 }
    }

    /// Bytes of one address.
    pub fn address_len(self) -> usize {
        match self {
            Family::Ip => 4,
            Family::Ip6 => 16,
        }
    }

    /// The set type of one address.
    pub fn address_type(self) -> Type {
        match self {
            Family::Ip => Type::Ipv4,
            Family::Ip6 => Type::Ipv6,
        }
    }

    /// `NFPROTO_*`, equal to the address family's number.
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::Ip => 2,
            Family::Ip6 => 10,
        }
    }

    pub(crate) fn keyword(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
        }
    }
}

/// A table's family and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Table {
    /// Its family.
    pub family: Family,
    /// Its name, unique within family and network namespace.
    pub name: Arc<str>,
}

impl Table {
    /// A table of this family and name.
    pub fn new(family: Family, name: impl Into<Arc<str>>) -> Self {
        Self { family, name: name.into() }
    }
}

#[cfg(test)]
mod tests;
