//! The only place that knows an encoding.
//!
//! - [`decode`], [`protobuf`]: a request's body (JSON, YAML, protobuf) into a JSON map, with every duplicate key named.
//! - [`stored`]: the form of an object in the store, and how bytes of it become an answer without
//!   being decoded again. An object is encoded once, when it is written.
//!
//! Pure. Does not know what a kind's fields mean (crate `schema`) nor who may see what.

pub mod decode;
pub mod extract;
pub mod media;
pub mod protobuf;
pub mod stored;

pub use decode::{Decoded, decode_json, decode_yaml, in_order};
pub use extract::extract;
pub use media::{Format, MediaType};
pub use protobuf::decode_protobuf;
pub use stored::Layout;

/// A value as YAML.
///
/// # Errors
/// The library cannot write it.
pub fn to_yaml(value: &serde_json::Value) -> Result<String, decode::Error> {
    serde_saphyr::to_string(value).map_err(|e| decode::Error(e.to_string()))
}
