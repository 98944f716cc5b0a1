//! What a controller has asked for and not yet seen in its cache.
//!
//! Between a create and the watch telling of it, the cache shows one object too few; a controller that
//! counted then would create one too many. So it notes what it asked for and leaves the key alone
//! until the cache has caught up, or until five minutes have passed. As upstream's
//! `ControllerExpectations` and `UIDTrackingControllerExpectations`.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::ObjectKey;

/// How long the cache may take before a key is looked at again anyway.
pub const TIMEOUT: Duration = Duration::from_secs(5 * 60);

#[derive(Debug)]
struct Expected {
    creations: i64,
    /// Uids of the objects whose deletion was asked for.
    deletions: HashSet<String>,
    since: Instant,
}

impl Expected {
    fn satisfied(&self, now: Instant) -> bool {
        (self.creations <= 0 && self.deletions.is_empty()) || now.duration_since(self.since) > TIMEOUT
    }
}

/// Expectations by the key of the owner.
#[derive(Debug, Default)]
pub struct Expectations {
    expected: Mutex<HashMap<ObjectKey, Expected>>,
}

impl Expectations {
    /// Whether the cache shows all that was asked for.
    pub fn satisfied(&self, key: &ObjectKey) -> bool {
        match self.expected.lock().get(key) {
            None => true,
            Some(expected) => expected.satisfied(Instant::now()),
        }
    }

    /// Notes that `creations` objects will be created and the objects of these uids deleted. Replaces
    /// what was expected before.
    pub fn expect(&self, key: &ObjectKey, creations: usize, deletions: impl IntoIterator<Item = String>) {
        let creations = i64::try_from(creations).unwrap_or(i64::MAX);
        let expected =
            Expected { creations, deletions: deletions.into_iter().collect(), since: Instant::now() };
        self.expected.lock().insert(key.clone(), expected);
    }

    /// A creation was seen, or failed.
    pub fn creation_observed(&self, key: &ObjectKey) {
        self.creations_observed(key, 1);
    }

    /// Several creations were seen, failed or were never tried.
    pub fn creations_observed(&self, key: &ObjectKey, count: usize) {
        if let Some(expected) = self.expected.lock().get_mut(key) {
            expected.creations -= i64::try_from(count).unwrap_or(i64::MAX);
        }
    }

    /// A deletion was seen, or failed.
    pub fn deletion_observed(&self, key: &ObjectKey, uid: &str) {
        if let Some(expected) = self.expected.lock().get_mut(key) {
            expected.deletions.remove(uid);
        }
    }

    /// Expects nothing any more: the owner is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.expected.lock().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn satisfied_when_seen_failed_forgotten_or_timed_out() {
        let key = ObjectKey::new("ns", "rs");
        let expectations = Expectations::default();
        assert!(expectations.satisfied(&key));

        expectations.expect(&key, 3, []);
        expectations.creation_observed(&key);
        assert!(!expectations.satisfied(&key));
        expectations.creations_observed(&key, 2);
        assert!(expectations.satisfied(&key));

        expectations.expect(&key, 0, ["u1".to_string(), "u2".to_string()]);
        expectations.deletion_observed(&key, "u1");
        expectations.deletion_observed(&key, "u1");
        assert!(!expectations.satisfied(&key));
        expectations.deletion_observed(&key, "u2");
        assert!(expectations.satisfied(&key));

        expectations.expect(&key, 1, []);
        let later = Instant::now() + TIMEOUT + Duration::from_secs(1);
        assert!(expectations.expected.lock()[&key].satisfied(later));

        expectations.expect(&key, 1, []);
        expectations.forget(&key);
        assert!(expectations.satisfied(&key));
    }
}
