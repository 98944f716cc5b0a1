//! Keeps the status of ResourceQuotas: how much of each is used.
//!
//! Kinds are watched only once a quota speaks of them.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Informer, Informers, ObjectKey, Reconcile, WorkQueue, Workers, Written, write};
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota,
    ResourceQuotaStatus, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use kube::core::NamespaceResourceScope;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use crate::context::{Context, Error};
use crate::pods;
use api::Quantity;
use api::quota::{self, Amounts};

/// What is used of a kind in the namespace of a quota.
type Use = Arc<dyn Fn(&ResourceQuota) -> Amounts + Send + Sync>;

/// A kind that quotas may speak of.
struct Kind {
    /// Whether a name of an amount is about the kind.
    names: fn(&str) -> bool,
    watch: fn(&Watched) -> (Use, BoxFuture<'static, ()>),
}

/// Where kinds are watched from, and whom that wakes.
struct Watched {
    informers: Informers,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<ObjectKey>,
}

impl Watched {
    /// Watches a kind, adding up what `of` says of each object.
    fn kind<K>(
        &self,
        of: impl Fn(&ResourceQuota, &K) -> Amounts + Send + Sync + 'static,
        same: fn(&K, &K) -> bool,
    ) -> (Use, BoxFuture<'static, ()>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let informer = self.informers.of::<K>();
        let quotas = self.quotas.clone();
        informer.enqueue(&self.queue, move |change| {
            let unchanged = matches!(change, Change::Updated { old, new } if same(old, new));
            let namespace = change.object().meta().namespace.as_deref().unwrap_or_default();
            let there = if unchanged { Vec::new() } else { quotas.in_namespace(namespace) };
            there.into_iter().map(|quota| ObjectKey::of(&*quota)).collect::<Vec<_>>()
        });
        let seen = informer.clone();
        let sum = move |quota: &ResourceQuota| {
            let mut sum = Amounts::new();
            for object in seen.in_namespace(quota.metadata.namespace.as_deref().unwrap_or_default()) {
                for (name, amount) in of(quota, &object) {
                    let slot = sum.entry(name).or_insert(Quantity::ZERO);
                    *slot = *slot + amount;
                }
            }
            sum
        };
        (Arc::new(sum), Box::pin(async move { informer.synced().await }))
    }

    /// Watches a kind whose objects are merely counted, under these names.
    fn counted<K>(&self, names: &'static [&'static str]) -> (Use, BoxFuture<'static, ()>)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + DeserializeOwned
            + Debug
            + Send
            + Sync
            + 'static,
    {
        let one = move |_: &ResourceQuota, _: &K| {
            names.iter().map(|name| ((*name).to_owned(), Quantity::from_i64(1))).collect()
        };
        self.kind(one, |_, _| true)
    }
}

fn is_of_pods(name: &str) -> bool {
    let plain = ["pods", "count/pods", "cpu", "memory", "ephemeral-storage"].contains(&name);
    let asked = (name.starts_with("requests.") && name != "requests.storage") || name.starts_with("limits.");
    plain || asked || name.starts_with("hugepages-")
}

/// What a pod's use depends on.
fn same_use(old: &Pod, new: &Pod) -> bool {
    pods::is_terminal(old) == pods::is_terminal(new) && old.spec == new.spec
}

macro_rules! counted {
    ($kind:ty, $($name:literal),+) => {
        Kind { names: |name| [$($name),+].contains(&name), watch: |watched| watched.counted::<$kind>(&[$($name),+]) }
    };
}

const KINDS: &[Kind] = &[
    Kind {
        names: is_of_pods,
        watch: |watched| {
            let of = |quota: &ResourceQuota, pod: &Pod| {
                let spec = quota.spec.clone().unwrap_or_default();
                if quota::in_scope(&spec, Some(pod)) { quota::of_pod(pod) } else { Amounts::new() }
            };
            watched.kind(of, same_use)
        },
    },
    Kind {
        names: |name| name == "services" || name == "count/services" || name.starts_with("services."),
        watch: |watched| {
            watched.kind(|_, service: &Service| quota::of_service(service), |old, new| old.spec == new.spec)
        },
    },
    Kind {
        names: |name| name.contains("persistentvolumeclaims") || name.ends_with("requests.storage"),
        watch: |watched| {
            let of = |_: &ResourceQuota, claim: &PersistentVolumeClaim| quota::of_claim(claim);
            watched.kind(of, |old, new| old.spec == new.spec)
        },
    },
    counted!(ConfigMap, "configmaps", "count/configmaps"),
    counted!(Secret, "secrets", "count/secrets"),
    counted!(ReplicationController, "replicationcontrollers", "count/replicationcontrollers"),
    counted!(ResourceQuota, "resourcequotas", "count/resourcequotas"),
    counted!(ServiceAccount, "count/serviceaccounts"),
    counted!(Endpoints, "count/endpoints"),
    counted!(Deployment, "count/deployments.apps"),
    counted!(ReplicaSet, "count/replicasets.apps"),
    counted!(StatefulSet, "count/statefulsets.apps"),
    counted!(DaemonSet, "count/daemonsets.apps"),
    counted!(Job, "count/jobs.batch"),
    counted!(CronJob, "count/cronjobs.batch"),
    counted!(Ingress, "count/ingresses.networking.k8s.io"),
    counted!(NetworkPolicy, "count/networkpolicies.networking.k8s.io"),
    counted!(PodDisruptionBudget, "count/poddisruptionbudgets.policy"),
];

struct Controller {
    context: Context,
    watched: Watched,
    /// What is watched, by its place in [`KINDS`].
    uses: Mutex<BTreeMap<usize, Use>>,
    written: Written,
}

pub async fn run(context: Context) {
    let queue = WorkQueue::default();
    let quotas = context.informers.of::<ResourceQuota>();
    quotas.enqueue(&queue, |change| [ObjectKey::of(&**change.object())]);
    quotas.synced().await;
    let workers = Workers(context.config.workers);
    let cancel = context.cancel.clone();
    let watched = Watched { informers: context.informers.clone(), quotas, queue: queue.clone() };
    let controller = Controller { context, watched, uses: Mutex::default(), written: Written::default() };
    client::run("resourcequota", queue, workers, Arc::new(controller), cancel).await;
}

/// The status of a quota, given what is used of everything it may speak of.
fn plan(quota: &ResourceQuota, used: &Amounts) -> ResourceQuotaStatus {
    let hard = quota.spec.clone().unwrap_or_default().hard.unwrap_or_default();
    let used = hard.keys().map(|name| {
        let amount = used.get(name).copied().unwrap_or(Quantity::ZERO);
        (name.clone(), Text(amount.to_string()))
    });
    let used: BTreeMap<String, Text> = used.collect();
    ResourceQuotaStatus {
        used: Some(used).filter(|used| !used.is_empty()),
        hard: Some(hard).filter(|hard| !hard.is_empty()),
    }
}

/// Whether two statuses say the same, however they write it.
fn same_status(old: Option<&ResourceQuotaStatus>, new: &ResourceQuotaStatus) -> bool {
    let read = |list: &Option<BTreeMap<String, Text>>| quota::amounts(list.as_ref());
    old.is_some_and(|old| read(&old.hard) == read(&new.hard) && read(&old.used) == read(&new.used))
}

impl Reconcile for Controller {
    type Key = ObjectKey;
    type Error = Error;

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(quota) = self.watched.quotas.get(key) else {
            self.written.forget(key);
            return Ok(None);
        };
        if !self.written.is_shown(&*quota) {
            return Ok(None);
        }
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
        let mut used = Amounts::new();
        for (at, kind) in KINDS.iter().enumerate() {
            if hard.keys().any(|name| (kind.names)(name)) {
                let of = self.used(at, kind).await;
                used.extend(of(&quota));
            }
        }
        let status = plan(&quota, &used);
        if same_status(quota.status.as_ref(), &status) {
            return Ok(None);
        }
        let mut wanted = ResourceQuota::clone(&quota);
        wanted.status = Some(status);
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let written = write::replace_status(&api, &*quota, &wanted).await;
        let written = write::found(written).map_err(Error::api(format!("status of quota {key}")))?;
        written.flatten().iter().for_each(|quota| self.written.note(quota));
        Ok(None)
    }
}

