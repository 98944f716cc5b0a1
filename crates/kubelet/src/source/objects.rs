//! ConfigMaps and Secrets that pods of this node refer to: each watched alone, as long as a pod needs it.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use futures::TryStreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Objects of one kind, by namespace and name.
pub struct Cache<K> {
    client: Client,
    tasks: TaskTracker,
    stop: CancellationToken,
    entries: Mutex<HashMap<(String, String), Weak<Entry<K>>>>,
}

struct Entry<K> {
    object: watch::Receiver<Loaded<K>>,
    wake: Arc<Mutex<Vec<Weak<Notify>>>>,
    _watching: DropGuard,
}

/// What is known of an object.
#[derive(Debug, Clone)]
enum Loaded<K> {
    NotYet,
    Missing,
    Present(Arc<K>),
    /// The API refuses it.
    Refused(String),
}

/// An interest in one object; the watch ends with the last.
pub struct Hold<K>(Arc<Entry<K>>);

impl<K> Hold<K> {
    /// The object, once the API has said whether it exists.
    ///
    /// # Errors
    /// What the API said where it would not tell.
    pub async fn get(&self) -> Result<Option<Arc<K>>, String> {
        let mut object = self.0.object.clone();
        let loaded = object.wait_for(|loaded| !matches!(loaded, Loaded::NotYet)).await;
        match loaded.as_deref() {
            Ok(Loaded::Present(object)) => Ok(Some(object.clone())),
            Ok(Loaded::Refused(why)) => Err(why.clone()),
            Ok(Loaded::Missing | Loaded::NotYet) => Ok(None),
            Err(_) => Err("the kubelet is stopping".into()),
        }
    }
}

impl<K> Cache<K>
where
    K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default,
{
    pub fn new(client: Client, tasks: TaskTracker, stop: CancellationToken) -> Self {
        Self { client, tasks, stop, entries: Mutex::default() }
    }

    /// Begins or joins the watch of one object; `wake` is told of its changes.
    pub fn hold(&self, namespace: &str, name: &str, wake: &Arc<Notify>) -> Hold<K> {
        let key = (namespace.to_owned(), name.to_owned());
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.get(&key).and_then(Weak::upgrade) {
            entry.wake.lock().push(Arc::downgrade(wake));
            return Hold(entry);
        }
        entries.retain(|_, entry| entry.strong_count() > 0);
        let (sender, object) = watch::channel(Loaded::NotYet);
        let waking = Arc::new(Mutex::new(vec![Arc::downgrade(wake)]));
        let stop = self.stop.child_token();
        let api = Api::<K>::namespaced(self.client.clone(), namespace);
        let task = follow(api, key.1.clone(), sender, waking.clone());
        let stopped = stop.clone();
        self.tasks.spawn(async move { stopped.run_until_cancelled(task).await });
        let entry = Arc::new(Entry { object, wake: waking, _watching: stop.drop_guard() });
        entries.insert(key, Arc::downgrade(&entry));
        Hold(entry)
    }
}

async fn follow<K>(
    api: Api<K>,
    name: String,
    sender: watch::Sender<Loaded<K>>,
    wake: Arc<Mutex<Vec<Weak<Notify>>>>,
) where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut stream = std::pin::pin!(watcher(api, config).default_backoff());
    let mut listed = None;
    loop {
        let loaded = match stream.try_next().await {
            Ok(None) => return,
            Ok(Some(watcher::Event::Apply(object))) => Loaded::Present(Arc::new(object)),
            Ok(Some(watcher::Event::Delete(_))) => Loaded::Missing,
            Ok(Some(watcher::Event::Init)) => {
                listed = None;
                continue;
            }
            Ok(Some(watcher::Event::InitApply(object))) => {
                listed = Some(Arc::new(object));
                continue;
            }
            Ok(Some(watcher::Event::InitDone)) => listed.take().map_or(Loaded::Missing, Loaded::Present),
            // What was known stays good while the API is away.
            Err(_) if matches!(*sender.borrow(), Loaded::Present(_)) => continue,
            Err(error) => Loaded::Refused(error.to_string()),
        };
        sender.send_replace(loaded);
        wake.lock().retain(|waiting| {
            let waiting = waiting.upgrade();
            waiting.iter().for_each(|waiting| waiting.notify_one());
            waiting.is_some()
        });
    }
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
