//! Whether a value is of a schema's type, in the words of upstream's schema validator.

use std::collections::{HashMap, HashSet};

use api::field::{Errors, Path};
use serde_json::Value;

/// Checks of many values against one schema.
#[derive(Default)]
pub(super) struct Check<'a> {
    /// The values of each `enum` that was looked at, by its address: an array asks it for each of its items.
    enums: HashMap<*const Value, HashSet<&'a Value>>,
}

impl<'a> Check<'a> {
    /// Faults of `value` against the types of `schema`, told at `path`; `name` is where in the value.
    pub(super) fn value(
        &mut self,
        value: &Value,
        schema: &'a Value,
        name: &str,
        path: &Path,
        errors: &mut Errors,
    ) {
        let text = |field: &str| schema.get(field).and_then(Value::as_str).unwrap_or_default();
        let is = |field: &str| schema.get(field) == Some(&Value::Bool(true));
        if errors.is_full() || (value.is_null() && is("nullable")) {
            return;
        }
        let wanted = text("type");
        let either = is("x-kubernetes-int-or-string") && matches!(value, Value::Number(_) | Value::String(_));
        let found = kind_of(value);
        let fits =
            wanted.is_empty() || either || found == wanted || (wanted == "number" && found == "integer");
        if !fits {
            let words = format!("{name} in body must be of type {wanted}: {}", api::field::quote(found));
            errors.type_invalid(path, found, words);
            return;
        }
        let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
        match value {
            Value::Object(map) => {
                for required in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
                    if errors.is_full() {
                        return;
                    }
                    let key = required.as_str().unwrap_or_default();
                    if !map.contains_key(key) {
                        errors.required(&path.child(key), "");
                    }
                }
                for (key, part) in map {
                    let own = schema.get("properties").and_then(|p| p.get(key));
                    let open = schema.get("additionalProperties").filter(|a| a.is_object());
                    if let Some(inner) = own.or(open) {
                        self.value(part, inner, &below(key), &path.child(key), errors);
                    }
                }
            }
            Value::Array(items) => {
                if let Some(inner) = schema.get("items") {
                    for (i, item) in items.iter().enumerate() {
                        self.value(item, inner, &format!("{name}[{i}]"), &path.index(i), errors);
                    }
                }
            }
            _ => {}
        }
        let supported = schema.get("enum").and_then(Value::as_array);
        if let Some(all) = supported.filter(|all| !self.allows(all, value) && !errors.is_full()) {
            let shown: Vec<String> =
                all.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
            errors.not_supported(path, value, &shown);
        }
    }

    fn allows(&mut self, all: &'a [Value], value: &Value) -> bool {
        let values = self.enums.entry(all.as_ptr()).or_insert_with(|| all.iter().collect());
        values.contains(value)
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::told;

    #[test]
    fn a_default_is_a_value_of_its_schema() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {
            "a": {"type": "integer", "enum": [1, 2]},
            "b": {"type": "array", "items": {"type": "string", "enum": ["x", "y"]}},
            "c": {"type": "string", "nullable": true},
            "d": {"x-kubernetes-int-or-string": true, "type": "string"},
        }, "additionalProperties": {"type": "number"}});
        let table: &[(Value, &[&str])] = &[
            (json!({"a": 1, "b": ["x", "y", "x"], "c": null, "d": 3, "more": 4}), &[]),
            (json!({}), &["default.a: Required value"]),
            (
                json!({"a": 3, "b": ["x", "z"]}),
                &[
                    "default.a: Unsupported value: 3: supported values: \"1\", \"2\"",
                    "default.b[1]: Unsupported value: \"z\": supported values: \"x\", \"y\"",
                ],
            ),
            (
                json!({"a": 1, "b": [1], "more": "x"}),
                &[
                    "default.b[0]: Invalid value: \"integer\": b[0] in body must be of type string: \"integer\"",
                    "default.more: Invalid value: \"string\": more in body must be of type number: \"string\"",
                ],
            ),
        ];
        for (value, faults) in table {
            let mut errors = Errors::default();
            Check::default().value(value, &schema, "", &Path::new("default"), &mut errors);
            assert_eq!(told(&errors), *faults, "{value}");
        }
    }
}
