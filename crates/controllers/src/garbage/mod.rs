//! The garbage collector: what is owned goes when its last owner goes, in the way that was asked for.

mod graph;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::{Informer, Reconcile, Selection, WorkQueue, Workers, write};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::discovery::{Discovery, Scope, verbs};
use parking_lot::Mutex;
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::context::{Context, Error};
use graph::{Graph, Item, Node, ORPHAN, Step, Uid};

type Meta = PartialObjectMeta<DynamicObject>;

/// Deletions under way at once, as upstream.
const WORKERS: Workers = Workers(20);
/// The wait before discovery is tried again.
const AGAIN: Duration = Duration::from_secs(5);

struct Resource {
    api: ApiResource,
    namespaced: bool,
}

struct Controller {
    context: Context,
    resources: Arc<Vec<Resource>>,
    by_kind: HashMap<(String, String), usize>,
    graph: Arc<Mutex<Graph>>,
}

pub async fn run(context: Context) {
    let Some(resources) = discover(&context).await else { return };
    let resources = Arc::new(resources);
    let (queue, graph) = (WorkQueue::default(), Arc::new(Mutex::new(Graph::default())));
    let tasks = TaskTracker::new();
    let mut informers = Vec::new();
    for (at, resource) in resources.iter().enumerate() {
        let informer = Informer::<Item>::default();
        let (graph, queue): (_, WorkQueue<Uid>) = (graph.clone(), queue.clone());
        informer.on_change(move |change| {
            let item = change.object();
            let mut graph = graph.lock();
            let look =
                if change.is_deleted() { graph.remove(&item.uid) } else { graph.set(at, item.clone()) };
            drop(graph);
            look.into_iter().for_each(|uid| queue.add(uid));
        });
        let (client, cancel) = (context.client.clone(), context.cancel.clone());
        let path = <DynamicObject as kube::Resource>::url_path(&resource.api, None);
        tasks.spawn(client::informer::follow(informer.clone(), client, path, Selection::default(), cancel));
        informers.push(informer);
    }
    for informer in &informers {
        tokio::select! {
            () = informer.synced() => {}
            () = context.cancel.cancelled() => break,
        }
    }
    let kinds = resources.iter().enumerate();
    let by_kind = kinds.map(|(at, r)| ((r.api.api_version.clone(), r.api.kind.clone()), at)).collect();
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, resources, by_kind, graph });
    client::run("garbagecollector", queue, WORKERS, controller, cancel).await;
    tasks.close();
    tasks.wait().await;
}

/// Everything that can be watched and deleted; `None` when cancelled.
async fn discover(context: &Context) -> Option<Vec<Resource>> {
    loop {
        match Discovery::new(context.client.clone()).run_aggregated().await {
            Ok(discovery) => {
                let all = discovery.groups().flat_map(kube::discovery::ApiGroup::recommended_resources);
                let collectable = all.filter(|(api, capabilities)| {
                    let can = |verb| capabilities.supports_operation(verb);
                    // Events own nothing and are owned by nothing; they only cost.
                    can(verbs::DELETE) && can(verbs::LIST) && can(verbs::WATCH) && api.plural != "events"
                });
                let resources = collectable.map(|(api, capabilities)| Resource {
                    api,
                    namespaced: capabilities.scope == Scope::Namespaced,
                });
                return Some(resources.collect());
            }
            Err(error) => tracing::warn!(%error, "no discovery, nothing can be collected yet"),
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            () = context.cancel.cancelled() => return None,
        }
    }
}

impl Reconcile for Controller {
    type Key = Uid;
    type Error = Error;

    async fn reconcile(&self, uid: &Uid) -> Result<Option<Duration>, Error> {
        let (item, unknown) = {
            let graph = self.graph.lock();
            let Some(item) = graph.get(uid).cloned() else { return Ok(None) };
            let unknown = graph.unknown_owners(&item);
            (item, unknown)
        };
        let mut gone = HashSet::new();
        for owner in unknown {
            if !self.exists(&owner, &item).await? {
                gone.insert(owner.uid);
            }
        }
        let step = self.graph.lock().plan(&item, &gone);
        match step {
            Step::Nothing => {}
            Step::Delete(policy) => self.delete(&item, policy).await?,
            Step::Disown(owners) => self.disown(&item, &owners).await?,
            Step::Finish(finalizer) => self.finish(&item, finalizer).await?,
            Step::Orphan(dependents) => {
                for dependent in &dependents {
                    self.disown(dependent, &[item.uid.to_string()]).await?;
                }
                self.finish(&item, ORPHAN).await?;
            }
        }
        Ok(None)
    }
}

impl Controller {
    fn api(&self, resource: usize, namespace: &str) -> Api<Meta> {
        let client = self.context.client.clone();
        let resource = &self.resources[resource];
        if resource.namespaced && !namespace.is_empty() {
            Api::namespaced_with(client, namespace, &resource.api)
        } else {
            Api::all_with(client, &resource.api)
        }
    }

    /// Asks the server whether an owner the graph does not have is there.
    async fn exists(&self, owner: &OwnerReference, of: &Item) -> Result<bool, Error> {
        let kind = (owner.api_version.clone(), owner.kind.clone());
        let Some(resource) = self.by_kind.get(&kind).copied() else {
            // Of a kind that cannot be looked up nothing is known, so nothing is deleted.
            return Ok(true);
        };
        if self.resources[resource].namespaced && of.key.namespace.is_empty() {
            return Ok(true);
        }
        let api = self.api(resource, &of.key.namespace);
        let found = api.get_opt(&owner.name).await;
        let found = found.map_err(Error::api(format!("looking for {} {}", owner.kind, owner.name)))?;
        Ok(found.is_some_and(|object| object.metadata.uid.as_ref() == Some(&owner.uid)))
    }

    async fn delete(&self, item: &Node, policy: &str) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(match policy {
                "Orphan" => PropagationPolicy::Orphan,
                "Foreground" => PropagationPolicy::Foreground,
                _ => PropagationPolicy::Background,
            }),
            // Of the version the decision was made on: an owner may have been added since.
            preconditions: Some(Preconditions {
                uid: Some(item.uid.to_string()),
                resource_version: item.resource_version.as_deref().map(str::to_owned),
            }),
            ..DeleteParams::default()
        };
        let deleted = self.api(item.resource, &item.key.namespace).delete(&item.key.name, &params).await;
        write::found(deleted.map(drop)).map(drop).map_err(Error::api(format!("deleting {}", item.key)))
    }

    async fn disown(&self, item: &Node, owners: &[String]) -> Result<(), Error> {
        let left: Vec<_> = item.owners.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
        self.patch(item, json!({"ownerReferences": left})).await
    }

    async fn finish(&self, item: &Node, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = item.finalizers.iter().filter(|other| *other != finalizer).collect();
        self.patch(item, json!({"finalizers": left})).await
    }

    async fn patch(&self, item: &Node, mut metadata: serde_json::Value) -> Result<(), Error> {
        metadata["uid"] = json!(item.uid);
        metadata["resourceVersion"] = json!(item.resource_version);
        let client = self.context.client.clone();
        let resource = &self.resources[item.resource];
        let api: Api<DynamicObject> = if item.key.namespace.is_empty() {
            Api::all_with(client, &resource.api)
        } else {
            Api::namespaced_with(client, &item.key.namespace, &resource.api)
        };
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let patched = api.patch(&item.key.name, &PatchParams::default(), &patch).await;
        write::found(patched).map(drop).map_err(Error::api(format!("patching {}", item.key)))
    }
}
