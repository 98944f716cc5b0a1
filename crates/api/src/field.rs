//! Faults of fields, gathered: a validator pushes all that it finds, each with the field's path.
//!
//! Wording follows upstream's `validation/field`: `spec.replicas: Invalid value: -1: must be …`.

use std::fmt;

use serde_json::Value;

/// Where a fault is: `spec.containers[0].name`, `metadata.labels[a/b]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    pub fn new(root: &str) -> Path {
        Path(root.to_owned())
    }

    /// The path of no field: its children have no dot in front.
    pub fn root() -> Path {
        Path(String::new())
    }

    /// The path of a field without a name, as Go writes it: what is wrong is no field's.
    pub fn unnamed() -> Path {
        Path("[]".into())
    }

    pub fn child(&self, name: &str) -> Path {
        if self.0.is_empty() { Path(name.to_owned()) } else { Path(format!("{}.{name}", self.0)) }
    }

    pub fn index(&self, index: usize) -> Path {
        Path(format!("{}[{index}]", self.0))
    }

    pub fn key(&self, key: &str) -> Path {
        Path(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Required,
    Invalid,
    NotSupported,
    Forbidden,
    Duplicate,
    TooLong,
    TooMany,
    TypeInvalid,
    NotFound,
    Internal,
}

impl Kind {
    /// The `reason` of a `StatusCause`.
    pub fn reason(self) -> &'static str {
        match self {
            Kind::Required => "FieldValueRequired",
            Kind::Invalid => "FieldValueInvalid",
            Kind::NotSupported => "FieldValueNotSupported",
            Kind::Forbidden => "FieldValueForbidden",
            Kind::Duplicate => "FieldValueDuplicate",
            Kind::TooLong => "FieldValueTooLong",
            Kind::TooMany => "FieldValueTooMany",
            Kind::TypeInvalid => "FieldValueTypeInvalid",
            Kind::NotFound => "FieldValueNotFound",
            Kind::Internal => "InternalError",
        }
    }
}

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub field: String,
    /// The message without the field.
    pub body: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body)
    }
}

/// Text as Go's `%q` prints it.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A value as messages show it: text quoted, numbers bare, structures as JSON.
pub trait Shown {
    fn shown(&self) -> String;
}

impl Shown for str {
    fn shown(&self) -> String {
        quote(self)
    }
}

impl Shown for String {
    fn shown(&self) -> String {
        quote(self)
    }
}

impl Shown for Value {
    fn shown(&self) -> String {
        match self {
            Value::String(s) => quote(s),
            other => other.to_string(),
        }
    }
}

macro_rules! shown_by_display {
    ($($t:ty),*) => {$(impl Shown for $t { fn shown(&self) -> String { self.to_string() } })*};
}
shown_by_display!(i32, i64, u16, u32, u64, usize, bool, f64);

impl<T: Shown + ?Sized> Shown for &T {
    fn shown(&self) -> String {
        (**self).shown()
    }
}

/// Text that is shown as it stands.
pub struct Bare(pub String);

impl Shown for Bare {
    fn shown(&self) -> String {
        self.0.clone()
    }
}

/// Bytes of faults that are told of one object.
const MOST: usize = 1 << 20;

/// All the faults of one object, in the order found. An object can have a fault in each of its parts, and each
/// can show the whole of it: what comes when [`MOST`] bytes are there is not told any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors {
    told: Vec<Error>,
    bytes: usize,
}

impl Errors {
    pub fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    pub fn len(&self) -> usize {
        self.told.len()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Error> {
        self.told.iter()
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Whether further faults are not told: who finds many may stop.
    pub fn is_full(&self) -> bool {
        self.bytes >= MOST
    }

    /// A fault in words of its own; `body` is what follows the field, and is asked for if it is told.
    pub fn push(&mut self, kind: Kind, path: &Path, body: impl FnOnce() -> String) {
        if !self.is_full() {
            self.tell(Error { kind, field: path.to_string(), body: body() });
        }
    }

    fn tell(&mut self, error: Error) {
        self.bytes += error.field.len() + error.body.len();
        self.told.push(error);
    }

    pub fn required(&mut self, path: &Path, detail: &str) {
        self.push(Kind::Required, path, || with("Required value", detail));
    }

    pub fn invalid(&mut self, path: &Path, value: impl Shown, detail: impl AsRef<str>) {
        let body = || with(&format!("Invalid value: {}", value.shown()), detail.as_ref());
        self.push(Kind::Invalid, path, body);
    }

    pub fn type_invalid(&mut self, path: &Path, value: impl Shown, detail: impl AsRef<str>) {
        let body = || with(&format!("Invalid value: {}", value.shown()), detail.as_ref());
        self.push(Kind::TypeInvalid, path, body);
    }

    pub fn not_supported(&mut self, path: &Path, value: impl Shown, supported: &[&str]) {
        self.push(Kind::NotSupported, path, || {
            let list = supported.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", ");
            let detail = if list.is_empty() { String::new() } else { format!("supported values: {list}") };
            with(&format!("Unsupported value: {}", value.shown()), &detail)
        });
    }

    pub fn forbidden(&mut self, path: &Path, detail: impl AsRef<str>) {
        self.push(Kind::Forbidden, path, || with("Forbidden", detail.as_ref()));
    }

    pub fn duplicate(&mut self, path: &Path, value: impl Shown) {
        self.push(Kind::Duplicate, path, || format!("Duplicate value: {}", value.shown()));
    }

    pub fn not_found(&mut self, path: &Path, value: impl Shown) {
        self.push(Kind::NotFound, path, || format!("Not found: {}", value.shown()));
    }

    /// `limit` is in bytes.
    pub fn too_long(&mut self, path: &Path, limit: usize) {
        let unit = if limit == 1 { "byte" } else { "bytes" };
        self.push(Kind::TooLong, path, || format!("Too long: may not be more than {limit} {unit}"));
    }

    pub fn too_many(&mut self, path: &Path, count: usize, limit: usize) {
        let unit = if limit == 1 { "item" } else { "items" };
        self.push(Kind::TooMany, path, || format!("Too many: {count}: must have at most {limit} {unit}"));
    }

    pub fn extend(&mut self, other: Errors) {
        for error in other.told {
            if !self.is_full() {
                self.tell(error);
            }
        }
    }
}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a Error;
    type IntoIter = std::slice::Iter<'a, Error>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn with(head: &str, detail: &str) -> String {
    if detail.is_empty() { head.to_owned() } else { format!("{head}: {detail}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_within_bounds_and_never_none_of_them() {
        let mut errors = Errors::default();
        let long = "x".repeat(MOST / 2);
        for _ in 0..9 {
            errors.invalid(&Path::new("a"), &long, "b");
        }
        assert_eq!(errors.len(), 2);
        let mut more = errors.clone();
        more.extend(errors.clone());
        assert_eq!(more.len(), 2);
        errors.clear();
        errors.forbidden(&Path::new("a"), "b");
        assert_eq!(errors.len(), 1, "after the others are forgotten");
    }
}
