//! The controllers and the scheduler, as clients of the control plane in this process.

use api::User;
use client::Informers;
use lifecycle::pki::Pki;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::Settings;
use crate::control_plane::ControlPlane;

/// Starts both; they end with `stop`.
pub fn start(
    plane: &ControlPlane,
    pki: &Pki,
    settings: &Settings,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let manager = plane.client(
        &User::new("system:kube-controller-manager", Vec::<String>::new()),
        "kube-controller-manager",
    );
    let informers = Informers::new(manager.clone(), stop.clone());
    let config = controllers::Config {
        root_ca: pki.cluster.certificate.clone(),
        cluster_cidr: Some(settings.pod_cidr),
        ..controllers::Config::default()
    };
    let accounts = plane.clone();
    let client_for = move |account: &'static str| match account {
        controllers::MANAGER => manager.clone(),
        account => {
            accounts.client(&User::service_account("kube-system", account, ""), "kube-controller-manager")
        }
    };
    tasks.spawn(controllers::run(config, informers, client_for, stop.clone()));
    let scheduler = plane.client(&User::new("system:kube-scheduler", Vec::<String>::new()), "kube-scheduler");
    let informers = Informers::new(scheduler.clone(), stop.clone());
    tasks.spawn(scheduler::run(scheduler::Config::default(), scheduler, informers, stop.clone()));
}
