//! Deletion of a namespace: everything in it first, then the finalizer `kubernetes`.
//!
//! What there is to delete is learnt by discovery, so that kinds nobody here knows go too. Each
//! resource is one deletecollection, whatever the number of its objects; pods go last but one, so that
//! what watches over them is gone first.

use std::sync::Arc;
use std::time::Duration;

use client::{Informer, ObjectKey, Reconcile, WorkQueue, Workers, write};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams};
use kube::core::{ApiResource, PartialObjectMeta};
use kube::discovery::{Discovery, verbs};
use kube::{Api, Client};

use crate::context::{Context, Error};

const FINALIZER: &str = "kubernetes";
/// How often a namespace whose objects wait for finalizers is looked at again. Nothing tells a watcher
/// that has no watch on every kind when the last one has gone.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// The longest until the next look.
const SELDOM: Duration = Duration::from_secs(15);

struct Controller {
    context: Context,
    namespaces: Informer<Namespace>,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let namespaces = context.informers.of::<Namespace>();
    namespaces.enqueue(&queue, |change| {
        let meta = &change.object().metadata;
        meta.name.clone().filter(|_| meta.deletion_timestamp.is_some() && !change.is_deleted())
    });
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let controller = Arc::new(Controller { context, namespaces });
    client::run("namespace", queue, workers, controller, cancel).await;
}

/// What one round of deleting came to.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    discovery_failure: Option<String>,
    deletion_failures: Vec<String>,
    /// Objects still there, by resource.
    remaining: Vec<(String, usize)>,
    /// Objects still there, by the finalizer they wait for.
    finalizers: std::collections::BTreeMap<String, usize>,
}

impl Outcome {
    fn is_empty(&self) -> bool {
        self.discovery_failure.is_none() && self.deletion_failures.is_empty() && self.remaining.is_empty()
    }
}

impl Reconcile for Controller {
    type Key = String;
    type Error = Error;

    async fn reconcile(&self, key: &String) -> Result<Option<Duration>, Error> {
        let Some(namespace) = self.namespaces.get(&ObjectKey::cluster(key)) else { return Ok(None) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        let Some(deleted) = namespace.metadata.deletion_timestamp.as_ref().map(|time| time.0) else {
            return Ok(None);
        };
        if !finalizers.iter().any(|f| f == FINALIZER) {
            return Ok(None);
        }
        let outcome = empty(&self.context.client, key).await;
        let api: Api<Namespace> = Api::all(self.context.client.clone());
        let mut wanted = Namespace::clone(&namespace);
        let status = wanted.status.get_or_insert_default();
        status.phase = Some("Terminating".into());
        let conditions = status.conditions.take().unwrap_or_default();
        status.conditions = Some(plan_conditions(conditions, &outcome, Timestamp::now()));
        let written = write::replace_status(&api, &*namespace, &wanted).await;
        let Some(written) =
            write::found(written).map_err(Error::api(format!("status of namespace {key}")))?
        else {
            return Ok(None);
        };
        if !outcome.is_empty() {
            return Ok(Some(next_look(deleted, Timestamp::now())));
        }
        let mut last = written.unwrap_or_else(|| Namespace::clone(&namespace));
        if let Some(spec) = &mut last.spec {
            spec.finalizers = Some(finalizers.into_iter().filter(|f| f != FINALIZER).collect());
        }
        let done = api.replace_subresource("finalize", key, &PostParams::default(), &last).await;
        write::found(done).map_err(Error::api(format!("finalizing namespace {key}")))?;
        Ok(None)
    }
}

/// Deletes what is in a namespace, and tells what is left.
async fn empty(client: &Client, namespace: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(error) => {
            outcome.discovery_failure = Some(error.to_string());
            return outcome;
        }
    };
    let mut resources: Vec<ApiResource> = discovery
        .groups()
        .flat_map(kube::discovery::ApiGroup::recommended_resources)
        .filter(|(_, capabilities)| {
            capabilities.scope == kube::discovery::Scope::Namespaced
                && capabilities.supports_operation(verbs::DELETE)
                && capabilities.supports_operation(verbs::LIST)
                && capabilities.supports_operation(verbs::DELETE_COLLECTION)
        })
        .map(|(resource, _)| resource)
        .collect();
    // Events are kept in two groups and are the same objects; the ones of the core suffice.
    resources.retain(|resource| resource.group != "events.k8s.io");
    let order = |resource: &ApiResource| (resource.plural == "events", resource.plural == "pods");
    resources.sort_by_key(|resource| order(resource));
    let pods_at = resources.iter().position(|r| r.plural == "pods").unwrap_or(resources.len());
    let (first, last) = resources.split_at(pods_at);
    let rounds =
        futures::future::join_all(first.iter().map(|resource| delete_all(client, namespace, resource)));
    let mut results = rounds.await;
    for resource in last {
        results.push(delete_all(client, namespace, resource).await);
    }
    for (resource, result) in resources.iter().zip(results) {
        match result {
            Ok(left) => left.tell(resource, &mut outcome),
            Err(error) => outcome.deletion_failures.push(format!("{}: {error}", resource.plural)),
        }
    }
    outcome
}

