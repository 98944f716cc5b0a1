//! All Services, for the variables that tell pods of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::watch;

type ByName = BTreeMap<(String, String), Arc<Service>>;

/// The Services as last heard.
#[derive(Clone)]
pub struct Services(watch::Receiver<Option<Arc<ByName>>>);

/// Keeps [`Services`] up to date while it runs.
pub struct Follower {
    client: Client,
    sender: watch::Sender<Option<Arc<ByName>>>,
}

pub fn channel(client: Client) -> (Services, Follower) {
    let (sender, receiver) = watch::channel(None);
    (Services(receiver), Follower { client, sender })
}

impl Services {
    /// Services a pod of `namespace` is told of, once the API has listed them.
    pub async fn seen_from(&self, namespace: &str) -> Vec<Arc<Service>> {
        let mut receiver = self.0.clone();
        let Ok(services) = receiver.wait_for(Option::is_some).await.map(|services| services.clone()) else {
            return Vec::new();
        };
        let master = ("default".to_owned(), "kubernetes".to_owned());
        services
            .iter()
            .flat_map(|services| services.iter())
            .filter(|(key, _)| key.0 == namespace || **key == master)
            .map(|(_, service)| service.clone())
            .collect()
    }
}

impl Follower {
    pub async fn run(self) {
        let api = Api::<Service>::all(self.client);
        let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
        let mut services = ByName::new();
        loop {
            match stream.try_next().await {
                Ok(None) => return,
                Ok(Some(watcher::Event::Init)) => {
                    services.clear();
                    continue;
                }
                Ok(Some(watcher::Event::InitApply(service))) => {
                    services.insert(key(&service), Arc::new(service));
                    continue;
                }
                Ok(Some(watcher::Event::InitDone)) => {}
                Ok(Some(watcher::Event::Apply(service))) => {
                    services.insert(key(&service), Arc::new(service));
                }
                Ok(Some(watcher::Event::Delete(service))) => {
                    services.remove(&key(&service));
                }
                Err(error) => {
                    tracing::debug!(%error, "the watch of services is interrupted");
                    continue;
                }
            }
            self.sender.send_replace(Some(Arc::new(services.clone())));
        }
    }
}

fn key(service: &Service) -> (String, String) {
    let metadata = &service.metadata;
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
