//! Takes a node's traces off the host: pods, links, routes, rules, cgroups. Works without a server,
//! from what the node's directories say.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use cri::Runtime;
use cri::v1::{ContainerFilter, ContainerState, ContainerStateValue, PodSandboxFilter};
use futures::future::try_join_all;
use network::NodeNetwork;
use network::netns::Namespace;

use crate::cluster::Place;
use crate::node::{Paths, proxy_table, runtime_config};

/// Ends the pods of the node in `place`, whose processes have ended. Containers are asked to end by themselves,
/// all at once, and killed after `grace`.
///
/// # Errors
/// A pod could not be removed; what was not come to stays.
pub async fn pods(place: &Place, grace: Duration) -> anyhow::Result<()> {
    let paths = Paths { root: place.state.clone() };
    let service = runtime::Service::start(runtime_config(&paths, None, &[])).await?;
    if !grace.is_zero() {
        let state = Some(ContainerStateValue { state: ContainerState::ContainerRunning.into() });
        let running = service.list_containers(ContainerFilter { state, ..Default::default() }).await?;
        try_join_all(running.iter().map(|one| service.stop_container(&one.id, grace))).await?;
    }
    for sandbox in service.list_pod_sandboxes(PodSandboxFilter::default()).await? {
        service.stop_pod_sandbox(&sandbox.id).await?;
        service.remove_pod_sandbox(&sandbox.id).await?;
    }
    service.shutdown().await;
    Ok(())
}

/// Takes away what the node that goes by `id` has on this host beside its pods, which have ended.
///
/// # Errors
/// Something could not be removed; what was not come to stays.
pub async fn node(id: &str, place: Place) -> anyhow::Result<()> {
    let paths = Paths { root: place.state };
    let (state, table) = (paths.network(), proxy_table(id));
    tokio::task::spawn_blocking(move || match place.namespace {
        None => network_here(&state, &table),
        // A namespace that is gone has taken its network with it, except for what is written about it.
        Some(path) if !path.exists() => Ok(NodeNetwork::forget(&state)?),
        Some(path) => Namespace::open(&path)?.run(|| network_here(&state, &table))?,
    })
    .await??;
    unmount_below(&paths.root)?;
    remove_cgroups(&format!("tiphys-{id}"))
}

/// What the node made in the network namespace of this thread.
fn network_here(state: &Path, table: &str) -> anyhow::Result<()> {
    if let Some(network) = NodeNetwork::reopen(state).context("the pod network")? {
        network.remove_all().context("removing the pod network")?;
    }
    proxy::Kernel::new()?.remove(table).context("removing the service rules")
}

/// Volumes that were still mounted, the innermost first.
fn unmount_below(root: &Path) -> anyhow::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("reading the mounts")?;
    let mut points: Vec<&str> = table.lines().filter_map(|l| l.split(' ').nth(4)).collect();
    points.retain(|p| Path::new(p).starts_with(root) && Path::new(p) != root);
    points.sort_by_key(|p| std::cmp::Reverse(p.len()));
    for point in points {
        nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH)
            .with_context(|| format!("unmounting {point}"))?;
    }
    Ok(())
}

/// The node's cgroups in every hierarchy, leaves first.
fn remove_cgroups(name: &str) -> anyhow::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let mut tops = vec![root.join(name)];
    for entry in std::fs::read_dir(root).context("reading the cgroups")? {
        tops.push(entry?.path().join(name));
    }
    for top in tops.into_iter().filter(|t| t.is_dir()) {
        remove_tree(&top)?;
    }
    Ok(())
}

fn remove_tree(directory: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            remove_tree(&path)?;
        }
    }
    std::fs::remove_dir(directory).with_context(|| format!("removing the cgroup {}", directory.display()))
}
