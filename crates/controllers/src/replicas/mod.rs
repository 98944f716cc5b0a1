//! Keeps as many pods as asked for: the core of ReplicaSet and ReplicationController.

mod kinds;
mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Expectations, Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use kube::Api;
use kube::api::{DeleteParams, ObjectMeta, PostParams, Preconditions};

use crate::context::{Context, Error};
use crate::ownership::{self, controller_of, controller_ref};
use crate::pods;

pub use kinds::{Replicated, Status};
use plan::{Plan, plan};

/// The most pods made or deleted in one go.
const BURST: usize = 500;

struct Controller<K> {
    context: Context,
    owners: Informer<K>,
    pods: Informer<Pod>,
    expectations: Arc<Expectations>,
}

/// Runs the controller of one kind until the context is cancelled.
pub async fn run<K: Replicated>(context: Context) {
    let queue = WorkQueue::default();
    let owners = context.informers.of::<K>();
    let pods = context.informers.of::<Pod>();
    let expectations = Arc::new(Expectations::default());
    let forget = expectations.clone();
    owners.enqueue(&queue, move |change| {
        let key = ObjectKey::of(&**change.object());
        if change.is_deleted() {
            forget.forget(&key);
        }
        [key]
    });
    let (expected, known) = (expectations.clone(), owners.clone());
    pods.enqueue(&queue, move |change| keys_of(change, &expected, &known));
    owners.synced().await;
    pods.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, owners, pods, expectations });
    client::run(K::NAME, queue, workers, controller, cancel).await;
}

/// The owners a change of a pod is of interest to; notes what was expected.
fn keys_of<K: Replicated>(
    change: &Change<Pod>,
    expectations: &Expectations,
    owners: &Informer<K>,
) -> Vec<ObjectKey> {
    let pod = change.object();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let key_of = |pod: &Pod| {
        let owner = controller_of(pod)?;
        (owner.kind == K::kind(&()) && owner.api_version == K::api_version(&()))
            .then(|| ObjectKey::new(namespace, &owner.name))
    };
    let key = key_of(pod);
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    if let Some(key) = &key {
        match change {
            // A pod that is told to end counts as deleted, even if we hear of it for the first time.
            _ if pods::is_deleting(pod) || change.is_deleted() => expectations.deletion_observed(key, uid),
            Change::Added(_) => expectations.creation_observed(key),
            _ => {}
        }
    }
    let mut keys: Vec<ObjectKey> = key.into_iter().collect();
    if let Change::Updated { old, .. } = change {
        let before = key_of(old);
        if before.as_ref() != keys.first() {
            keys.extend(before);
        }
    }
    let orphan = controller_of(&**pod).is_none() && !change.is_deleted() && !pods::is_deleting(pod);
    if orphan {
        let selecting = owners.in_namespace(namespace).into_iter().filter(|owner| {
            let labels = pod.metadata.labels.as_ref();
            labels.is_some_and(|l| !l.is_empty()) && ownership::matches(&owner.selector(), labels)
        });
        keys.extend(selecting.map(|owner| ObjectKey::of(&*owner)));
    }
    keys
}

impl<K: Replicated> Reconcile for Controller<K> {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(owner) = self.owners.get(key) else {
            self.expectations.forget(key);
            return Ok(None);
        };
        let satisfied = self.expectations.satisfied(key);
        let selector = owner.selector();
        if selector.is_empty() {
            return Ok(None);
        }
        let claimed = ownership::claim(&self.context.client, &*owner, &selector, &self.pods).await?;
        let manage = satisfied && owner.meta().deletion_timestamp.is_none();
        let now = Timestamp::now();
        let ranks = if manage { self.ranks(&owner) } else { HashMap::new() };
        let Plan { create, delete, status, again } = plan(&*owner, &claimed, &ranks, now);
        let mut failure = Ok(());
        if manage && create > 0 {
            failure = self.create(key, &owner, create.min(BURST)).await;
        } else if manage && !delete.is_empty() {
            failure = self.delete(key, &owner, &delete[..delete.len().min(BURST)]).await;
        }
        let mut wanted = K::clone(&owner);
        let reason = if create > 0 { "FailedCreate" } else { "FailedDelete" };
        let fault = failure.as_ref().err().map(|error| (reason, error.message()));
        // What was not looked at because it is expected to change is not told as a success.
        let status = if manage || fault.is_some() { status.with_failure(fault, now) } else { status };
        wanted.set_status(status);
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &*owner, &wanted).await;
        write::found(written).map_err(Error::api(format!("status of {key}")))?;
        failure.map_err(|error| Error::Waiting(error.message()))?;
        Ok(again)
    }
}

/// Why pods were not made or deleted.
#[derive(Debug)]
struct Failure(kube::Error);

impl Failure {
    fn message(&self) -> String {
        match &self.0 {
            kube::Error::Api(status) => status.message.clone(),
            other => other.to_string(),
        }
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

    /// Makes `count` pods: one, then two, then four at a time, so that what is refused is refused few
    /// times.
    async fn create(&self, key: &ObjectKey, owner: &K, count: usize) -> Result<(), Failure> {
        self.expectations.expect_creations(key, count);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let pod = pod_from(owner.template(), controller_ref(owner), &key.name);
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let size = batch.min(left);
            let params = PostParams::default();
            let made = join_all((0..size).map(|_| api.create(&params, &pod))).await;
            left -= size;
            batch *= 2;
            let mut failure = None;
            for result in made {
                match result {
                    Ok(pod) => {
                        let name = pod.metadata.name.unwrap_or_default();
                        self.context.recorder.normal(
                            owner,
                            "SuccessfulCreate",
                            format!("Created pod: {name}"),
                        );
                    }
                    Err(error) => {
                        self.expectations.creation_observed(key);
                        if !write::namespace_terminating(&error) {
                            let error = Failure(error);
                            let message = format!("Error creating: {}", error.message());
                            self.context.recorder.warning(owner, "FailedCreate", message);
                            failure = Some(error);
                        }
                    }
                }
            }
            if let Some(failure) = failure {
                self.expectations.creations_observed(key, left);
                return Err(failure);
            }
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, owner: &K, victims: &[Arc<Pod>]) -> Result<(), Failure> {
        let uids = victims.iter().filter_map(|pod| pod.metadata.uid.clone());
        self.expectations.expect_deletions(key, uids);
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let deletions = victims.iter().map(|pod| {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
                ..DeleteParams::default()
            };
            let (api, name) = (&api, pod.metadata.name.as_deref().unwrap_or_default());
            async move { (name, pod, api.delete(name, &params).await) }
        });
        let mut failure = Ok(());
        for (name, pod, result) in join_all(deletions).await {
            let Err(error) = result else {
                self.context.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {name}"));
                continue;
            };
            self.expectations.deletion_observed(key, pod.metadata.uid.as_deref().unwrap_or_default());
            if !write::is_not_found(&error) {
                let error = Failure(error);
                let message = format!("Error deleting: {}", error.message());
                self.context.recorder.warning(owner, "FailedDelete", message);
                failure = Err(error);
            }
        }
        failure
    }
}

/// A pod as a template describes it.
pub(crate) fn pod_from(
    template: Option<&PodTemplateSpec>,
    owner: k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference,
    owner_name: &str,
) -> Pod {
    let meta = template.and_then(|template| template.metadata.as_ref());
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{owner_name}-")),
            labels: meta.and_then(|meta| meta.labels.clone()),
            annotations: meta.and_then(|meta| meta.annotations.clone()),
            finalizers: meta.and_then(|meta| meta.finalizers.clone()),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: template.and_then(|template| template.spec.clone()),
        status: None,
    }
}
