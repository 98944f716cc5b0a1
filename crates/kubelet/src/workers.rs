//! All pod workers of the node.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::names;
use crate::pod::worker::{Desired, Worker};

/// Who looks after which pod, and which sandbox is whose.
#[derive(Default)]
pub struct Registry {
    pods: Mutex<HashMap<String, Entry>>,
    sandboxes: Mutex<HashMap<String, String>>,
}

struct Entry {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
    /// Cancelled once the worker is forgotten.
    ended: CancellationToken,
}

impl Registry {
    /// Says what a pod is to be; starts its worker where it has none.
    pub fn set(self: &Arc<Self>, ctx: &Arc<Context>, desired: Desired) {
        let uid = names::uid(&desired.pod).to_owned();
        let mut pods = self.pods.lock();
        if let Some(entry) = pods.get(&uid) {
            entry.desired.send_replace(desired);
            return;
        }
        let (sender, receiver) = watch::channel(desired);
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(ctx.clone(), receiver, wake.clone(), self.clone());
        let ended = CancellationToken::new();
        pods.insert(uid.clone(), Entry { desired: sender, wake, ended: ended.clone() });
        let (registry, context) = (self.clone(), ctx.clone());
        ctx.tasks.spawn(async move {
            worker.run().await;
            context.taken.release(&uid);
            registry.forget(&uid);
            ended.cancel();
        });
    }

    fn forget(&self, uid: &str) {
        self.pods.lock().remove(uid);
        self.sandboxes.lock().retain(|_, owner| owner != uid);
    }

    /// Whether a worker looks after the pod with this uid.
    pub fn has(&self, uid: &str) -> bool {
        self.pods.lock().contains_key(uid)
    }

    /// Resolves when no worker looks after the pod with this uid any more.
    pub async fn ended(&self, uid: &str) {
        let ended = self.pods.lock().get(uid).map(|entry| entry.ended.clone());
        if let Some(ended) = ended {
            ended.cancelled().await;
        }
    }

    /// Changes what is known of the pod with this uid; nothing where it has no worker.
    pub fn modify(&self, uid: &str, change: impl FnOnce(&mut Desired)) {
        if let Some(entry) = self.pods.lock().get(uid) {
            entry.desired.send_modify(change);
        }
    }

    /// Every pod there is.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().values().map(|entry| entry.desired.borrow().pod.clone()).collect()
    }

    /// The pod with this uid.
    pub fn pod(&self, uid: &str) -> Option<Arc<Pod>> {
        self.pods.lock().get(uid).map(|entry| entry.desired.borrow().pod.clone())
    }

    /// Notes which sandboxes a pod has.
    pub fn sandboxes<'a>(&self, uid: &str, sandboxes: impl Iterator<Item = &'a str>) {
        let mut known = self.sandboxes.lock();
        known.retain(|_, owner| owner != uid);
        known.extend(sandboxes.map(|sandbox| (sandbox.to_owned(), uid.to_owned())));
    }

    /// Wakes the worker whose sandbox this is.
    pub fn wake_sandbox(&self, sandbox: &str) {
        let owner = self.sandboxes.lock().get(sandbox).cloned();
        if let Some(entry) = owner.and_then(|uid| self.pods.lock().get(&uid).map(|entry| entry.wake.clone()))
        {
            entry.notify_one();
        }
    }

    /// Wakes every worker.
    pub fn wake_all(&self) {
        for entry in self.pods.lock().values() {
            entry.wake.notify_one();
        }
    }
}
