//! Endpoint slices.

use api::Object;
use serde_json::Value;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn default(&self, object: &mut Object) {
        for port in object.0.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Value::Object(port) = port {
                port.entry("name").or_insert("".into());
                port.entry("protocol").or_insert("TCP".into());
            }
        }
    }
}
