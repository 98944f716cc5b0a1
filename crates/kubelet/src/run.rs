//! Putting the parts together.

use std::sync::Arc;

use client::{Informers, Selection};
use kube::Client;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::context::Context;
use crate::node::{self, Machine};
use crate::pod::admit::Taken;
use crate::pod::fields::Allocatable;
use crate::pod::status::Host;
use crate::source::static_pods::{self, Mirrors};
use crate::source::{objects::Objects, pods};
use crate::volume::Tokens;
use crate::workers::Registry;
use crate::{events, server};

/// Why the kubelet cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the container runtime does not answer: {0}")]
    Runtime(#[from] cri::Error),
    #[error("listen on {address}: {source}")]
    Listen {
        address: std::net::SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("{action} {path}: {source}")]
    File {
        action: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// Runs the node's kubelet until `stop` is cancelled. Pods are left running then; the next kubelet takes
/// them over.
///
/// # Errors
/// Where the runtime does not answer or the kubelet's directories cannot be made.
pub async fn run(
    config: Config,
    client: Client,
    runtime: Arc<dyn cri::Runtime>,
    stop: CancellationToken,
) -> Result<(), Error> {
    for dir in [&config.root_dir, &config.pod_logs_dir] {
        std::fs::create_dir_all(dir).map_err(|source| Error::File {
            action: "create",
            path: dir.clone(),
            source,
        })?;
    }
    let version = runtime.version().await?;
    let listening = match config.server.clone() {
        Some(server) => {
            let address = server.address;
            Some(server::listen(server).await.map_err(|source| Error::Listen { address, source })?)
        }
        None => None,
    };
    let port = listening.as_ref().map(|listening| listening.address.port());
    let machine = Machine::probe(&config.root_dir);
    let allocatable = machine.allocatable(&config);
    let amount = |name: &str| allocatable.get(name).copied().unwrap_or(api::Quantity::ZERO);
    let tasks = TaskTracker::new();
    let (recorder, writer) = events::channel(client.clone(), &config.node_name, stop.clone());
    let informers = Informers::new(client.clone(), stop.clone());
    let own = |field: &str| Selection {
        fields: Some(format!("{field}={}", config.node_name)),
        ..Selection::default()
    };
    let ctx = Arc::new(Context {
        host: Host {
            ips: config.node_ips.iter().map(ToString::to_string).collect(),
            runtime: version.runtime_name,
        },
        memory: machine.memory,
        allocatable: Allocatable {
            cpu_milli: amount("cpu").milli(),
            memory: amount("memory").value(),
            ephemeral_storage: amount("ephemeral-storage").value(),
        },
        objects: Objects::new(&client, &tasks, &stop),
        tokens: Tokens::new(client.clone()),
        pods: informers.select(own("spec.nodeName")),
        services: informers.of(),
        node: informers.select(own("metadata.name")),
        informers: informers.clone(),
        taken: Taken::default(),
        freed: watch::Sender::new(()),
        machine: machine.clone(),
        recorder,
        runtime,
        client,
        tasks: tasks.clone(),
        stop: stop.clone(),
        config,
    });
    let registry = Arc::new(Registry::default());
    let mirrors = Arc::new(Mirrors::default());
    let until_stopped = |task: futures::future::BoxFuture<'static, ()>| {
        let stop = stop.clone();
        tasks.spawn(async move { stop.run_until_cancelled(task).await });
    };
    until_stopped(Box::pin(writer));
    until_stopped(Box::pin(follow_runtime(ctx.clone(), registry.clone())));
    until_stopped(Box::pin(node::keep(ctx.clone(), machine, port)));
    until_stopped(Box::pin(node::renew(ctx.clone())));
    until_stopped(Box::pin(crate::logs::rotate::keep(ctx.clone())));
    until_stopped(Box::pin(crate::gc::keep(ctx.clone())));
    if let Some(listening) = listening {
        tasks.spawn(listening.serve(ctx.clone(), registry.clone()));
    }
    let (read, manifests) = oneshot::channel();
    if let Some(dir) = ctx.config.pod_manifest_path.clone() {
        let (ctx, registry, mirrors) = (ctx.clone(), registry.clone(), mirrors.clone());
        until_stopped(Box::pin(async move {
            if let Err(error) = static_pods::follow(ctx, registry, mirrors, dir.clone(), read).await {
                tracing::error!(dir = %dir.display(), %error, "cannot follow static pods");
            }
        }));
    }
    let follower = (ctx.clone(), registry.clone(), mirrors.clone());
    until_stopped(Box::pin(async move {
        let (ctx, registry, mirrors) = follower;
        pods::follow(&ctx, &registry, &mirrors).await;
        // Without a directory of manifests there is nothing to wait for.
        let _ = manifests.await;
        if let Err(error) = pods::end_orphans(&ctx, &registry).await {
            tracing::warn!(%error, "cannot look for pods that were deleted meanwhile");
        }
    }));
    stop.cancelled().await;
    informers.shutdown().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

/// Follows the runtime's events, again after each time it went away.
async fn follow_runtime(ctx: Arc<Context>, registry: Arc<Registry>) {
    loop {
        if let Err(error) = pods::runtime_events(ctx.clone(), registry.clone()).await {
            tracing::warn!(%error, "no events from the runtime");
        }
        // What happened meanwhile was not heard.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        registry.wake_all();
    }
}
