//! How others wake a slot thread.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Thread;
use std::time::Duration;

/// Wakes one thread that waits for any of several things to happen.
///
/// A wake-up is never lost: one given while the thread looks around makes its next [`Signal::wait`] return at once. Waking a
/// thread that was already told costs one read.
#[derive(Debug, Default)]
pub struct Signal {
    told: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Signal {
    /// A signal that no thread waits for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Names the calling thread as the one that waits. The first one named stays.
    pub fn attach(&self) {
        let _ = self.thread.set(std::thread::current());
    }

    /// Makes the waiting thread look around.
    pub fn wake(&self) {
        // Whoever stored what the thread shall find did so before this: the fence orders it before the read.
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.told.load(Ordering::Relaxed) || self.told.swap(true, Ordering::SeqCst) {
            return;
        }
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Forgets earlier wake-ups. What they announced has to be looked for after this call.
    pub fn clear(&self) {
        if self.told.load(Ordering::Relaxed) {
            self.told.swap(false, Ordering::SeqCst);
        }
        std::sync::atomic::fence(Ordering::SeqCst);
    }

    /// Waits until woken or until the time is over; no time is for ever. May return early.
    pub fn wait(&self, time: Option<Duration>) {
        if self.told.load(Ordering::SeqCst) {
            return;
        }
        match time {
            Some(time) => std::thread::park_timeout(time),
            None => std::thread::park(),
        }
    }
}
