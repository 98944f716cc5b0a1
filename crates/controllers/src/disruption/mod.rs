//! Keeps the status of PodDisruptionBudgets: how many more pods may be evicted.

mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::selector::Labels;
use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};

use crate::context::{Context, Error};
use crate::ownership::{self, controller_of};
use plan::{Plan, needs_scale, plan};

struct Controller {
    context: Context,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
    written: Written,
}

fn selector(budget: &PodDisruptionBudget) -> Option<Labels> {
    let selector = budget.spec.as_ref()?.selector.as_ref()?;
    Some(Labels::from_label_selector(selector))
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    selector(budget).is_some_and(|selector| ownership::matches(&selector, pod.metadata.labels.as_ref()))
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let informers = &context.informers;
    let budgets = informers.of::<PodDisruptionBudget>();
    let (pods, sets, deployments) = (informers.of::<Pod>(), informers.of::<ReplicaSet>(), informers.of());
    let (stateful, controllers) = (informers.of::<StatefulSet>(), informers.of::<ReplicationController>());
    budgets.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    let known = budgets.clone();
    pods.enqueue(&queue, move |change| {
        let pod = change.object();
        let all = known.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default());
        let concerned = all
            .into_iter()
            .filter(|budget| selects(budget, pod) || change.old().is_some_and(|old| selects(budget, old)));
        concerned.map(|budget| ObjectKey::of(&*budget)).collect::<Vec<_>>()
    });
    tokio::join!(
        budgets.synced(),
        pods.synced(),
        sets.synced(),
        deployments.synced(),
        stateful.synced(),
        controllers.synced()
    );
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let written = Written::default();
    let controller = Controller { context, budgets, pods, sets, deployments, stateful, controllers, written };
    client::run("disruption", queue, workers, Arc::new(controller), cancel).await;
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(budget) = self.budgets.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*budget) {
            return Ok(None);
        }
        let mut pods = self.pods.in_namespace(&key.namespace);
        pods.retain(|pod| selects(&budget, pod));
        let recorder = &self.context.recorder;
        if pods.is_empty() {
            recorder.normal(&*budget, "NoPods", "No matching pods found");
        }
        let scale = if needs_scale(&budget) {
            self.scale(&key.namespace, &pods).await
        } else {
            Ok(i32::try_from(pods.len()).unwrap_or(i32::MAX))
        };
        if let Err(why) = &scale {
            let message = format!("Failed to calculate the number of expected pods: {why}");
            recorder.warning(&*budget, "CalculateExpectedPodCountFailed", message);
        }
        let Plan { status, not_deleted, again } = plan(&budget, &pods, scale, Timestamp::now());
        for pod in not_deleted {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            recorder.warning(&*pod, "NotDeleted", message);
        }
        let mut wanted = PodDisruptionBudget::clone(&budget);
        wanted.status = Some(status);
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &*budget, &wanted).await;
        let written =
            write::found(written).map_err(Error::api(format!("status of disruption budget {key}")))?;
        written.flatten().iter().for_each(|budget| self.written.note(budget));
        Ok(again)
    }
}

impl Controller {
    /// How many pods the controllers of these want together.
    async fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut counts: HashMap<String, i32> = HashMap::new();
        for pod in pods {
            let Some(owner) = controller_of(&**pod) else {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!("found no controller ref for pod {name:?}"));
            };
            if counts.contains_key(&owner.uid) {
                continue;
            }
            let (uid, count) = self.wanted(namespace, owner).await?;
            counts.insert(uid, count);
            // Its pods of one owner are looked at once, though the owner above them counts.
            counts.entry(owner.uid.clone()).or_insert(0);
        }
        Ok(counts.values().sum())
    }

    /// How many pods an owner wants, and the uid of the one who decides that.
    async fn wanted(&self, namespace: &str, owner: &OwnerReference) -> Result<(String, i32), String> {
        let key = ObjectKey::new(namespace, &owner.name);
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        match (group, owner.kind.as_str()) {
            ("apps", "ReplicaSet") => {
                if let Some(set) =
                    self.sets.get(&key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid))
                {
                    let above = controller_of(&*set).filter(|above| above.kind == "Deployment");
                    let above =
                        above.and_then(|above| self.deployments.get(&ObjectKey::new(namespace, &above.name)));
                    return Ok(match above {
                        Some(above) => {
                            (above.metadata.uid.clone().unwrap_or_default(), above.spec.replicas.unwrap_or(1))
                        }
                        None => (owner.uid.clone(), set.spec.replicas.unwrap_or(1)),
                    });
                }
            }
            ("apps", "StatefulSet") => {
                if let Some(set) = self.stateful.get(&key) {
                    return Ok((owner.uid.clone(), set.spec.replicas.unwrap_or(1)));
                }
            }
            ("", "ReplicationController") => {
                if let Some(found) = self.controllers.get(&key) {
                    let replicas = found.spec.as_ref().and_then(|spec| spec.replicas);
                    return Ok((owner.uid.clone(), replicas.unwrap_or(1)));
                }
            }
            _ => {}
        }
        self.scale_of(namespace, owner).await.map(|count| (owner.uid.clone(), count))
    }

    /// Asks an owner of any kind for its scale.
    async fn scale_of(&self, namespace: &str, owner: &OwnerReference) -> Result<i32, String> {
        let (group, version) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
        let kind = GroupVersionKind::gvk(group, version, &owner.kind);
        let resource = ApiResource::from_gvk(&kind);
        let api: Api<DynamicObject> = Api::namespaced_with(self.context.client.clone(), namespace, &resource);
        match api.get_scale(&owner.name).await {
            Ok(scale) => Ok(scale.spec.and_then(|spec| spec.replicas).unwrap_or_default()),
            Err(error) if write::is_not_found(&error) => {
                Err(format!("{} does not implement the scale subresource", resource.plural))
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
