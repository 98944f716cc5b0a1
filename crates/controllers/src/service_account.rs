//! The service account `default` in every namespace.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};

use crate::context::{Context, Error};

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Whether objects may still be made in a namespace.
pub(crate) fn is_active(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    phase != Some("Terminating") && namespace.metadata.deletion_timestamp.is_none()
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let namespaces = context.informers.of::<Namespace>();
    let accounts = context.informers.of::<ServiceAccount>();
    namespaces.enqueue(&queue, |change| change.object().metadata.name.clone());
    accounts.enqueue(&queue, |change| {
        let meta = &change.object().metadata;
        meta.namespace.clone().filter(|_| change.is_deleted() && meta.name.as_deref() == Some("default"))
    });
    accounts.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, namespaces, accounts });
    client::run("serviceaccount", queue, workers, controller, cancel).await;
}

impl Reconcile for Controller {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, key: &String) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::cluster(key)) else { return Ok(None) };
        if !is_active(&namespace) || self.accounts.get(&ObjectKey::new(key, "default")).is_some() {
            return Ok(None);
        }
        let metadata =
            ObjectMeta { name: Some("default".into()), namespace: Some(key.clone()), ..Default::default() };
        let account = ServiceAccount { metadata, ..Default::default() };
        let api: Api<ServiceAccount> = Api::namespaced(self.context.client.clone(), key);
        match api.create(&PostParams::default(), &account).await {
            Ok(_) => Ok(None),
            Err(error) if write::already_exists(&error) || write::namespace_terminating(&error) => Ok(None),
            Err(error) => Err(Error::api(format!("creating {key}/default"))(error)),
        }
    }
}
