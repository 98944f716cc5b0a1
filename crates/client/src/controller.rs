//! The loop every controller runs: take a key, bring it in order, try again later if that failed.

use std::fmt::Debug;
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::WorkQueue;

/// Brings one key in order.
pub trait Reconcile: Send + Sync + 'static {
    type Key: Clone + Debug + Eq + Hash + Send + Sync + 'static;
    type Error: std::fmt::Display + Send;

    /// Looks at what there is and does what is missing. `Some(delay)` asks to be called again after
    /// that time. An error has the key tried again, later with each failure.
    fn reconcile(
        &self,
        key: &Self::Key,
    ) -> impl Future<Output = Result<Option<Duration>, Self::Error>> + Send;
}

/// How many keys of one controller are worked on at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Workers(pub usize);

/// Works on the keys of `queue` until `cancel`, then waits for those under way.
pub async fn run<R: Reconcile>(
    name: &'static str,
    queue: WorkQueue<R::Key>,
    workers: Workers,
    reconcile: Arc<R>,
    cancel: CancellationToken,
) {
    let mut busy = JoinSet::new();
    loop {
        while let Some(ended) = busy.try_join_next() {
            log_panic(name, ended);
        }
        if busy.len() >= workers.0 {
            if let Some(ended) = busy.join_next().await {
                log_panic(name, ended);
            }
            continue;
        }
        let key = tokio::select! {
            key = queue.next() => key,
            () = cancel.cancelled() => None,
        };
        let Some(key) = key else { break };
        let done = Done { queue: queue.clone(), key };
        let reconcile = reconcile.clone();
        busy.spawn(async move { one(name, &*reconcile, &done).await });
    }
    queue.close();
    while let Some(ended) = busy.join_next().await {
        log_panic(name, ended);
    }
}

/// Gives the key back when dropped, so that a panic does not lose it.
struct Done<K: Clone + Eq + Hash> {
    queue: WorkQueue<K>,
    key: K,
}

impl<K: Clone + Eq + Hash> Drop for Done<K> {
    fn drop(&mut self) {
        self.queue.done(&self.key);
    }
}

async fn one<R: Reconcile>(name: &'static str, reconcile: &R, done: &Done<R::Key>) {
    let Done { queue, key } = done;
    match reconcile.reconcile(key).await {
        Ok(again) => {
            queue.forget(key);
            if let Some(delay) = again {
                queue.add_after(key.clone(), delay);
            }
        }
        Err(error) => {
            tracing::debug!(controller = name, ?key, %error, failures = queue.failures(key), "will try again");
            queue.add_rate_limited(key.clone());
        }
    }
}

fn log_panic(name: &'static str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(controller = name, %error, "a reconcile panicked");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Flaky {
        calls: AtomicUsize,
        fail_first: usize,
        succeeded: tokio::sync::Notify,
    }

    impl Reconcile for Flaky {
        type Key = &'static str;
        type Error = String;

        async fn reconcile(&self, _: &Self::Key) -> Result<Option<Duration>, String> {
            if self.calls.fetch_add(1, Ordering::SeqCst) < self.fail_first {
                return Err("not yet".into());
            }
            self.succeeded.notify_one();
            Ok(None)
        }
    }

    #[tokio::test]
    async fn failed_keys_come_back_and_cancelling_ends_the_loop() {
        let queue = WorkQueue::default();
        let flaky = Arc::new(Flaky {
            calls: AtomicUsize::new(0),
            fail_first: 4,
            succeeded: tokio::sync::Notify::new(),
        });
        let cancel = CancellationToken::new();
        queue.add("k");
        let task = tokio::spawn(run("test", queue.clone(), Workers(2), flaky.clone(), cancel.clone()));
        flaky.succeeded.notified().await;
        assert_eq!(flaky.calls.load(Ordering::SeqCst), 5);
        cancel.cancel();
        task.await.unwrap();
        assert_eq!(queue.next().await, None);
    }
}
