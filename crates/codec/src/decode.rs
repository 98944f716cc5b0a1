//! Bodies into JSON maps. Unlike `serde_json::Value`'s own reader, a key that stands twice is told.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// A decoded body.
#[derive(Debug)]
pub struct Decoded {
    pub value: Value,
    /// Keys that stood twice, as warnings tell them, in the order found; the last one won.
    pub duplicates: Vec<String>,
    yaml: bool,
    /// The JSON that it was decoded from; empty where that is not known.
    source: Bytes,
}

impl Decoded {
    pub fn new(value: Value) -> Decoded {
        Decoded { value, duplicates: Vec::new(), yaml: false, source: Bytes::new() }
    }

    /// Keeps the JSON that it was decoded from.
    pub fn from_source(mut self, source: Bytes) -> Decoded {
        self.source = source;
        self
    }

    /// The JSON that it was decoded from, for [`in_order`].
    pub fn source(&self) -> Bytes {
        self.source.clone()
    }

    /// The keys that stood twice, as a strict decoder's error tells them.
    pub fn strict_duplicates(&self) -> Vec<String> {
        if !self.yaml || self.duplicates.is_empty() {
            return self.duplicates.clone();
        }
        vec![format!("yaml: unmarshal errors:\n  {}", self.duplicates.join("\n  "))]
    }
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
    let value = Seed { at: At::Root, duplicates: &duplicates, yaml: false }
        .deserialize(&mut reader)
        .map_err(|e| json_error(&e, body))?;
    reader.end().map_err(|_| Error(trailing(body)))?;
    Ok(Decoded { value, duplicates: duplicates.into_inner(), yaml: false, source: Bytes::new() })
}

/// Doubled fields that are told of, as many as upstream's decoder tells.
const MAX_DUPLICATES: usize = 100;

/// Paths (`spec.containers[0].foo`) in the order in which a JSON text has them; those that it does not
/// have come last. A decoded map no longer knows.
pub fn in_order(source: &[u8], mut paths: Vec<String>) -> Vec<String> {
    if source.is_empty() || paths.len() < 2 {
        return paths;
    }
    let wanted: BTreeSet<&str> = paths.iter().map(String::as_str).collect();
    let found = RefCell::new(Vec::new());
    let order = Order { at: At::Root, wanted: &wanted, found: &found };
    if order.deserialize(&mut serde_json::Deserializer::from_slice(source)).is_err() {
        return paths;
    }
    let found = found.into_inner();
    paths.sort_by_cached_key(|path| found.iter().position(|f| f == path).unwrap_or(usize::MAX));
    paths
}

/// # Errors
/// What is not one YAML document of the JSON kind.
pub fn decode_yaml(body: &[u8]) -> Result<Decoded, Error> {
    let text = std::str::from_utf8(body).map_err(|e| Error(format!("yaml: {e}")))?;
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    let duplicates = RefCell::new(Vec::new());
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, options, |reader| {
        Seed { at: At::Root, duplicates: &duplicates, yaml: true }.deserialize(reader)
    });
    let value = read.map_err(|e| yaml_error(&e))?;
    Ok(Decoded { value, duplicates: duplicates.into_inner(), yaml: true, source: Bytes::new() })
}

/// `yaml: line 3: did not find …`; what stands on the first line is told without it.
fn yaml_error(error: &serde_saphyr::Error) -> Error {
    let text = error.to_string();
    let line = error.location().map_or(0, |l| l.line());
    let column = error.location().map_or(0, |l| l.column());
    let place = format!(" at line {line}, column {column}");
    let why = text.strip_suffix(&place).unwrap_or(&text);
    Error(if line > 1 { format!("yaml: line {line}: {why}") } else { format!("yaml: {why}") })
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
    yaml: bool,
}

