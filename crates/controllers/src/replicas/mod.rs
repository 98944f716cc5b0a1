//! Keeps as many pods as asked for: the core of ReplicaSet and ReplicationController.

mod kinds;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::context::{Context, Error};
use crate::ownership::{self, controller_of, controller_ref};
use crate::pod_control::{BURST, PodControl, pod_from};
use crate::{pods, wake};

pub use kinds::{Replicated, Status};
pub(crate) use plan::dispensable;
use plan::{Plan, plan};

struct Controller<K> {
    context: Context,
    owners: Informer<K>,
    pods: Informer<Pod>,
    control: PodControl,
}

/// Runs the controller of one kind until the context is cancelled.
pub async fn run<K: Replicated>(context: Context) {
    let queue = WorkQueue::default();
    let owners = context.informers.of::<K>();
    let pods = context.informers.of::<Pod>();
    let control = PodControl::new(&context);
    let forget = control.expectations.clone();
    owners.enqueue(&queue, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            forget.forget(&key);
        }
        [key]
    });
    let (expected, known) = (control.expectations.clone(), owners.clone());
    pods.enqueue(&queue, move |change| {
        wake::observe::<K>(change, &expected);
        wake::owners_of(change, &known)
    });
    owners.synced().await;
    pods.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, owners, pods, control });
    client::run(K::NAME, queue, workers, controller, cancel).await;
}

impl<K: Replicated> Reconcile for Controller<K> {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let expectations = &self.control.expectations;
        let Some(owner) = self.owners.get(key) else {
            expectations.forget(key);
            return Ok(None);
        };
        let satisfied = expectations.satisfied(key);
        if owner.selector().is_empty() {
            return Ok(None);
        }
        let claimed = ownership::claim(&self.context.client, &*owner, &self.pods).await?;
        let manage = satisfied && owner.meta().deletion_timestamp.is_none();
        let now = Timestamp::now();
        let ranks = if manage { self.ranks(&owner) } else { HashMap::new() };
        let Plan { create, delete, status, again } = plan(&*owner, &claimed, &ranks, now);
        let mut failure = Ok(());
        if manage {
            let pod = pod_from(owner.template(), controller_ref(&*owner), &key.name);
            let create = vec![pod; create.min(BURST)];
            failure = self.control.apply(key, &*owner, &create, &delete).await;
        }
        let mut wanted = K::clone(&owner);
        let fault = failure.as_ref().err().map(|failure| (failure.reason, failure.message.clone()));
        // What was not looked at because it is expected to change is not told as a success.
        let status = if manage || fault.is_some() { status.with_failure(fault, now) } else { status };
        wanted.set_status(status);
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &*owner, &wanted).await;
        write::found(written).map_err(Error::api(format!("status of {key}")))?;
        failure.map_err(Error::Pods)?;
        Ok(again)
    }
}

impl<K: Replicated> Controller<K> {
    /// How many pods of the same deployment run on each node.
    fn ranks(&self, owner: &K) -> HashMap<String, usize> {
        let mut ranks = HashMap::new();
        let uids: Vec<String> = match controller_of(owner) {
            None => owner.meta().uid.iter().cloned().collect(),
            Some(parent) => {
                let siblings = self.owners.controlled_by(&parent.uid);
                siblings.iter().filter_map(|sibling| sibling.meta().uid.clone()).collect()
            }
        };
        for pod in uids.iter().flat_map(|uid| self.pods.controlled_by(uid)) {
            if let Some(node) = pods::node(&pod).filter(|_| pods::is_active(&pod)) {
                *ranks.entry(node.to_owned()).or_default() += 1;
            }
        }
        ranks
    }
}
