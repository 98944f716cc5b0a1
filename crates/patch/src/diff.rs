//! The strategic merge patch that leads from one object to another: what `kubectl` sends.

use schema::{Shape, TypeId, Types};
use serde_json::{Map, Value, json};

use crate::strategic::{DELETE_FROM, DIRECTIVE, SET_ORDER, element, member};

type Object = Map<String, Value>;

/// A patch that [`strategic_merge`](crate::strategic_merge) turns `from` into `to` with; `{}` where
/// they are equal. Upstream's `CreateTwoWayMergePatch`.
///
/// Items of merged lists are expected to have their merge keys, each key once; a list where that is
/// not so cannot be merged at all.
pub fn strategic_diff(types: &Types, ty: TypeId, from: &Value, to: &Value) -> Value {
    let empty = Object::new();
    let object = |value: &'_ Value| value.as_object().cloned();
    let (from, to) = (object(from).unwrap_or_else(|| empty.clone()), object(to).unwrap_or(empty));
    Value::Object(maps(types, &Shape::Ref(ty), &from, &to))
}

fn maps(types: &Types, shape: &Shape, from: &Object, to: &Object) -> Object {
    let mut patch = Object::new();
    for (name, new) in to {
        let Some(old) = from.get(name) else {
            patch.insert(name.clone(), new.clone());
            continue;
        };
        if old == new {
            continue;
        }
        let at = member(types, shape, name);
        match (old, new, at) {
            (Value::Object(old), Value::Object(new), Some(at)) if !at.replaced() => {
                patch.insert(name.clone(), Value::Object(maps(types, at.shape, old, new)));
            }
            (Value::Array(old), Value::Array(new), Some(at)) => match at.list_key() {
                Some(Some(key)) => keyed(types, element(types, at.shape), key, name, (old, new), &mut patch),
                Some(None) => scalars(name, old, new, &mut patch),
                None => {
                    patch.insert(name.clone(), Value::Array(new.clone()));
                }
            },
            _ => {
                patch.insert(name.clone(), new.clone());
            }
        }
    }
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    patch
}

fn keyed(
    types: &Types,
    items: &Shape,
    key: &str,
    name: &str,
    (old, new): (&[Value], &[Value]),
    patch: &mut Object,
) {
    let find = |list: &'_ [Value], item: &Value| {
        list.iter().find(|other| other.get(key) == item.get(key)).and_then(Value::as_object).cloned()
    };
    let mut changes = Vec::new();
    for item in new {
        let Some(now) = item.as_object() else { continue };
        let change = match find(old, item) {
            None => now.clone(),
            Some(was) if was == *now => continue,
            Some(was) => {
                let mut change = maps(types, items, &was, now);
                change.extend(now.get(key).map(|v| (key.to_owned(), v.clone())));
                change
            }
        };
        changes.push(Value::Object(change));
    }
    for item in old.iter().filter(|item| find(new, item).is_none()) {
        changes.push(json!({key: item.get(key), DIRECTIVE: "delete"}));
    }
    let order = new.iter().map(|item| json!({key: item.get(key)})).collect();
    patch.insert(format!("{SET_ORDER}/{name}"), Value::Array(order));
    if !changes.is_empty() {
        patch.insert(name.to_owned(), Value::Array(changes));
    }
}

fn scalars(name: &str, old: &[Value], new: &[Value], patch: &mut Object) {
    let gone: Vec<Value> = old.iter().filter(|v| !new.contains(v)).cloned().collect();
    let added: Vec<Value> = new.iter().filter(|v| !old.contains(v)).cloned().collect();
    if !gone.is_empty() {
        patch.insert(format!("{DELETE_FROM}/{name}"), Value::Array(gone));
    }
    if !added.is_empty() {
        patch.insert(name.to_owned(), Value::Array(added));
    }
    patch.insert(format!("{SET_ORDER}/{name}"), Value::Array(new.to_vec()));
}
