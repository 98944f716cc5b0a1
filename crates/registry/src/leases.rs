//! Leases of objects that go by themselves. Objects written within a short while share one, as
//! upstream's do: a lease each would double the store's work.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use store::{LeaseId, Store};

/// How long a lease takes in further objects; by so much it outlives what it was granted for.
const SHARED: Duration = Duration::from_secs(60);
/// Objects under one lease.
const OBJECTS: usize = 1000;

#[derive(Clone, Copy)]
struct Open {
    id: LeaseId,
    until: Instant,
    objects: usize,
}

/// The leases that still take in objects, by their time to live in seconds.
#[derive(Default)]
pub(crate) struct Leases(Mutex<HashMap<i64, Open>>);

impl Leases {
    /// A lease under which an object lives `seconds` at least.
    ///
    /// # Errors
    /// The store grants none.
    pub async fn lease(
        &self,
        store: &dyn Store,
        seconds: i64,
        now: Instant,
    ) -> Result<LeaseId, store::Error> {
        if let Some(id) = self.join(seconds, now) {
            return Ok(id);
        }
        // Whoever comes meanwhile grants one too; the last one granted takes in what follows.
        let more = i64::try_from(SHARED.as_secs()).unwrap_or(0);
        let (id, _) = store.lease_grant(LeaseId(0), seconds + more).await?;
        self.0.lock().insert(seconds, Open { id, until: now + SHARED, objects: 1 });
        Ok(id)
    }

    fn join(&self, seconds: i64, now: Instant) -> Option<LeaseId> {
        let mut open = self.0.lock();
        let lease = open.get_mut(&seconds)?;
        if lease.objects >= OBJECTS || lease.until <= now {
            open.remove(&seconds);
            return None;
        }
        lease.objects += 1;
        Some(lease.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_share_a_lease_for_a_while() {
        let store = store::memory::Engine::new();
        let leases = Leases::default();
        let now = Instant::now();
        let lease = async |seconds, now| leases.lease(&*store, seconds, now).await.unwrap();
        let first = lease(3600, now).await;
        assert_eq!(lease(3600, now).await, first);
        assert_ne!(lease(60, now).await, first);
        for _ in 2..OBJECTS {
            assert_eq!(lease(3600, now).await, first);
        }
        let second = lease(3600, now).await;
        assert_ne!(second, first);
        assert_ne!(lease(3600, now + SHARED).await, second);
        assert_eq!(store.lease_time_to_live(first, false).await.unwrap().granted_seconds, 3660);
    }
}
