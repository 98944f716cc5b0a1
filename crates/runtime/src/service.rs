//! The runtime itself.

mod client;
mod containers;
mod contract;
mod exec;
mod fd;
mod image_calls;
mod list;
mod records;
mod recover;
mod sandboxes;
mod stats;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cri::{Error, Event, EventKind, Result};
use parking_lot::Mutex;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::images::{Images, Pull};
use crate::{Config, clock};
use records::{Container, Sandbox};

/// Events a subscriber may be behind before it is told to list again.
const EVENTS: usize = 4096;

/// The embedded runtime. Copies are the same runtime.
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    images: Arc<Images>,
    pulls: Pull,
    state: Mutex<State>,
    events: broadcast::Sender<Event>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, Arc<Sandbox>>,
    containers: HashMap<String, Arc<Container>>,
}

impl Service {
    /// Opens the state and finds running pods again.
    ///
    /// # Errors
    /// Where the state directory cannot be read or made.
    pub async fn start(config: Config) -> Result<Self> {
        Self::start_within(config, recover::PATIENCE).await
    }

    async fn start_within(config: Config, patience: Duration) -> Result<Self> {
        let state = config.state.clone();
        let images = tokio::task::spawn_blocking(move || Images::open(&state.join("images")))
            .await
            .map_err(|error| Error::Other(error.to_string()))?
            .map_err(|error| Error::Other(error.to_string()))?;
        let pods = config.state.join("pods");
        std::fs::create_dir_all(&pods).map_err(Error::file("create", &pods))?;
        let service = Self {
            inner: Arc::new(Inner {
                config,
                images: Arc::new(images),
                pulls: Pull::default(),
                state: Mutex::default(),
                events: broadcast::channel(EVENTS).0,
                tasks: TaskTracker::new(),
                cancel: CancellationToken::new(),
            }),
        };
        service.recover(patience).await?;
        Ok(service)
    }

    /// Ends the service's tasks. Pods run on; a new service finds them.
    pub async fn shutdown(&self) {
        self.inner.cancel.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// The images present.
    pub fn images(&self) -> &Arc<Images> {
        &self.inner.images
    }

    fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        let state = self.inner.state.lock();
        state.sandboxes.get(id).cloned().ok_or_else(|| Error::not_found("sandbox", id))
    }

    fn container(&self, id: &str) -> Result<Arc<Container>> {
        let state = self.inner.state.lock();
        state.containers.get(id).cloned().ok_or_else(|| Error::not_found("container", id))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let state = self.inner.state.lock();
        state.containers.values().filter(|it| it.record.sandbox == sandbox).cloned().collect()
    }

    fn emit(&self, sandbox: &str, container: &str, kind: EventKind) {
        let event =
            Event::Container { sandbox: sandbox.into(), container: container.into(), kind, at: clock::now() };
        // Nobody may be listening.
        let _ = self.inner.events.send(event);
    }
}

/// Runs what blocks on files where it may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::Other(format!("a blocking task failed: {error}"))),
    }
}

/// A new identifier: 64 hexadecimal digits, as other runtimes have them.
fn new_id() -> String {
    format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple())
}
