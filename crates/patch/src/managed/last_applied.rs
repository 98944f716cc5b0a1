//! `kubectl apply --server-side` on objects that client-side apply made: what the annotation says
//! kubectl has set is no conflict, and the annotation is kept up for the way back.

use serde_json::{Value, json};

use super::schema::Place;
use super::{Conflict, Request, Set, fields_of};

/// The manager for which this is done.
pub const KUBECTL: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Of all annotations together.
const MAX_BYTES: usize = 256 * 1024;

fn last_applied(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str()
}

/// The conflicts that remain when fields of the last client-side apply are no conflict.
pub fn not_allowed(request: &Request<'_>, live: &Value, found: Vec<Conflict>) -> Vec<Conflict> {
    let allowed = allowed(request, live);
    let left = found.into_iter().map(|c| Conflict { fields: c.fields.difference(&allowed), ..c });
    left.filter(|c| !c.fields.is_empty()).collect()
}

/// The fields that the annotation names and that still are as it says.
fn allowed(request: &Request<'_>, live: &Value) -> Set {
    let read = || -> Option<Set> {
        let config: Value = serde_json::from_str(last_applied(live)?).ok()?;
        let version = config.get("apiVersion")?.as_str()?;
        let (types, ty) = request.versions.types(version)?;
        let place = Place::root(types, ty);
        let live = request.versions.convert(live, request.api_version, version);
        let mut conformed = config.clone();
        if let Value::Object(map) = &mut conformed {
            types.conform(ty, map).ok()?;
        }
        let changed = super::compare(place, &live, &super::merge::merge(place, &live, &conformed));
        Some(fields_of(place, &config).difference(&changed.modified.union(&changed.added)))
    };
    read().unwrap_or_default()
}

/// Writes what was applied into the annotation, where the object has it.
pub fn sync(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(Value::Object(annotations)) = config.pointer_mut("/metadata/annotations") {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{config}\n");
    if let Some(Value::Object(annotations)) = object.pointer_mut("/metadata/annotations") {
        if text.len() > MAX_BYTES {
            annotations.remove(ANNOTATION);
        } else {
            annotations.insert(ANNOTATION.into(), json!(text));
        }
    }
}
