//! Certificate signing requests: approval has a path of its own.

use api::Object;
use registry::resource::PartHook;

/// `certificatesigningrequests/NAME/approval`: the conditions alone.
pub struct Approval;

impl PartHook for Approval {
    fn prepare(&self, new: &mut Object, old: &Object) {
        let conditions = new.get(&["status", "conditions"]).cloned();
        for part in ["spec", "status"] {
            match old.0.get(part) {
                Some(value) => new.0.insert(part.into(), value.clone()),
                None => new.0.remove(part),
            };
        }
        if let Some(conditions) = conditions {
            new.set(&["status", "conditions"], conditions);
        }
    }
}
