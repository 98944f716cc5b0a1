//! A schema as server-side apply sees it: what is one value, what is merged by its parts.

use schema::{Field, ListType, Shape, Type, TypeId, Types};
use serde_json::{Map, Value};

/// A place in a schema.
#[derive(Clone, Copy)]
pub struct Place<'t> {
    types: &'t Types,
    at: At<'t>,
}

#[derive(Clone, Copy)]
enum At<'t> {
    Type(TypeId),
    Field(&'t Field),
    /// An item of a list, a value of a map.
    Inner(&'t Shape),
}

/// How a value at a place is merged.
#[derive(Clone, Copy)]
pub enum Form<'t> {
    /// As one value.
    Leaf,
    /// By the names of its fields or keys.
    Map,
    /// By these keys of its items; by the items themselves where there is none.
    List(&'t [Box<str>]),
}

impl<'t> Place<'t> {
    pub fn root(types: &'t Types, ty: TypeId) -> Place<'t> {
        Place { types, at: At::Type(ty) }
    }

    fn shape(&self) -> Option<&'t Shape> {
        match self.at {
            At::Type(_) => None,
            At::Field(field) => Some(self.types.resolve(&field.shape)),
            At::Inner(shape) => Some(self.types.resolve(shape)),
        }
    }

    /// The struct at this place, where it is one.
    pub fn object(&self) -> Option<&'t Type> {
        match (self.at, self.shape()) {
            (At::Type(id), _) => Some(self.types.get(id)),
            (_, Some(Shape::Ref(id))) => Some(self.types.get(*id)),
            _ => None,
        }
    }

    fn field(&self) -> Option<&'t Field> {
        match self.at {
            At::Field(field) => Some(field),
            _ => None,
        }
    }

    pub fn form(&self) -> Form<'t> {
        if self.field().is_some_and(|f| f.atomic) {
            return Form::Leaf;
        }
        if let Some(ty) = self.object() {
            let granular = self.field().is_some_and(|f| f.granular);
            return if ty.atomic && !granular { Form::Leaf } else { Form::Map };
        }
        match self.shape() {
            Some(Shape::Map(_)) => Form::Map,
            Some(Shape::List(_)) => self.field().map_or(Form::Leaf, list_form),
            _ => Form::Leaf,
        }
    }

    /// The shape of a scalar, or of anything for which the schema has nothing more to say.
    pub fn scalar(&self) -> Option<&'t Shape> {
        self.shape()
    }

    /// Whether the schema names this field here (a map's keys are not named).
    pub fn declares(&self, name: &str) -> bool {
        self.object().is_some_and(|ty| ty.field(name).is_some())
    }

    /// The place of a field or a key; `None` where the schema has none.
    pub fn child(&self, name: &str) -> Option<Place<'t>> {
        if let Some(ty) = self.object() {
            return ty.field(name).map(|field| Place { types: self.types, at: At::Field(field) });
        }
        match self.shape() {
            Some(Shape::Map(inner)) => Some(Place { types: self.types, at: At::Inner(inner) }),
            _ => None,
        }
    }

    /// The place of a list's items.
    pub fn item(&self) -> Option<Place<'t>> {
        match self.shape() {
            Some(Shape::List(inner)) => Some(Place { types: self.types, at: At::Inner(inner) }),
            _ => None,
        }
    }

    /// The place behind a path element.
    pub fn step(&self, element: &str) -> Option<Place<'t>> {
        match element.strip_prefix("f:") {
            Some(name) => self.child(name),
            None => self.item(),
        }
    }

    /// The path element of a list's item.
    ///
    /// # Errors
    /// The item has not what it is known by.
    pub fn element(&self, keys: &[Box<str>], item: &Value) -> Result<String, String> {
        if keys.is_empty() {
            return match item {
                Value::Null => {
                    Err("associative list without keys has an element that's an explicit null".into())
                }
                item => Ok(format!("v:{item}")),
            };
        }
        let Value::Object(map) = item else {
            return Err(match item {
                Value::Null => "associative list with keys may not have a null element".into(),
                _ => "associative list with keys may not have non-map elements".to_owned(),
            });
        };
        let mut found = Map::new();
        for key in keys {
            let value = match map.get(&**key) {
                Some(value) => value.clone(),
                None => self.key_default(key).ok_or_else(|| {
                    format!(
                        "associative list with keys has an element that omits key field \"{key}\" (and doesn't have default value)"
                    )
                })?,
            };
            found.insert(key.to_string(), value);
        }
        Ok(format!("k:{}", Value::Object(found)))
    }

    /// What an absent key counts as: its default, or the empty text where the field must be there.
    fn key_default(&self, key: &str) -> Option<Value> {
        let item = self.item()?;
        let field = item.object()?.field(key)?;
        let empty = || matches!(self.types.resolve(&field.shape), Shape::String).then(|| "".into());
        field.default.clone().or_else(empty)
    }
}

/// The list's own type; where it has none, what its strategic merge patch does.
fn list_form(field: &Field) -> Form<'_> {
    match &field.list_type {
        ListType::Map(keys) => Form::List(keys),
        ListType::Set => Form::List(&[]),
        ListType::Atomic if field.strategy("merge") => match &field.patch_merge_key {
            Some(key) => Form::List(std::slice::from_ref(key)),
            None => Form::List(&[]),
        },
        ListType::Atomic => Form::Leaf,
    }
}
