//! Bodies into JSON maps. Unlike `serde_json::Value`'s own reader, a key that stands twice is told.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    /// Paths of keys that stood twice (`metadata.labels.a`), in the order found; the last one won.
    pub duplicates: Vec<String>,
}

/// Why bytes are no JSON or YAML, in the words of Go's decoder where they are plain to tell.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// # Errors
/// What is not one JSON value.
pub fn decode_json(body: &[u8]) -> Result<Decoded, Error> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let duplicates = RefCell::new(Vec::new());
    let value = Seed { at: At::Root, duplicates: &duplicates }
        .deserialize(&mut reader)
        .map_err(|e| json_error(&e, body))?;
    reader.end().map_err(|_| Error(trailing(body)))?;
    Ok(Decoded { value, duplicates: duplicates.into_inner() })
}

/// # Errors
/// What is not one YAML document of the JSON kind.
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, Error> {
    let text = std::str::from_utf8(body).map_err(|e| Error(format!("yaml: {e}")))?;
    let value = serde_saphyr::from_str::<Value>(text).map_err(|e| Error(format!("yaml: {e}")))?;
    Ok(Decoded { value, duplicates: Vec::new() })
}

fn json_error(error: &serde_json::Error, body: &[u8]) -> Error {
    if error.is_eof() {
        return Error("unexpected end of JSON input".into());
    }
    let at = offset(body, error.line(), error.column());
    match body.get(at) {
        Some(b) => Error(format!("invalid character {} looking for beginning of value", shown(*b))),
        None => Error(error.to_string()),
    }
}

fn trailing(body: &[u8]) -> String {
    let mut reader = serde_json::Deserializer::from_slice(body).into_iter::<de::IgnoredAny>();
    reader.next();
    let rest = &body[reader.byte_offset().min(body.len())..];
    match rest.iter().find(|b| !b.is_ascii_whitespace()) {
        Some(b) => format!("invalid character {} after top-level value", shown(*b)),
        None => "unexpected end of JSON input".into(),
    }
}

fn shown(byte: u8) -> String {
    format!("'{}'", char::from(byte))
}

fn offset(body: &[u8], line: usize, column: usize) -> usize {
    let before = body.split(|b| *b == b'\n').take(line.saturating_sub(1)).map(|l| l.len() + 1).sum::<usize>();
    before + column.saturating_sub(1)
}

/// The way to a value; lives on the stack, becomes text only for a duplicate.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root => Ok(()),
            At::Key(At::Root, key) => f.write_str(key),
            At::Key(parent, key) => write!(f, "{parent}.{key}"),
            At::Index(parent, i) => write!(f, "{parent}[{i}]"),
        }
    }
}

struct Seed<'a> {
    at: At<'a>,
    duplicates: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq
            .next_element_seed(Seed { at: At::Index(&self.at, items.len()), duplicates: self.duplicates })?
        {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let at = At::Key(&self.at, &key);
            let value = map.next_value_seed(Seed { at, duplicates: self.duplicates })?;
            if object.contains_key(&key) {
                self.duplicates.borrow_mut().push(at.to_string());
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_named() {
        let d = decode_json(br#"{"a":{"b":1,"b":2},"l":[{"x":1,"x":1}],"a":{"b":3}}"#).unwrap();
        assert_eq!(d.duplicates, ["a.b", "l[0].x", "a"]);
        assert_eq!(d.value["a"]["b"], 3);
    }

    fn fails(body: &str, message: &str) {
        assert_eq!(decode_json(body.as_bytes()).unwrap_err().0, message, "{body}");
    }

    #[test]
    fn faults_read_as_gos() {
        fails("{", "unexpected end of JSON input");
        fails("", "unexpected end of JSON input");
        fails("{} x", "invalid character 'x' after top-level value");
        fails("nope", "invalid character 'o' looking for beginning of value");
    }
}
