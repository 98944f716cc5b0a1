//! Merging an applied configuration into an object, and taking fields out of one.

use serde_json::{Map, Value};

use super::compare::{list_of, map_of};
use super::schema::{Form, Place};
use super::set::Set;

/// The object with the configuration's fields laid over its own.
pub fn merge(place: Place<'_>, live: &Value, config: &Value) -> Value {
    merge_at(Some(place), Some(live), Some(config)).unwrap_or_default()
}

fn merge_at(place: Option<Place<'_>>, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let whole = || config.or(live).cloned();
    let Some(place) = place else { return whole() };
    match place.form() {
        Form::Leaf => whole(),
        Form::Map => {
            let (a, b) = (map_of(live), map_of(config));
            if a.is_empty() && b.is_empty() {
                return whole();
            }
            let mut out = Map::new();
            for name in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                if let Some(value) = merge_at(place.child(name), a.get(name), b.get(name)) {
                    out.insert(name.clone(), value);
                }
            }
            Some(Value::Object(out))
        }
        Form::List(keys) => {
            let (a, b) = (list_of(live), list_of(config));
            if a.is_empty() && b.is_empty() {
                return whole();
            }
            Some(Value::Array(merge_lists(place, keys, a, b)))
        }
    }
}

/// Items of both lists: those of the configuration in its order, those that are only live where
/// they stood between them.
///
/// ```text
/// live    a x b c        configuration  b a d        merged  x b c a d
/// ```
fn merge_lists(place: Place<'_>, keys: &[Box<str>], live: &[Value], config: &[Value]) -> Vec<Value> {
    let name = |item: &Value| place.element(keys, item).unwrap_or_default();
    let lhs: Vec<String> = live.iter().map(name).collect();
    let rhs: Vec<String> = config.iter().map(name).collect();
    let mut shared = rhs.iter().filter(|e| lhs.contains(e)).peekable();
    let mut merged: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(lhs.len().max(rhs.len()));
    let one = |element: &str| -> Option<Value> {
        let at = |names: &[String]| names.iter().position(|n| n == element);
        merge_at(place.item(), at(&lhs).map(|i| &live[i]), at(&rhs).map(|i| &config[i]))
    };
    let (mut l, mut r) = (0, 0);
    while l < lhs.len() || r < rhs.len() {
        if let (Some(left), Some(right)) = (lhs.get(l), rhs.get(r)) {
            if left == right {
                merged.push(left);
                out.extend(one(left));
                l += 1;
                r += 1;
                shared.next();
                continue;
            }
            if rhs.contains(left) && shared.peek().is_some_and(|next| *next != left) {
                // Shared, but its turn is later.
                l += 1;
                continue;
            }
        }
        if let Some(left) = lhs.get(l) {
            if !rhs.contains(left) {
                out.push(live[l].clone());
                l += 1;
                continue;
            }
            if merged.contains(&left.as_str()) {
                l += 1;
            }
        }
        if let Some(right) = rhs.get(r) {
            merged.push(right);
            out.extend(one(right));
            r += 1;
            if shared.peek() == Some(&right) {
                shared.next();
            }
        }
    }
    out
}

/// The object without the fields of a set.
pub fn remove(place: Place<'_>, value: &Value, gone: &Set) -> Value {
    match place.form() {
        Form::Leaf => Value::Null,
        Form::Map => {
            let mut out = Map::new();
            for (name, value) in map_of(Some(value)) {
                let element = format!("f:{name}");
                if gone.contains(&element) {
                    continue;
                }
                out.insert(name.clone(), remove_below(place.child(name), value, gone.below(&element)));
            }
            if out.is_empty() { Value::Null } else { Value::Object(out) }
        }
        Form::List(keys) => {
            let mut out = Vec::new();
            for item in list_of(Some(value)) {
                let element = place.element(keys, item).unwrap_or_default();
                if gone.contains(&element) {
                    continue;
                }
                out.push(remove_below(place.item(), item, gone.below(&element)));
            }
            if out.is_empty() { Value::Null } else { Value::Array(out) }
        }
    }
}

fn remove_below(place: Option<Place<'_>>, value: &Value, gone: Option<&Set>) -> Value {
    match (place, gone) {
        (Some(place), Some(gone)) => remove(place, value, gone),
        _ => value.clone(),
    }
}
