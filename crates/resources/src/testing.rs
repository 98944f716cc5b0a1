//! What the tests of this crate share.

use api::Object;
use api::field::Errors;
use serde_json::Value;

pub fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => Object(map),
        other => panic!("no object: {other}"),
    }
}

pub fn told(errors: &Errors) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// `base` with other fields, by their JSON pointers; a null takes one away.
pub fn with(mut base: Value, changes: &[(&str, Value)]) -> Value {
    for (at, value) in changes {
        let (parent, field) = at.rsplit_once('/').expect("a pointer");
        let parent = base.pointer_mut(parent).and_then(Value::as_object_mut).expect(at);
        let field = field.replace("~1", "/");
        match value {
            Value::Null => parent.remove(&field),
            value => parent.insert(field, value.clone()),
        };
    }
    base
}
