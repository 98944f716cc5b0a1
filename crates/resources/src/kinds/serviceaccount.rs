//! Service accounts: of the secrets they name, the name alone is kept.

use api::Object;
use registry::RequestContext;
use serde_json::{Value, json};

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        keep_names(object);
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, _old: &Object) {
        keep_names(new);
    }
}

fn keep_names(account: &mut Object) {
    for secret in account.0.get_mut("secrets").and_then(Value::as_array_mut).into_iter().flatten() {
        *secret = match secret.get("name").and_then(Value::as_str) {
            Some(name) if !name.is_empty() => json!({ "name": name }),
            _ => json!({}),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_named_and_no_more() {
        let secrets = json!([{"kind": "Secret", "namespace": "x", "name": "a"}, {"uid": "u"}, {"name": ""}]);
        let mut account = Object::default();
        account.0.insert("secrets".into(), secrets);
        keep_names(&mut account);
        assert_eq!(account.0["secrets"], json!([{"name": "a"}, {}, {}]));
    }
}
