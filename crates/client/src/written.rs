//! What was written last: until the cache shows it, what the cache shows is old.
//!
//! Between a write and the watch telling of it a controller would plan from the state before, and
//! write again what it wrote, or be refused for a conflict. Resource versions of one kind can be
//! compared (KEP-5504), so it leaves such an object alone: the watch wakes it when it is shown.

use std::collections::HashMap;

use kube::Resource;
use parking_lot::Mutex;

use crate::ObjectKey;

/// The versions written and not yet seen, by key.
#[derive(Debug, Default)]
pub struct Written {
    versions: Mutex<HashMap<ObjectKey, (Option<String>, u64)>>,
}

/// Whether `new` is a later state than `old`: of two that the API has had, the one of the higher version.
pub fn is_newer<K: Resource>(new: &K, old: &K) -> bool {
    match (version(new), version(old)) {
        (0, _) | (_, 0) => true,
        (new, old) => new > old,
    }
}

/// An object's resourceVersion; 0 where it has none.
fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or_default()
}

impl Written {
    /// Notes an object as the server returned it from a write.
    pub fn note<K: Resource>(&self, object: &K) {
        let entry = (object.meta().uid.clone(), version(object));
        self.versions.lock().insert(ObjectKey::of(object), entry);
    }

    /// Whether an object from the cache is as new as what was written.
    pub fn is_shown<K: Resource>(&self, object: &K) -> bool {
        let mut versions = self.versions.lock();
        let key = ObjectKey::of(object);
        let Some((uid, noted)) = versions.get(&key) else { return true };
        let shown = *uid != object.meta().uid || version(object) >= *noted;
        if shown {
            versions.remove(&key);
        }
        shown
    }

    /// Forgets an object that is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.versions.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    use super::*;

    #[test]
    fn old_until_shown_or_replaced() {
        let object = |uid: &str, version: &str| -> ConfigMap {
            let meta = json!({"name": "a", "namespace": "n", "uid": uid, "resourceVersion": version});
            serde_json::from_value(json!({"metadata": meta})).unwrap()
        };
        let written = Written::default();
        assert!(written.is_shown(&object("u", "5")));
        written.note(&object("u", "10"));
        assert!(!written.is_shown(&object("u", "9")));
        assert!(written.is_shown(&object("u", "11")));
        assert!(written.is_shown(&object("u", "9")));
        written.note(&object("u", "10"));
        assert!(written.is_shown(&object("v", "3")));
    }
}
