//! The table of leases: who holds what, until when. Pure: the clock is handed in.
//!
//! A lease's deadline lives in memory only. What is durable is that it exists and how long it was
//! granted, so after a restart each starts over with its whole time to live: never less than was left.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::contract::{Error, LeaseId, LeaseInfo};

/// The longest time to live, etcd's: nine billion seconds.
const LONGEST_SECONDS: i64 = 9_000_000_000;

#[derive(Default)]
pub(crate) struct Leases {
    by_id: HashMap<LeaseId, Lease>,
    /// By deadline, to find who is next without looking at all.
    deadlines: BTreeSet<(Instant, LeaseId)>,
}

struct Lease {
    granted_seconds: i64,
    deadline: Instant,
    keys: BTreeSet<Bytes>,
}

impl Leases {
    pub(crate) fn has(&self, id: LeaseId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// The id and time that a grant would give; changes nothing.
    pub(crate) fn plan_grant(
        &self,
        id: LeaseId,
        ttl_seconds: i64,
        shortest_seconds: i64,
    ) -> Result<(LeaseId, i64), Error> {
        if ttl_seconds > LONGEST_SECONDS {
            return Err(Error::LeaseTooLong { seconds: ttl_seconds });
        }
        if self.has(id) {
            return Err(Error::LeaseExists);
        }
        let ttl = ttl_seconds.max(shortest_seconds);
        if id != LeaseId(0) {
            return Ok((id, ttl));
        }
        loop {
            let id = LeaseId(rand::random_range(1..=i64::MAX));
            if !self.has(id) {
                return Ok((id, ttl));
            }
        }
    }

    pub(crate) fn insert(&mut self, id: LeaseId, granted_seconds: i64, now: Instant) {
        let deadline = now + seconds(granted_seconds);
        self.by_id.insert(id, Lease { granted_seconds, deadline, keys: BTreeSet::new() });
        self.deadlines.insert((deadline, id));
    }

    /// Starts the time to live over and answers it.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Result<i64, Error> {
        let lease = self.by_id.get_mut(&id).ok_or(Error::LeaseNotFound)?;
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = now + seconds(lease.granted_seconds);
        self.deadlines.insert((lease.deadline, id));
        Ok(lease.granted_seconds)
    }

    /// Drops a lease and answers its keys.
    pub(crate) fn remove(&mut self, id: LeaseId) -> Option<BTreeSet<Bytes>> {
        let lease = self.by_id.remove(&id)?;
        self.deadlines.remove(&(lease.deadline, id));
        Some(lease.keys)
    }

    /// Hangs a key on one lease and takes it from another; either may be 0, none.
    pub(crate) fn attach(&mut self, key: &Bytes, from: LeaseId, to: LeaseId) {
        if from == to {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&from) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&to) {
            lease.keys.insert(key.clone());
        }
    }

    pub(crate) fn info(&self, id: LeaseId, keys: bool, now: Instant) -> Result<LeaseInfo, Error> {
        let lease = self.by_id.get(&id).ok_or(Error::LeaseNotFound)?;
        let left = lease.deadline.saturating_duration_since(now).as_secs();
        Ok(LeaseInfo {
            granted_seconds: lease.granted_seconds,
            left_seconds: i64::try_from(left).unwrap_or(LONGEST_SECONDS),
            keys: if keys { lease.keys.iter().cloned().collect() } else { Vec::new() },
        })
    }

    /// Every lease with the seconds it was granted.
    pub(crate) fn granted(&self) -> Vec<(LeaseId, i64)> {
        self.by_id.iter().map(|(id, lease)| (*id, lease.granted_seconds)).collect()
    }

    pub(crate) fn ids(&self) -> Vec<LeaseId> {
        let mut ids: Vec<_> = self.by_id.keys().copied().collect();
        ids.sort();
        ids
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// Leases whose time has come.
    pub(crate) fn expired(&self, now: Instant) -> Vec<LeaseId> {
        self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now).map(|(_, id)| *id).collect()
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_lease_expires_later_than_one_that_was_not() {
        let mut leases = Leases::default();
        let start = Instant::now();
        leases.insert(LeaseId(1), 10, start);
        leases.insert(LeaseId(2), 10, start);
        assert_eq!(leases.renew(LeaseId(1), start + seconds(5)).unwrap(), 10);
        assert_eq!(leases.expired(start + seconds(12)), [LeaseId(2)]);
        assert_eq!(leases.info(LeaseId(1), false, start + seconds(6)).unwrap().left_seconds, 9);
        leases.remove(LeaseId(2));
        assert_eq!(leases.next_deadline(), Some(start + seconds(15)));
    }

    #[test]
    fn a_key_hangs_on_one_lease() {
        let mut leases = Leases::default();
        leases.insert(LeaseId(1), 10, Instant::now());
        leases.insert(LeaseId(2), 10, Instant::now());
        let key = Bytes::from_static(b"/a");
        leases.attach(&key, LeaseId(0), LeaseId(1));
        leases.attach(&key, LeaseId(1), LeaseId(2));
        assert!(leases.info(LeaseId(1), true, Instant::now()).unwrap().keys.is_empty());
        assert_eq!(leases.remove(LeaseId(2)).unwrap().len(), 1);
    }

    #[test]
    fn grants_are_bounded_and_unique() {
        let mut leases = Leases::default();
        leases.insert(LeaseId(7), 10, Instant::now());
        assert!(matches!(leases.plan_grant(LeaseId(7), 5, 1), Err(Error::LeaseExists)));
        assert!(matches!(leases.plan_grant(LeaseId(8), i64::MAX, 1), Err(Error::LeaseTooLong { .. })));
        assert_eq!(leases.plan_grant(LeaseId(8), 0, 2).unwrap(), (LeaseId(8), 2));
        assert_ne!(leases.plan_grant(LeaseId(0), 5, 1).unwrap().0, LeaseId(0));
    }
}
