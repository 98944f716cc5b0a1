//! One compact schema form for every kind, and the passes that read it.
//!
//! [`Types`] is a graph: each named type holds its fields, each field a [`Shape`]. Built-in types are
//! drawn from k8s-openapi at build time ([`builtin`]); a custom resource's come from its OpenAPI.
//! Passes: [`Types::conform`] (types, unknown fields, the zero values that Go drops),
//! [`Types::default`] (defaults that hang on nothing else), [`openapi`] (v2 and v3).
//!
//! Pure. Names no kind; what is odd about a kind is its strategy's (crate `resources`).

mod conform;
mod defaults;
mod docs;
mod load;
pub mod proto;
mod types;

pub use conform::{Conformed, TypeError};
pub use docs::Docs;
pub use load::builtin;
pub use types::{Field, ListType, Shape, Type, TypeId, Types, Zero};
