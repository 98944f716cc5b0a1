//! Growing pauses between attempts at what fails.

use std::time::Duration;

/// The pause after each failure in a row: twice the one before, up to a bound.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl Default for Backoff {
    /// For sockets: what Go's `net/http` waits before it accepts again, from 5 ms to 1 s.
    fn default() -> Self {
        Self::new(Duration::from_millis(5), Duration::from_secs(1))
    }
}

impl Backoff {
    /// From `first` to `most`.
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, next: first }
    }

    /// It failed: how long to wait.
    pub fn failed(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.most);
        pause
    }

    /// Whether nothing has failed since the last success.
    pub fn is_fresh(&self) -> bool {
        self.next == self.first
    }

    /// It went well.
    pub fn succeeded(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_until_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(300), Duration::from_secs(1));
        let mut pauses = || [(); 4].map(|()| backoff.failed().as_millis());
        assert_eq!(pauses(), [300, 600, 1000, 1000]);
        backoff.succeeded();
        assert!(backoff.is_fresh());
        assert_eq!(backoff.failed().as_millis(), 300);
        assert!(!backoff.is_fresh());
    }
}
