//! Processing time: what the clock of this machine says, and when a task wants to be told.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// No time at all: nobody waits for it.
const NEVER: i64 = i64::MAX;

/// The processing time of one task. All clones are the same clock.
///
/// Who wants to act later says so with [`TaskClock::wake_at`]; when the time has come, and the task has room to emit, a
/// [`ChainEvent::Time`](crate::ChainEvent::Time) goes through the whole chain, once: who wants another says so again.
#[derive(Debug, Clone, Default)]
pub struct TaskClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The earliest time somebody waits for.
    due: AtomicI64,
    /// What a clock says that stands.
    standing: Option<AtomicI64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { due: AtomicI64::new(NEVER), standing: None }
    }
}

impl TaskClock {
    /// The clock of a task.
    pub fn new() -> Self {
        Self::default()
    }

    /// A clock that stands at this time until it is set to another: for tests of operators.
    pub fn standing(now_ms: i64) -> Self {
        Self { shared: Arc::new(Shared { standing: Some(AtomicI64::new(now_ms)), ..Shared::default() }) }
    }

    /// Sets a clock that stands. Does nothing to one that runs.
    pub fn set(&self, now_ms: i64) {
        if let Some(standing) = &self.shared.standing {
            standing.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Ms since 1970.
    pub fn now_ms(&self) -> i64 {
        match &self.shared.standing {
            Some(standing) => standing.load(Ordering::Relaxed),
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                i64::try_from(since.as_millis()).unwrap_or(NEVER)
            }
        }
    }

    /// Asks for a [`ChainEvent::Time`](crate::ChainEvent::Time) when this time, in ms since 1970, has come. An earlier one that somebody
    /// asked for comes as well, and then this has to be asked for again. `i64::MAX` asks for nothing.
    pub fn wake_at(&self, time_ms: i64) {
        self.shared.due.fetch_min(time_ms, Ordering::Relaxed);
    }

    /// The earliest time somebody waits for.
    pub fn due(&self) -> Option<i64> {
        let due = self.shared.due.load(Ordering::Relaxed);
        (due != NEVER).then_some(due)
    }

    /// The time, if it is one that somebody waits for; then nobody waits any more.
    pub(crate) fn take_due(&self) -> Option<i64> {
        let due = self.due()?;
        let now = self.now_ms();
        (due <= now).then(|| {
            self.shared.due.store(NEVER, Ordering::Relaxed);
            now
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_time_is_told_once() {
        let clock = TaskClock::standing(100);
        assert_eq!((clock.due(), clock.take_due()), (None, None));
        clock.wake_at(150);
        clock.clone().wake_at(120);
        clock.wake_at(i64::MAX);
        assert_eq!((clock.due(), clock.take_due()), (Some(120), None));
        clock.set(130);
        assert_eq!(clock.take_due(), Some(130));
        assert_eq!((clock.due(), clock.take_due()), (None, None));
        let running = TaskClock::new();
        running.set(5);
        assert!(running.now_ms() > 1_500_000_000_000);
    }
}
