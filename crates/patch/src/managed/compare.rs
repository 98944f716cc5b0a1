//! What differs between two values, and which fields a value has.

use serde_json::{Map, Value};

use super::schema::{Form, Place};
use super::set::Set;

/// The fields in which a new value differs from an old one.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }

    pub fn without(self, ignored: &Set) -> Comparison {
        if ignored.is_empty() {
            return self;
        }
        Comparison {
            added: self.added.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            removed: self.removed.recursive_difference(ignored),
        }
    }

    fn graft(&mut self, element: &str, below: Comparison) {
        self.added.graft(element, below.added);
        self.modified.graft(element, below.modified);
        self.removed.graft(element, below.removed);
    }
}

static EMPTY: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

/// Compares two objects of a type.
pub fn compare(place: Place<'_>, old: &Value, new: &Value) -> Comparison {
    let mut found = Comparison::default();
    if let (Value::Object(old), Value::Object(new)) = (old, new) {
        compare_maps(place, old, new, &mut found);
    }
    found
}

/// Compares what stands under one path element and notes it in `found`, the comparison of its holder.
fn compare_at(
    place: Option<Place<'_>>,
    element: &str,
    old: Option<&Value>,
    new: Option<&Value>,
    found: &mut Comparison,
) {
    if old == new {
        return;
    }
    let mut leaf = true;
    if let Some(place) = place {
        let mut below = Comparison::default();
        leaf = !compare_parts(place, old, new, &mut below);
        found.graft(element, below);
    }
    match (old, new) {
        (None, Some(_)) => found.added.insert(element),
        (Some(_), None) => found.removed.insert(element),
        _ if leaf => found.modified.insert(element),
        _ => {}
    }
}

/// Goes into the parts of two values; `false` where they are each one value.
fn compare_parts(place: Place<'_>, old: Option<&Value>, new: Option<&Value>, found: &mut Comparison) -> bool {
    match place.form() {
        Form::Leaf => false,
        Form::Map => {
            let (a, b) = (map_of(old), map_of(new));
            if a.is_empty() && b.is_empty() {
                return false;
            }
            compare_maps(place, a, b, found);
            true
        }
        Form::List(keys) => {
            let (a, b) = (list_of(old), list_of(new));
            if a.is_empty() && b.is_empty() {
                return false;
            }
            compare_lists(place, keys, a, b, found);
            true
        }
    }
}

fn compare_maps(
    place: Place<'_>,
    old: &Map<String, Value>,
    new: &Map<String, Value>,
    found: &mut Comparison,
) {
    for (name, value) in new {
        compare_at(place.child(name), &format!("f:{name}"), old.get(name), Some(value), found);
    }
    for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        compare_at(place.child(name), &format!("f:{name}"), Some(value), None, found);
    }
}

fn compare_lists(place: Place<'_>, keys: &[Box<str>], old: &[Value], new: &[Value], found: &mut Comparison) {
    let named = |items: &'_ [Value]| -> Vec<(String, usize)> {
        let each = items.iter().enumerate();
        each.filter_map(|(i, item)| place.element(keys, item).ok().map(|e| (e, i))).collect()
    };
    let (before, after) = (named(old), named(new));
    let all = |of: &[(String, usize)], element: &str| -> Vec<usize> {
        of.iter().filter(|(e, _)| e == element).map(|(_, i)| *i).collect()
    };
    let mut seen: Vec<&str> = Vec::new();
    for (element, _) in after.iter().chain(&before) {
        if seen.contains(&element.as_str()) {
            continue;
        }
        seen.push(element);
        let (a, b) = (all(&before, element), all(&after, element));
        if a.len() > 1 || b.len() > 1 {
            // Items that share their key are one value together.
            let same = a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| old[*a] == new[*b]);
            match (a.is_empty(), b.is_empty(), same) {
                (_, _, true) => {}
                (true, ..) => found.added.insert(element),
                (_, true, _) => found.removed.insert(element),
                _ => found.modified.insert(element),
            }
            continue;
        }
        let (a, b) = (a.first().map(|i| &old[*i]), b.first().map(|i| &new[*i]));
        compare_at(place.item(), element, a, b, found);
    }
}

/// The fields that an applied configuration speaks of.
pub fn fields_of(place: Place<'_>, value: &Value) -> Set {
    let mut set = Set::default();
    match place.form() {
        Form::Leaf => {}
        Form::Map => {
            for (name, value) in map_of(Some(value)) {
                let element = format!("f:{name}");
                let next = place.child(name);
                let leaf = next.is_none_or(|next| {
                    set.graft(&element, fields_of(next, value));
                    matches!(next.form(), Form::Leaf)
                });
                let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                if leaf || empty || !place.declares(name) {
                    set.insert(&element);
                }
            }
        }
        Form::List(keys) => {
            for item in list_of(Some(value)) {
                let Ok(element) = place.element(keys, item) else { continue };
                if let Some(next) = place.item() {
                    set.graft(&element, fields_of(next, item));
                }
                set.insert(&element);
            }
        }
    }
    set
}

pub fn map_of(value: Option<&Value>) -> &Map<String, Value> {
    value.and_then(Value::as_object).unwrap_or(&EMPTY)
}

pub fn list_of(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}
