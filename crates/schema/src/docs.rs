//! Descriptions, kept packed until somebody asks.

use std::collections::HashMap;

use serde::Deserialize;

/// The descriptions of the built-in types. Costs about two megabytes while it lives.
pub struct Docs(HashMap<String, TypeDocs>);

#[derive(Deserialize, Default)]
struct TypeDocs {
    d: Option<String>,
    #[serde(default)]
    f: HashMap<String, String>,
    #[serde(default)]
    e: HashMap<String, Vec<String>>,
}

impl Docs {
    pub fn unpack() -> Docs {
        let packed = include_bytes!(concat!(env!("OUT_DIR"), "/docs.zst"));
        let text = zstd::decode_all(&packed[..]).expect("packed by the build script");
        Docs(serde_json::from_slice(&text).expect("written by the build script"))
    }

    pub fn of_type(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.d.as_deref()
    }

    pub fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        self.0.get(name)?.f.get(field).map(String::as_str)
    }

    /// The values that a field may have, or the items of a list, where there are only so many.
    pub fn values_of(&self, name: &str, field: &str) -> Option<&[String]> {
        self.0.get(name)?.e.get(field).map(Vec::as_slice)
    }
}
