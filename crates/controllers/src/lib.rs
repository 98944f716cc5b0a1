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

pub mod context;
pub mod deployment;
pub mod endpoints;
pub mod garbage;
pub mod namespace;
pub mod node_ipam;
pub mod ownership;
pub mod pod_gc;
pub mod pods;
pub mod replicas;
pub mod role_aggregation;
pub mod root_ca;
pub mod service_account;

pub use context::{Config, Context};

use client::Informers;
use kube::Client;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Every controller, by the name upstream's `--controllers` knows it by.
pub const NAMES: &[&str] = &[
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "endpoints-controller",
    "endpointslice-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "node-ipam-controller",
    "pod-garbage-collector-controller",
    "replicaset-controller",
    "replicationcontroller-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
];

/// The service account in kube-system that a controller acts as.
fn account(name: &'static str) -> &'static str {
    match name {
        "endpoints-controller" => "endpoint-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "node-ipam-controller" => "node-controller",
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        "replicationcontroller-controller" => "replication-controller",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "serviceaccount-controller" => "service-account-controller",
        other => other,
    }
}

/// Runs the chosen controllers until `cancel`, and returns when all have ended.
///
/// `informers` reads for all of them; `client_for` gives each the client it acts with, by the name of
/// its service account in kube-system (such as `replicaset-controller`).
pub async fn run(
    config: Config,
    informers: Informers,
    client_for: impl Fn(&'static str) -> Client,
    cancel: CancellationToken,
) {
    let config = std::sync::Arc::new(config);
    let tasks = TaskTracker::new();
    for name in NAMES.iter().copied().filter(|name| config.enabled(name)) {
        let account = account(name);
        let (recorder, events) = client::Recorder::new(
            client_for(account),
            client::events::Source { component: account.into(), host: String::new(), series: false },
            cancel.clone(),
        );
        tasks.spawn(events);
        let context = Context {
            config: config.clone(),
            informers: informers.clone(),
            client: client_for(account),
            recorder,
            cancel: cancel.clone(),
        };
        match name {
            "clusterrole-aggregation-controller" => tasks.spawn(role_aggregation::run(context)),
            "deployment-controller" => tasks.spawn(deployment::run(context)),
            "endpoints-controller" => tasks.spawn(endpoints::legacy::run(context)),
            "endpointslice-controller" => tasks.spawn(endpoints::slices::run(context)),
            "garbage-collector-controller" => tasks.spawn(garbage::run(context)),
            "namespace-controller" => tasks.spawn(namespace::run(context)),
            "node-ipam-controller" => tasks.spawn(node_ipam::run(context)),
            "pod-garbage-collector-controller" => tasks.spawn(pod_gc::run(context)),
            "replicaset-controller" => {
                tasks.spawn(replicas::run::<k8s_openapi::api::apps::v1::ReplicaSet>(context))
            }
            "replicationcontroller-controller" => {
                tasks.spawn(replicas::run::<k8s_openapi::api::core::v1::ReplicationController>(context))
            }
            "root-ca-certificate-publisher-controller" => tasks.spawn(root_ca::run(context)),
            _ => tasks.spawn(service_account::run(context)),
        };
    }
    tasks.close();
    tasks.wait().await;
}
