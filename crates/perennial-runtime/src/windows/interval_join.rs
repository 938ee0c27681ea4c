//! Pairs of records whose times are close to each other.

use std::collections::BTreeMap;

use perennial_state::{KeySelector, KeyedTable};
use perennial_types::{DecodeError, Record};

use super::progress;
use super::results::Results;
use super::sided::{Side, Sided};
use crate::operators::{Collector, OutputTag, SideOutputs};
use crate::{ChainEvent, Output, StateContext, TaskError, UserError};

/// Name of the state that holds the records of each key that may still find another.
const RECORDS: &str = "records";

/// What an interval join is made of, besides its function.
pub struct IntervalJoinSetup<A, B> {
    /// Its state.
    pub of: StateContext,
    /// A pair's right time minus its left time is at least so many ms.
    pub lower: i64,
    /// And at most so many.
    pub upper: i64,
    /// Where late records of the left go; without, they are dropped.
    pub left_late: Option<OutputTag<A>>,
    /// Where late records of the right go; without, they are dropped.
    pub right_late: Option<OutputTag<B>>,
}

/// When the two records of a pair happened. Flink's `ProcessJoinFunction.Context`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinContext {
    /// In ms since 1970.
    pub left_timestamp: i64,
    /// In ms since 1970.
    pub right_timestamp: i64,
}

/// The records of a key that wait for others, each side in the order of time.
#[derive(Clone)]
struct Waiting<A, B> {
    left: Vec<(i64, A)>,
    right: Vec<(i64, B)>,
    /// When the operator looks at this key next. Follows from the records, and is no part of a snapshot.
    look: i64,
}

impl<A, B> Default for Waiting<A, B> {
    fn default() -> Self {
        Self { left: Vec::new(), right: Vec::new(), look: i64::MAX }
    }
}

impl<A: Record, B: Record> Record for Waiting<A, B> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        self.left.encode(out);
        self.right.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { left: Record::decode(input)?, right: Record::decode(input)?, ..Self::default() })
    }
}

/// Emits what a function makes of each pair of a left and a right record of one key whose times are within an interval.
///
/// A record is kept as long as one that is not late may make a pair with it. One that is not after the watermark is late. So which
/// pairs there are does not depend on when records come, as long as none is late (Flink keeps and admits records a little longer, by
/// chance of when it looks).
pub struct IntervalJoin<A, B, Sel: KeySelector<Sided<A, B>>, F, U> {
    setup: IntervalJoinSetup<A, B>,
    selector: Sel,
    function: F,
    table: KeyedTable<Sel::Key, Waiting<A, B>>,
    /// Keys by the watermark at which a record of them can be dropped. Some have been put off since.
    looks: BTreeMap<i64, Vec<Sel::Key>>,
    watermark: i64,
    results: Results<U>,
}

