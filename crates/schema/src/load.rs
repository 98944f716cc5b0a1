//! Reads the built-in types that the build script wrote down.

use std::sync::{Arc, LazyLock};

use serde::Deserialize;
use serde_json::Value;

use crate::types::{Field, ListType, Shape, Type, TypeId, Types, Zero};

static BUILTIN: LazyLock<Arc<Types>> = LazyLock::new(|| Arc::new(load()));

/// The types of every kind that v1.37 serves by default.
pub fn builtin() -> &'static Arc<Types> {
    &BUILTIN
}

#[derive(Deserialize)]
struct Row {
    n: Box<str>,
    #[serde(default)]
    s: Option<String>,
    #[serde(default)]
    f: Vec<FieldRow>,
    #[serde(default)]
    a: bool,
}

#[derive(Deserialize)]
struct FieldRow {
    n: Box<str>,
    s: String,
    #[serde(default)]
    r: bool,
    #[serde(default)]
    l: Option<Box<str>>,
    #[serde(default)]
    k: Option<Box<str>>,
    #[serde(default)]
    p: Option<Box<str>>,
    #[serde(default)]
    m: Option<Box<str>>,
    #[serde(default)]
    g: Option<Box<str>>,
    #[serde(default)]
    z: Option<Value>,
    #[serde(default)]
    d: Option<Value>,
}

fn load() -> Types {
    let packed = include_bytes!(concat!(env!("OUT_DIR"), "/types.zst"));
    let text = zstd::decode_all(&packed[..]).expect("packed by the build script");
    let rows: Vec<Row> = serde_json::from_slice(&text).expect("written by the build script");
    let types: Vec<Type> = rows.into_iter().map(type_of).collect();
    Types::new(types)
}

impl Types {
    pub(crate) fn new(types: Vec<Type>) -> Types {
        let by_name = types.iter().enumerate().map(|(i, t)| (t.name.clone(), TypeId(i as u32))).collect();
        let mut all = Types { types, by_name };
        all.mark_defaults();
        all
    }
}

fn type_of(row: Row) -> Type {
    let mut fields: Vec<Field> = row.f.into_iter().map(field_of).collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    Type { name: row.n, fields, alias: row.s.map(|s| shape_of(&s)), atomic: row.a, has_defaults: false }
}

fn field_of(row: FieldRow) -> Field {
    let shape = shape_of(&row.s);
    let flags = row.g.as_deref().unwrap_or_default();
    let zero = if flags.contains(['a', 's']) {
        Zero::Always
    } else if flags.contains('p') || matches!(shape, Shape::Ref(_)) {
        Zero::Kept
    } else {
        Zero::Omitted
    };
    let list_type = match row.l.as_deref() {
        Some("set") => ListType::Set,
        Some("map") => ListType::Map(row.k.iter().flat_map(|k| k.split(',')).map(Into::into).collect()),
        _ => ListType::Atomic,
    };
    Field {
        // The library's types always have metadata; upstream's schema asks for them of no kind.
        required: row.r && &*row.n != "metadata",
        name: row.n,
        shape,
        list_type,
        patch_merge_key: row.m,
        patch_strategy: row.p.iter().flat_map(|p| p.split(',')).map(Into::into).collect(),
        default: row.d,
        zero,
        written: row.z.unwrap_or_default(),
        atomic: row.l.as_deref() == Some("atomic"),
        granular: row.l.as_deref() == Some("granular"),
    }
}

fn shape_of(text: &str) -> Shape {
    let (first, rest) = text.split_at(1);
    match first {
        "s" => Shape::String,
        "b" => Shape::Bytes,
        "t" => Shape::Time,
        "u" => Shape::MicroTime,
        "i" => Shape::Int32,
        "l" => Shape::Int64,
        "d" => Shape::Double,
        "o" => Shape::Bool,
        "q" => Shape::Quantity,
        "x" => Shape::IntOrString,
        "[" => Shape::List(Box::new(shape_of(rest))),
        "{" => Shape::Map(Box::new(shape_of(rest))),
        "@" => Shape::Ref(TypeId(rest.parse().expect("a number written by the build script"))),
        _ => Shape::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_leads_somewhere() {
        let types = builtin();
        let pod = types.get(types.lookup("io.k8s.api.core.v1.Pod").unwrap());
        let spec = types.object(&pod.field("spec").unwrap().shape).unwrap();
        assert_eq!(spec.go_name(), "v1.PodSpec");
        assert!(spec.field("containers").unwrap().required);
        let docs = crate::docs::Docs::unpack();
        let values = docs.values_of("io.k8s.api.core.v1.PodSpec", "restartPolicy").unwrap();
        assert_eq!(values, ["Always", "Never", "OnFailure"]);
        assert!(docs.values_of("io.k8s.api.core.v1.PodSpec", "nodeName").is_none());
        assert_eq!(spec.field("containers").unwrap().patch_merge_key.as_deref(), Some("name"));
        assert!(types.iter().count() > 500);
    }
}
