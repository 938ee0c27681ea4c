//! State that is forgotten when it has not been used for long.

use std::time::Duration;

use perennial_state::KeyedTable;
use perennial_types::{Key, Record};

use crate::timers::Queue;
use crate::{ChainEvent, StateContext, TaskClock, TaskError};

/// The state under which the times of last use lie.
const STATE: &str = "ttl";

/// Expired keys that are removed with each batch at most, so that many that expire together do not hold up the task.
const SWEEP_MAX: usize = 4096;

/// Shortest time between two looks for expired state while no records come, in ms.
const SWEEP_PAUSE_MS: i64 = 1000;

/// How long the state of a key lives. Flink's `StateTtlConfig`, in processing time; expired state is never returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateTtlConfig {
    pub(super) ttl: Duration,
    pub(super) update: UpdateType,
}

/// What makes the state of a key live on. Flink's `StateTtlConfig.UpdateType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpdateType {
    /// That it is made or written to.
    OnCreateAndWrite,
    /// That as well, and any call of the function about the key.
    OnReadAndWrite,
}

impl StateTtlConfig {
    /// State lives for so long after it was last written to; at least a millisecond.
    pub fn new(ttl: Duration) -> Self {
        Self { ttl, update: UpdateType::OnCreateAndWrite }
    }

    /// Says what makes the state of a key live on.
    pub fn update_type(self, update: UpdateType) -> Self {
        Self { update, ..self }
    }
}

/// When each key of an operator was used last.
///
/// That is a state of its own, beside the values: it is there only where somebody wants it. A key has one entry in the queue, for
/// when it would expire if it were not used any more; when that comes and it was, the entry goes back for a later time. An entry for
/// another time than the key's own is stale: it is of a state that was cleared.
pub(super) struct Ttl<K> {
    ttl_ms: i64,
    update: UpdateType,
    used: KeyedTable<K, Use>,
    queue: Queue<K>,
    clock: TaskClock,
    /// Processing time of the batch at hand.
    now_ms: i64,
}

/// When a key was used last, and the time of its entry in the queue.
type Use = (i64, i64);

impl<K: Key> Ttl<K> {
    /// For an operator with these values. Those of which the checkpoint does not know when they were used, for it was taken
    /// without this, count as used now.
    pub(super) fn restore<S: Record>(
        of: &mut StateContext,
        config: StateTtlConfig,
        clock: TaskClock,
        values: &KeyedTable<K, S>,
    ) -> Result<Self, TaskError> {
        let (used, now_ms) = (of.take_table(STATE)?, clock.now_ms());
        let ttl_ms = i64::try_from(config.ttl.as_millis()).unwrap_or(i64::MAX).max(1);
        let mut ttl = Self { ttl_ms, update: config.update, used, queue: Queue::default(), clock, now_ms };
        for (key, _) in values.iter() {
            let (used, due) = ttl.used.get_or_insert_with(key, || (now_ms, 0));
            *due = used.saturating_add(ttl_ms);
            ttl.queue.push(*due, key);
        }
        ttl.ask_for_time();
        Ok(ttl)
    }

    /// A batch begins, or a timer fires.
    pub(super) fn begin(&mut self) {
        self.now_ms = self.clock.now_ms();
    }

    /// Whether the state of the key is there only because it was not removed yet.
    pub(super) fn is_expired(&self, key: &K) -> bool {
        self.used.get(key).is_some_and(|(used, _)| used.saturating_add(self.ttl_ms) <= self.now_ms)
    }

    /// The function was called for a key that has state afterwards.
    pub(super) fn was_used(&mut self, key: &K, written: bool) {
        if let Some((used, _)) = self.used.get_mut(key) {
            if written || self.update == UpdateType::OnReadAndWrite {
                *used = self.now_ms;
            }
        } else {
            let due = self.now_ms.saturating_add(self.ttl_ms);
            self.used.insert(key.clone(), (self.now_ms, due));
            self.queue.push(due, key);
        }
    }

    /// The state of a key is gone, if there was any. Its entry in the queue is skipped when it comes.
    pub(super) fn is_gone(&mut self, key: &K) {
        if self.used.remove(key).is_some() && self.queue.has_one_more_stale() {
            self.queue = Queue::default();
            self.used.iter().for_each(|(key, (_, due))| self.queue.push(*due, key));
        }
    }

    /// Removes expired keys, at most so many.
    fn sweep<S: Record>(&mut self, values: &mut KeyedTable<K, S>, most: usize) {
        for _ in 0..most {
            let Some((due, key)) = self.queue.pop(self.now_ms) else { return };
            let Some((used, own)) = self.used.get_mut(&key).filter(|(_, own)| *own == due) else {
                self.queue.skipped();
                continue;
            };
            let expires = used.saturating_add(self.ttl_ms);
            if expires <= self.now_ms {
                self.used.remove(&key);
                values.remove(&key);
            } else {
                *own = expires;
                self.queue.push(expires, &key);
            }
        }
    }

    /// A batch has ended.
    pub(super) fn end<S: Record>(&mut self, values: &mut KeyedTable<K, S>) {
        self.sweep(values, SWEEP_MAX);
        self.ask_for_time();
    }

    /// Does its part in an event of the chain: what has expired is not in a snapshot, and goes when there is nothing else to do.
    pub(super) fn control<S: Record>(
        &mut self,
        of: &StateContext,
        event: &mut ChainEvent<'_>,
        values: &mut KeyedTable<K, S>,
    ) {
        match event {
            ChainEvent::Snapshot(_) => {
                self.begin();
                self.sweep(values, usize::MAX);
            }
            ChainEvent::Time(now_ms) => {
                self.now_ms = *now_ms;
                self.end(values);
            }
            _ => {}
        }
        event.keyed(of, STATE, &mut self.used);
    }

    fn ask_for_time(&self) {
        if let Some(due) = self.queue.first() {
            self.clock.wake_at(due.max(self.now_ms.saturating_add(SWEEP_PAUSE_MS)));
        }
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::OperatorId;

    use super::*;

    /// A key has one entry, however often its state is cleared and made again, and however long it lives.
    #[test]
    fn what_is_due_takes_no_more_memory_than_what_lives() {
        let mut of = StateContext::fresh(OperatorId::of_uid("ttl"), "ttl");
        let (clock, mut values) = (TaskClock::standing(0), KeyedTable::<u64, u64>::new());
        let config = StateTtlConfig::new(Duration::from_millis(100));
        let mut ttl = Ttl::restore(&mut of, config, clock.clone(), &values).unwrap();
        for now_ms in 0..20_000 {
            clock.set(now_ms);
            ttl.begin();
            for key in 0..10 {
                ttl.is_gone(&key);
                values.insert(key, 7);
                ttl.was_used(&key, true);
            }
            values.insert(99, 7);
            ttl.was_used(&99, true);
            ttl.end(&mut values);
            assert!(ttl.queue.len() < 2_500, "{} entries at {now_ms}", ttl.queue.len());
        }
        assert_eq!((values.len(), ttl.used.len()), (11, 11));
        clock.set(20_200);
        ttl.begin();
        ttl.end(&mut values);
        assert_eq!((values.len(), ttl.used.len(), ttl.queue.len()), (0, 0, 0));
    }
}
