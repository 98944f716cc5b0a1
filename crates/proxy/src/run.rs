//! The loop: events in, kernel updated.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use network::conntrack::{Conntrack, Flow};
use network::nft::{Client, Family};
use network::{Event, NetlinkError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::service::{At, Config};
use crate::table::Stale;
use crate::{Health, Proxy, Targets};

/// How long a refused batch waits before all is read back and planned anew; doubles up to the most.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// Events taken in between two batches at most, so that a flood cannot keep the kernel waiting.
const AT_ONCE: usize = 100_000;

/// Why the proxy ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel cannot be talked to.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A watch ended by itself.
    #[error("the watch of {0} ended")]
    WatchEnded(&'static str),
    /// Work in the background was torn down with the runtime.
    #[error("the runtime is going down")]
    Shutdown,
}

/// Sockets in the network namespace of the thread that made them.
#[derive(Debug)]
pub struct Kernel {
    nft: Client,
    conntrack: Conntrack,
    /// Flows that the tables lead nowhere any more, and that are still to be forgotten.
    stale: Vec<Stale>,
}

impl Kernel {
    /// Opens the sockets.
    pub fn new() -> Result<Self, Error> {
        Ok(Self { nft: Client::new()?, conntrack: Conntrack::new()?, stale: Vec::new() })
    }

    /// A proxy over what these sockets find in the kernel.
    pub fn load(&mut self, config: Config) -> Result<Proxy, Error> {
        Ok(Proxy::load(config, &mut self.nft)?)
    }

    /// Plans what changed and does it; after a refusal nothing of the plan counts until
    /// [`Proxy::reload`].
    pub fn sync(&mut self, proxy: &mut Proxy) -> Result<(), Error> {
        for plan in proxy.plan() {
            self.nft.apply(&plan.batch)?;
            self.stale.extend(plan.stale);
        }
        self.forget()?;
        self.stale.clear();
        Ok(())
    }

    fn forget(&mut self) -> Result<(), NetlinkError> {
        let stale = &self.stale;
        // Of several about one front the last counts.
        let mut services: HashMap<(IpAddr, u16), HashSet<(IpAddr, u16)>> = HashMap::new();
        let mut node_ports: HashMap<(Family, u16), HashSet<(IpAddr, u16)>> = HashMap::new();
        for Stale { frontend, live } in stale {
            let live = live.iter().map(|e| (e.addr, e.port)).collect();
            match frontend.at {
                At::Address(addr) => services.insert((addr, frontend.port), live),
                At::NodePort { .. } => node_ports.insert((frontend.family(), frontend.port), live),
            };
        }
        for family in [Family::Ip, Family::Ip6] {
            if !stale.iter().any(|s| s.frontend.family() == family) {
                continue;
            }
            let dead = |flow: &Flow| {
                let live = services.get(&(flow.to, flow.port)).or_else(|| {
                    // A node port's flow was translated; others to the same number are somebody else's.
                    let translated = flow.answered_by != flow.to;
                    node_ports.get(&(family, flow.port)).filter(|_| translated)
                });
                live.is_some_and(|live| !live.contains(&(flow.answered_by, flow.answering_port)))
            };
            let gone = self.conntrack.forget_udp(family, dead)?;
            tracing::debug!(gone, ?family, "forgot UDP flows to endpoints that are gone");
        }
        Ok(())
    }

    /// Removes the proxy's tables.
    pub fn remove(&mut self, table: &str) -> Result<(), Error> {
        for family in [Family::Ip, Family::Ip6] {
            let mut batch = network::nft::Batch::new(network::nft::Table::new(family, table));
            batch.remove_table();
            self.nft.apply(&batch)?;
        }
        Ok(())
    }
}

/// Follows both watches and keeps the kernel's tables as they say, until cancelled. `health` is told what
/// to answer on health check ports, `targets` who is sent to. The rules stay when this ends.
pub async fn run(
    config: Config,
    kernel: Kernel,
    services: impl Stream<Item = Event<Service>>,
    slices: impl Stream<Item = Event<EndpointSlice>>,
    health: watch::Sender<Health>,
    targets: Arc<Targets>,
    cancelled: CancellationToken,
) -> Result<(), Error> {
    let (mut services, mut slices) = (pin!(services), pin!(slices));
    let (mut kernel, mut proxy) = blocking(kernel, move |kernel| kernel.load(config)).await?;
    let mut retry = RETRY.0;
    // When to plan anew after a refusal.
    let mut again: Option<Instant> = None;
    loop {
        let due = again.unwrap_or_else(Instant::now);
        tokio::select! {
            biased;
            () = cancelled.cancelled() => return Ok(()),
            event = services.next() => proxy.service(event.ok_or(Error::WatchEnded("services"))?),
            event = slices.next() => proxy.slice(event.ok_or(Error::WatchEnded("endpointslices"))?),
            () = tokio::time::sleep_until(due), if again.is_some() => {}
        }
        // Whatever has arrived already goes into the same batch.
        for _ in 0..AT_ONCE {
            match (services.next().now_or_never().flatten(), slices.next().now_or_never().flatten()) {
                (None, None) => break,
                (service, slice) => {
                    service.into_iter().for_each(|event| proxy.service(event));
                    slice.into_iter().for_each(|event| proxy.slice(event));
                }
            }
        }
        let failed = again.is_some();
        if !proxy.is_synced() || !(failed || proxy.is_dirty()) || again.is_some_and(|at| Instant::now() < at)
        {
            continue;
        }
        let (back, (same, result)) = blocking(kernel, move |kernel| {
            let again = if failed { proxy.reload(&mut kernel.nft) } else { Ok(()) };
            let result = again.map_err(Error::from).and_then(|()| kernel.sync(&mut proxy));
            Ok((proxy, result))
        })
        .await?;
        (kernel, proxy) = (back, same);
        match result {
            Ok(()) => {
                targets.update(proxy.retargeted());
                (again, retry) = (None, RETRY.0);
            }
            Err(error) => {
                tracing::error!(%error, "the kernel refused an update; everything is planned anew");
                again = Some(Instant::now() + retry);
                retry = (retry * 2).min(RETRY.1);
            }
        }
        health.send_if_modified(|told: &mut BTreeMap<_, _>| {
            let differs = told != proxy.health();
            if differs {
                told.clone_from(proxy.health());
            }
            differs
        });
    }
}

/// Runs work that blocks on a thread for that, and gives the kernel back.
async fn blocking<T: Send + 'static>(
    mut kernel: Kernel,
    work: impl FnOnce(&mut Kernel) -> Result<T, Error> + Send + 'static,
) -> Result<(Kernel, T), Error> {
    let done = tokio::task::spawn_blocking(move || {
        let result = work(&mut kernel);
        (kernel, result)
    });
    let (kernel, result) = done.await.map_err(|_| Error::Shutdown)?;
    Ok((kernel, result?))
}
