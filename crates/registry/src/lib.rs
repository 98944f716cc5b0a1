//! The generic resource engine: every kind is served by this code, none is named in it.
//!
//! - [`Resource`]: one row of the table of resources: names, schema, subresources, columns, fields,
//!   and a [`Strategy`] for what is really odd about the kind.
//! - [`Engine`]: the verbs over the rows. A write goes decode → default → mutating admission →
//!   strategy → validate → validating admission → encode once → one guarded transaction.
//! - [`cache`]: the watch cache. One store watch feeds all; GET, LIST and WATCH answer from it at a
//!   known revision, out of the store's own bytes.
//!
//! Invariants: a resourceVersion is a store revision; a read never encodes an object; a write that
//! changes nothing writes nothing; a read sees every write answered before it began.
//!
//! Does not belong here: HTTP (crate `apiserver`), any kind's name or rule (crate `resources`).
//! Start at [`Engine`].

pub mod admission;
pub mod body;
pub mod cache;
mod create;
mod delete;
mod engine;
mod feed;
mod fields;
mod leases;
mod list;
pub mod meta;
mod names;
pub mod resource;
pub mod strategy;
mod update;
mod watch;

pub use admission::{Admission, Operation, Verdict};
pub use body::{FieldValidation, Warnings};
pub use cache::{Change, Item};
pub use delete::{DeleteOptions, Deleted, Preconditions, Propagation};
pub use engine::{Clock, Config, Engine, RequestContext, Written, swap};
pub use list::{ListOptions, Listed, Match};
pub use resource::{
    Act, Action, Cell, Column, Connect, Convert, PartHook, Resource, Scope, SelectableField, Subresource,
    Table, Target, Verb, Version, View,
};
pub use strategy::{Claim, Claims, Strategy, Swap};
pub use update::{Part, UpdateOptions, other_uid};
pub use watch::{WatchEvent, WatchOptions, Watcher};
