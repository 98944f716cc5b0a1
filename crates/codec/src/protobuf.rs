//! Protobuf bodies (`application/vnd.kubernetes.protobuf`) into JSON maps, by the field numbers
//! of crate `schema`.
//!
//! A body is four bytes `k8s\0` and a `runtime.Unknown`: the object's type (1) and its bytes (2).

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use schema::proto::{self, Field, Wire};
use serde_json::{Map, Value, json};

use crate::decode::{Decoded, Error};

const MAGIC: &[u8] = b"k8s\0";
/// Messages within messages.
const DEPTH: usize = 64;

fn broken(why: &str) -> Error {
    Error(format!("proto: {why}"))
}

/// Decodes a body that should hold the message `type_name`.
///
/// # Errors
/// Bytes that are no such body.
pub fn decode_protobuf(body: &[u8], type_name: &str) -> Result<Decoded, Error> {
    let rest = body.strip_prefix(MAGIC).ok_or_else(|| {
        Error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into())
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Reader::new(rest) {
        match part? {
            (1, Payload::Bytes(meta)) => {
                for part in Reader::new(meta) {
                    match part? {
                        (1, Payload::Bytes(text)) => api_version = utf8(text)?,
                        (2, Payload::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Payload::Bytes(bytes)) => raw = bytes,
            _ => {}
        }
    }
    let mut object = Map::new();
    message(type_name, raw, &mut object, 0)?;
    for (name, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            object.insert(name.into(), text.into());
        }
    }
    Ok(Decoded::new(Value::Object(object)))
}

fn utf8(bytes: &[u8]) -> Result<String, Error> {
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| broken("text that is no UTF-8"))
}

fn message(name: &str, bytes: &[u8], out: &mut Map<String, Value>, depth: usize) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(broken("nested too deeply"));
    }
    let fields = proto::fields(name);
    for part in Reader::new(bytes) {
        let (number, payload) = part?;
        let Some(field) = fields.iter().find(|f| f.number == number) else { continue };
        put(field, &payload, out, depth)?;
    }
    Ok(())
}

fn put(
    field: &Field,
    payload: &Payload<'_>,
    out: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    match &field.wire {
        Wire::Inline(name) => message(name, payload.bytes()?, out, depth + 1),
        Wire::Repeated(item) => {
            let list = out.entry(&*field.name).or_insert_with(|| json!([]));
            if let Value::Array(list) = list {
                list.push(value(item, payload, depth)?);
            }
            Ok(())
        }
        Wire::Map(item) => {
            let (mut key, mut held) = (String::new(), None);
            for part in Reader::new(payload.bytes()?) {
                match part? {
                    (1, Payload::Bytes(text)) => key = utf8(text)?,
                    (2, payload) => held = Some(value(item, &payload, depth)?),
                    _ => {}
                }
            }
            let held = match held {
                Some(held) => held,
                None => value(item, &Payload::Bytes(&[]), depth)?,
            };
            let map = out.entry(&*field.name).or_insert_with(|| json!({}));
            if let Value::Object(map) = map {
                map.insert(key, held);
            }
            Ok(())
        }
        wire => {
            let held = value(wire, payload, depth)?;
            out.insert(field.name.to_string(), held);
            Ok(())
        }
    }
}

fn value(wire: &Wire, payload: &Payload<'_>, depth: usize) -> Result<Value, Error> {
    Ok(match wire {
        Wire::String => utf8(payload.bytes()?)?.into(),
        Wire::Bytes => BASE64_STANDARD.encode(payload.bytes()?).into(),
        Wire::Int => payload.integer()?.into(),
        Wire::Bool => (payload.integer()? != 0).into(),
        Wire::Double => match payload {
            Payload::Fixed64(bits) => f64::from_bits(*bits).into(),
            Payload::Fixed32(bits) => f64::from(f32::from_bits(*bits)).into(),
            _ => return Err(broken("a wrong wire type")),
        },
        Wire::Message(name) => named(name, payload.bytes()?, depth)?,
        Wire::Inline(_) | Wire::Repeated(_) | Wire::Map(_) => return Err(broken("a list of lists")),
    })
}

