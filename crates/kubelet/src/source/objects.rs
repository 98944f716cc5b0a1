//! ConfigMaps and Secrets that pods of this node refer to: each watched alone, as long as a pod needs it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use client::{Informer, Selection, informer};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

type Entries<K> = HashMap<(String, String), Weak<Entry<K>>>;

/// Objects of one kind, by namespace and name.
pub struct Cache<K> {
    client: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
    entries: Mutex<Entries<K>>,
}

struct Entry<K> {
    informer: Informer<K>,
    wake: Arc<Mutex<Vec<Weak<Notify>>>>,
    _watching: DropGuard,
}

/// How long a pod waits for the API to say whether an object exists, before that is told as its failure.
const PATIENCE: Duration = Duration::from_secs(1);

/// An interest in one object; the watch ends with the last.
pub struct Hold<K>(Arc<Entry<K>>);

impl<K> Hold<K>
where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    /// The object, or `None` where the API has said that it does not exist.
    ///
    /// # Errors
    /// Where the API does not say.
    pub async fn get(&self) -> Result<Option<Arc<K>>, String> {
        if tokio::time::timeout(PATIENCE, self.0.informer.synced()).await.is_err() {
            let kind = K::kind(&()).to_lowercase();
            return Err(format!("failed to sync {kind} cache: timed out waiting for the condition"));
        }
        Ok(self.0.informer.list().pop())
    }
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned + Send + Sync + 'static,
{
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, tasks, stop, entries: Mutex::default() }
    }

    /// Begins or joins the watch of one object; `wake` is told of its changes.
    pub fn hold(&self, namespace: &str, name: &str, wake: &Arc<Notify>) -> Hold<K> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            let mut waiting = entry.wake.lock();
            // An object that never changes may be held by every pod that ever ran here.
            waiting.retain(|pod| pod.strong_count() > 0);
            waiting.push(Arc::downgrade(wake));
            drop(waiting);
            return Hold(entry);
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let informer = Informer::default();
        let waking = Arc::new(Mutex::new(vec![Arc::downgrade(wake)]));
        let changed = waking.clone();
        informer.on_change(move |_| wake_all(&changed));
        let stop = self.stop.child_token();
        let selection = Selection { fields: Some(format!("metadata.name={name}")), ..Selection::default() };
        let (client, path) = (self.client.clone(), K::url_path(&(), Some(namespace)));
        self.tasks.spawn(informer::follow(informer.clone(), client, path, selection, stop.clone()));
        let (synced, listed, stopped) = (informer.clone(), waking.clone(), stop.clone());
        self.tasks.spawn(async move {
            // Those that wait hear of it too where there is no such object.
            if stopped.run_until_cancelled(synced.synced()).await.is_some() {
                wake_all(&listed);
            }
        });
        let entry = Arc::new(Entry { informer, wake: waking, _watching: stop.drop_guard() });
        entries.insert(key, Arc::downgrade(&entry));
        Hold(entry)
    }
}

fn wake_all(wake: &Mutex<Vec<Weak<Notify>>>) {
    wake.lock().retain(|waiting| {
        let waiting = waiting.upgrade();
        waiting.iter().for_each(|waiting| waiting.notify_one());
        waiting.is_some()
    });
}

/// Both kinds.
pub struct Objects {
    pub config_maps: Cache<ConfigMap>,
    pub secrets: Cache<Secret>,
}

impl Objects {
    pub fn new(client: &Client, tasks: &TaskTracker, stop: &CancellationToken) -> Self {
        Self {
            config_maps: Cache::new(client.clone(), tasks.clone(), stop.clone()),
            secrets: Cache::new(client.clone(), tasks.clone(), stop.clone()),
        }
    }
}

/// What one pod refers to.
pub struct Held {
    pub config_maps: HashMap<String, Hold<ConfigMap>>,
    pub secrets: HashMap<String, Hold<Secret>>,
}

impl Held {
    /// Holds the objects of these names in the pod's namespace.
    pub fn new(
        objects: &Objects,
        namespace: &str,
        config_maps: impl IntoIterator<Item = String>,
        secrets: impl IntoIterator<Item = String>,
        wake: &Arc<Notify>,
    ) -> Self {
        let config_maps = config_maps.into_iter().map(|name| {
            let hold = objects.config_maps.hold(namespace, &name, wake);
            (name, hold)
        });
        let secrets = secrets.into_iter().map(|name| {
            let hold = objects.secrets.hold(namespace, &name, wake);
            (name, hold)
        });
        Self { config_maps: config_maps.collect(), secrets: secrets.collect() }
    }

    /// The ConfigMap of this name.
    ///
    /// # Errors
    /// What the API said where it would not tell.
    pub async fn config_map(&self, name: &str) -> Result<Option<Arc<ConfigMap>>, String> {
        match self.config_maps.get(name) {
            Some(hold) => hold.get().await,
            None => Ok(None),
        }
    }

    /// The Secret of this name.
    ///
    /// # Errors
    /// What the API said where it would not tell.
    pub async fn secret(&self, name: &str) -> Result<Option<Arc<Secret>>, String> {
        match self.secrets.get(name) {
            Some(hold) => hold.get().await,
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn pods_that_have_gone_are_not_kept_in_mind() {
        let never = tower::service_fn(|_: http::Request<kube::client::Body>| {
            std::future::pending::<Result<http::Response<kube::client::Body>, Infallible>>()
        });
        let stop = CancellationToken::new();
        let client = Client::new(never, "default");
        let cache: Cache<ConfigMap> = Cache::new(client, TaskTracker::new(), stop.clone());
        let stays = Arc::new(Notify::new());
        let first = cache.hold("ns", "kube-root-ca.crt", &stays);
        for _ in 0..100 {
            cache.hold("ns", "kube-root-ca.crt", &Arc::new(Notify::new()));
        }
        let waiting = first.0.wake.lock();
        assert!(waiting.len() <= 2, "{} wait", waiting.len());
        assert!(waiting[0].ptr_eq(&Arc::downgrade(&stays)));
        stop.cancel();
    }
}
