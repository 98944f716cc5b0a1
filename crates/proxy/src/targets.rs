//! Who is still being sent new connections: what a node waits for before it ends a pod.
//!
//! A pod that is deleted leaves its Services' endpoints at once, but its node hears of the deletion
//! before the packet rules have followed. Ending its processes in between would refuse connections.

use std::collections::HashMap;
use std::net::IpAddr;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Addresses that Services send new connections to, as the kernel's rules have it.
#[derive(Debug, Default)]
pub struct Targets {
    /// How many Services have the address as a ready endpoint.
    counts: Mutex<HashMap<IpAddr, usize>>,
    fewer: Notify,
}

/// A Service that began or ceased to send to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retarget {
    Begun(IpAddr),
    Ceased(IpAddr),
}

impl Targets {
    /// Takes up what the rules have come to say.
    pub(crate) fn update(&self, changes: impl IntoIterator<Item = Retarget>) {
        let mut counts = self.counts.lock();
        let mut fewer = false;
        for change in changes {
            match change {
                Retarget::Begun(addr) => *counts.entry(addr).or_default() += 1,
                Retarget::Ceased(addr) => {
                    if let Some(count) = counts.get_mut(&addr) {
                        *count -= 1;
                        if *count == 0 {
                            counts.remove(&addr);
                            fewer = true;
                        }
                    }
                }
            }
        }
        drop(counts);
        if fewer {
            self.fewer.notify_waiters();
        }
    }

    /// Waits until no Service sends new connections to `addr`. One that has no other endpoint may still do
    /// so once this endpoint is terminating.
    pub async fn without(&self, addr: IpAddr) {
        loop {
            let mut fewer = std::pin::pin!(self.fewer.notified());
            // Registered before looking: what ceases in between is heard.
            fewer.as_mut().enable();
            if !self.counts.lock().contains_key(&addr) {
                return;
            }
            fewer.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn an_address_is_free_when_its_last_service_lets_go() {
        let (targets, addr) = (Targets::default(), IpAddr::from([10, 0, 0, 1]));
        assert!(targets.without(addr).now_or_never().is_some());
        targets.update([Retarget::Begun(addr), Retarget::Begun(addr)]);
        let mut waiting = Box::pin(targets.without(addr));
        assert!(waiting.as_mut().now_or_never().is_none());
        targets.update([Retarget::Ceased(addr)]);
        assert!(waiting.as_mut().now_or_never().is_none());
        targets.update([Retarget::Ceased(addr)]);
        waiting.await;
        assert!(targets.counts.lock().is_empty());
    }
}
