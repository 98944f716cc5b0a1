//! `scale`: the replicas of a workload as an `autoscaling/v1 Scale`.

use std::sync::LazyLock;

use api::field::{Errors, Path};
use api::{GroupKind, GroupVersionKind, Object, Status, selector::Labels};
use registry::resource::View;
use serde_json::{Value, json};

pub fn gvk() -> GroupVersionKind {
    GroupVersionKind { group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into() }
}

/// How the workload writes its selector.
pub enum Scale {
    /// A metav1.LabelSelector.
    Selector,
    /// A plain map.
    ReplicationController,
}

impl Scale {
    fn selector(&self, object: &Object) -> String {
        let Some(selector) = object.get(&["spec", "selector"]) else { return String::new() };
        let selector = match self {
            Scale::Selector => selector.clone(),
            Scale::ReplicationController => json!({"matchLabels": selector}),
        };
        serde_json::from_value(selector)
            .map(|s| sorted(Labels::from_label_selector(&s)).to_string())
            .unwrap_or_default()
    }
}

fn sorted(mut labels: Labels) -> Labels {
    labels.0.sort_by_key(|r| format!("{r:?}"));
    labels
}

static TABLE: LazyLock<crate::tables::Table> = LazyLock::new(crate::tables::core::scale);

impl View for Scale {
    fn fault_group(&self) -> Option<&'static str> {
        matches!(self, Scale::ReplicationController).then_some("autoscaling")
    }

    fn table(&self) -> Option<&dyn registry::Table> {
        Some(&*TABLE)
    }

    fn type_name(&self) -> &'static str {
        "io.k8s.api.autoscaling.v1.Scale"
    }

    fn show(&self, object: &Object) -> Object {
        let number = |path: &[&str]| object.get(path).and_then(Value::as_i64).unwrap_or(0);
        let mut metadata = json!({
            "name": object.name(),
            "namespace": object.namespace(),
            "uid": object.uid(),
            "resourceVersion": object.resource_version(),
        });
        if let Some(created) = object.metadata().and_then(|m| m.get("creationTimestamp")) {
            metadata["creationTimestamp"] = created.clone();
        }
        let mut scale = json!({
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": metadata,
            "spec": {},
            "status": {"replicas": number(&["status", "replicas"])},
        });
        if number(&["spec", "replicas"]) != 0 {
            scale["spec"]["replicas"] = number(&["spec", "replicas"]).into();
        }
        let selector = self.selector(object);
        if !selector.is_empty() {
            scale["status"]["selector"] = selector.into();
        }
        match scale {
            Value::Object(map) => Object(map),
            _ => unreachable!("a map was written above"),
        }
    }

    fn said(&self, view: &Object, shown: &Object) -> &'static [&'static [&'static str]] {
        let number = |o: &Object, part| o.get(&[part, "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        let selector = |o: &Object| o.get(&["status", "selector"]).cloned();
        let differs = ["spec", "status"].iter().any(|part| number(view, part) != number(shown, part));
        let differs = differs || selector(view).is_some_and(|sent| Some(sent) != selector(shown));
        // Upstream has no other field of the workload to give a manager of its scale, whatever was sent.
        if differs { &[&["spec", "replicas"]] } else { &[] }
    }

    fn take(&self, view: &Object, object: &mut Object) -> Result<(), Status> {
        let replicas = view.get(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        let mut errors = Errors::default();
        if replicas < 0 {
            errors.invalid(&Path::new("spec.replicas"), replicas, "must be greater than or equal to 0");
            let kind = GroupKind { group: "autoscaling".into(), kind: "Scale".into() };
            return Err(Status::invalid(&kind, object.name(), &errors));
        }
        object.set(&["spec", "replicas"], replicas);
        object.set_meta("resourceVersion", view.resource_version());
        Ok(())
    }
}
