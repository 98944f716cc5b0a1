//! The graph of types.

use std::collections::HashMap;

use serde_json::Value;

/// A type's place in its [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// What a value looks like.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    String,
    /// Base64 text.
    Bytes,
    /// RFC 3339, whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    Int32,
    Int64,
    Double,
    Bool,
    Quantity,
    IntOrString,
    /// Any JSON.
    Any,
    List(Box<Shape>),
    Map(Box<Shape>),
    Ref(TypeId),
}

/// How a list is merged by server-side apply.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    /// Keyed by these fields.
    Map(Vec<Box<str>>),
}

/// What becomes of a field that holds its type's zero value (`""`, 0, false, `{}`, `[]`), after the
/// Go types that clients are used to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Zero {
    /// Dropped.
    #[default]
    Omitted,
    /// Kept where it was given (a pointer in Go).
    Kept,
    /// Written even where it was not given (no `omitempty`).
    Always,
}

#[derive(Clone, Debug)]
pub struct Field {
    pub name: Box<str>,
    pub shape: Shape,
    pub required: bool,
    pub list_type: ListType,
    /// The merge key of a strategic merge patch.
    pub patch_merge_key: Option<Box<str>>,
    /// Strategies of a strategic merge patch: `merge`, `retainKeys`, `replace`.
    pub patch_strategy: Vec<Box<str>>,
    /// The value of an absent field, where it hangs on nothing else.
    pub default: Option<Value>,
    pub zero: Zero,
    /// What [`Zero::Always`] writes where nothing was given: `""`, 0, `{}`, and null for lists, maps and pointers.
    pub written: Value,
    /// Merged as one value by server-side apply.
    pub atomic: bool,
    /// Merged by its parts though its type is atomic.
    pub granular: bool,
}

impl Field {
    pub fn strategy(&self, name: &str) -> bool {
        self.patch_strategy.iter().any(|s| &**s == name)
    }
}

#[derive(Clone, Debug)]
pub struct Type {
    /// The OpenAPI name: `io.k8s.api.core.v1.Container`.
    pub name: Box<str>,
    /// Sorted by name. Empty where `alias` is set.
    pub fields: Vec<Field>,
    /// A named type that is no object with fields.
    pub alias: Option<Shape>,
    pub atomic: bool,
    /// Whether some field of it, or below it, has a default.
    pub(crate) has_defaults: bool,
}

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| (*f.name).cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// The last part of the name: `Container`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// As Go prints it: `v1.Container`.
    pub fn go_name(&self) -> &str {
        let mut dots = self.name.rmatch_indices('.').map(|(i, _)| i + 1);
        dots.nth(1).map_or(&self.name, |at| &self.name[at..])
    }
}

/// A closed set of types that refer to each other.
#[derive(Clone, Debug, Default)]
pub struct Types {
    pub(crate) types: Vec<Type>,
    pub(crate) by_name: HashMap<Box<str>, TypeId>,
}

impl Types {
    pub fn lookup(&self, name: &str) -> Option<TypeId> {
        self.by_name.get(name).copied()
    }

    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    /// A shape with the names of non-objects resolved.
    pub fn resolve<'a>(&'a self, shape: &'a Shape) -> &'a Shape {
        match shape {
            Shape::Ref(id) => self.get(*id).alias.as_ref().unwrap_or(shape),
            other => other,
        }
    }

    /// The object type behind a shape, where it is one.
    pub fn object(&self, shape: &Shape) -> Option<&Type> {
        match self.resolve(shape) {
            Shape::Ref(id) => Some(self.get(*id)),
            _ => None,
        }
    }
}
