//! Namespaces: a finalizer of their own holds them until their content is gone.

use api::field::{Errors, Path};
use api::{Object, names};
use registry::RequestContext;
use registry::resource::PartHook;
use serde_json::{Value, json};

use crate::at::At;

pub struct Strategy;

impl registry::Strategy for Strategy {
    fn updates_are_checked_whole(&self) -> bool {
        true
    }

    fn name_faults(&self, name: &str, generated: bool) -> Vec<String> {
        names::dns1123_label(if generated { name.trim_end_matches('-') } else { name })
    }

    fn default(&self, object: &mut Object) {
        let name = object.name().to_owned();
        if !name.is_empty() {
            let labels = api::object::map_entry(object.metadata_mut(), "labels");
            labels.insert("kubernetes.io/metadata.name".into(), name.into());
        }
    }

    fn prepare_create(&self, _cx: &RequestContext, object: &mut Object) {
        object.0.insert("status".into(), json!({"phase": "Active"}));
        let spec = api::object::map_entry(&mut object.0, "spec");
        let finalizers = spec.entry("finalizers").or_insert_with(|| json!([]));
        if let Value::Array(list) = finalizers
            && !list.iter().any(|f| f == "kubernetes")
        {
            list.push("kubernetes".into());
        }
    }

    fn prepare_update(&self, _cx: &RequestContext, new: &mut Object, old: &Object) {
        match old.0.get("spec") {
            Some(spec) => new.0.insert("spec".into(), spec.clone()),
            None => new.0.remove("spec"),
        };
    }

    fn validate(&self, object: &Object, errors: &mut Errors) {
        for finalizer in At::of(object, "spec").items("finalizers") {
            registry::meta::finalizer_name(finalizer.text(), &Path::new("spec.finalizers"), errors);
        }
    }

    /// The phase follows from whether it is being deleted.
    fn validate_status(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        let phase = new.get_str(&["status", "phase"]);
        let path = Path::new("status.Phase");
        if new.is_deleting() {
            if phase != "Terminating" {
                let words = "may only be 'Terminating' if `deletionTimestamp` is not empty";
                errors.invalid(&path, phase, words);
            }
        } else if phase != "Active" {
            errors.invalid(&path, phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
    }

    fn held_back(&self, object: &Object) -> bool {
        object.get(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|f| !f.is_empty())
    }

    fn begin_delete(&self, object: &mut Object) {
        object.remove_meta("deletionGracePeriodSeconds");
        object.set(&["status", "phase"], "Terminating");
    }
}

/// `namespaces/NAME/finalize`: the finalizers alone.
pub struct Finalize;

impl PartHook for Finalize {
    fn prepare(&self, new: &mut Object, old: &Object) {
        if let Some(status) = old.0.get("status") {
            new.0.insert("status".into(), status.clone());
        }
    }

    fn validate(&self, new: &Object, _old: &Object, errors: &mut Errors) {
        for finalizer in At::of(new, "spec").items("finalizers") {
            registry::meta::finalizer_name(finalizer.text(), &finalizer.path, errors);
        }
    }

    fn verbs(&self) -> Vec<&'static str> {
        vec!["update"]
    }
}