struct Left {
    objects: Vec<PartialObjectMeta<DynamicObject>>,
}

impl Left {
    fn tell(&self, resource: &ApiResource, outcome: &mut Outcome) {
        if self.objects.is_empty() {
            return;
        }
        outcome.remaining.push((format!("{}.{}", resource.plural, resource.group), self.objects.len()));
        for finalizer in self.objects.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *outcome.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
    }
}

async fn delete_all(client: &Client, namespace: &str, resource: &ApiResource) -> kube::Result<Left> {
    let api: Api<PartialObjectMeta<DynamicObject>> =
        Api::namespaced_with(client.clone(), namespace, resource);
    let one = ListParams { limit: Some(1), ..ListParams::default() };
    if list(&api, &one).await?.is_empty() {
        return Ok(Left { objects: Vec::new() });
    }
    let all: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
    match all.delete_collection(&DeleteParams::background(), &ListParams::default()).await {
        Ok(_) => {}
        Err(error) if matches!(write::code(&error), Some(404 | 405)) => {}
        Err(error) => return Err(error),
    }
    Ok(Left { objects: list(&api, &ListParams::default()).await? })
}

async fn list(
    api: &Api<PartialObjectMeta<DynamicObject>>,
    params: &ListParams,
) -> kube::Result<Vec<PartialObjectMeta<DynamicObject>>> {
    match api.list(params).await {
        Ok(list) => Ok(list.items),
        Err(error) if matches!(write::code(&error), Some(404 | 405)) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// How soon to look again: seldom at a namespace that has been going for long, which waits for somebody.
fn next_look(deleted: Timestamp, now: Timestamp) -> Duration {
    let going = Duration::try_from(now.duration_since(deleted)).unwrap_or_default();
    (going / 8).clamp(LOOK_AGAIN, SELDOM)
}

/// The conditions that tell what holds the namespace up, in upstream's words.
fn plan_conditions(
    old: Vec<NamespaceCondition>,
    outcome: &Outcome,
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let some = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
    let remaining: Vec<String> =
        outcome.remaining.iter().map(|(r, n)| format!("{r} has {n} resource instances")).collect();
    let finalizers: Vec<String> =
        outcome.finalizers.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    let failures = some(&outcome.deletion_failures).map(|f| {
        format!("Failed to delete all resource types, {} remaining: {f}", outcome.deletion_failures.len())
    });
    let rows = [
        (
            "NamespaceDeletionDiscoveryFailure",
            ("ResourcesDiscovered", "All resources successfully discovered"),
            outcome.discovery_failure.clone().map(|m| ("DiscoveryFailed", m)),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
            None,
        ),
        (
            "NamespaceDeletionContentFailure",
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            failures.map(|m| ("ContentDeletionFailed", m)),
        ),
        (
            "NamespaceContentRemaining",
            ("ContentRemoved", "All content successfully removed"),
            some(&remaining).map(|m| ("SomeResourcesRemain", format!("Some resources are remaining: {m}"))),
        ),
        (
            "NamespaceFinalizersRemaining",
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            some(&finalizers).map(|m| {
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {m}"),
                )
            }),
        ),
    ];
    let mut conditions = old;
    for (type_, fine, fault) in rows {
        let status = if fault.is_some() { "True" } else { "False" };
        let (reason, message) = fault.unwrap_or((fine.0, fine.1.to_owned()));
        let wanted = NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|condition| condition.type_ == type_) {
            None => conditions.push(wanted),
            Some(old) if old.status != wanted.status => *old = wanted,
            Some(old) => {
                old.reason = wanted.reason;
                old.message = wanted.message;
            }
        }
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_slowly_is_looked_at_seldom() {
        let after = |seconds: i64| {
            let now = Timestamp::from_second(1_000 + seconds).unwrap();
            next_look(Timestamp::from_second(1_000).unwrap(), now).as_millis()
        };
        assert_eq!([0, 3, 40, 3600].map(after), [500, 500, 5_000, 15_000]);
    }
}