impl Controller {
    /// What is used of a kind, watching it from now on.
    async fn used(&self, at: usize, kind: &Kind) -> Use {
        let known = self.uses.lock().get(&at).cloned();
        if let Some(known) = known {
            return known;
        }
        let (used, synced) = (kind.watch)(&self.watched);
        synced.await;
        self.uses.lock().entry(at).or_insert(used).clone()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, phase: &str) -> Pod {
        serde_json::from_value(json!({"spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn check(quota: Value, pods: &[Pod]) -> String {
        let quota: ResourceQuota = serde_json::from_value(json!({"spec": quota})).unwrap();
        let spec = quota.spec.clone().unwrap();
        let mut used = Amounts::new();
        for pod in pods.iter().filter(|pod| quota::in_scope(&spec, Some(pod))) {
            for (name, amount) in quota::of_pod(pod) {
                let slot = used.entry(name).or_insert(Quantity::ZERO);
                *slot = *slot + amount;
            }
        }
        let status = plan(&quota, &used);
        let used = status.used.into_iter().flatten().map(|(name, text)| format!("{name}={}", text.0));
        used.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn pods_count_by_what_they_ask_for_while_they_run() {
        let resources = json!({"requests": {"cpu": "500m", "memory": "1Gi", "example.com/dongle": "2"}, "limits": {"cpu": "1"}});
        let running = pod(json!({"containers": [{"name": "c", "resources": resources}]}), "Running");
        let ended = pod(json!({"containers": [{"name": "c", "resources": resources}]}), "Succeeded");
        let idle = pod(json!({"containers": [{"name": "c"}], "activeDeadlineSeconds": 5}), "Running");
        let pods = [running, ended, idle];
        let hard = json!({"pods": "5", "count/pods": "5", "cpu": "2", "requests.memory": "4Gi", "limits.cpu": "4",
            "requests.example.com/dongle": "3"});
        assert_eq!(
            check(json!({"hard": hard}), &pods),
            "count/pods=3 cpu=500m limits.cpu=1 pods=2 requests.example.com/dongle=2 requests.memory=1Gi"
        );
        let scoped = |scope: &str| check(json!({"hard": {"pods": "5"}, "scopes": [scope]}), &pods);
        let all = ["BestEffort", "NotBestEffort", "Terminating", "NotTerminating"].map(scoped);
        assert_eq!(all, ["pods=1", "pods=1", "pods=1", "pods=1"]);
    }

    #[test]
    fn services_count_their_node_ports() {
        let service = json!({"spec": {"type": "NodePort", "ports": [{"port": 1}, {"port": 2}]}});
        let used = quota::of_service(&serde_json::from_value(service).unwrap());
        assert_eq!(used["services.nodeports"], Quantity::from_i64(2));
        assert_eq!(used["services.loadbalancers"], Quantity::ZERO);
    }
}
