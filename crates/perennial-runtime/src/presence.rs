//! Whether a task's thread is in the job's code, for others to see: code that does not return hears nothing.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts entries and exits of one task's code: odd while the thread is inside. Written by that thread alone.
#[derive(Debug, Default)]
pub(crate) struct Presence {
    turns: AtomicU64,
}

impl Presence {
    /// The thread enters the job's code, or leaves it.
    #[inline]
    pub(crate) fn turn(&self) {
        self.turns.store(self.turns.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// A number for the present stay in the job's code; `None` when the thread is elsewhere.
    pub(crate) fn stay(&self) -> Option<u64> {
        Some(self.turns.load(Ordering::Relaxed)).filter(|turns| turns % 2 == 1)
    }
}
