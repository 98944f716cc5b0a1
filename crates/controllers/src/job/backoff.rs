//! How long a Job waits before it replaces failed pods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

/// The wait after the first failure; it doubles with each further one.
const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// What a Job remembers of its pods' failures since the last success.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Backoff {
    pub failures: u32,
    pub last: Option<Timestamp>,
}

impl Backoff {
    /// Takes up the pods that have newly succeeded and failed.
    pub fn with(self, succeeded: &[&Pod], failed: &[&Pod]) -> Self {
        let success = succeeded.iter().map(|pod| finished_at(pod)).max();
        let since = if success.is_some() { Self::default() } else { self };
        let counted = failed.iter().map(|pod| finished_at(pod));
        let counted: Vec<Timestamp> =
            counted.filter(|at| success.is_none_or(|success| *at > success)).collect();
        match counted.iter().max() {
            None => since,
            Some(last) => {
                let more = u32::try_from(counted.len()).unwrap_or(u32::MAX);
                Self { failures: since.failures.saturating_add(more), last: Some(*last) }
            }
        }
    }

    /// How long until another pod may be made.
    pub fn left(self, now: Timestamp) -> Duration {
        let (Some(last), Some(doublings)) = (self.last, self.failures.checked_sub(1)) else {
            return Duration::ZERO;
        };
        let wait = FIRST.saturating_mul(1 << doublings.min(20)).min(LONGEST);
        let waited = Duration::try_from(now.duration_since(last)).unwrap_or_default();
        wait.saturating_sub(waited)
    }
}

/// When a pod ended: by its containers, its Ready condition, its deletion, or for want of all, when it
/// was made.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let meta = &pod.metadata;
    let deleted = || {
        let grace = meta.deletion_grace_period_seconds.unwrap_or_default();
        let at = meta.deletion_timestamp.as_ref()?.0;
        at.checked_sub(jiff::SignedDuration::from_secs(grace)).ok()
    };
    let unready = || {
        let ready = crate::pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let created = || meta.creation_timestamp.as_ref().map(|time| time.0);
    containers_ended(pod).or_else(unready).or_else(deleted).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// When the last container ended, if all have.
fn containers_ended(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let ends = statuses.iter().map(|status| {
        let ended = status.state.as_ref()?.terminated.as_ref()?;
        ended.finished_at.as_ref().map(|time| time.0)
    });
    ends.collect::<Option<Vec<_>>>()?.into_iter().max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ended(second: u8) -> Pod {
        let at = format!("2025-01-01T00:00:{second:02}Z");
        serde_json::from_value(json!({"status": {"containerStatuses": [{"name": "c", "image": "", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at}}}]}}))
        .unwrap()
    }

    #[test]
    fn doubles_and_starts_anew_after_a_success() {
        let (a, b, c) = (ended(1), ended(2), ended(3));
        let now: Timestamp = "2025-01-01T00:00:05Z".parse().unwrap();
        let one = Backoff::default().with(&[], &[&a]);
        assert_eq!(one.left(now), Duration::from_secs(6));
        let two = one.with(&[], &[&b]);
        assert_eq!((two.failures, two.left(now)), (2, Duration::from_secs(17)));
        assert_eq!(two.with(&[], &[]), two);
        assert_eq!(two.with(&[&c], &[]), Backoff::default());
        assert_eq!(two.with(&[&b], &[&a, &c]).failures, 1);
        let many = Backoff { failures: 90, last: two.last };
        assert_eq!(many.left(two.last.unwrap()), LONGEST);
    }
}