/// Messages whose JSON is something else than an object of their fields.
fn named(name: &str, bytes: &[u8], depth: usize) -> Result<Value, Error> {
    match name.rsplit('.').next().unwrap_or(name) {
        "Time" | "MicroTime" | "Timestamp" => time(bytes, name.ends_with("MicroTime")),
        "Quantity" => {
            let text = first_bytes(bytes, 1)?.map(utf8).transpose()?.unwrap_or_default();
            Ok(if text.is_empty() { "0".into() } else { text.into() })
        }
        "Duration" => {
            let seconds = integer_of(bytes, 1)? as f64 / 1e9;
            Ok(format!("{seconds}s").into())
        }
        "IntOrString" => {
            if integer_of(bytes, 1)? == 0 {
                return Ok(integer_of(bytes, 2)?.into());
            }
            Ok(first_bytes(bytes, 3)?.map(utf8).transpose()?.unwrap_or_default().into())
        }
        "RawExtension" | "FieldsV1" | "JSON" => {
            let raw = first_bytes(bytes, 1)?.unwrap_or(b"null");
            serde_json::from_slice(raw).map_err(|e| broken(&e.to_string()))
        }
        "ExtraValue" | "AttestationValue" | "Verbs" => {
            let mut items = Vec::new();
            for part in Reader::new(bytes) {
                if let (1, payload) = part? {
                    items.push(Value::String(utf8(payload.bytes()?)?));
                }
            }
            Ok(Value::Array(items))
        }
        _ => {
            let mut object = Map::new();
            message(name, bytes, &mut object, depth + 1)?;
            Ok(Value::Object(object))
        }
    }
}

fn first_bytes(bytes: &[u8], number: u32) -> Result<Option<&[u8]>, Error> {
    for part in Reader::new(bytes) {
        if let (n, Payload::Bytes(found)) = part?
            && n == number
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn integer_of(bytes: &[u8], number: u32) -> Result<i64, Error> {
    for part in Reader::new(bytes) {
        let (n, payload) = part?;
        if n == number {
            return payload.integer();
        }
    }
    Ok(0)
}

/// The zero time is an empty message, and JSON's null.
fn time(bytes: &[u8], micro: bool) -> Result<Value, Error> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let (seconds, nanos) = (integer_of(bytes, 1)?, integer_of(bytes, 2)?);
    let nanos = i32::try_from(nanos).map_err(|_| broken("a time out of range"))?;
    let at = jiff::Timestamp::new(seconds, nanos).map_err(|_| broken("a time out of range"))?;
    let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(at.strftime(form).to_string().into())
}

enum Payload<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Payload<'a> {
    fn bytes(&self) -> Result<&'a [u8], Error> {
        match self {
            Payload::Bytes(bytes) => Ok(bytes),
            _ => Err(broken("a wrong wire type")),
        }
    }

    /// Two's complement, as int32 and int64 are written.
    fn integer(&self) -> Result<i64, Error> {
        match self {
            Payload::Varint(n) => Ok(*n as i64),
            _ => Err(broken("a wrong wire type")),
        }
    }
}

/// The fields of a message as they stand.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    fn varint(&mut self) -> Result<u64, Error> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (first, rest) = self.rest.split_first().ok_or_else(|| broken("unexpected EOF"))?;
            self.rest = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(broken("integer overflow"))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        if count > self.rest.len() {
            return Err(broken("unexpected EOF"));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Payload<'a>), Error> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| broken("illegal tag"))?;
        let payload = match tag & 7 {
            0 => Payload::Varint(self.varint()?),
            1 => Payload::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().expect("eight were taken"))),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| broken("invalid length"))?;
                Payload::Bytes(self.take(length)?)
            }
            5 => Payload::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().expect("four were taken"))),
            other => return Err(broken(&format!("illegal wireType {other}"))),
        };
        Ok((number, payload))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u32, Payload<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(number: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![number << 3 | 2, payload.len() as u8];
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_config_map() {
        let meta = [bytes(1, b"v1"), bytes(2, b"ConfigMap")].concat();
        let entry = [bytes(1, b"k"), bytes(2, b"v")].concat();
        let object = [bytes(1, &bytes(1, b"name")), bytes(2, &entry)].concat();
        let body = [MAGIC.to_vec(), bytes(1, &meta), bytes(2, &object)].concat();
        let decoded = decode_protobuf(&body, "io.k8s.api.core.v1.ConfigMap").unwrap();
        assert_eq!(
            decoded.value,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "name"}, "data": {"k": "v"}})
        );
    }

    proptest! {
        #[test]
        fn never_panics(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut all = MAGIC.to_vec();
            all.extend(body);
            let _ = decode_protobuf(&all, "io.k8s.api.core.v1.Pod");
        }
    }
}
