//! What a function over keyed state is given besides the record: its key, times, timers and the state itself.

use std::ops::{Deref, DerefMut};

use perennial_types::Key;

use crate::TaskClock;
use crate::timers::{Timer, Timers};

/// The key at hand, how far time is, and the timers of the key. Flink's `Context` and `OnTimerContext`.
pub struct KeyContext<'a, K> {
    pub(super) key: &'a K,
    pub(super) timestamp: Option<i64>,
    pub(super) watermark: i64,
    pub(super) clock: &'a TaskClock,
    pub(super) timers: &'a mut Timers<K>,
}

impl<K: Key> KeyContext<'_, K> {
    /// The key.
    pub fn key(&self) -> &K {
        self.key
    }

    /// Event time of the record, or of the timer that fires, in ms since 1970. None for a record of a stream that does not know where
    /// the timestamps of its records lie.
    pub fn timestamp(&self) -> Option<i64> {
        self.timestamp
    }

    /// How far event time is; `i64::MIN` before the first watermark, `i64::MAX` when the input has ended.
    pub fn current_watermark(&self) -> i64 {
        self.watermark
    }

    /// What the clock of the machine says, in ms since 1970.
    pub fn current_processing_time(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Has `on_timer` called for this key when the watermark has come to this time, at the latest when the input has ended.
    ///
    /// Registered twice it fires once. One that is past fires with the next watermark.
    pub fn register_event_time_timer(&mut self, timestamp: i64) {
        self.timers.register(self.key, Timer::event_time(timestamp));
    }

    /// Has `on_timer` called for this key at this processing time, or soon after, if the input has not ended by then.
    ///
    /// Registered twice it fires once. One that is past when the job goes on from a checkpoint fires at once.
    pub fn register_processing_time_timer(&mut self, timestamp: i64) {
        if self.timers.register(self.key, Timer::processing_time(timestamp)) {
            self.clock.wake_at(timestamp);
        }
    }

    /// Removes a timer of this key; nothing happens when there is none.
    pub fn delete_event_time_timer(&mut self, timestamp: i64) {
        self.timers.delete(self.key, Timer::event_time(timestamp));
    }

    /// Removes a timer of this key; nothing happens when there is none.
    pub fn delete_processing_time_timer(&mut self, timestamp: i64) {
        self.timers.delete(self.key, Timer::processing_time(timestamp));
    }
}

/// The state of the key at hand: it is read and changed as an `S`, which is [`Default`] for a key that has none.
///
/// A state that was only looked at does not come into being by that.
pub struct KeyState<'a, S> {
    value: &'a mut S,
    written: bool,
    cleared: bool,
}

impl<'a, S: Default> KeyState<'a, S> {
    pub(super) fn new(value: &'a mut S) -> Self {
        Self { value, written: false, cleared: false }
    }

    /// Removes the state of the key: nothing of it is left, here and in checkpoints. What is written afterwards is kept.
    pub fn clear(&mut self) {
        *self.value = S::default();
        self.cleared = true;
    }

    /// Whether it was changed.
    pub(super) fn is_written(&self) -> bool {
        self.written
    }

    /// Whether there is to be no state after this call, given whether there was none before.
    pub(super) fn is_absent(&self, was_absent: bool) -> bool {
        self.cleared || was_absent && !self.written
    }
}

impl<S> Deref for KeyState<'_, S> {
    type Target = S;

    #[inline(always)]
    fn deref(&self) -> &S {
        self.value
    }
}

impl<S> DerefMut for KeyState<'_, S> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut S {
        self.written = true;
        self.cleared = false;
        self.value
    }
}
