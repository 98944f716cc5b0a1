//! Draws the schemas of every built-in kind out of k8s-openapi and writes them down compactly:
//! `types.zst` (names, fields, shapes; read at start) and `docs.zst` (descriptions; read only when
//! somebody asks for OpenAPI). Facts that k8s-openapi does not carry come from `data/*.tsv`.

use std::collections::BTreeMap;
use std::{env, fs, path::Path};

use serde_json::{Map, Value, json};

include!("kinds.rs");

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kinds.rs");
    println!("cargo::rerun-if-changed=data");
    let mut generator = schemars::SchemaGenerator::default();
    kinds(&mut generator);
    let definitions = generator.definitions().clone();
    let facts = Facts::read();
    let ids: BTreeMap<&str, usize> = definitions.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let mut types = Vec::new();
    let mut docs = Map::new();
    for (name, schema) in &definitions {
        types.push(type_of(name, schema, &ids, &facts));
        docs.insert(name.clone(), docs_of(schema));
    }
    for row in rows("enums.tsv") {
        let known =
            definitions.get(&row[0]).is_some_and(|schema| schema["properties"].get(&row[1]).is_some());
        assert!(known, "enums.tsv: no such field: {row:?}");
        docs[&row[0]]["e"][&row[1]] = row[2].split(',').collect();
    }
    let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    write(&Path::new(&out).join("types.zst"), &Value::Array(types));
    write(&Path::new(&out).join("docs.zst"), &Value::Object(docs));
    write(&Path::new(&out).join("proto.zst"), &messages());
}

/// Message name to its fields: `[number, field, type]`.
fn messages() -> Value {
    let mut all = Map::new();
    for row in rows("proto.tsv") {
        let number: u32 = row[2].parse().unwrap_or_else(|e| panic!("proto.tsv: {row:?}: {e}"));
        let fields = all.entry(row[0].clone()).or_insert_with(|| json!([]));
        if let Value::Array(fields) = fields {
            fields.push(json!([number, row[1], row[3]]));
        }
    }
    Value::Object(all)
}

fn write(path: &Path, value: &Value) {
    let text = serde_json::to_vec(value).expect("JSON values serialise");
    fs::write(path, zstd::encode_all(&text[..], 19).expect("in memory")).expect("OUT_DIR is writable");
}

fn type_of(name: &str, schema: &Value, ids: &BTreeMap<&str, usize>, facts: &Facts) -> Value {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return json!({"n": name, "s": named_shape(name, schema, ids)});
    };
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let fields: Vec<Value> = properties
        .iter()
        .map(|(field, property)| {
            let mut row = Map::new();
            row.insert("n".into(), field.as_str().into());
            row.insert("s".into(), shape_of(property, ids).into());
            if required.contains(&field.as_str()) {
                row.insert("r".into(), true.into());
            }
            facts.add(name, field, &mut row);
            Value::Object(row)
        })
        .collect();
    let mut row = json!({"n": name, "f": fields});
    if facts.atomic_types.contains(&name.to_owned()) {
        row["a"] = true.into();
    }
    row
}

/// A definition that is no object with fields.
fn named_shape(name: &str, schema: &Value, ids: &BTreeMap<&str, usize>) -> String {
    match name.rsplit('.').next().unwrap_or_default() {
        "Quantity" => "q".into(),
        "IntOrString" => "x".into(),
        "Time" => "t".into(),
        "MicroTime" => "u".into(),
        _ => shape_of(schema, ids),
    }
}

/// `s`tring `b`ytes `t`ime `u` micro time `i`nt32 `l` int64 `d`ouble `o` bool `q`uantity `x` int or
/// string, `*` anything, `[`list of, `{`map of, `@N` the type with that number.
fn shape_of(schema: &Value, ids: &BTreeMap<&str, usize>) -> String {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        return format!("@{}", ids[reference.trim_start_matches("#/$defs/")]);
    }
    if schema.get("x-kubernetes-int-or-string").is_some() {
        return "x".into();
    }
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    match (schema.get("type").and_then(Value::as_str), format) {
        (Some("string"), "byte") => "b".into(),
        (Some("string"), "date-time") => "t".into(),
        (Some("string"), _) => "s".into(),
        (Some("integer"), "int64") => "l".into(),
        (Some("integer"), _) => "i".into(),
        (Some("number"), _) => "d".into(),
        (Some("boolean"), _) => "o".into(),
        (Some("array"), _) => format!("[{}", shape_of(&schema["items"], ids)),
        (Some("object"), _) if schema.get("additionalProperties").is_some_and(Value::is_object) => {
            format!("{{{}", shape_of(&schema["additionalProperties"], ids))
        }
        _ => "*".into(),
    }
}

fn docs_of(schema: &Value) -> Value {
    let fields: Map<String, Value> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(name, p)| Some((name.clone(), p.get("description")?.clone())))
        .collect();
    json!({"d": schema.get("description"), "f": fields})
}

/// What the tables beside say of a field, in the short form of `types.zst`.
#[derive(Default)]
struct Facts {
    fields: BTreeMap<(String, String), Map<String, Value>>,
    atomic_types: Vec<String>,
}

impl Facts {
    fn read() -> Facts {
        let mut facts = Facts::default();
        for row in rows("lists.tsv") {
            let [name, field, list, keys, strategy, merge_key, rest @ ..] = row.as_slice() else {
                panic!("lists.tsv: too few columns: {row:?}")
            };
            let atomic_map = rest.first().is_some_and(|t| t == "atomic");
            if field == "-" {
                if atomic_map {
                    facts.atomic_types.push(name.clone());
                }
                continue;
            }
            let entry = facts.fields.entry((name.clone(), field.clone())).or_default();
            for (short, value) in [("l", list), ("k", keys), ("p", strategy), ("m", merge_key)] {
                if value != "-" {
                    entry.insert(short.into(), value.as_str().into());
                }
            }
            if let Some(map_type) = rest.first().filter(|t| *t != "-") {
                entry.insert("l".into(), map_type.as_str().into());
            }
        }
        for row in rows("go.tsv") {
            let entry = facts.fields.entry((row[0].clone(), row[1].clone())).or_default();
            let flags = entry.get("g").and_then(Value::as_str).unwrap_or_default().to_owned();
            let flag = match row[2].as_str() {
                "pointer" => "p",
                "always" => "a",
                "struct" => "s",
                other => panic!("go.tsv: unknown flag {other}"),
            };
            entry.insert("g".into(), (flags + flag).into());
            if row[3] != "-" {
                let zero: Value =
                    serde_json::from_str(&row[3]).unwrap_or_else(|e| panic!("go.tsv: {row:?}: {e}"));
                entry.insert("z".into(), zero);
            }
        }
        for row in rows("defaults.tsv") {
            let value: Value =
                serde_json::from_str(&row[2]).unwrap_or_else(|e| panic!("defaults.tsv: {row:?}: {e}"));
            facts.fields.entry((row[0].clone(), row[1].clone())).or_default().insert("d".into(), value);
        }
        facts
    }

    fn add(&self, name: &str, field: &str, row: &mut Map<String, Value>) {
        if let Some(facts) = self.fields.get(&(name.to_owned(), field.to_owned())) {
            row.extend(facts.clone());
        }
    }
}

fn rows(file: &str) -> Vec<Vec<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let lines = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines.map(|l| l.split('\t').map(str::to_owned).collect()).collect()
}
