//! Credits: how many batches a producer may have on their way to one consumer, and whether a task has room at all.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{ExchangeError, Signal};

/// Whether all output channels of one task have room. Shared with whoever gives credit back.
#[derive(Debug)]
pub struct Room {
    /// Channels without credit. Below zero for a moment, when credit comes back while its last piece is being taken.
    blocked: AtomicI32,
    failure: OnceLock<ExchangeError>,
    signal: Arc<Signal>,
}

impl Room {
    /// Room for a task whose thread waits on `signal`.
    pub fn new(signal: Arc<Signal>) -> Self {
        Self { blocked: AtomicI32::new(0), failure: OnceLock::new(), signal }
    }

    /// Whether every channel takes at least one more batch.
    pub fn is_free(&self) -> bool {
        self.blocked.load(Ordering::SeqCst) <= 0
    }

    /// A channel broke. The task finds out at its next poll.
    pub fn fail(&self, error: ExchangeError) {
        let _ = self.failure.set(error);
        self.signal.wake();
    }

    /// The first failure of a channel.
    pub fn failure(&self) -> Option<&ExchangeError> {
        self.failure.get()
    }
}

/// Credit of one channel. Only its producer takes, only its consumer gives.
#[derive(Debug)]
pub struct Credit {
    available: AtomicI32,
    room: Arc<Room>,
}

impl Credit {
    /// Credit for `initial` batches.
    pub fn new(initial: u32, room: Arc<Room>) -> Self {
        if initial == 0 {
            room.blocked.fetch_add(1, Ordering::SeqCst);
        }
        Self { available: AtomicI32::new(initial.min(i32::MAX as u32) as i32), room }
    }

    /// Takes credit for one batch, or returns false.
    pub fn take(&self) -> bool {
        if self.available.load(Ordering::Acquire) <= 0 {
            return false;
        }
        if self.available.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.room.blocked.fetch_add(1, Ordering::SeqCst);
        }
        true
    }

    /// Gives credit back for `count` batches and wakes a producer that waited for it.
    pub fn give(&self, count: u32) {
        let count = count.min(i32::MAX as u32) as i32;
        if count > 0
            && self.available.fetch_add(count, Ordering::SeqCst) == 0
            && self.room.blocked.fetch_sub(1, Ordering::SeqCst) == 1
        {
            self.room.signal.wake();
        }
    }

    /// The room this credit counts in.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }
}

/// What one task read and wrote since it started. Written once per batch, read by whoever reports.
#[derive(Debug, Default)]
pub struct Counters {
    /// Records it read from exchanges.
    pub records_in: AtomicU64,
    /// Records it wrote to exchanges, or for a task that ends in a sink, to the sink.
    pub records_out: AtomicU64,
    /// Bytes it received from other processes.
    pub bytes_in: AtomicU64,
    /// Bytes it sent to other processes.
    pub bytes_out: AtomicU64,
    /// Nanoseconds spent processing.
    pub busy_ns: AtomicU64,
    /// Nanoseconds spent waiting for room downstream.
    pub back_pressured_ns: AtomicU64,
}

impl Counters {
    /// Adds to one of the counters.
    pub fn add(counter: &AtomicU64, amount: u64) {
        // One writer per counter: a plain load and store would do, a relaxed add is as good per batch.
        counter.fetch_add(amount, Ordering::Relaxed);
    }
}
