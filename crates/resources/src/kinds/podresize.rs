//! `pods/NAME/resize`: the containers' resources alone, and only what can change while they run.

use api::Object;
use api::field::{Errors, Path};
use registry::resource::PartHook;
use serde_json::Value;

use super::{pod, podspec};
use crate::at::At;

pub struct Resize;

const LISTS: [&str; 2] = ["containers", "initContainers"];

impl PartHook for Resize {
    /// Everything else is put back as it was, resize policies too.
    fn prepare(&self, new: &mut Object, old: &Object) {
        let asked: Vec<Vec<(Value, Option<Value>)>> = LISTS
            .iter()
            .map(|list| {
                let all = new.get(&["spec", list]).and_then(Value::as_array);
                let all = all.into_iter().flatten();
                all.map(|c| (c.get("name").cloned().unwrap_or_default(), c.get("resources").cloned()))
                    .collect()
            })
            .collect();
        pod::keep_all(new, old);
        for (list, asked) in LISTS.iter().zip(asked) {
            let spec = new.0.get_mut("spec").and_then(|s| s.get_mut(*list));
            for container in spec.and_then(Value::as_array_mut).into_iter().flatten() {
                let name = container.get("name").cloned().unwrap_or_default();
                let found = asked.iter().find(|(n, _)| *n == name);
                if let (Some((_, Some(resources))), Value::Object(map)) = (found, container) {
                    map.insert("resources".into(), resources.clone());
                }
            }
        }
    }

    fn validate(&self, new: &Object, old: &Object, errors: &mut Errors) {
        let spec = At::of(new, "spec");
        podspec::validate(&spec, errors);
        // These stand at no field.
        let nowhere = Path::unnamed();
        if old.annotation(pod::MIRROR).is_some() {
            errors.forbidden(&nowhere, "static pods cannot be resized");
        }
        if old.get_str(&["spec", "os", "name"]) == "windows" {
            errors.forbidden(&nowhere, "windows pods cannot be resized");
        }
        if pod::qos_class(new) != pod::qos_class(old) {
            let words = "Pod QOS Class may not change as a result of resizing";
            errors.invalid(&Path::new("spec"), pod::qos_class(new), words);
        }
        let before = At::of(old, "spec");
        for list in LISTS {
            for (container, was) in spec.items(list).iter().zip(before.items(list)) {
                if list == "initContainers" && was.str("restartPolicy") != "Always" {
                    let same = container.raw("resources") == was.raw("resources");
                    if !same {
                        let words = "only resources of running containers are mutable";
                        errors.forbidden(&container.path.child("resources"), words);
                    }
                    continue;
                }
                one(&container.field("resources"), &was.field("resources"), errors);
            }
        }
    }
}

fn one(new: &At<'_>, old: &At<'_>, errors: &mut Errors) {
    for (list, words) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        let removed = old.entries(list).iter().any(|(name, _)| !new.field(list).has(name));
        if removed {
            errors.forbidden(&new.path.child(list), words);
        }
    }
    for list in ["requests", "limits"] {
        let names = new.entries(list).into_iter().chain(old.entries(list)).map(|(name, _)| name);
        let other = |name: &str| !matches!(name, "cpu" | "memory");
        let changed = |name: &str| new.field(list).raw(name) != old.field(list).raw(name);
        if names.into_iter().any(|name| other(name) && changed(name)) {
            errors.forbidden(&new.path, "only cpu and memory resources are mutable");
            return;
        }
    }
}
