//! The node itself: what it has, how it is, and telling the API.

mod lease;
mod machine;
mod register;
mod status;

pub use lease::renew;
pub use machine::{Machine, disk, memory_available};
pub use register::{keep, sketch};
