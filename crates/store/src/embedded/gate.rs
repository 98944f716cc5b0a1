//! Where the committer waits for more writers, and whence the writers get their answers.
//!
//! Both ways many small wakes become one: the committer sleeps until as many writes have queued as it
//! expects, and the answers of a batch are given out by one task inside the runtime, where waking the next
//! task takes no system call.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::Thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::committer::{Answer, Command};
use super::hub::Slot;

/// Batches whose answers may wait to be given out.
const BATCHES: usize = 4;
/// Answers and wakes that are given out on the spot: handing them on would take as long.
const FEW: usize = 2;

/// Wakes the committer when enough has queued.
#[derive(Default)]
pub(crate) struct Gate {
    /// Commands that must have queued for it to be woken; 0 while it does not wait.
    wanted: AtomicUsize,
    sleeper: Mutex<Option<Thread>>,
}

impl Gate {
    /// To be called by a writer when its command has queued.
    pub(crate) fn queued(&self, queue: &mpsc::Sender<Command>) {
        let wanted = self.wanted.load(SeqCst);
        if wanted == 0 || queue.max_capacity() - queue.capacity() < wanted {
            return;
        }
        // Only one of the writers wakes it.
        if self.wanted.compare_exchange(wanted, 0, SeqCst, SeqCst).is_ok()
            && let Some(sleeper) = &*self.sleeper.lock()
        {
            sleeper.unpark();
        }
    }

    /// Waits until `wanted` commands have queued, or for so long.
    pub(crate) fn wait(&self, queue: &mpsc::Receiver<Command>, wanted: usize, patience: Duration) {
        let until = Instant::now() + patience;
        *self.sleeper.lock() = Some(std::thread::current());
        self.wanted.store(wanted, SeqCst);
        while queue.len() < wanted && self.wanted.load(SeqCst) != 0 {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.wanted.store(0, SeqCst);
    }
}

/// The answers of a batch that is on disk, and the watches that have something to tell.
pub(crate) struct Told {
    pub answers: Vec<Answer>,
    pub wake: Vec<Arc<Slot>>,
}

impl Told {
    fn give_out(self) {
        self.answers.into_iter().for_each(|answer| answer.send(None));
        self.wake.iter().for_each(|slot| slot.wake());
    }
}

/// Gives answers out.
pub(crate) struct Herald(mpsc::Sender<Told>);

impl Herald {
    /// One, and what must be polled for it to work.
    pub(crate) fn new() -> (Herald, impl Future<Output = ()> + Send + 'static) {
        let (sender, mut batches) = mpsc::channel::<Told>(BATCHES);
        let work = async move {
            while let Some(told) = batches.recv().await {
                told.give_out();
            }
        };
        (Herald(sender), work)
    }

    /// Blocks while earlier ones wait.
    pub(crate) fn tell(&self, told: Told) {
        if told.answers.len() + told.wake.len() <= FEW {
            return told.give_out();
        }
        if let Err(mpsc::error::SendError(told)) = self.0.blocking_send(told) {
            // The engine is being dropped, and its tasks went first.
            told.give_out();
        }
    }
}
