//! Secrets: `stringData` goes into `data`, types ask for their keys.

use api::field::{Errors, Path};
use api::{Object, names};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry::RequestContext;
use serde_json::Value;

const SIZE_MAX: usize = 1024 * 1024;

pub struct Strategy;

fn take_string_data(object: &mut Object) {
    let Some(Value::Object(texts)) = object.0.remove("stringData") else { return };
    let data = api::object::map_entry(&mut object.0, "data");
    for (key, text) in texts {
        data.insert(key, BASE64_STANDARD.encode(text.as_str().unwrap_or_default()).into());
    }
}

/// Why encoded bytes are no JSON object, in the words of Go's decoder.
fn not_json(base64: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(base64).unwrap_or_default();
    if let Err(why) = codec::decode_json(&bytes) {
        return Some(why.to_string());
    }
    let kind = match serde_json::from_slice::<Value>(&bytes).unwrap_or_default() {
        Value::Null | Value::Object(_) => return None,
        Value::Array(_) => "array",
        Value::String(_) => "string",
        Value::Number(_) => "number",
        Value::Bool(_) => "bool",
    };
    Some(format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"))
}

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Object) {
        crate::at::fill(&mut object.0, "type", "Opaque");
        take_string_data(object);
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        if new.get_str(&["type"]).is_empty()
            && let Some(kind) = old.0.get("type")
        {
            new.0.insert("type".into(), kind.clone());
        }
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        let data = Path::new("data");
        let mut size = 0;
        for (key, value) in object.0.get("data").and_then(Value::as_object).into_iter().flatten() {
            for fault in names::config_map_key(key) {
                errors.invalid(&data.key(key), key, fault);
            }
            size += value.as_str().map_or(0, str::len) / 4 * 3;
        }
        if size > SIZE_MAX {
            errors.too_long(&data, SIZE_MAX);
        }
        let has = |key: &str| object.get(&["data", key]).is_some();
        let needs: &[&str] = match object.get_str(&["type"]) {
            "kubernetes.io/dockercfg" => &[".dockercfg"],
            "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
            "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
            "kubernetes.io/tls" => &["tls.crt", "tls.key"],
            _ => &[],
        };
        for key in needs {
            // A key for SSH must hold something, too.
            if !has(key) || (*key == "ssh-privatekey" && object.get_str(&["data", key]).is_empty()) {
                errors.required(&data.key(key), "");
            } else if key.starts_with(".docker")
                && let Some(why) = not_json(object.get_str(&["data", key]))
            {
                errors.invalid(&data.key(key), "<secret contents redacted>", why);
            }
        }
        match object.get_str(&["type"]) {
            "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
                errors.required(&data.key("username"), "");
                errors.required(&data.key("password"), "");
            }
            "kubernetes.io/service-account-token"
                if object.annotation("kubernetes.io/service-account.name").unwrap_or_default().is_empty() =>
            {
                errors.required(
                    &Path::new("metadata").child("annotations").key("kubernetes.io/service-account.name"),
                    "",
                );
            }
            _ => {}
        }
    }

    fn validate_update(&self, new: &Object, old: &Object, errors: &mut Errors) {
        if new.0.get("type") != old.0.get("type") {
            let shown = new.0.get("type").cloned().unwrap_or_default();
            errors.invalid(&Path::new("type"), &shown, "field is immutable");
        }
        super::configmap::immutable(new, old, &["data"], errors);
        self.validate(new, errors);
    }
}
