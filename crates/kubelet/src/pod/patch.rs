//! What to send to make the API's status ours.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
use serde_json::{Map, Value, json};

use super::conditions;

/// The strategic merge patch from `old` to `new` for the pod with this uid; `None` where they are the same.
/// Conditions of others are left out, so that the API keeps them as they are by then.
pub fn status(uid: &str, old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let fields = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let (before, after) = (fields(old), fields(new));
    let mut patch = Map::new();
    for (name, value) in &after {
        if name != "conditions" && before.get(name).map(plain) != Some(plain(value)) {
            patch.insert(name.clone(), replaced(name, value));
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name) && *name != "conditions") {
        patch.insert(name.clone(), Value::Null);
    }
    let owned = |status: &PodStatus| -> Vec<PodCondition> {
        let all = status.conditions.iter().flatten();
        all.filter(|one| conditions::is_own(&one.type_)).cloned().collect()
    };
    let (had, has) = (owned(old), owned(new));
    let over = had.iter().filter(|one| !has.iter().any(|other| other.type_ == one.type_));
    let over: Vec<Value> = over.map(|one| json!({ "type": one.type_, "$patch": "delete" })).collect();
    let changed: Vec<_> = has.into_iter().filter(|one| !had.contains(one)).collect();
    if !changed.is_empty() || !over.is_empty() {
        let order: Vec<_> =
            new.conditions.iter().flatten().map(|condition| json!({ "type": condition.type_ })).collect();
        patch.insert("$setElementOrder/conditions".into(), order.into());
        let changed = changed.iter().filter_map(|one| serde_json::to_value(one).ok());
        // A field that has no value any more has to be said to have none.
        let changed = changed.map(|mut condition| {
            for name in ["reason", "message"] {
                if let Some(fields) = condition.as_object_mut() {
                    fields.entry(name).or_insert(Value::Null);
                }
            }
            condition
        });
        patch.insert("conditions".into(), changed.chain(over).collect());
    }
    (!patch.is_empty()).then(|| json!({ "metadata": { "uid": uid }, "status": patch }))
}

/// Lists that the API merges by key are replaced as a whole.
fn replaced(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("podIPs" | "hostIPs", Value::Array(list)) => {
            let replace = json!({ "$patch": "replace" });
            list.iter().cloned().chain([replace]).collect()
        }
        _ => value.clone(),
    }
}

/// A value without what says nothing: nulls, empty lists and maps.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), plain(value)))
            .filter(|(_, value)| !empty(value))
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.iter().map(plain).collect(),
        value => value.clone(),
    }
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    }
}
