//! Stopping a container: its `preStop` hook, then its signal, then the end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{hooks, spec};
use crate::context::Context;
use crate::events::Type;
use crate::names;

/// What is left for the process itself, however long its hook took.
const LEAST: Duration = Duration::from_secs(2);

/// How long Services may go on sending to a pod that is to end.
const DRAIN: Duration = Duration::from_secs(1);

pub struct Stop {
    pub ctx: Arc<Context>,
    pub pod: Arc<Pod>,
    pub id: String,
    pub container: String,
    pub why: String,
    pub grace: Duration,
    pub ips: Vec<String>,
    /// A stop is already under way; this one only shortens it.
    pub again: bool,
}

impl Stop {
    /// Returns once the container has exited.
    ///
    /// # Errors
    /// The runtime's.
    pub async fn run(self) -> cri::Result<()> {
        let mut grace = self.grace;
        if !self.again {
            self.ctx.recorder.container(&self.pod, &self.container, Type::Normal, "Killing", &*self.why);
            let began = Instant::now();
            self.pre_stop().await;
            self.drained().await;
            grace = grace.saturating_sub(began.elapsed()).max(LEAST.min(self.grace));
        }
        self.ctx.runtime.stop_container(&self.id, grace).await
    }

    /// Lets Services turn away from a pod that goes for good.
    async fn drained(&self) {
        let goes = self.pod.metadata.deletion_timestamp.is_some() && !names::host_network(&self.pod);
        let Some(drained) = self.ctx.config.drained.as_ref().filter(|_| goes) else { return };
        let ips = self.ips.iter().filter_map(|ip| ip.parse::<IpAddr>().ok());
        let all = futures::future::join_all(ips.map(|ip| drained(ip)));
        // At the bound the pod ends all the same, as it would without Services.
        let _ = tokio::time::timeout(DRAIN.min(self.grace), all).await;
    }

    async fn pre_stop(&self) {
        let Some((_, container)) = spec::find(&self.pod, &self.container) else { return };
        let lifecycle = container.lifecycle.as_ref();
        let Some(handler) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()) else { return };
        let target = hooks::Target { ctx: &self.ctx, container: &container, id: &self.id, ips: &self.ips };
        let failed = match tokio::time::timeout(self.grace, hooks::run(&target, handler)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => format!("it did not end within {} s", self.grace.as_secs()),
        };
        let message = format!("PreStopHook failed: {failed}");
        self.ctx.recorder.container(&self.pod, &self.container, Type::Warning, "FailedPreStopHook", message);
    }
}
