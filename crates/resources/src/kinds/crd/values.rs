//! Whether a value is of a schema's type, in the words of upstream's schema validator.

use api::field::{Errors, Path};
use serde_json::Value;

/// Faults of `value` against the types of `schema`, told at `path`; `name` is where in the value.
pub(super) fn check(value: &Value, schema: &Value, name: &str, path: &Path, errors: &mut Errors) {
    let text = |field: &str| schema.get(field).and_then(Value::as_str).unwrap_or_default();
    let is = |field: &str| schema.get(field) == Some(&Value::Bool(true));
    if value.is_null() && is("nullable") {
        return;
    }
    let wanted = text("type");
    let either = is("x-kubernetes-int-or-string") && matches!(value, Value::Number(_) | Value::String(_));
    let found = kind_of(value);
    let fits = wanted.is_empty() || either || found == wanted || (wanted == "number" && found == "integer");
    if !fits {
        let words = format!("{name} in body must be of type {wanted}: {}", api::field::quote(found));
        errors.type_invalid(path, found, words);
        return;
    }
    let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
    match value {
        Value::Object(map) => {
            for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                let key = required.as_str().unwrap_or_default();
                if !map.contains_key(key) {
                    errors.required(&path.child(key), "");
                }
            }
            for (key, part) in map {
                let own = schema.get("properties").and_then(|p| p.get(key));
                let open = schema.get("additionalProperties").filter(|a| a.is_object());
                if let Some(inner) = own.or(open) {
                    check(part, inner, &below(key), &path.child(key), errors);
                }
            }
        }
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (i, item) in items.iter().enumerate() {
                    check(item, inner, &format!("{name}[{i}]"), &path.index(i), errors);
                }
            }
        }
        _ => {}
    }
    let supported = schema.get("enum").and_then(Value::as_array);
    if let Some(all) = supported.filter(|all| !all.contains(value)) {
        let shown: Vec<String> =
            all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.not_supported(path, value, &shown);
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}
