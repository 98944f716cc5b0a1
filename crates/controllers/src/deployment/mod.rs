//! Rolls a Deployment from one ReplicaSet to the next.

mod plan;
mod revision;
mod rolling;
mod status;

use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::context::{Context, Error};
use crate::ownership::{self, Owner, controller_of};
use crate::{pods, wake};
use plan::{Action, Plan, plan};

struct Controller {
    context: Context,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    written: Written,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    deployments.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    let known = deployments.clone();
    sets.enqueue(&queue, move |change| wake::owners_of(change, &known));
    // A pod that is gone may be the last of the old ones a Recreate waits for.
    let (known, parents) = (deployments.clone(), sets.clone());
    pods.enqueue(&queue, move |change| {
        let pod = change.object();
        let ended = change.is_deleted() || pods::is_terminal(pod);
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let set = controller_of(&**pod).filter(|owner| ended && owner.kind == "ReplicaSet");
        let set = set.and_then(|owner| parents.get(&ObjectKey::new(namespace.clone(), &owner.name)));
        let key =
            set.and_then(|set| controller_of(&*set).map(|owner| ObjectKey::new(namespace, &owner.name)));
        key.filter(|key| known.get(key).is_some_and(|deployment| rolling::is_recreate(&deployment)))
    });
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, deployments, sets, pods, written: Written::default() });
    client::run("deployment", queue, workers, controller, cancel).await;
}

impl Owner for Deployment {
    fn selector(&self) -> Labels {
        Labels::from_label_selector(&self.spec.selector)
    }
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.deployments.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*deployment) {
            return Ok(None);
        }
        if deployment.selector().is_empty() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.context.recorder.warning(&*deployment, "SelectingAll", message);
            return Ok(None);
        }
        let sets = ownership::claim(&self.context.client, &*deployment, &self.sets).await?;
        let sets: Vec<ReplicaSet> = sets.iter().map(|set| ReplicaSet::clone(set)).collect();
        let running = |set: &ReplicaSet| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            self.pods.controlled_by(uid).iter().any(|pod| !pods::is_terminal(pod))
        };
        let Plan { actions, revision, status, again } = plan(&deployment, sets, running, Timestamp::now());
        let mut status = status;
        for action in actions {
            if let Some(collisions) = self.act(&deployment, key, action).await? {
                status.collision_count = Some(collisions);
                break;
            }
        }
        let api: Api<Deployment> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let current = Deployment::clone(&deployment);
        let mut wanted = current.clone();
        if let Some(revision) = revision {
            // Written with the status, as upstream does: the account may not patch the deployment.
            let annotations = wanted.metadata.annotations.get_or_insert_default();
            annotations.insert(revision::REVISION.into(), revision);
        }
        wanted.status = Some(status);
        let written = write::replace_status(&api, &current, &wanted).await;
        let written = write::found(written).map_err(Error::api(format!("status of {key}")))?;
        written.flatten().iter().for_each(|deployment| self.written.note(deployment));
        Ok(again)
    }
}

impl Controller {
    /// Does one thing. `Some(count)` when the name of a new ReplicaSet is taken by another template's.
    async fn act(
        &self,
        deployment: &Deployment,
        key: &ObjectKey,
        action: Action,
    ) -> Result<Option<i32>, Error> {
        let api: Api<ReplicaSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match action {
            Action::Create { set, message } => return self.create(&api, deployment, &set, message).await,
            Action::Update { old, new, message } => {
                let name = new.metadata.name.clone().unwrap_or_default();
                let written = write::replace(&api, &*old, &*new).await;
                written.map_err(Error::api(format!("updating ReplicaSet {}/{name}", key.namespace)))?;
                if let Some(message) = message {
                    self.context.recorder.normal(deployment, "ScalingReplicaSet", message);
                }
            }
            Action::Delete(set) => {
                let name = set.metadata.name.clone().unwrap_or_default();
                let preconditions = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
                let params =
                    DeleteParams { preconditions: Some(preconditions), ..DeleteParams::background() };
                let deleted = api.delete(&name, &params).await;
                write::found(deleted.map(drop)).map_err(Error::api(format!("deleting ReplicaSet {name}")))?;
            }
        }
        Ok(None)
    }

    async fn create(
        &self,
        api: &Api<ReplicaSet>,
        deployment: &Deployment,
        set: &ReplicaSet,
        message: Option<String>,
    ) -> Result<Option<i32>, Error> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let error = match api.create(&PostParams::default(), set).await {
            Ok(_) => {
                if let Some(message) = message {
                    self.context.recorder.normal(deployment, "ScalingReplicaSet", message);
                }
                return Ok(None);
            }
            Err(error) if write::namespace_terminating(&error) => return Ok(None),
            Err(error) => error,
        };
        if write::already_exists(&error) {
            let found = api.get_opt(name).await.map_err(Error::api(format!("reading ReplicaSet {name}")))?;
            let Some(found) = found else {
                return Err(Error::api(format!("creating ReplicaSet {name}"))(error));
            };
            let ours = controller_of(&found).map(|owner| &owner.uid) == deployment.metadata.uid.as_ref();
            if ours && revision::same_template(deployment, &found) {
                // Made by us, and not yet in the cache.
                return Ok(None);
            }
            let count =
                deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or_default();
            return Ok(Some(count + 1));
        }
        let message = format!("Failed to create new replica set {name:?}: {error}");
        self.context.recorder.warning(deployment, "ReplicaSetCreateError", message);
        Err(Error::api(format!("creating ReplicaSet {name}"))(error))
    }
}
