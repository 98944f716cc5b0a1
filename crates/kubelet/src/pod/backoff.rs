//! How long to wait before trying the same thing again.

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// Doubling delays, forgotten after a quiet time of twice the longest one.
#[derive(Debug, Clone, PartialEq)]
pub struct Backoff {
    delay: Duration,
    updated: Timestamp,
}

/// The first delay.
const FIRST: Duration = Duration::from_secs(10);
/// The first delay of what most likely only comes a moment late, as upstream's mounts: what a volume is made
/// of.
const FIRST_SHORT: Duration = Duration::from_millis(500);
/// The longest delay.
const LONGEST: Duration = Duration::from_secs(300);

impl Backoff {
    /// The state after a try at `now`, following one that left `before` and failed at `failed`.
    pub fn next(before: Option<&Backoff>, failed: Timestamp, now: Timestamp) -> Backoff {
        Backoff::next_from(FIRST, before, failed, now)
    }

    /// The same for what is tried again sooner.
    pub fn next_short(before: Option<&Backoff>, failed: Timestamp, now: Timestamp) -> Backoff {
        Backoff::next_from(FIRST_SHORT, before, failed, now)
    }

    fn next_from(first: Duration, before: Option<&Backoff>, failed: Timestamp, now: Timestamp) -> Backoff {
        let delay = match before {
            Some(before) if !before.expired(failed) => (before.delay * 2).min(LONGEST),
            _ => first,
        };
        Backoff { delay, updated: now }
    }

    fn expired(&self, at: Timestamp) -> bool {
        at.duration_since(self.updated) > (LONGEST * 2).try_into().unwrap_or_default()
    }

    /// When the next try is due after a failure at `failed`; `None` for at once.
    pub fn until(&self, failed: Timestamp, now: Timestamp) -> Option<Timestamp> {
        if self.expired(failed) {
            return None;
        }
        let until = failed.checked_add(self.delay).unwrap_or(now);
        (until > now).then_some(until)
    }

    pub fn delay(&self) -> Duration {
        self.delay
    }
}

/// A duration as upstream prints it: `10s`, `1m20s`, `5m0s`.
pub fn shown(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn delays_double_to_five_minutes_and_are_forgotten_after_ten() {
        let mut backoff = None;
        let mut now = 0;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff.as_ref(), at(now), at(now));
            delays.push(shown(next.delay()));
            assert_eq!(
                next.until(at(now + 1), at(now + 1)),
                Some(at(now + 1 + next.delay().as_secs() as i64))
            );
            now += 1 + next.delay().as_secs() as i64;
            backoff = Some(next);
        }
        assert_eq!(delays, ["10s", "20s", "40s", "1m20s", "2m40s", "5m0s", "5m0s"]);
        let quiet = backoff.unwrap();
        let later = at(now + 700);
        assert_eq!(quiet.until(later, later), None);
        assert_eq!(Backoff::next(Some(&quiet), later, later).delay(), FIRST);
    }
}
