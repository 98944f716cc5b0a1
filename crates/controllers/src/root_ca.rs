//! The config map `kube-root-ca.crt` in every namespace: how a pod knows the server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, Selection, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::context::{Context, Error};
use crate::service_account::is_active;

const NAME: &str = "kube-root-ca.crt";
const DATA: &str = "ca.crt";

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    maps: Informer<ConfigMap>,
}

pub async fn run(context: Context) {
    if context.config.root_ca.is_empty() {
        tracing::info!("no root CA given, none is published");
        return;
    }
    let queue = WorkQueue::default();
    let namespaces = context.informers.of::<Namespace>();
    let selection = Selection { fields: Some(format!("metadata.name={NAME}")), ..Selection::default() };
    let maps = context.informers.select::<ConfigMap>(selection);
    namespaces.enqueue(&queue, |change| change.object().metadata.name.clone());
    maps.enqueue(&queue, |change| change.object().metadata.namespace.clone());
    maps.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, namespaces, maps });
    client::run("root-ca", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, key: &String) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::cluster(key)) else { return Ok(None) };
        if !is_active(&namespace) {
            return Ok(None);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), key);
        let current = self.maps.get(&ObjectKey::new(key, NAME));
        let written = match current {
            None => api
                .create(&PostParams::default(), &config_map(key, &self.context.config.root_ca))
                .await
                .map(drop),
            Some(current) => {
                let mut wanted = ConfigMap::clone(&current);
                wanted.data = config_map(key, &self.context.config.root_ca).data;
                write::replace(&api, &*current, &wanted).await.map(drop)
            }
        };
        match written {
            Err(error) if write::namespace_terminating(&error) || write::already_exists(&error) => Ok(None),
            other => other.map(|()| None).map_err(Error::api(format!("writing {key}/{NAME}"))),
        }
    }
}

fn config_map(namespace: &str, ca: &str) -> ConfigMap {
    let description = "Contains a CA bundle that can be used to verify the kube-apiserver when using \
                       internal endpoints such as the internal service IP or kubernetes.default.svc. No \
                       other usage is guaranteed across distributions of Kubernetes clusters.";
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(NAME.into()),
            namespace: Some(namespace.into()),
            annotations: Some([("kubernetes.io/description".to_string(), description.to_string())].into()),
            ..Default::default()
        },
        data: Some(BTreeMap::from([(DATA.to_string(), ca.to_string())])),
        ..Default::default()
    }
}
