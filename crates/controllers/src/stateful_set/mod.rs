//! Pods with an identity, in order: the StatefulSet controller.

mod plan;
mod template;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::context::{Context, Error};
use crate::history::{self, History, Outcome};
use crate::ownership::{self, Owner};
use crate::wake;
use plan::{Action, Plan, Version, View, plan};

/// The label of revisions that carries their hash.
const HASH: &str = "controller.kubernetes.io/hash";

impl Owner for StatefulSet {
    fn selector(&self) -> Labels {
        Labels::from_label_selector(&self.spec.selector)
    }
}

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    claims: Informer<PersistentVolumeClaim>,
    written: Written,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let revisions = context.informers.of::<ControllerRevision>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    sets.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    let known = sets.clone();
    pods.enqueue(&queue, move |change| wake::owners_of(change, &known));
    let known = sets.clone();
    revisions.enqueue(&queue, move |change| wake::owners_of(change, &known));
    tokio::join!(sets.synced(), pods.synced(), revisions.synced(), claims.synced());
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Controller { context, sets, pods, revisions, claims, written: Written::default() };
    client::run("statefulset", queue, workers, Arc::new(controller), cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*set) || set.selector().is_empty() {
            return Ok(None);
        }
        let pods = ownership::claim(&self.context.client, &*set, &self.pods).await?;
        let pods: Vec<Arc<Pod>> =
            pods.into_iter().filter(|pod| template::ordinal(&set, pod).is_some()).collect();
        let history = History { client: &self.context.client, revisions: &self.revisions };
        let revisions = history.claim(&*set).await?;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let wanted = history::revision_of(&*set, &set.spec.template, HASH, collisions);
        let update = match history.apply(&*set, history::plan(&revisions, wanted)).await? {
            Outcome::Current(revision) => revision,
            Outcome::Collision => {
                let mut status = set.status.clone().unwrap_or_default();
                status.collision_count = Some(collisions.unwrap_or_default() + 1);
                self.write(key, &set, status).await?;
                return Ok(None);
            }
        };
        let current = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current =
            revisions.iter().find(|r| Some(history::name(r)) == current.as_deref()).unwrap_or(&update);
        let old_template = history::template_of(current).unwrap_or_else(|| set.spec.template.clone());
        let view = View {
            set: &set,
            pods: &pods,
            current: Version { template: &old_template, name: history::name(current) },
            update: Version { template: &set.spec.template, name: history::name(&update) },
            now: Timestamp::now(),
        };
        let Plan { actions, status, condemned, again } = plan(&view);
        self.retain_claims(&set, &pods, &condemned).await?;
        let mut acted = Ok(());
        for action in actions {
            acted = self.act(&set, action).await;
            if acted.is_err() {
                break;
            }
        }
        let status = if acted.is_ok() { status } else { set.status.clone().unwrap_or(status) };
        let names = [history::name(current), history::name(&update)].map(str::to_owned);
        self.write(key, &set, status).await?;
        acted?;
        let mut live: HashSet<String> = pods.iter().map(|pod| template::revision(pod).to_owned()).collect();
        live.extend(names);
        let limit = usize::try_from(set.spec.revision_history_limit.unwrap_or(10)).unwrap_or_default();
        history.delete(&*set, history::surplus(&revisions, limit, &live)).await?;
        Ok(again)
    }
}

impl Controller {
    async fn write(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Error> {
        let mut wanted = set.clone();
        wanted.status = Some(status);
        let api: Api<StatefulSet> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, set, &wanted).await;
        let written = write::found(written).map_err(Error::api(format!("status of stateful set {key}")))?;
        written.flatten().iter().for_each(|set| self.written.note(set));
        Ok(())
    }

