//! Makes a decoded value conform to its type: checks shapes, takes out unknown fields and the zero
//! values that a Go client would not have written.

use serde_json::{Map, Value};

use crate::types::{Field, Shape, Type, TypeId, Types, Zero};

/// Unknown fields that are told of; the others are taken out all the same. As upstream's decoder.
const MAX_UNKNOWN: usize = 100;

/// What was found on the way.
#[derive(Debug, Default)]
pub struct Conformed {
    /// Paths of fields that the type does not have, in the order found; they are taken out.
    pub unknown: Vec<String>,
}

/// A value of another type than the schema's, in the words of Go's decoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeError(pub String);

impl std::fmt::Display for TypeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where we are: a chain on the stack, made into text only for a message.
struct At<'a> {
    parent: Option<&'a At<'a>>,
    /// A field's name, or `[3]` for an item.
    name: Part<'a>,
    /// The struct that holds the field.
    holder: &'a Type,
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Field(&'a str),
    Index(usize),
    Key(&'a str),
}

impl At<'_> {
    /// `spec.containers[0].foo`
    fn path(&self) -> String {
        let mut out = self.parent.map(At::path).unwrap_or_default();
        match self.name {
            Part::Index(i) => out.push_str(&format!("[{i}]")),
            Part::Field(name) | Part::Key(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
        }
        out
    }

    /// `PodSpec.spec.containers`: the innermost struct, then the fields from the root without indexes.
    fn go_field(&self) -> String {
        let mut names = Vec::new();
        let mut at = Some(self);
        while let Some(a) = at {
            if let Part::Field(name) = a.name {
                names.push(name);
            }
            at = a.parent;
        }
        names.reverse();
        format!("{}.{}", self.holder.short_name(), names.join("."))
    }
}

impl Types {
    /// Checks an object against a type and makes it as the type's own encoder would write it.
    ///
    /// # Errors
    /// The first value of a wrong type; what was changed until then stays changed.
    pub fn conform(&self, id: TypeId, object: &mut Map<String, Value>) -> Result<Conformed, TypeError> {
        let mut found = Conformed::default();
        self.conform_object(self.get(id), object, None, &mut found)?;
        Ok(found)
    }

    fn conform_object(
        &self,
        ty: &Type,
        object: &mut Map<String, Value>,
        parent: Option<&At<'_>>,
        found: &mut Conformed,
    ) -> Result<(), TypeError> {
        let mut dropped: Vec<String> = Vec::new();
        for (name, value) in object.iter_mut() {
            let at = At { parent, name: Part::Field(name), holder: ty };
            let Some(field) = ty.field(name) else {
                if found.unknown.len() < MAX_UNKNOWN {
                    found.unknown.push(at.path());
                }
                dropped.push(name.clone());
                continue;
            };
            if !value.is_null() {
                self.conform_value(&field.shape, value, &at, found)?;
            }
            let omitted = match field.zero {
                Zero::Omitted => is_zero(value),
                Zero::Kept => value.is_null(),
                // Those of the object itself stay until it is known who gave them: `null_empty`.
                Zero::Always => value.is_null() || (parent.is_some() && is_nullable_empty(field, value)),
            };
            if omitted {
                dropped.push(name.clone());
            }
        }
        for name in dropped {
            object.remove(&name);
        }
        self.write_zeros(ty, object);
        Ok(())
    }

    /// Writes the object's own empty lists and maps as those that were not given, as protobuf, in which
    /// upstream stores, does not tell the two apart. Whoever gave an empty one holds the field all the
    /// same, so this comes after that was noted.
    pub fn null_empty(&self, id: TypeId, object: &mut Map<String, Value>) {
        for field in self.get(id).fields.iter().filter(|f| f.zero == Zero::Always) {
            if let Some(value) = object.get_mut(&*field.name)
                && is_nullable_empty(field, value)
            {
                *value = Value::Null;
            }
        }
    }

    /// Writes the fields that are written whether they were given or not.
    fn write_zeros(&self, ty: &Type, object: &mut Map<String, Value>) {
        for field in ty.fields.iter().filter(|f| f.zero == Zero::Always) {
            if !object.contains_key(&*field.name) {
                object.insert(field.name.to_string(), self.written(field));
            }
        }
    }

    fn written(&self, field: &Field) -> Value {
        match (self.resolve(&field.shape), &field.written) {
            (Shape::Ref(id), Value::Object(_)) => {
                let mut inner = Map::new();
                self.write_zeros(self.get(*id), &mut inner);
                Value::Object(inner)
            }
            (_, written) => written.clone(),
        }
    }

    fn conform_value(
        &self,
        shape: &Shape,
        value: &mut Value,
        at: &At<'_>,
        found: &mut Conformed,
    ) -> Result<(), TypeError> {
        let shape = self.resolve(shape);
        match (shape, &mut *value) {
            (Shape::Ref(id), Value::Object(object)) => {
                return self.conform_object(self.get(*id), object, Some(at), found);
            }
            (Shape::List(item), Value::Array(items)) => {
                for (i, v) in items.iter_mut().enumerate() {
                    let at = At { parent: Some(at), name: Part::Index(i), holder: at.holder };
                    self.conform_item(item, v, &at, found)?;
                }
                return Ok(());
            }
            (Shape::Map(item), Value::Object(items)) => {
                for (key, v) in items.iter_mut() {
                    let at = At { parent: Some(at), name: Part::Key(key), holder: at.holder };
                    self.conform_item(item, v, &at, found)?;
                }
                return Ok(());
            }
            (Shape::Any, _) => return Ok(()),
            (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, Value::String(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::IntOrString, Value::String(_)) => return check_text(shape, value),
            (Shape::Quantity, Value::String(_) | Value::Number(_)) => return canonical_quantity(value),
            (Shape::Double, Value::Number(_)) => return Ok(()),
            (Shape::Int32 | Shape::IntOrString, Value::Number(n))
                if n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) =>
            {
                return Ok(());
            }
            (Shape::Int64, Value::Number(n)) if n.as_i64().is_some() => return Ok(()),
            _ => {}
        }
        Err(self.mismatch(shape, value, at))
    }

    fn conform_item(
        &self,
        shape: &Shape,
        value: &mut Value,
        at: &At<'_>,
        found: &mut Conformed,
    ) -> Result<(), TypeError> {
        if !value.is_null() {
            return self.conform_value(shape, value, at, found);
        }
        if let Some(zero) = self.zero_of(shape) {
            *value = zero;
        }
        Ok(())
    }

    fn zero_of(&self, shape: &Shape) -> Option<Value> {
        Some(match self.resolve(shape) {
            Shape::String | Shape::Bytes => Value::String(String::new()),
            Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => 0.into(),
            Shape::Bool => false.into(),
            Shape::Quantity => "0".into(),
            Shape::Ref(id) => {
                let mut object = Map::new();
                self.write_zeros(self.get(*id), &mut object);
                Value::Object(object)
            }
            Shape::Time | Shape::MicroTime | Shape::Any | Shape::List(_) | Shape::Map(_) => Value::Null,
        })
    }

    fn mismatch(&self, shape: &Shape, value: &Value, at: &At<'_>) -> TypeError {
        let what = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(shape, Shape::Int32 | Shape::Int64 | Shape::IntOrString) => {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        TypeError(format!(
            "json: cannot unmarshal {what} into Go struct field {} of type {}",
            at.go_field(),
            self.go_type(shape)
        ))
    }

    fn go_type(&self, shape: &Shape) -> String {
        match shape {
            Shape::String => "string".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::Bool => "bool".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Any => "interface {}".into(),
            Shape::List(item) => format!("[]{}", self.go_type(item)),
            Shape::Map(item) => format!("map[string]{}", self.go_type(item)),
            Shape::Ref(id) => match &self.get(*id).alias {
                Some(alias) => self.go_type(alias),
                None => self.get(*id).go_name().to_owned(),
            },
        }
    }
}

/// An empty list or map that is written null where it is not given: protobuf does not tell them apart.
fn is_nullable_empty(field: &Field, value: &Value) -> bool {
    field.written.is_null() && matches!(field.shape, Shape::List(_) | Shape::Map(_)) && is_zero(value)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
    }
}

fn check_text(shape: &Shape, value: &Value) -> Result<(), TypeError> {
    let Some(text) = value.as_str() else { return Ok(()) };
    match shape {
        Shape::Time | Shape::MicroTime if !is_rfc3339(text) => Err(TypeError(format!(
            "parsing time {0} as \"2006-01-02T15:04:05Z07:00\": cannot parse {0} as \"2006\"",
            api::field::quote(text)
        ))),
        Shape::Bytes => match illegal_base64(text) {
            Some(at) => Err(TypeError(format!("illegal base64 data at input byte {at}"))),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

fn is_rfc3339(text: &str) -> bool {
    let b = text.as_bytes();
    b.len() >= 20
        && b[4] == b'-'
        && b[7] == b'-'
        && (b[10] == b'T' || b[10] == b't')
        && b[13] == b':'
        && b[16] == b':'
        && [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18].iter().all(|i| b[*i].is_ascii_digit())
}

/// Where base64 text stops being it.
fn illegal_base64(text: &str) -> Option<usize> {
    let bytes: Vec<(usize, u8)> =
        text.bytes().enumerate().filter(|(_, b)| *b != b'\n' && *b != b'\r').collect();
    let padding = bytes.iter().rev().take_while(|(_, b)| *b == b'=').count().min(2);
    let body = &bytes[..bytes.len() - padding];
    if let Some((at, _)) = body.iter().find(|(_, b)| !(b.is_ascii_alphanumeric() || *b == b'+' || *b == b'/'))
    {
        return Some(*at);
    }
    (!bytes.len().is_multiple_of(4) || (padding > 0 && body.len() % 4 + padding != 4))
        .then_some(text.len() / 4 * 4)
}

fn canonical_quantity(value: &mut Value) -> Result<(), TypeError> {
    let text = match &*value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    let quantity = api::Quantity::parse(&text).map_err(|e| TypeError(e.to_string()))?;
    *value = Value::String(quantity.to_string());
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::builtin;

    fn check(kind: &str, mut value: Value) -> Result<(Value, Vec<String>), String> {
        let id = builtin().lookup(kind).unwrap();
        let found = builtin().conform(id, value.as_object_mut().unwrap()).map_err(|e| e.0)?;
        Ok((value, found.unknown))
    }

    #[test]
    fn unknown_fields_are_named_and_taken_out() {
        let (value, unknown) = check(
            "io.k8s.api.core.v1.Pod",
            json!({"spec": {"containers": [{"name": "a", "foo": 1}], "bar": {}}, "metadata": {"labels": {}}}),
        )
        .unwrap();
        assert_eq!(unknown, ["spec.bar", "spec.containers[0].foo"]);
        assert_eq!(value["spec"]["containers"][0]["name"], "a");
        assert!(value["metadata"].get("labels").is_none());
    }

    #[test]
    fn wrong_types_are_told_as_go_tells_them() {
        let wrong = |v| check("io.k8s.api.core.v1.Pod", v).unwrap_err();
        assert_eq!(
            wrong(json!({"spec": {"containers": [{"command": [1]}]}})),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.command of type string"
        );
        assert_eq!(
            wrong(json!({"spec": {"containers": {}}})),
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container"
        );
        assert_eq!(
            wrong(json!({"spec": {"activeDeadlineSeconds": 1.5}})),
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64"
        );
        assert_eq!(
            wrong(json!({"metadata": {"labels": {"a": true}}})),
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string"
        );
        assert_eq!(
            wrong(json!({"spec": "x"})),
            "json: cannot unmarshal string into Go struct field Pod.spec of type v1.PodSpec"
        );
    }

    #[test]
    fn quantities_become_canonical() {
        let (value, _) = check(
            "io.k8s.api.core.v1.Pod",
            json!({"spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1.5Gi"}}}]}}),
        )
        .unwrap();
        assert_eq!(
            value["spec"]["containers"][0]["resources"]["limits"],
            json!({"cpu": "500m", "memory": "1536Mi"})
        );
    }
}
