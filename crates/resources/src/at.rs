//! A value and where it stands, for validators: going down keeps the path, so that a fault names its field.

use api::field::{Errors, Path};
use api::{Object, Quantity, names};
use serde_json::{Map, Value};

/// A field (perhaps absent) of the object that is validated.
#[derive(Clone, Debug)]
pub(crate) struct At<'a> {
    pub value: &'a Value,
    pub path: Path,
}

static ABSENT: Value = Value::Null;

impl<'a> At<'a> {
    pub fn new(value: &'a Value, path: Path) -> At<'a> {
        At { value, path }
    }

    /// A field of the object itself.
    pub fn of(object: &'a Object, field: &str) -> At<'a> {
        At { value: object.0.get(field).unwrap_or(&ABSENT), path: Path::new(field) }
    }

    pub fn is_absent(&self) -> bool {
        self.value.is_null()
    }

    /// Whether a field is there (and not null).
    pub fn has(&self, field: &str) -> bool {
        self.raw(field).is_some()
    }

    pub fn raw(&self, field: &str) -> Option<&'a Value> {
        self.value.get(field).filter(|v| !v.is_null())
    }

    /// The field, absent or not.
    pub fn field(&self, name: &str) -> At<'a> {
        At { value: self.raw(name).unwrap_or(&ABSENT), path: self.path.child(name) }
    }

    /// The field where it is there.
    pub fn some(&self, name: &str) -> Option<At<'a>> {
        self.raw(name).map(|value| At { value, path: self.path.child(name) })
    }

    /// The text of a field; empty where it is absent.
    pub fn str(&self, field: &str) -> &'a str {
        self.raw(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// The value's own text.
    pub fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    pub fn i64(&self, field: &str) -> Option<i64> {
        self.raw(field).and_then(Value::as_i64)
    }

    pub fn is(&self, field: &str) -> bool {
        self.raw(field).and_then(Value::as_bool) == Some(true)
    }

    /// The items of a list field, each with its path.
    pub fn items(&self, field: &str) -> Vec<At<'a>> {
        let Some(Value::Array(list)) = self.raw(field) else { return Vec::new() };
        let path = self.path.child(field);
        list.iter().enumerate().map(|(i, value)| At { value, path: path.index(i) }).collect()
    }

    /// The entries of a map field, each with its path, by key.
    pub fn entries(&self, field: &str) -> Vec<(&'a str, At<'a>)> {
        let Some(Value::Object(map)) = self.raw(field) else { return Vec::new() };
        let path = self.path.child(field);
        let mut all: Vec<_> =
            map.iter().map(|(k, value)| (k.as_str(), At { value, path: path.key(k) })).collect();
        all.sort_by_key(|(k, _)| *k);
        all
    }

    pub fn len(&self, field: &str) -> usize {
        match self.raw(field) {
            Some(Value::Array(list)) => list.len(),
            Some(Value::Object(map)) => map.len(),
            _ => 0,
        }
    }

    pub fn map(&self, field: &str) -> Option<&'a Map<String, Value>> {
        self.raw(field).and_then(Value::as_object)
    }

    /// A text must be there.
    pub fn required(&self, field: &str, errors: &mut Errors) -> bool {
        let missing = self.str(field).is_empty();
        if missing {
            errors.required(&self.path.child(field), "");
        }
        !missing
    }

    /// A number, where it is there, must not be below zero.
    pub fn non_negative(&self, field: &str, errors: &mut Errors) {
        if let Some(n) = self.i64(field).filter(|n| *n < 0) {
            errors.invalid(&self.path.child(field), n, "must be greater than or equal to 0");
        }
    }

    pub fn all_non_negative(&self, fields: &[&str], errors: &mut Errors) {
        for field in fields {
            self.non_negative(field, errors);
        }
    }

    /// A text must be one of a few; where it is absent it must be there.
    pub fn one_of(&self, field: &str, supported: &[&str], errors: &mut Errors) -> bool {
        match self.str(field) {
            "" => {
                errors.required(&self.path.child(field), "");
                false
            }
            _ => self.one_of_if_set(field, supported, errors),
        }
    }

    /// A text, where it is not empty, must be one of a few.
    pub fn one_of_if_set(&self, field: &str, supported: &[&str], errors: &mut Errors) -> bool {
        let text = self.str(field);
        let good = text.is_empty() || supported.contains(&text);
        if !good {
            errors.not_supported(&self.path.child(field), text, supported);
        }
        good
    }

    /// The faults that a check of names finds in a field's text.
    pub fn check(&self, field: &str, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        self.field(field).check_self(check, errors);
    }

    /// The same, where the text is not empty.
    pub fn check_if_set(&self, field: &str, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        if !self.str(field).is_empty() {
            self.check(field, check, errors);
        }
    }

    pub fn check_self(&self, check: fn(&str) -> Vec<String>, errors: &mut Errors) {
        for fault in check(self.text()) {
            errors.invalid(&self.path, self.text(), fault);
        }
    }

    pub fn invalid(&self, field: &str, value: impl api::field::Shown, detail: &str, errors: &mut Errors) {
        errors.invalid(&self.path.child(field), value, detail);
    }

    /// Quantities of a map, each with its path. Conformed ones always parse.
    pub fn quantities(&self, field: &str) -> Vec<(&'a str, Quantity, At<'a>)> {
        let entries = self.entries(field).into_iter();
        entries.filter_map(|(k, at)| Some((k, quantity(at.value)?, at))).collect()
    }
}

pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    Quantity::parse(value.as_str()?).ok()
}

/// A port by number or name.
pub(crate) fn port_number_or_name(at: &At<'_>, errors: &mut Errors) {
    match at.value {
        Value::String(name) => {
            for fault in names::port_name(name) {
                errors.invalid(&at.path, name, fault);
            }
        }
        other => {
            let number = other.as_i64().unwrap_or(0);
            for fault in names::port_number(number) {
                errors.invalid(&at.path, number, fault);
            }
        }
    }
}

/// A field must be as it was.
pub(crate) fn immutable(new: Option<&Value>, old: Option<&Value>, path: &Path, errors: &mut Errors) {
    let set = |v: Option<&Value>| v.filter(|v| !v.is_null()).cloned();
    if set(new) != set(old) {
        errors.invalid(path, new.unwrap_or(&Value::Null), "field is immutable");
    }
}

/// Two values as a message tells their difference: of objects the fields that differ, before and after.
pub(crate) fn difference(old: &Value, new: &Value) -> String {
    let rest = |of: &Value, other: &Value| match (of, other) {
        (Value::Object(of), Value::Object(other)) => {
            let kept = of.iter().filter(|(name, value)| other.get(*name) != Some(*value));
            Value::Object(kept.map(|(name, value)| (name.clone(), value.clone())).collect())
        }
        _ => of.clone(),
    };
    format!("-{}\n+{}", rest(old, new), rest(new, old))
}

/// A count or a percentage that is not below zero.
pub(crate) fn non_negative_int_or_percent(at: &At<'_>, errors: &mut Errors) {
    match at.value {
        Value::String(text) => {
            for fault in names::percent(text) {
                errors.invalid(&at.path, text, fault);
            }
        }
        other => {
            if let Some(n) = other.as_i64().filter(|n| *n < 0) {
                errors.invalid(&at.path, n, "must be greater than or equal to 0");
            }
        }
    }
}

/// Percentages above a hundred make no sense.
pub(crate) fn at_most_100_percent(at: &At<'_>, errors: &mut Errors) {
    if percent(at.value).is_some_and(|p| p > 100) {
        errors.invalid(&at.path, at.value, "must not be greater than 100%");
    }
}

/// `25%` as 25.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// The number of an int-or-percent, a percentage counting as its own number.
pub(crate) fn count_of(value: &Value) -> i64 {
    value.as_i64().or_else(|| percent(value)).unwrap_or(0)
}

/// Faults of a metav1.LabelSelector.
pub(crate) fn label_selector(at: &At<'_>, errors: &mut Errors) {
    registry::meta::labels(at.raw("matchLabels"), &at.path.child("matchLabels"), errors);
    for expression in at.items("matchExpressions") {
        match expression.str("operator") {
            "In" | "NotIn" if expression.len("values") == 0 => {
                errors.required(
                    &expression.path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if expression.len("values") > 0 => {
                errors.forbidden(
                    &expression.path.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "Exists" | "DoesNotExist" => {}
            other => expression.invalid("operator", other, "not a valid selector operator", errors),
        }
        expression.check("key", names::qualified_name, errors);
        for value in expression.items("values") {
            value.check_self(names::label_value, errors);
        }
    }
}

/// Whether a selector can be made of it at all.
pub(crate) fn selector_is_sound(at: &At<'_>) -> bool {
    let mut errors = Errors::default();
    label_selector(at, &mut errors);
    errors.is_empty()
}

/// Whether a metav1.LabelSelector matches labels.
pub(crate) fn selector_matches(selector: &Value, labels: Option<&Map<String, Value>>) -> bool {
    serde_json::from_value(selector.clone())
        .is_ok_and(|s| api::selector::Labels::from_label_selector(&s).matches(labels))
}

/// Faults of a list of metav1.Condition in a status.
pub(crate) fn conditions(status: &At<'_>, errors: &mut Errors) {
    let mut seen = std::collections::BTreeSet::new();
    for at in status.items("conditions") {
        if at.required("type", errors) {
            at.check("type", names::qualified_name, errors);
        }
        if !seen.insert(at.str("type")) {
            errors.duplicate(&at.path.child("type"), at.str("type"));
        }
        match at.str("status") {
            "" => errors.required(&at.path.child("status"), ""),
            "True" | "False" | "Unknown" => {}
            other => errors.not_supported(&at.path.child("status"), other, &["False", "True", "Unknown"]),
        }
        at.non_negative("observedGeneration", errors);
        if at.str("lastTransitionTime").is_empty() {
            errors.required(&at.path.child("lastTransitionTime"), "must be set");
        }
        if at.required("reason", errors) {
            if at.str("reason").len() > 1024 {
                errors.too_long(&at.path.child("reason"), 1024);
            }
            at.check("reason", names::condition_reason, errors);
        }
        if at.str("message").len() > 32 * 1024 {
            errors.too_long(&at.path.child("message"), 32 * 1024);
        }
    }
}

/// Sets a text that is absent or empty.
pub(crate) fn fill(map: &mut serde_json::Map<String, Value>, field: &str, text: &str) {
    let slot = map.entry(field).or_insert("".into());
    if slot.as_str().is_none_or(str::is_empty) {
        *slot = text.into();
    }
}