    async fn act(&self, set: &StatefulSet, action: Action) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), namespace);
        match action {
            Action::Create { pod, ordinal } => {
                self.make_claims(set, ordinal).await?;
                let name = pod.metadata.name.clone().unwrap_or_default();
                let created = api.create(&PostParams::default(), &pod).await;
                if created.as_ref().is_err_and(write::namespace_terminating) {
                    return Ok(());
                }
                self.tell(set, "Create", &name, created.map(drop))
            }
            Action::Claim { ordinal } => self.make_claims(set, ordinal).await,
            Action::Identify { pod, ordinal } => {
                let mut wanted = Pod::clone(&pod);
                template::identify(set, &mut wanted, ordinal);
                let name = wanted.metadata.name.clone().unwrap_or_default();
                let updated = api.replace(&name, &PostParams::default(), &wanted).await;
                self.tell(set, "Update", &name, updated.map(drop))
            }
            Action::Delete(pod) => {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                match api.delete(&name, &params).await {
                    Err(error) if write::is_not_found(&error) => Ok(()),
                    deleted => self.tell(set, "Delete", &name, deleted.map(drop)),
                }
            }
        }
    }

    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, result: kube::Result<()>) -> Result<(), Error> {
        let (doing, owner) = (verb.to_lowercase(), template::name(set));
        let recorder = &self.context.recorder;
        match result {
            Ok(()) => {
                let message = format!("{doing} Pod {pod} in StatefulSet {owner} successful");
                recorder.normal(set, &format!("Successful{verb}"), message);
                Ok(())
            }
            // Made before, and not yet in the cache: the watch wakes us.
            Err(error) if write::already_exists(&error) => {
                Err(Error::Waiting(format!("pod {pod} of StatefulSet {owner} is not in the cache yet")))
            }
            Err(error) => {
                let message = format!("{doing} Pod {pod} in StatefulSet {owner} failed error: {error}");
                recorder.warning(set, &format!("Failed{verb}"), message);
                Err(Error::api(format!("{doing} pod {pod}"))(error))
            }
        }
    }

    /// Makes the claims of an ordinal that are missing.
    async fn make_claims(&self, set: &StatefulSet, ordinal: i32) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        let (owner, recorder) = (template::name(set), &self.context.recorder);
        for mut claim in template::claims(set, ordinal) {
            let name = claim.metadata.name.clone().unwrap_or_default();
            if let Some(there) = self.claims.get(&ObjectKey::new(namespace, &name)) {
                if there.metadata.deletion_timestamp.is_some() {
                    return Err(Error::Waiting(format!("claim {namespace}/{name} is being deleted")));
                }
                continue;
            }
            claim.metadata.owner_references = template::claim_owners(set, &claim, None, false);
            match api.create(&PostParams::default(), &claim).await {
                Ok(_) => {
                    let message =
                        format!("create Claim {name} Pod {owner}-{ordinal} in StatefulSet {owner} success");
                    recorder.normal(set, "SuccessfulCreate", message);
                }
                Err(error) if write::already_exists(&error) => {}
                Err(error) => {
                    let message = format!(
                        "create Claim {name} for Pod {owner}-{ordinal} in StatefulSet {owner} failed error: {error}"
                    );
                    recorder.warning(set, "FailedCreate", message);
                    return Err(Error::api(format!("creating claim {namespace}/{name}"))(error));
                }
            }
        }
        Ok(())
    }

    /// Gives claims the owners that the retention policy wants.
    async fn retain_claims(
        &self,
        set: &StatefulSet,
        pods: &[Arc<Pod>],
        condemned: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.context.client.clone(), namespace);
        for pod in pods {
            let Some(ordinal) = template::ordinal(set, pod) else { continue };
            let leaves = condemned.iter().any(|other| other.metadata.uid == pod.metadata.uid);
            for claim in template::claims(set, ordinal) {
                let name = claim.metadata.name.clone().unwrap_or_default();
                let Some(there) = self.claims.get(&ObjectKey::new(namespace, &name)) else { continue };
                let Some(owners) = template::claim_owners(set, &there, Some(pod), leaves) else { continue };
                // Updating is all the account may do to a claim.
                let mut wanted = PersistentVolumeClaim::clone(&there);
                wanted.metadata.owner_references = Some(owners);
                let replaced = api.replace(&name, &PostParams::default(), &wanted).await;
                write::found(replaced.map(drop))
                    .map_err(Error::api(format!("owners of claim {namespace}/{name}")))?;
            }
        }
        Ok(())
    }
}
