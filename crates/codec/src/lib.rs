//! The only place that knows an encoding.
//!
//! - [`decode`]: a request's body (JSON, YAML) into a JSON map, with every duplicate key named.
//! - [`stored`]: the form of an object in the store, and how bytes of it become an answer without
//!   being decoded again. An object is encoded once, when it is written.
//!
//! Pure. Does not know what a kind's fields mean (crate `schema`) nor who may see what.

pub mod decode;
pub mod extract;
pub mod media;
pub mod stored;

pub use decode::{Decoded, decode_json, decode_yaml};
pub use extract::extract;
pub use media::{Format, MediaType};
pub use stored::Layout;
