//! Whether the result of a strategic merge fits its type, in the words of upstream's converter from
//! unstructured values (which differ from those of its JSON decoder).

use schema::{Shape, Types};
use serde_json::Value;

use crate::go;

/// # Errors
/// What the converter would say of the first value that does not fit. Unknown fields are no fault here.
pub fn check(types: &Types, shape: &Shape, value: &Value) -> Result<(), String> {
    if value.is_null() {
        return Ok(());
    }
    match types.resolve(shape) {
        Shape::Ref(id) => {
            let Value::Object(map) = value else {
                return Err(format!("cannot restore struct from: {}", go::kind(value)));
            };
            let ty = types.get(*id);
            map.iter()
                .filter_map(|(name, value)| ty.field(name).map(|field| (field, value)))
                .try_for_each(|(field, value)| check(types, &field.shape, value))
        }
        Shape::Map(inner) => match value {
            Value::Object(map) => map.values().try_for_each(|v| check(types, inner, v)),
            other => Err(format!("cannot restore map from {}", go::kind(other))),
        },
        Shape::List(inner) => match value {
            Value::Array(list) => list.iter().try_for_each(|v| check(types, inner, v)),
            other => Err(format!("cannot restore slice from {}", go::kind(other))),
        },
        Shape::Bytes if !value.is_string() => Err(format!("cannot restore slice from {}", go::kind(value))),
        // These have a decoder of their own, or take anything: what they refuse is the decoder's to say.
        Shape::Bytes | Shape::Time | Shape::MicroTime | Shape::Quantity | Shape::IntOrString | Shape::Any => {
            Ok(())
        }
        Shape::String => scalar(value, "string"),
        Shape::Int32 => scalar(value, "int32"),
        Shape::Int64 => scalar(value, "int64"),
        Shape::Double => scalar(value, "float64"),
        Shape::Bool => scalar(value, "bool"),
    }
}

fn scalar(value: &Value, wanted: &str) -> Result<(), String> {
    let fits = match (value, wanted) {
        (Value::String(_), "string") | (Value::Bool(_), "bool") => true,
        (Value::Number(n), "int32" | "int64") => !n.is_f64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
        (Value::Number(_), "float64") => true,
        // Go can convert a number to a text of one character; the converter forbids it by name.
        (Value::Number(n), "string") if !n.is_f64() => {
            return Err(format!("cannot convert {} to string", go::type_name(value)));
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("unrecognized type: {wanted}")) }
}
