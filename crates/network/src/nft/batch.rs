//! What to do to one table, in order.

use std::sync::Arc;

use super::{Element, Rule, Set, Table};

/// Where in the kernel's path a base chain sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookPoint {
    /// Before routing.
    Prerouting,
    /// To this host.
    Input,
    /// Through this host.
    Forward,
    /// From this host.
    Output,
    /// On the way out.
    Postrouting,
}

/// How a base chain is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// Where.
    pub point: HookPoint,
    /// Order among chains at the same point; the smaller goes first.
    pub priority: i32,
}

/// A chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name, unique within the table.
    pub name: Arc<str>,
    /// Its binding, for a base chain. The policy is always accept.
    pub hook: Option<Hook>,
}

impl Chain {
    /// A chain that others jump to.
    pub fn regular(name: impl Into<Arc<str>>) -> Self {
        Self { name: name.into(), hook: None }
    }

    /// A base chain for address translation.
    pub fn nat(name: impl Into<Arc<str>>, point: HookPoint, priority: i32) -> Self {
        Self { name: name.into(), hook: Some(Hook { kind: "nat", point, priority }) }
    }

    /// A base chain for filtering.
    pub fn filter(name: impl Into<Arc<str>>, point: HookPoint, priority: i32) -> Self {
        Self { name: name.into(), hook: Some(Hook { kind: "filter", point, priority }) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Op {
    AddTable { comment: String },
    DeleteTable,
    AddChain(Chain),
    DeleteChain(Arc<str>),
    AddRule(Rule),
    FlushChain(Arc<str>),
    AddSet(Set),
    DeleteSet(Arc<str>),
    FlushSet(Arc<str>),
    AddElements { set: Set, elements: Vec<Element> },
    DeleteElements { set: Set, elements: Vec<Element> },
}

/// A transaction on one table. The order matters as it does in an nft script.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub(super) table: Table,
    pub(super) ops: Vec<Op>,
}

impl Batch {
    /// Nothing yet.
    pub fn new(table: Table) -> Self {
        Self { table, ops: Vec::new() }
    }

    /// Nothing to do.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// The table this is about.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Makes the table where it is absent, with a comment that [`super::Client::comment`] reads back.
    pub fn add_table(&mut self, comment: impl Into<String>) {
        self.ops.push(Op::AddTable { comment: comment.into() });
    }

    /// Removes the table with all in it, whether it is there or not.
    pub fn remove_table(&mut self) {
        // Adding first makes the deletion succeed in any case, on every kernel.
        self.ops.push(Op::AddTable { comment: String::new() });
        self.ops.push(Op::DeleteTable);
    }

    /// Makes a chain where it is absent.
    pub fn add_chain(&mut self, chain: Chain) {
        self.ops.push(Op::AddChain(chain));
    }

    /// Removes a chain and its rules. Nothing may refer to it.
    pub fn delete_chain(&mut self, name: impl Into<Arc<str>>) {
        let name = name.into();
        self.ops.push(Op::FlushChain(name.clone()));
        self.ops.push(Op::DeleteChain(name));
    }

    /// Removes a chain's rules.
    pub fn flush_chain(&mut self, name: impl Into<Arc<str>>) {
        self.ops.push(Op::FlushChain(name.into()));
    }

    /// Appends a rule to its chain.
    pub fn add_rule(&mut self, rule: Rule) {
        self.ops.push(Op::AddRule(rule));
    }

    /// Makes a set where it is absent.
    pub fn add_set(&mut self, set: &Set) {
        self.ops.push(Op::AddSet(set.clone()));
    }

    /// Removes a set. No rule may use it.
    pub fn delete_set(&mut self, set: &Set) {
        self.ops.push(Op::DeleteSet(set.name.clone()));
    }

    /// Removes all elements of a set.
    pub fn flush_set(&mut self, set: &Set) {
        self.ops.push(Op::FlushSet(set.name.clone()));
    }

    /// Adds elements; one that is there with the same value stays, with another value fails the batch.
    pub fn add_elements(&mut self, set: &Set, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.ops.push(Op::AddElements { set: set.clone(), elements });
        }
    }

    /// Removes elements; one that is absent fails the batch.
    pub fn delete_elements(&mut self, set: &Set, elements: Vec<Element>) {
        if !elements.is_empty() {
            self.ops.push(Op::DeleteElements { set: set.clone(), elements });
        }
    }

    /// Appends another batch on the same table.
    pub fn extend(&mut self, other: Batch) {
        debug_assert_eq!(self.table, other.table, "one batch, one table");
        self.ops.extend(other.ops);
    }
}
