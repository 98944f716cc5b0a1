//! What the engine counts. Plain atomics: whoever exports metrics reads them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Counters and histograms of one engine, since it was opened.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Time to write one batch and sync it, in microseconds.
    pub commit_micros: Histogram,
    /// Writes that shared a sync.
    pub batch_size: Histogram,
    /// Transactions that were answered, with or without success.
    pub txns: AtomicU64,
    /// Batches that the disk refused.
    pub failed_commits: AtomicU64,
    /// The newest durable revision.
    pub revision: AtomicU64,
    /// Open watches.
    pub watchers: AtomicU64,
    /// Watches that were ended because they lagged.
    pub slow_watchers: AtomicU64,
    /// Events handed to watches.
    pub watch_events: AtomicU64,
}

/// Powers of two: bucket `n` counts values below 2^n that no smaller bucket counts.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; Histogram::BUCKETS],
    sum: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: std::array::from_fn(|_| AtomicU64::new(0)), sum: AtomicU64::new(0) }
    }
}

impl Histogram {
    const BUCKETS: usize = 32;

    pub(crate) fn record(&self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.buckets[bucket.min(Histogram::BUCKETS - 1)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub(crate) fn record_time(&self, time: Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Upper bounds with how many values lie below each (and not below the one before).
    pub fn buckets(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(n, count)| (1 << n, count.load(Relaxed)))
    }

    pub fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_in_the_bucket_above_it() {
        let histogram = Histogram::default();
        [0, 1, 5, 8].into_iter().for_each(|value| histogram.record(value));
        let filled: Vec<_> = histogram.buckets().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(1, 1), (2, 1), (8, 1), (16, 1)]);
        assert_eq!((histogram.sum(), histogram.count()), (14, 4));
    }
}
