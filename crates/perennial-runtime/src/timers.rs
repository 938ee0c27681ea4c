//! Timers of keys: what is to happen for a key at a time.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use perennial_state::KeyedTable;
use perennial_types::Key;

use crate::{ChainEvent, StateContext, TaskError};

/// The state timers lie under in a checkpoint.
const STATE: &str = "timers";

/// Stale entries of a queue from which on it is made anew, if they are more than half of it.
const STALE_MIN: usize = 1024;

/// Which time a timer waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TimeDomain {
    /// The watermark.
    EventTime,
    /// The clock of the machine.
    ProcessingTime,
}

/// Fires once its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timer {
    /// When, in ms since 1970.
    pub timestamp: i64,
    /// By which time.
    pub domain: TimeDomain,
}

impl Timer {
    /// A timer for when the watermark has come this far.
    pub fn event_time(timestamp: i64) -> Self {
        Self { timestamp, domain: TimeDomain::EventTime }
    }

    /// A timer for this processing time.
    pub fn processing_time(timestamp: i64) -> Self {
        Self { timestamp, domain: TimeDomain::ProcessingTime }
    }
}

/// Timers of one operator in one subtask. Per key a timer exists once; they come out in the order of their times.
///
/// The truth is a table of the keys' timers, which is what a checkpoint has; beside it lies a queue for each domain that says what
/// is due next. A timer that is deleted leaves its entry in the queue, which is skipped; many of those make it anew.
pub struct Timers<K> {
    /// Times of each key, ascending: event time, then processing time. A key without any has no entry.
    pending: KeyedTable<K, (Vec<i64>, Vec<i64>)>,
    event_time: Queue<K>,
    processing_time: Queue<K>,
}

impl<K: Key> Timers<K> {
    /// The timers that a checkpoint has of an operator.
    pub fn restore(of: &mut StateContext) -> Result<Self, TaskError> {
        let pending: KeyedTable<K, (Vec<i64>, Vec<i64>)> = of.take_table(STATE)?;
        let (mut event_time, mut processing_time) = (Queue::default(), Queue::default());
        for (key, (event, processing)) in pending.iter() {
            event.iter().for_each(|time| event_time.push(*time, key));
            processing.iter().for_each(|time| processing_time.push(*time, key));
        }
        Ok(Self { pending, event_time, processing_time })
    }

    /// Adds a timer for a key. Returns whether there was none like it.
    pub fn register(&mut self, key: &K, timer: Timer) -> bool {
        let pending = self.pending.get_or_insert_with(key, Default::default);
        let times = of_domain(pending, timer.domain);
        let Err(at) = times.binary_search(&timer.timestamp) else { return false };
        times.insert(at, timer.timestamp);
        self.queue(timer.domain).push(timer.timestamp, key);
        true
    }

    /// Removes a timer of a key. Returns whether there was one.
    pub fn delete(&mut self, key: &K, timer: Timer) -> bool {
        if !self.take(key, timer) {
            return false;
        }
        if self.queue(timer.domain).has_one_more_stale() {
            self.rebuild(timer.domain);
        }
        true
    }

    /// Takes the first timer of a domain that is due at `until`, with its key.
    pub fn pop(&mut self, domain: TimeDomain, until: i64) -> Option<(Timer, K)> {
        loop {
            let (timestamp, key) = self.queue(domain).pop(until)?;
            let timer = Timer { timestamp, domain };
            if self.take(&key, timer) {
                return Some((timer, key));
            }
            self.queue(domain).skipped();
        }
    }

    /// Time of the first timer of a domain.
    pub fn first(&mut self, domain: TimeDomain) -> Option<i64> {
        loop {
            let Reverse(due) = self.queue(domain).heap.peek()?;
            let (timestamp, key) = (due.timestamp, due.key.clone());
            let exists = self.pending.get(&key).is_some_and(|(event, processing)| {
                let times = if domain == TimeDomain::EventTime { event } else { processing };
                times.binary_search(&timestamp).is_ok()
            });
            if exists {
                return Some(timestamp);
            }
            let queue = self.queue(domain);
            queue.heap.pop();
            queue.skipped();
        }
    }

    /// Does its part in an event of the chain: the timers are in the snapshot of their operator.
    pub fn control(&mut self, of: &StateContext, event: &mut ChainEvent<'_>) {
        event.keyed(of, STATE, &mut self.pending);
    }

    /// Removes a timer from what is pending.
    fn take(&mut self, key: &K, timer: Timer) -> bool {
        let Some(pending) = self.pending.get_mut(key) else { return false };
        let times = of_domain(pending, timer.domain);
        let Ok(at) = times.binary_search(&timer.timestamp) else { return false };
        times.remove(at);
        if pending.0.is_empty() && pending.1.is_empty() {
            self.pending.remove(key);
        }
        true
    }

    fn queue(&mut self, domain: TimeDomain) -> &mut Queue<K> {
        match domain {
            TimeDomain::EventTime => &mut self.event_time,
            TimeDomain::ProcessingTime => &mut self.processing_time,
        }
    }

    fn rebuild(&mut self, domain: TimeDomain) {
        let mut queue = Queue::default();
        for (key, (event, processing)) in self.pending.iter() {
            let times = if domain == TimeDomain::EventTime { event } else { processing };
            times.iter().for_each(|time| queue.push(*time, key));
        }
        *self.queue(domain) = queue;
    }
}

