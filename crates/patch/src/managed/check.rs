//! Whether an applied configuration fits its schema, in the words of upstream's typed values.

use schema::Shape;
use serde_json::Value;

use super::schema::{Form, Place};

/// Every fault, with its path.
pub fn faults(place: Place<'_>, value: &Value) -> Vec<String> {
    let mut out = Vec::new();
    check(Some(place), value, &mut String::new(), &mut out);
    out
}

fn check(place: Option<Place<'_>>, value: &Value, path: &mut String, out: &mut Vec<String>) {
    let mut fault = |path: &str, why: String| {
        out.push(if path.is_empty() { why } else { format!("{path}: {why}") });
    };
    let Some(place) = place else {
        fault(path, "field not declared in schema".into());
        return;
    };
    if value.is_null() {
        return;
    }
    let within = path.len();
    match (place.form(), value) {
        (_, Value::Object(map)) if is_map(place) => {
            for (name, value) in map {
                path.push('.');
                path.push_str(name);
                check(place.child(name), value, path, out);
                path.truncate(within);
            }
        }
        (Form::List(keys), Value::Array(items)) => {
            let mut seen = Vec::new();
            for (i, item) in items.iter().enumerate() {
                match place.element(keys, item) {
                    Err(why) => out.push(format!("{path}: element {i}: {why}")),
                    Ok(element) if seen.contains(&element) => {
                        out.push(format!(
                            "{path}: duplicate entries for key {}",
                            super::set::shown(&element)
                        ));
                    }
                    Ok(element) => {
                        path.push_str(&super::set::shown(&element));
                        check(place.item(), item, path, out);
                        path.truncate(within);
                        seen.push(element);
                    }
                }
            }
        }
        (_, Value::Array(items)) if place.item().is_some() => {
            for (i, item) in items.iter().enumerate() {
                path.push_str(&format!("[{i}]"));
                check(place.item(), item, path, out);
                path.truncate(within);
            }
        }
        (_, value) if is_map(place) => fault(path, format!("expected map, got {}", shown(value))),
        (_, value) if place.item().is_some() => fault(path, format!("expected list, got {}", shown(value))),
        _ => check_scalar(place, value, path, out),
    }
}

fn is_map(place: Place<'_>) -> bool {
    place.object().is_some() || matches!(place.scalar(), Some(Shape::Map(_)))
}

fn check_scalar(place: Place<'_>, value: &Value, path: &str, out: &mut Vec<String>) {
    let wanted = match (place.scalar(), value) {
        (Some(Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime), v) if !v.is_string() => {
            "string"
        }
        (Some(Shape::Int32 | Shape::Int64 | Shape::Double), v) if !v.is_number() => "numeric (int or float)",
        (Some(Shape::Bool), v) if !v.is_boolean() => "boolean",
        _ => return,
    };
    out.push(format!("{path}: expected {wanted}, got {}", shown(value)));
}

/// A value as upstream's own printer writes it into these messages.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(_) | Value::Object(_) => format!("&{{{}}}", crate::go::shown(value)),
        other => format!("&value.valueUnstructured{{Value:{other}}}"),
    }
}

/// Faults as one message.
pub fn message(faults: &[String]) -> String {
    match faults {
        [one] => one.clone(),
        many => {
            let lines: Vec<String> = many.iter().map(|f| format!("\n  {f}")).collect();
            format!("errors:{}", lines.concat())
        }
    }
}