impl<'a> Seed<'a> {
    fn below(&self, at: At<'a>) -> Seed<'a> {
        Seed { at, duplicates: self.duplicates, yaml: self.yaml }
    }

    /// A map's next key, and in YAML the line it stands on.
    fn key<'de, A: MapAccess<'de>>(&self, map: &mut A) -> Result<Option<(String, u64)>, A::Error> {
        if !self.yaml {
            return Ok(map.next_key::<String>()?.map(|key| (key, 0)));
        }
        let key = map.next_key::<serde_saphyr::Spanned<String>>()?;
        Ok(key.map(|key| (key.value, key.referenced.line())))
    }
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
        while let Some(item) = seq.next_element_seed(self.below(At::Index(&self.at, items.len())))? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((key, line)) = self.key(&mut map)? {
            let at = At::Key(&self.at, &key);
            let value = map.next_value_seed(self.below(at))?;
            if object.contains_key(&key) && self.duplicates.borrow().len() < MAX_DUPLICATES {
                self.duplicates.borrow_mut().push(if self.yaml {
                    format!("line {line}: key \"{key}\" already set in map")
                } else {
                    format!("duplicate field \"{at}\"")
                });
            }
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// Looks where the wanted paths stand.
struct Order<'a> {
    at: At<'a>,
    wanted: &'a BTreeSet<&'a str>,
    found: &'a RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Order<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Order<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut i = 0;
        loop {
            let at = At::Index(&self.at, i);
            let item = Order { at, wanted: self.wanted, found: self.found };
            if seq.next_element_seed(item)?.is_none() {
                return Ok(());
            }
            i += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let at = At::Key(&self.at, &key);
            let path = at.to_string();
            if self.wanted.contains(path.as_str()) {
                self.found.borrow_mut().push(path);
            }
            map.next_value_seed(Order { at, wanted: self.wanted, found: self.found })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_named() {
        let d = decode_json(br#"{"a":{"b":1,"b":2},"l":[{"x":1,"x":1}],"a":{"b":3}}"#).unwrap();
        assert_eq!(
            d.duplicates,
            [r#"duplicate field "a.b""#, r#"duplicate field "l[0].x""#, r#"duplicate field "a""#]
        );
        assert_eq!(d.value["a"]["b"], 3);
    }

    #[test]
    fn paths_come_in_the_order_of_the_text() {
        let check = |paths: &[&str], expected: &[&str]| {
            let text = br#"{"t":{"l":[{"b":1,"a":2}]},"s":true,"n":null}"#;
            assert_eq!(in_order(text, paths.iter().map(|p| (*p).to_owned()).collect()), expected);
        };
        check(&["n", "s", "t.l[0].a", "t.l[0].b"], &["t.l[0].b", "t.l[0].a", "s", "n"]);
        check(&["x", "s"], &["s", "x"]);
    }

    #[test]
    fn duplicates_in_yaml_are_named_by_their_lines() {
        let d = decode_yaml(b"a: 1\nb:\n  x: y\n  x: z\na: 2\n").unwrap();
        assert_eq!(d.value, serde_json::json!({"a": 2, "b": {"x": "z"}}));
        assert_eq!(
            d.duplicates,
            ["line 4: key \"x\" already set in map", "line 5: key \"a\" already set in map"]
        );
        let strict = "yaml: unmarshal errors:\n  line 4: key \"x\" already set in map\n  line 5: key \"a\" already set in map";
        assert_eq!(d.strict_duplicates(), [strict]);
    }

    #[test]
    fn yaml_is_read_as_upstream_reads_it() {
        let d = decode_yaml(b"x: y\nn: 0x10\ns: '1'\ne:\nf: 1.5\n1: one\n").unwrap();
        assert_eq!(
            d.value,
            serde_json::json!({"x": true, "n": 16, "s": "1", "e": null, "f": 1.5, "1": "one"})
        );
        let why = decode_yaml(b"a: b: c").unwrap_err();
        assert_eq!(why.0, "yaml: mapping values are not allowed in this context");
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