impl<A, B, Sel, F, U> IntervalJoin<A, B, Sel, F, U>
where
    A: Record,
    B: Record,
    Sel: KeySelector<Sided<A, B>>,
    U: Send,
    F: FnMut(&A, &B, &JoinContext, &mut Collector<'_, U>) -> Result<(), UserError>,
{
    /// The operator in front of `next` and its side outputs. `function` is called for each pair.
    pub fn new(
        mut setup: IntervalJoinSetup<A, B>,
        selector: Sel,
        function: F,
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let watermark = progress::restore(&mut setup.of)?;
        let (mut table, mut looks) = (KeyedTable::new(), BTreeMap::new());
        let bounds = (setup.lower, setup.upper);
        setup.of.take_entries(RECORDS, |key: Sel::Key, mut waiting: Waiting<A, B>| {
            waiting.look_again(&key, bounds, &mut looks);
            table.insert(key, waiting);
        })?;
        let results = Results::new(&setup.of.name, sides, next);
        Ok(Self { setup, selector, function, table, looks, watermark, results })
    }

    fn take(&mut self, record: Sided<A, B>) -> Result<(), TaskError> {
        let Self { setup, selector, function, table, looks, watermark, results } = self;
        let IntervalJoinSetup { lower, upper, left_late, right_late, .. } = setup;
        let time = record.time;
        if time <= *watermark {
            match record.side {
                Side::Left(left) => results.late(left_late.as_ref(), std::iter::once(left)),
                Side::Right(right) => results.late(right_late.as_ref(), std::iter::once(right)),
            }
            return Ok(());
        }
        let (key, waiting, _) = table.entry(&record, selector, |_| Waiting::default());
        match record.side {
            Side::Left(left) => {
                let others = (time.saturating_add(*lower), time.saturating_add(*upper));
                for (right_timestamp, right) in within(&waiting.right, others) {
                    let context = JoinContext { left_timestamp: time, right_timestamp: *right_timestamp };
                    results.emit(|out| function(&left, right, &context, out))?;
                }
                keep(&mut waiting.left, time, left);
            }
            Side::Right(right) => {
                let others = (time.saturating_sub(*upper), time.saturating_sub(*lower));
                for (left_timestamp, left) in within(&waiting.left, others) {
                    let context = JoinContext { left_timestamp: *left_timestamp, right_timestamp: time };
                    results.emit(|out| function(left, &right, &context, out))?;
                }
                keep(&mut waiting.right, time, right);
            }
        }
        waiting.look_again(key, (*lower, *upper), looks);
        Ok(())
    }

    /// Drops records for which none can come any more.
    fn advance(&mut self, watermark: i64) {
        self.watermark = watermark;
        let (lower, upper) = (self.setup.lower, self.setup.upper);
        while let Some(entry) = self.looks.first_entry().filter(|entry| *entry.key() <= watermark) {
            let (time, keys) = entry.remove_entry();
            for key in keys {
                let Some(waiting) = self.table.get_mut(&key).filter(|waiting| waiting.look == time) else { continue };
                waiting.look = i64::MAX;
                let left = waiting.left.partition_point(|(time, _)| time.saturating_add(upper) <= watermark);
                waiting.left.drain(..left);
                let right = waiting.right.partition_point(|(time, _)| time.saturating_sub(lower) <= watermark);
                waiting.right.drain(..right);
                if waiting.left.is_empty() && waiting.right.is_empty() {
                    self.table.remove(&key);
                } else {
                    waiting.look_again(&key, (lower, upper), &mut self.looks);
                }
            }
        }
    }
}

impl<A, B> Waiting<A, B> {
    /// Sees to it that the key is looked at when its first record can be dropped.
    fn look_again<K: Clone>(&mut self, key: &K, (lower, upper): (i64, i64), looks: &mut BTreeMap<i64, Vec<K>>) {
        let left = self.left.first().map(|(time, _)| time.saturating_add(upper));
        let right = self.right.first().map(|(time, _)| time.saturating_sub(lower));
        if let Some(next) = [left, right].into_iter().flatten().min()
            && next < self.look
        {
            self.look = next;
            looks.entry(next).or_default().push(key.clone());
        }
    }
}

/// Records from the first time to the second.
fn within<R>(records: &[(i64, R)], (from, to): (i64, i64)) -> &[(i64, R)] {
    let start = records.partition_point(|(time, _)| *time < from);
    let end = records.partition_point(|(time, _)| *time <= to);
    records.get(start..end).unwrap_or_default()
}

/// Adds a record in the order of time: mostly as the last.
fn keep<R>(records: &mut Vec<(i64, R)>, time: i64, record: R) {
    let at = records.partition_point(|(other, _)| *other <= time);
    records.insert(at, (time, record));
}

impl<A, B, Sel, F, U> Output<Sided<A, B>> for IntervalJoin<A, B, Sel, F, U>
where
    A: Record,
    B: Record,
    Sel: KeySelector<Sided<A, B>>,
    U: Send,
    F: FnMut(&A, &B, &JoinContext, &mut Collector<'_, U>) -> Result<(), UserError> + Send,
{
    fn push(&mut self, batch: &mut Vec<Sided<A, B>>) -> Result<(), TaskError> {
        batch.drain(..).try_for_each(|record| self.take(record))?;
        self.results.flush()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        event.keyed(&self.setup.of, RECORDS, &mut self.table);
        match event {
            ChainEvent::Watermark(time) if *time > self.watermark => self.advance(*time),
            ChainEvent::Snapshot(writer) => progress::save(writer, &self.setup.of, self.watermark),
            _ => {}
        }
        self.results.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.results.finish()
    }
}
