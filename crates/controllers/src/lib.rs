//! The controllers of a cluster: one module each.
//!
//! A controller is a pure `plan` over what its informers show, and a thin shell that does what the plan
//! says through the API, with an identity of its own. It is woken by changes, never by a clock it
//! cannot name (a deadline, a delay between retries).
//!
//! Invariants: nothing is written that would change nothing; an object is changed only by the
//! controller that owns it ([`ownership`]); what was asked for and not yet seen is expected, not asked
//! for again. Nothing here touches the store or knows where the server is.
//!
//! Start at [`run`], then [`replicas`] for the shape of a controller.

pub mod amount;
pub mod cluster_ip_repair;
pub mod context;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod ephemeral_volume;
pub mod garbage;
pub mod history;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod ownership;
pub mod pod_control;
pub mod pod_ending;
pub mod pod_gc;
pub mod pods;
pub mod quota;
pub mod replicas;
pub mod role_aggregation;
pub mod root_ca;
pub mod service_account;
pub mod stateful_set;
pub mod taint_eviction;
pub mod token_secret;
pub mod ttl_after_finished;
pub mod volume_protection;
pub mod wake;

pub use context::{Config, Context};

use client::Informers;
use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Who acts as the controller manager itself.
pub const MANAGER: &str = "";

/// What the events of controllers say they come from, where that is not the name of their service account.
const SOURCES: &[(&str, &str)] = &[
    ("daemonset-controller", "daemonset-controller"),
    ("disruption-controller", "controllermanager"),
    ("ephemeral-volume-controller", "ephemeral_volume"),
    ("node-ipam-controller", "cidrAllocator"),
    ("taint-eviction-controller", "taint-eviction-controller"),
];

/// Every controller: the name upstream's `--controllers` knows it by, the service account in
/// kube-system that it acts as ([`MANAGER`] for none), and what runs it.
const ALL: &[(&str, &str, Run)] = &[
    ("clusterrole-aggregation-controller", "clusterrole-aggregation-controller", |c| {
        role_aggregation::run(c).boxed()
    }),
    ("cronjob-controller", "cronjob-controller", |c| cron_job::run(c).boxed()),
    ("daemonset-controller", "daemon-set-controller", |c| daemon_set::run(c).boxed()),
    ("deployment-controller", "deployment-controller", |c| deployment::run(c).boxed()),
    ("disruption-controller", "disruption-controller", |c| disruption::run(c).boxed()),
    ("endpoints-controller", "endpoint-controller", |c| endpoints::legacy::run(c).boxed()),
    ("endpointslice-controller", "endpointslice-controller", |c| endpoints::slices::run(c).boxed()),
    ("endpointslice-mirroring-controller", "endpointslicemirroring-controller", |c| {
        endpoints::mirroring::run(c).boxed()
    }),
    ("ephemeral-volume-controller", "ephemeral-volume-controller", |c| ephemeral_volume::run(c).boxed()),
    ("garbage-collector-controller", "generic-garbage-collector", |c| garbage::run(c).boxed()),
    ("job-controller", "job-controller", |c| job::run(c).boxed()),
    ("namespace-controller", "namespace-controller", |c| namespace::run(c).boxed()),
    ("node-ipam-controller", "node-controller", |c| node_ipam::run(c).boxed()),
    ("node-lifecycle-controller", "node-controller", |c| node_lifecycle::run(c).boxed()),
    ("persistentvolume-protection-controller", "pv-protection-controller", |c| {
        volume_protection::run_volumes(c).boxed()
    }),
    ("persistentvolumeclaim-protection-controller", "pvc-protection-controller", |c| {
        volume_protection::run_claims(c).boxed()
    }),
    ("pod-garbage-collector-controller", "pod-garbage-collector", |c| pod_gc::run(c).boxed()),
    ("replicaset-controller", "replicaset-controller", |c| replicas::run::<ReplicaSet>(c).boxed()),
    ("replicationcontroller-controller", "replication-controller", |c| {
        replicas::run::<ReplicationController>(c).boxed()
    }),
    ("resourcequota-controller", "resourcequota-controller", |c| quota::run(c).boxed()),
    ("root-ca-certificate-publisher-controller", "root-ca-cert-publisher", |c| root_ca::run(c).boxed()),
    ("serviceaccount-controller", "service-account-controller", |c| service_account::run(c).boxed()),
    ("serviceaccount-token-controller", MANAGER, |c| token_secret::run(c).boxed()),
    ("statefulset-controller", "statefulset-controller", |c| stateful_set::run(c).boxed()),
    ("taint-eviction-controller", "node-controller", |c| taint_eviction::run(c).boxed()),
    ("ttl-after-finished-controller", "ttl-after-finished-controller", |c| {
        ttl_after_finished::run(c).boxed()
    }),
];

/// The service accounts in kube-system that controllers act as.
pub fn accounts() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(_, account, _)| *account).filter(|account| *account != MANAGER)
}

type Run = fn(Context) -> BoxFuture<'static, ()>;

/// The names of all controllers.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, _, _)| *name)
}

/// Runs the chosen controllers until `cancel`, and returns when all have ended.
///
/// `informers` reads for all of them; `client_for` gives each the client it acts with, by the name of
/// its service account in kube-system (such as `replicaset-controller`) or [`MANAGER`].
pub async fn run(
    config: Config,
    informers: Informers,
    client_for: impl Fn(&'static str) -> Client,
    cancel: CancellationToken,
) {
    let config = std::sync::Arc::new(config);
    let tasks = TaskTracker::new();
    for (name, account, run) in ALL.iter().copied().filter(|(name, _, _)| config.enabled(name)) {
        let client = client_for(account);
        let source = SOURCES.iter().find(|(of, _)| *of == name).map_or(account, |(_, source)| *source);
        let context = context::for_component(&config, &informers, client, source, &tasks, &cancel);
        tasks.spawn(run(context));
    }
    tasks.close();
    tasks.wait().await;
}
