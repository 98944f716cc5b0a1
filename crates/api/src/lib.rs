//! The words of the Kubernetes API: groups and kinds, `Status`, field errors, names, selectors,
//! quantities, and what objects come to by them.
//!
//! Pure: no I/O, no clock. Types of the kinds themselves are k8s-openapi's (v1.37), re-exported as
//! [`k8s`]. Start at [`Status`] (every refusal ends as one) and [`field`] (how faults are gathered).

pub mod containers;
pub mod cron;
pub mod field;
pub mod gvk;
pub mod names;
pub mod object;
pub mod quantity;
pub mod quota;
pub mod selector;
pub mod status;
pub mod user;

pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind};
pub use k8s_openapi as k8s;
pub use object::Object;
pub use quantity::Quantity;
pub use status::Status;
pub use user::User;
