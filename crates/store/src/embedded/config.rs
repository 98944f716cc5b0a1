//! What an operator can set about the embedded engine.

use std::time::Duration;

/// Bounds and intervals. [`Config::default`] suits a cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The largest transaction, in bytes of keys and values. etcd's `--max-request-bytes`.
    pub request_limit: usize,
    /// Writes that may wait for the committer; a writer beyond waits for its place.
    pub queue: usize,
    /// Writes that share one sync.
    pub batch: usize,
    /// How long history is kept at least, unless a bound below cuts it; `None` keeps it until
    /// someone compacts. kube-apiserver's compactor also keeps five minutes.
    pub retain: Option<Duration>,
    /// Events of history that are kept at most.
    pub retain_events: usize,
    /// Bytes of overwritten and deleted values that are kept at most.
    pub retain_bytes: usize,
    /// Events by which a watch may lag before it is ended with [`crate::Error::SlowWatcher`].
    pub watch_lag: usize,
    /// How often a quiet watch with `progress` is told the revision.
    pub progress_interval: Duration,
    /// The shortest lease; a shorter wish is granted this.
    pub shortest_lease: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            request_limit: 1_572_864,
            queue: 4096,
            batch: 1024,
            retain: Some(Duration::from_secs(300)),
            retain_events: 200_000,
            retain_bytes: 64 << 20,
            watch_lag: 100_000,
            progress_interval: Duration::from_secs(60),
            shortest_lease: Duration::from_secs(1),
        }
    }
}
