//! Defaults that hang on nothing else: where a value of a type is present and the field absent.

use serde_json::{Map, Value};

use crate::types::{Shape, TypeId, Types};

impl Types {
    /// Fills the absent fields that have a default, at every depth. Skips what has none below it.
    pub fn default(&self, id: TypeId, object: &mut Map<String, Value>) {
        let ty = self.get(id);
        if !ty.has_defaults {
            return;
        }
        for field in &ty.fields {
            // A value that is written where nothing was given counts as nothing given.
            if let Some(default) = &field.default
                && object.get(&*field.name).is_none_or(|v| v.is_null() || *v == field.written)
            {
                object.insert(field.name.to_string(), default.clone());
            }
            if let Some(value) = object.get_mut(&*field.name) {
                self.default_value(&field.shape, value);
            }
        }
    }

    fn default_value(&self, shape: &Shape, value: &mut Value) {
        match (self.resolve(shape), value) {
            (Shape::Ref(id), Value::Object(object)) => self.default(*id, object),
            (Shape::List(item), Value::Array(items)) if self.below_has_defaults(item) => {
                items.iter_mut().for_each(|v| self.default_value(item, v));
            }
            (Shape::Map(item), Value::Object(items)) if self.below_has_defaults(item) => {
                items.values_mut().for_each(|v| self.default_value(item, v));
            }
            _ => {}
        }
    }

    fn below_has_defaults(&self, shape: &Shape) -> bool {
        match shape {
            Shape::Ref(id) => self.get(*id).has_defaults,
            Shape::List(item) | Shape::Map(item) => self.below_has_defaults(item),
            _ => false,
        }
    }

    /// Marks the types that have a default at some depth; types may refer to themselves.
    pub(crate) fn mark_defaults(&mut self) {
        loop {
            let mut marked = Vec::new();
            for (i, ty) in self.types.iter().enumerate() {
                let has = ty.fields.iter().any(|f| f.default.is_some() || self.below_has_defaults(&f.shape));
                if has && !ty.has_defaults {
                    marked.push(i);
                }
            }
            if marked.is_empty() {
                return;
            }
            for i in marked {
                self.types[i].has_defaults = true;
            }
        }
    }
}
