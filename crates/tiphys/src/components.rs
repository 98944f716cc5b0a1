//! `tiphys kube-controller-manager`, `kube-scheduler` and `kube-proxy`: components alone, with upstream's
//! names of flags, on an API that their kubeconfig leads to.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::{ArgAction, Args};
use client::{Informers, election};
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::{cli, node};

#[derive(Args)]
pub struct ControllerManagerFlags {
    /// How the API is reached.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Whether every controller acts as a service account of its own, as who RBAC has roles; otherwise all
    /// are who the kubeconfig says.
    #[arg(long, default_value_t = false, action = ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true")]
    use_service_account_credentials: bool,
    /// Authorities published in every namespace as kube-root-ca.crt.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Where nodes' pod ranges are taken from; without it no node is given one.
    #[arg(long)]
    cluster_cidr: Option<IpNet>,
    /// The prefix length of a node's pod range.
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// Controllers to run: names, * for all, -name for all but one.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    controllers: Vec<String>,
    /// How many ended pods are kept; 0 keeps all.
    #[arg(long, default_value_t = 12_500)]
    terminated_pod_gc_threshold: usize,
    /// Whether to work only while holding the lease kube-controller-manager.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    leader_elect: bool,
}

#[derive(Args)]
pub struct SchedulerFlags {
    /// How the API is reached.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Whether to work only while holding the lease kube-scheduler.
    #[arg(long, default_value_t = true, action = ArgAction::Set)]
    leader_elect: bool,
}

#[derive(Args)]
pub struct ProxyFlags {
    /// How the API is reached.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The node's name; the host's where it is not given.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Where the addresses of pods are: others are masqueraded.
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: IpNet,
    /// Where the addresses of services are.
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: IpNet,
    /// What names the rules on this host; the node's name where it is not given.
    #[arg(long)]
    id: Option<String>,
}

/// The names of leases, and of the fields' managers.
const CONTROLLERS: &str = "kube-controller-manager";
const SCHEDULER: &str = "kube-scheduler";

/// Runs the controllers until it is told to stop.
///
/// # Errors
/// Files are unreadable.
pub async fn controller_manager(flags: ControllerManagerFlags) -> anyhow::Result<()> {
    let stop = cli::stop_on_signal()?;
    let (server, credentials, _) =
        client::remote::read_context(&flags.kubeconfig, &kube::config::KubeConfigOptions::default())?;
    let client = client::remote::connect(&server, &credentials, "default", CONTROLLERS)?;
    for chosen in &flags.controllers {
        let name = chosen.strip_prefix('-').unwrap_or(chosen);
        anyhow::ensure!(
            name == "*" || controllers::names().any(|known| known == name),
            "--controllers: {name:?} is not in the list of known controllers: {}",
            controllers::names().collect::<Vec<_>>().join(", ")
        );
    }
    let root_ca = match &flags.root_ca_file {
        // As upstream: who signed the server's certificate, by the kubeconfig.
        None => String::from_utf8_lossy(&server.ca).into_owned(),
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("--root-ca-file {}", path.display()))?
        }
    };
    let config = controllers::Config {
        controllers: flags.controllers,
        root_ca,
        cluster_cidr: flags.cluster_cidr,
        node_cidr_mask: flags.node_cidr_mask_size,
        terminated_pod_threshold: flags.terminated_pod_gc_threshold,
        ..controllers::Config::default()
    };
    let mut own = std::collections::HashMap::new();
    if flags.use_service_account_credentials {
        let accounts = client::Accounts::new(client.clone(), server, "kube-system", CONTROLLERS);
        for account in controllers::accounts() {
            own.insert(account, accounts.client(account)?);
        }
    }
    let shared = client.clone();
    let work = |stop: CancellationToken| {
        let informers = Informers::new(shared.clone(), stop.clone());
        let acting = move |account| own.get(account).unwrap_or(&shared).clone();
        controllers::run(config, informers, acting, stop)
    };
    lead(CONTROLLERS, flags.leader_elect, client, stop, work).await
}

/// Runs the scheduler until it is told to stop.
///
/// # Errors
/// The kubeconfig is unreadable.
pub async fn scheduler(flags: SchedulerFlags) -> anyhow::Result<()> {
    let stop = cli::stop_on_signal()?;
    let client = client::remote::from_kubeconfig(&flags.kubeconfig, SCHEDULER)?;
    let acting = client.clone();
    let work = |stop: CancellationToken| {
        let informers = Informers::new(acting.clone(), stop.clone());
        scheduler::run(scheduler::Config::default(), acting, informers, stop)
    };
    lead(SCHEDULER, flags.leader_elect, client, stop, work).await
}

/// Works while it holds the lease of its name, or at once where there are no others.
async fn lead<W: Future<Output = ()>>(
    name: &str,
    elect: bool,
    client: kube::Client,
    stop: CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) -> anyhow::Result<()> {
    if !elect {
        work(stop).await;
        return Ok(());
    }
    let host = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    let identity = format!("{host}_{:016x}", rand::random::<u64>());
    match election::lead(client, election::Config::new("kube-system", name, &identity), stop, work).await {
        election::End::Cancelled => Ok(()),
        election::End::Lost => anyhow::bail!("the lease {name} was lost; another instance may lead"),
        election::End::Finished => anyhow::bail!("{name} ended by itself; its lease was given back"),
    }
}

/// Runs the service proxy until it is told to stop; its rules stay, as upstream's do.
///
/// # Errors
/// The kubeconfig is unreadable, or the kernel refuses.
pub async fn proxy(flags: ProxyFlags) -> anyhow::Result<()> {
    let stop = cli::stop_on_signal()?;
    let node_name = match flags.hostname_override {
        Some(name) => name,
        None => nix::unistd::gethostname()?.to_string_lossy().to_lowercase(),
    };
    let informers =
        Informers::new(client::remote::from_kubeconfig(&flags.kubeconfig, "kube-proxy")?, stop.clone());
    let id = flags.id.unwrap_or_else(|| node_name.clone());
    let config = node::proxy_config(&id, &node_name, flags.cluster_cidr, flags.service_cluster_ip_range);
    let tasks = TaskTracker::new();
    node::start_proxy(config, &informers, Arc::default(), &tasks, &stop);
    stop.cancelled().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}
