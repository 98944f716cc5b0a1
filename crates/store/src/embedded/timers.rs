//! The three things that happen because time passes.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::committer::Command;
use super::state::Shared;
use crate::contract::Revision;

/// Starts them; they end when what this answers is dropped.
pub(crate) fn start(shared: &Arc<Shared>, queue: &mpsc::Sender<Command>) -> Vec<AbortOnDropHandle<()>> {
    let expiry = expire_leases(shared.clone(), queue.clone());
    let compaction = compact_old_history(shared.clone(), queue.clone());
    let progress = tell_progress(shared.clone());
    vec![
        AbortOnDropHandle::new(tokio::spawn(expiry)),
        AbortOnDropHandle::new(tokio::spawn(compaction)),
        AbortOnDropHandle::new(tokio::spawn(progress)),
    ]
}

/// Sleeps until the next lease is due. Renewals only move deadlines back, so they need not wake it.
async fn expire_leases(shared: Arc<Shared>, queue: mpsc::Sender<Command>) {
    loop {
        let changed = shared.lease_changed.notified();
        let next = shared.state.read().leases.next_deadline();
        let Some(deadline) = next else {
            changed.await;
            continue;
        };
        tokio::select! {
            () = changed => {}
            () = tokio::time::sleep_until(deadline.into()) => {
                let due = shared.state.read().leases.expired(Instant::now());
                for id in due {
                    if queue.send(Command::Expire(id)).await.is_err() {
                        return;
                    }
                }
                // A lease that could not be ended (a full disk) stays due; do not spin on it.
                let retry = tokio::time::Duration::from_millis(500);
                drop(tokio::time::timeout(retry, shared.lease_changed.notified()).await);
            }
        }
    }
}

/// Compacts to where the store was one `retain` ago.
async fn compact_old_history(shared: Arc<Shared>, queue: mpsc::Sender<Command>) {
    let Some(retain) = shared.config.retain else { return };
    let mut compaction_timer = tokio::time::interval(retain);
    let mut before = Revision(0);
    loop {
        compaction_timer.tick().await;
        let (now, compacted) = {
            let state = shared.state.read();
            (state.durable, state.compacted)
        };
        if before > compacted {
            let (reply, answer) = tokio::sync::oneshot::channel();
            if queue.send(Command::Compact(before, reply)).await.is_err() {
                return;
            }
            if let Ok(Err(error)) = answer.await {
                tracing::warn!(%error, revision = %before, "history was not compacted");
            }
        }
        before = now;
    }
}

async fn tell_progress(shared: Arc<Shared>) {
    let mut progress_timer = tokio::time::interval(shared.config.progress_interval);
    loop {
        progress_timer.tick().await;
        let watchers = shared.state.read().hub.ask_progress();
        watchers.iter().for_each(|slot| slot.wake());
    }
}
