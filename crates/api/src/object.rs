//! An object of any kind as a JSON map, with the few fields that every kind has.

use serde_json::{Map, Value, json};

/// A JSON object: what the engine holds between decode and encode.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object(pub Map<String, Value>);

impl From<Map<String, Value>> for Object {
    fn from(map: Map<String, Value>) -> Object {
        Object(map)
    }
}

impl Object {
    pub fn kind(&self) -> &str {
        self.0.get("kind").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn api_version(&self) -> &str {
        self.0.get("apiVersion").and_then(Value::as_str).unwrap_or_default()
    }

    pub fn set_type(&mut self, api_version: &str, kind: &str) {
        self.0.insert("apiVersion".into(), api_version.into());
        self.0.insert("kind".into(), kind.into());
    }

    pub fn metadata(&self) -> Option<&Map<String, Value>> {
        self.0.get("metadata").and_then(Value::as_object)
    }

    /// The metadata, made where it is absent (or no map).
    pub fn metadata_mut(&mut self) -> &mut Map<String, Value> {
        map_entry(&mut self.0, "metadata")
    }

    /// A text of the metadata; empty where it is absent.
    pub fn meta_str(&self, field: &str) -> &str {
        self.metadata().and_then(|m| m.get(field)).and_then(Value::as_str).unwrap_or_default()
    }

    pub fn set_meta(&mut self, field: &str, value: impl Into<Value>) {
        self.metadata_mut().insert(field.into(), value.into());
    }

    pub fn remove_meta(&mut self, field: &str) {
        if let Some(Value::Object(m)) = self.0.get_mut("metadata") {
            m.remove(field);
        }
    }

    pub fn name(&self) -> &str {
        self.meta_str("name")
    }

    pub fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }

    pub fn uid(&self) -> &str {
        self.meta_str("uid")
    }

    pub fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }

    pub fn generation(&self) -> i64 {
        self.metadata().and_then(|m| m.get("generation")).and_then(Value::as_i64).unwrap_or(0)
    }

    pub fn is_deleting(&self) -> bool {
        self.metadata().is_some_and(|m| m.contains_key("deletionTimestamp"))
    }

    pub fn finalizers(&self) -> Vec<&str> {
        let list = self.metadata().and_then(|m| m.get("finalizers")).and_then(Value::as_array);
        list.map(|l| l.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
    }

    pub fn labels(&self) -> Option<&Map<String, Value>> {
        self.metadata().and_then(|m| m.get("labels")).and_then(Value::as_object)
    }

    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata()?.get("annotations")?.get(key)?.as_str()
    }

    /// The value at a path of field names, or none. A null is none: it is how absent lists and pointers
    /// are written.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        let found = rest.iter().try_fold(self.0.get(*first)?, |at, name| at.get(name))?;
        (!found.is_null()).then_some(found)
    }

    pub fn get_str(&self, path: &[&str]) -> &str {
        self.get(path).and_then(Value::as_str).unwrap_or_default()
    }

    /// Puts a value at a path, making the maps on the way.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, way)) = path.split_last() else { return };
        let mut at = &mut self.0;
        for name in way {
            at = map_entry(at, name);
        }
        at.insert((*last).to_owned(), value.into());
    }

    /// Takes out the value at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, way) = path.split_last()?;
        let mut at = &mut self.0;
        for name in way {
            at = at.get_mut(*name)?.as_object_mut()?;
        }
        at.remove(*last)
    }

    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }
}

/// The map under `key`, made where it is absent or something else.
pub fn map_entry<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let slot = map.entry(key).or_insert_with(|| json!({}));
    if !slot.is_object() {
        *slot = json!({});
    }
    match slot {
        Value::Object(inner) => inner,
        _ => unreachable!("made a map just above"),
    }
}
