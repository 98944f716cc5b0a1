//! `pods/NAME/resize`: the containers' resources alone, and only what can change while they run.

use std::collections::BTreeMap;

use api::Object;
use api::field::{Errors, Path};
use registry::resource::PartHook;
use serde_json::Value;

use super::pod;
use crate::at::At;

pub struct Resize;

const LISTS: [&str; 2] = ["containers", "initContainers"];

/// A container's name as a key: what is not there is as null.
fn name(container: &Value) -> String {
    container.get("name").unwrap_or(&Value::Null).to_string()
}

impl PartHook for Resize {
    /// Everything else is put back as it was, resize policies too.
    fn prepare(&self, new: &mut Object, old: &Object) {
        // Of equal names the first.
        let asked: Vec<BTreeMap<String, Option<Value>>> = LISTS
            .iter()
            .map(|list| {
                let all = new.get(&["spec", list]).and_then(Value::as_array);
                let mut named = BTreeMap::new();
                for container in all.into_iter().flatten() {
                    named.entry(name(container)).or_insert_with(|| container.get("resources").cloned());
                }
                named
            })
            .collect();
        pod::keep_all(new, old);
        for (list, asked) in LISTS.iter().zip(asked) {
            let spec = new.0.get_mut("spec").and_then(|s| s.get_mut(*list));
            for container in spec.and_then(Value::as_array_mut).into_iter().flatten() {
                let found = asked.get(&name(container));
                if let (Some(Some(resources)), Value::Object(map)) = (found, container) {
                    map.insert("resources".into(), resources.clone());
                }
            }
        }
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        pod::metadata_and_spec(new, errors);
        // What holds for the whole pod stands at no field, and alone.
        let alone = |words: &str, errors: &mut Errors| {
            errors.0.clear();
            errors.forbidden(&Path::unnamed(), words);
        };
        if old.annotation(pod::MIRROR).is_some() {
            return alone("static pods cannot be resized", errors);
        }
        if old.get_str(&["spec", "os", "name"]) == "windows" {
            return alone("windows pods cannot be resized", errors);
        }
        let (spec, before) = (At::of(new, "spec"), At::of(old, "spec"));
        if pod::qos_class(new) != pod::qos_class(old) {
            let words = "Pod QOS Class may not change as a result of resizing";
            errors.invalid(&spec.path, pod::qos_class(new), words);
        }
        let sidecar = |container: &At<'_>| container.str("restartPolicy") == "Always";
        let pairs = |list: &str| spec.items(list).into_iter().zip(before.items(list));
        for (now, was) in pairs("initContainers").filter(|(_, was)| sidecar(was)).chain(pairs("containers")) {
            kept(&now.field("resources"), &was.field("resources"), errors);
        }
        for (now, was) in pairs("containers") {
            if changes_others(&now.field("resources"), &was.field("resources")) {
                errors.forbidden(&spec.path, "only cpu and memory resources are mutable");
            }
        }
        for (now, was) in pairs("initContainers") {
            let (resources, had) = (now.field("resources"), was.field("resources"));
            if sidecar(&was) && changes_others(&resources, &had) {
                let words = "only cpu and memory resources for init or sidecar containers are mutable";
                errors.forbidden(&now.path, words);
            } else if !sidecar(&was) && resources.value != had.value {
                errors.forbidden(&spec.path, "resources for non-sidecar init containers are immutable");
            }
        }
    }
}

/// What was asked for or limited must be still.
fn kept(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    for (list, words) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        if old.entries(list).iter().any(|(name, _)| !new.field(list).has(name)) {
            errors.forbidden(&new.path.child(list), words);
        }
    }
}

/// Whether anything but cpu and memory is asked for otherwise.
fn changes_others(new: &At<'_>, old: &At<'_>) -> bool {
    ["requests", "limits"].iter().any(|list| {
        let (now, was) = (new.field(list), old.field(list));
        let names = new.entries(list).into_iter().chain(old.entries(list)).map(|(name, _)| name);
        names.filter(|name| !matches!(*name, "cpu" | "memory")).any(|name| now.raw(name) != was.raw(name))
    })
}
