//! Protobuf's view of the built-in types: field numbers and wire types, facts of the API.
//! Unpacked when the first protobuf body comes.

use std::collections::HashMap;
use std::sync::LazyLock;

/// What a field's bytes mean.
#[derive(Clone, Debug, PartialEq)]
pub enum Wire {
    String,
    Bytes,
    Int,
    Bool,
    Double,
    /// The message with this name.
    Message(Box<str>),
    /// The fields of this message are the holder's own in JSON.
    Inline(Box<str>),
    Repeated(Box<Wire>),
    /// From text to this.
    Map(Box<Wire>),
}

/// One field of a message.
#[derive(Clone, Debug)]
pub struct Field {
    pub number: u32,
    /// The JSON name.
    pub name: Box<str>,
    pub wire: Wire,
}

static MESSAGES: LazyLock<HashMap<String, Vec<Field>>> = LazyLock::new(load);

/// The fields of a message; none for one that has none.
pub fn fields(message: &str) -> &'static [Field] {
    MESSAGES.get(message).map_or(&[], Vec::as_slice)
}

fn load() -> HashMap<String, Vec<Field>> {
    let packed = include_bytes!(concat!(env!("OUT_DIR"), "/proto.zst"));
    let text = zstd::decode_all(&packed[..]).expect("packed by the build script");
    let rows: HashMap<String, Vec<(u32, Box<str>, String)>> =
        serde_json::from_slice(&text).expect("written by the build script");
    let field = |(number, name, wire): (u32, Box<str>, String)| Field { number, name, wire: wire_of(&wire) };
    rows.into_iter().map(|(name, fields)| (name, fields.into_iter().map(field).collect())).collect()
}

fn wire_of(text: &str) -> Wire {
    if let Some(item) = text.strip_prefix("repeated ") {
        return Wire::Repeated(Box::new(wire_of(item)));
    }
    if let Some(item) = text.strip_prefix("map<string,").and_then(|t| t.strip_suffix('>')) {
        return Wire::Map(Box::new(wire_of(item.trim())));
    }
    if let Some(name) = text.strip_prefix("inline ") {
        return Wire::Inline(name.into());
    }
    match text {
        "string" => Wire::String,
        "bytes" => Wire::Bytes,
        "bool" => Wire::Bool,
        "double" | "float" => Wire::Double,
        "int32" | "int64" | "uint32" | "uint64" => Wire::Int,
        other => Wire::Message(other.into()),
    }
}
