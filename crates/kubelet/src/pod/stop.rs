//! Stopping a container: its `preStop` hook, then its signal, then the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;

use super::{hooks, spec};
use crate::context::Context;
use crate::events::Type;

/// What is left for the process itself, however long its hook took.
const LEAST: Duration = Duration::from_secs(2);

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
            grace = grace.saturating_sub(began.elapsed()).max(LEAST.min(self.grace));
        }
        self.ctx.runtime.stop_container(&self.id, grace).await
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
