//! The form of an object in the store, and answers cut from it.
//!
//! An object is stored as JSON that begins `{"apiVersion":…,"kind":…,"metadata":{`, without a
//! resourceVersion: that is the revision of its key, known only after the write. Every answer is
//! cut from those bytes with the revision spliced in as the first field of the metadata:
//!
//! ```text
//! {"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":{}}      stored
//!                                            ^ meta      ^ meta_end
//! {"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"7","name":"a"},"spec":{}}   GET
//! {"metadata":{"resourceVersion":"7","name":"a"},"spec":{}}               an item of a list
//! ```

use api::Object;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;

const METADATA: &[u8] = b"\"metadata\":{";

/// The bytes of an object for the store; its resourceVersion is left out.
pub fn encode(object: &Object) -> Bytes {
    let mut out = Vec::with_capacity(2048);
    out.push(b'{');
    for name in ["apiVersion", "kind"] {
        if let Some(value) = object.0.get(name) {
            write(&mut out, name);
            out.push(b':');
            write(&mut out, value);
            out.push(b',');
        }
    }
    out.extend_from_slice(METADATA);
    let metadata = object.metadata().into_iter().flatten().filter(|(name, _)| *name != "resourceVersion");
    for (i, (name, value)) in metadata.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(&mut out, name);
        out.push(b':');
        write(&mut out, value);
    }
    out.push(b'}');
    let rest = object.0.iter().filter(|(n, _)| !matches!(n.as_str(), "apiVersion" | "kind" | "metadata"));
    for (name, value) in rest {
        out.push(b',');
        write(&mut out, name);
        out.push(b':');
        write(&mut out, value);
    }
    out.push(b'}');
    // What is kept is as long as it must be.
    Bytes::copy_from_slice(&out)
}

fn write<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("JSON values serialise into memory");
}

/// Where the metadata stand in stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Just behind `"metadata":{`.
    meta: u32,
    /// Just behind the metadata's closing brace.
    meta_end: u32,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

impl Layout {
    /// Finds the metadata; `None` for bytes that are no object of ours.
    pub fn of(raw: &[u8]) -> Option<Layout> {
        let head: Head<'_> = serde_json::from_slice(raw).ok()?;
        let metadata = head.metadata.get().as_bytes();
        let start = metadata.as_ptr() as usize - raw.as_ptr() as usize;
        if raw[..start].len() < METADATA.len() || metadata.first() != Some(&b'{') {
            return None;
        }
        Some(Layout {
            meta: u32::try_from(start + 1).ok()?,
            meta_end: u32::try_from(start + metadata.len()).ok()?,
        })
    }

    /// The bytes of the metadata, braces and all.
    pub fn metadata<'a>(&self, raw: &'a [u8]) -> &'a [u8] {
        &raw[self.meta as usize - 1..self.meta_end as usize]
    }

    /// Appends the object as an answer in itself. `head` is the type, [`type_head`].
    pub fn write_object(&self, out: &mut BytesMut, head: &str, raw: &[u8], revision: i64) {
        out.extend_from_slice(b"{");
        out.extend_from_slice(head.as_bytes());
        self.write_from_metadata(out, raw, revision, raw.len());
    }

    /// Appends the object as an item of a list of its kind: without its type.
    pub fn write_item(&self, out: &mut BytesMut, raw: &[u8], revision: i64) {
        out.extend_from_slice(b"{");
        self.write_from_metadata(out, raw, revision, raw.len());
    }

    /// Appends the metadata alone, under the type of `head`.
    pub fn write_partial(&self, out: &mut BytesMut, head: &str, raw: &[u8], revision: i64) {
        out.extend_from_slice(b"{");
        out.extend_from_slice(head.as_bytes());
        self.write_from_metadata(out, raw, revision, self.meta_end as usize);
        out.extend_from_slice(b"}");
    }

    fn write_from_metadata(&self, out: &mut BytesMut, raw: &[u8], revision: i64, end: usize) {
        out.extend_from_slice(METADATA);
        out.extend_from_slice(b"\"resourceVersion\":\"");
        write_number(out, revision);
        let rest = &raw[self.meta as usize..end];
        out.extend_from_slice(if rest.first() == Some(&b'}') { b"\"" } else { b"\"," });
        out.extend_from_slice(rest);
    }

    /// Room that an answer needs.
    pub fn size_hint(&self, raw: &[u8]) -> usize {
        raw.len() + 48
    }
}

/// `"apiVersion":"v1","kind":"Pod",`
pub fn type_head(api_version: &str, kind: &str) -> String {
    format!("\"apiVersion\":\"{api_version}\",\"kind\":\"{kind}\",")
}

fn write_number(out: &mut BytesMut, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.extend_from_slice(b"-");
    }
    out.extend_from_slice(&digits[at..]);
}

/// Decodes stored bytes and puts the revision where a client expects it.
///
/// # Errors
/// Bytes that are no JSON object.
pub fn decode(raw: &[u8], revision: i64) -> Result<Object, serde_json::Error> {
    let map: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(raw)?;
    let mut object = Object(map);
    object.set_meta("resourceVersion", revision.to_string());
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn answers_are_cut_from_stored_bytes() {
        let object = json!({"spec": {"metadata": {"x": "}"}}, "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "a", "resourceVersion": "3"}, "data": 1});
        let Value::Object(map) = object else { unreachable!() };
        let raw = encode(&Object(map));
        let layout = Layout::of(&raw).unwrap();
        let mut out = BytesMut::new();
        layout.write_object(&mut out, &type_head("v1", "Pod"), &raw, 17);
        assert_eq!(
            std::str::from_utf8(&out).unwrap(),
            r#"{"apiVersion":"v1","kind":"Pod","metadata":{"resourceVersion":"17","name":"a"},"data":1,"spec":{"metadata":{"x":"}"}}}"#
        );
        out.clear();
        layout.write_item(&mut out, &raw, 1);
        assert!(out.starts_with(br#"{"metadata":{"resourceVersion":"1","name":"a"},"#));
        out.clear();
        layout.write_partial(&mut out, &type_head("meta.k8s.io/v1", "PartialObjectMetadata"), &raw, 9);
        let partial: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(partial["metadata"], json!({"name": "a", "resourceVersion": "9"}));
        assert_eq!(decode(&raw, 5).unwrap().resource_version(), "5");
    }
}