fn of_domain(pending: &mut (Vec<i64>, Vec<i64>), domain: TimeDomain) -> &mut Vec<i64> {
    match domain {
        TimeDomain::EventTime => &mut pending.0,
        TimeDomain::ProcessingTime => &mut pending.1,
    }
}

/// What is due, the earliest first; of one time, what was registered first.
pub(crate) struct Queue<K> {
    heap: BinaryHeap<Reverse<Due<K>>>,
    registered: u64,
    /// Entries whose timer was deleted. It may count too few when one was registered again.
    stale: usize,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self { heap: BinaryHeap::new(), registered: 0, stale: 0 }
    }
}

impl<K: Clone> Queue<K> {
    pub(crate) fn push(&mut self, timestamp: i64, key: &K) {
        self.registered += 1;
        self.heap.push(Reverse(Due { timestamp, number: self.registered, key: key.clone() }));
    }

    /// Number of entries, stale ones included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Time of the first entry.
    pub(crate) fn first(&self) -> Option<i64> {
        self.heap.peek().map(|Reverse(due)| due.timestamp)
    }

    /// Takes the first entry that is due at `until`.
    pub(crate) fn pop(&mut self, until: i64) -> Option<(i64, K)> {
        self.first().filter(|timestamp| *timestamp <= until)?;
        self.heap.pop().map(|Reverse(due)| (due.timestamp, due.key))
    }

    /// An entry is not to be found any more by what it says. Returns whether it is time to make the queue anew.
    pub(crate) fn has_one_more_stale(&mut self) -> bool {
        self.stale += 1;
        self.stale > STALE_MIN && self.stale * 2 > self.heap.len()
    }

    /// A stale entry has gone.
    pub(crate) fn skipped(&mut self) {
        self.stale = self.stale.saturating_sub(1);
    }
}

struct Due<K> {
    timestamp: i64,
    number: u64,
    key: K,
}

impl<K> Ord for Due<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.timestamp, self.number).cmp(&(other.timestamp, other.number))
    }
}

impl<K> PartialOrd for Due<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<K> PartialEq for Due<K> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<K> Eq for Due<K> {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use perennial_types::OperatorId;
    use proptest::prelude::*;

    use super::*;

    fn timers() -> Timers<u8> {
        Timers::restore(&mut StateContext::fresh(OperatorId::of_uid("timers"), "timers")).unwrap()
    }

    #[derive(Debug, Clone)]
    enum On {
        Register(u8, Timer),
        Delete(u8, Timer),
        Advance(TimeDomain, i64),
        Rebuild,
    }

    fn events() -> impl Strategy<Value = Vec<On>> {
        let domain = prop_oneof![Just(TimeDomain::EventTime), Just(TimeDomain::ProcessingTime)];
        let timer = (-20i64..20, domain.clone()).prop_map(|(timestamp, domain)| Timer { timestamp, domain });
        let one = prop_oneof![
            5 => (0u8..4, timer.clone()).prop_map(|(key, timer)| On::Register(key, timer)),
            3 => (0u8..4, timer).prop_map(|(key, timer)| On::Delete(key, timer)),
            2 => (domain, -20i64..20).prop_map(|(domain, until)| On::Advance(domain, until)),
            1 => Just(On::Rebuild),
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        /// As a sorted set of (domain, time, key) does.
        #[test]
        fn timers_fire_once_and_in_order(events in events()) {
            let (mut timers, mut model) = (timers(), BTreeSet::new());
            for on in events {
                match on {
                    On::Register(key, timer) => {
                        prop_assert_eq!(timers.register(&key, timer), model.insert((timer.domain, timer.timestamp, key)));
                    }
                    On::Delete(key, timer) => {
                        prop_assert_eq!(timers.delete(&key, timer), model.remove(&(timer.domain, timer.timestamp, key)));
                    }
                    On::Advance(domain, until) => {
                        let due = |entry: &(TimeDomain, i64, u8)| entry.0 == domain && entry.1 <= until;
                        let mut last = i64::MIN;
                        while let Some((timer, key)) = timers.pop(domain, until) {
                            prop_assert!(timer.timestamp >= last && timer.domain == domain);
                            last = timer.timestamp;
                            prop_assert!(due(&(domain, last, key)) && model.remove(&(domain, last, key)));
                        }
                        prop_assert!(!model.iter().any(due));
                    }
                    On::Rebuild => timers.rebuild(TimeDomain::EventTime),
                }
                for domain in [TimeDomain::EventTime, TimeDomain::ProcessingTime] {
                    let first = model.iter().find(|entry| entry.0 == domain).map(|entry| entry.1);
                    prop_assert_eq!(timers.first(domain), first);
                }
            }
        }
    }

    #[test]
    fn deleted_timers_take_no_memory_for_long() {
        let mut timers = timers();
        for time in 0..100_000 {
            timers.register(&1, Timer::event_time(time + 1_000_000));
            timers.delete(&1, Timer::event_time(time + 999_999));
        }
        assert!(timers.event_time.heap.len() <= 2 * STALE_MIN + 2);
        assert_eq!(timers.pop(TimeDomain::EventTime, i64::MAX), Some((Timer::event_time(1_099_999), 1)));
        assert_eq!(timers.pop(TimeDomain::EventTime, i64::MAX), None);
        assert!(timers.pending.is_empty());
    }
}
