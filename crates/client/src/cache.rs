//! The objects of one kind, by key and by index.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use kube::Resource;

use crate::ObjectKey;

/// A way to find objects: a name, and the values an object is found under.
///
/// Two indexes of one name must mean the same: the second is not added.
pub struct Index<K> {
    pub name: &'static str,
    pub values: fn(&K) -> Vec<String>,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K> Copy for Index<K> {}

/// Objects by namespace.
pub fn by_namespace<K: Resource>() -> Index<K> {
    Index { name: "namespace", values: |object| object.meta().namespace.iter().cloned().collect() }
}

/// Objects by the uid of the owner that controls them; objects without one are under "".
pub fn by_controller<K: Resource>() -> Index<K> {
    Index {
        name: "controller",
        values: |object| {
            let owner = object.meta().owner_references.iter().flatten().find(|o| o.controller == Some(true));
            vec![owner.map(|o| o.uid.clone()).unwrap_or_default()]
        },
    }
}

struct IndexTable<K> {
    index: Index<K>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

/// The cache of one informer.
pub(crate) struct Cache<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    indexes: Vec<IndexTable<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: HashMap::new(), indexes: Vec::new() }
    }
}

impl<K> Cache<K> {
    pub fn add_index(&mut self, index: Index<K>) {
        if self.indexes.iter().any(|table| table.index.name == index.name) {
            return;
        }
        let mut table = IndexTable { index, keys: HashMap::new() };
        for (key, object) in &self.objects {
            table.insert(key, object);
        }
        self.indexes.push(table);
    }

    pub fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for table in &mut self.indexes {
            if let Some(old) = &old {
                table.remove(&key, old);
            }
            table.insert(&key, &object);
        }
        old
    }

    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for table in &mut self.indexes {
            table.remove(key, &old);
        }
        Some(old)
    }

    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.objects.get(key).cloned()
    }

    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    pub fn values(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values()
    }

    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// The objects under `value` of the index, or `None` when there is no such index.
    pub fn indexed(&self, index: &str, value: &str) -> Option<Vec<Arc<K>>> {
        let table = self.indexes.iter().find(|table| table.index.name == index)?;
        let keys = table.keys.get(value).into_iter().flatten();
        Some(keys.filter_map(|key| self.objects.get(key).cloned()).collect())
    }
}

impl<K> IndexTable<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.index.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.index.values)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(namespace: &str, name: &str) -> Arc<ConfigMap> {
        let mut object = ConfigMap::default();
        object.metadata.namespace = Some(namespace.into());
        object.metadata.name = Some(name.into());
        Arc::new(object)
    }

    #[test]
    fn an_index_follows_inserts_moves_and_removals() {
        let data: Index<ConfigMap> =
            Index { name: "data", values: |o| o.data.iter().flatten().map(|(k, _)| k.clone()).collect() };
        let mut cache = Cache::default();
        let first = object("a", "x");
        cache.insert(ObjectKey::of(&*first), first);
        cache.add_index(by_namespace());
        cache.add_index(data);
        assert_eq!(cache.indexed("namespace", "a").unwrap().len(), 1);
        assert!(cache.indexed("other", "a").is_none());

        let mut second = ConfigMap::clone(&object("a", "x"));
        second.data = Some([("k".to_string(), "v".to_string())].into());
        cache.insert(ObjectKey::new("a", "x"), Arc::new(second));
        assert_eq!(cache.indexed("data", "k").unwrap().len(), 1);

        assert!(cache.remove(&ObjectKey::new("a", "x")).is_some());
        assert_eq!(cache.indexed("data", "k").unwrap().len(), 0);
        assert_eq!(cache.indexed("namespace", "a").unwrap().len(), 0);
        assert_eq!(cache.len(), 0);
    }
}
