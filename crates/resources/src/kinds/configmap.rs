//! Config maps: immutable once they say so.

use api::field::{Errors, Path};
use api::{Object, names};
use serde_json::Value;

const SIZE_MAX: usize = 1024 * 1024;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let mut size = 0;
        for (field, other) in [("data", "binaryData"), ("binaryData", "data")] {
            let path = Path::new(field);
            for (key, value) in object.0.get(field).and_then(Value::as_object).into_iter().flatten() {
                for fault in names::config_map_key(key) {
                    errors.invalid(&path.key(key), key, fault);
                }
                if field == "data" && object.get(&[other, key]).is_some() {
                    errors.invalid(&path.key(key), key, "duplicate of key present in binaryData");
                }
                let length = value.as_str().map_or(0, str::len);
                size += if field == "data" { length } else { length / 4 * 3 };
            }
        }
        if size > SIZE_MAX {
            errors.too_long(&Path::unnamed(), SIZE_MAX);
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        immutable(new, old, &["data", "binaryData"], errors);
        self.validate(new, errors);
    }
}

/// An object with `immutable: true` keeps these fields, and stays immutable.
pub(super) fn immutable(new: &Object, old: &Object, fields: &[&str], errors: &mut Errors) {
    let is = |o: &Object| o.0.get("immutable").and_then(Value::as_bool) == Some(true);
    if !is(old) {
        return;
    }
    if !is(new) {
        errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
    }
    for field in fields {
        if new.0.get(*field) != old.0.get(*field) {
            errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
        }
    }
}
