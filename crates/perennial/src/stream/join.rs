//! Two streams that come together by key and time.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use perennial_runtime::operators::{Collector, OutputTag};
use perennial_runtime::windows::{
    BothSides, IntervalJoin, IntervalJoinSetup, JoinContext, Side, Sided, WindowContext, WithTimes,
};
use perennial_runtime::{KeySelector, UserError};
use perennial_types::{Key, Record};

use super::{DataStream, KeyedStream, Port, WindowedStream};
use crate::JobError;
use crate::graph::code::erased;
use crate::windows::{ByDefault, WindowAssigner};

/// Both streams as one, each record with its side and its time.
fn sided<A: Record, B: Record>(left: &DataStream<A>, right: &DataStream<B>) -> DataStream<Sided<A, B>> {
    let side = |record, time| Sided { time, side: Side::Left(record) };
    let left = with_times(left, "Left of Join", side);
    let side = |record, time| Sided { time, side: Side::Right(record) };
    let (right, has_times) = with_times(right, "Right of Join", side);
    let both = left.0.union([&right]);
    if left.1 && has_times { both.with_timestamps(|record| record.time) } else { both }
}

/// Makes records of records and their times, and says whether the stream knows them.
fn with_times<T: Record, U: Record>(
    stream: &DataStream<T>,
    name: &str,
    function: impl Fn(T, i64) -> U + Clone + Send + Sync + 'static,
) -> (DataStream<U>, bool) {
    let timestamps = stream.timestamps().cloned();
    let has_times = timestamps.is_some();
    let timed = stream.transform(name, move |_, outputs| {
        Ok(erased::<T>(WithTimes::new(timestamps.clone(), function.clone(), outputs.main()?)))
    });
    (timed, has_times)
}

/// Two streams to be joined, or grouped together, by key and window. Made by [`DataStream::join`] and
/// [`DataStream::co_group`].
pub struct JoinedStreams<A, B, How> {
    left: DataStream<A>,
    right: DataStream<B>,
    how: PhantomData<How>,
}

/// Every pair of records of one key and window: Flink's `join`.
pub struct InPairs;

/// All records of one key and window at once: Flink's `coGroup`.
pub struct InGroups;

impl<A: Record> DataStream<A> {
    /// Joins this stream with another one: emits what a function makes of each pair of records that have the same key and lie in the same
    /// window.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn paid(orders: &DataStream<(u64, String, i64)>, payments: &DataStream<(u64, f64, i64)>) -> DataStream<(String, f64)> {
    /// orders
    ///     .join(payments)
    ///     .where_(|order| order.0)
    ///     .equal_to(|payment| payment.0)
    ///     .window(TumblingEventTimeWindows::of(Duration::from_secs(60)))
    ///     .apply(|order, payment| (order.1.clone(), payment.1))
    /// # }
    /// ```
    pub fn join<B: Record>(&self, other: &DataStream<B>) -> JoinedStreams<A, B, InPairs> {
        JoinedStreams { left: self.clone(), right: other.clone(), how: PhantomData }
    }

    /// Groups this stream and another one together: a function gets all records of both that have the same key and lie in the same
    /// window. Either side may be empty.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn unpaid(orders: &DataStream<(u64, i64)>, payments: &DataStream<(u64, f64, i64)>) -> DataStream<u64> {
    /// orders
    ///     .co_group(payments)
    ///     .where_(|order| order.0)
    ///     .equal_to(|payment| payment.0)
    ///     .window(TumblingEventTimeWindows::of(Duration::from_secs(60)))
    ///     .apply(|orders, payments, out| {
    ///         out.extend(orders.iter().filter(|_| payments.is_empty()).map(|order| order.0));
    ///         Ok::<_, UserError>(())
    ///     })
    /// # }
    /// ```
    pub fn co_group<B: Record>(&self, other: &DataStream<B>) -> JoinedStreams<A, B, InGroups> {
        JoinedStreams { left: self.clone(), right: other.clone(), how: PhantomData }
    }
}

impl<A: Record, B: Record, How> JoinedStreams<A, B, How> {
    /// Finds the key of a record of the left.
    pub fn where_<K: Key, F>(self, key: F) -> JoinedWhere<A, B, F, K, How>
    where
        F: Fn(&A) -> K + Clone + Send + Sync + 'static,
    {
        JoinedWhere { streams: self, left_key: key, key: PhantomData }
    }
}

/// Two streams, the key of the left known.
pub struct JoinedWhere<A, B, F, K, How> {
    streams: JoinedStreams<A, B, How>,
    left_key: F,
    key: PhantomData<fn() -> K>,
}

type SelectSide<A, B, K> = dyn Fn(&Sided<A, B>) -> K + Send + Sync;

/// Finds the key of a record of either side.
pub struct SideSelector<A, B, K> {
    select: Arc<SelectSide<A, B, K>>,
}

impl<A, B, K> SideSelector<A, B, K> {
    fn new(left: impl Fn(&A) -> K + Send + Sync + 'static, right: impl Fn(&B) -> K + Send + Sync + 'static) -> Self {
        let select = move |record: &Sided<A, B>| match &record.side {
            Side::Left(record) => left(record),
            Side::Right(record) => right(record),
        };
        Self { select: Arc::new(select) }
    }
}

impl<A, B, K> Clone for SideSelector<A, B, K> {
    fn clone(&self) -> Self {
        Self { select: Arc::clone(&self.select) }
    }
}

impl<A: Record, B: Record, K: Key> KeySelector<Sided<A, B>> for SideSelector<A, B, K> {
    type Key = K;
    type Ref<'a> = K;

    fn key(&self, record: &Sided<A, B>) -> K {
        (self.select)(record)
    }

    fn into_key(key: K) -> K {
        key
    }
}

impl<A, B, F, K, How> JoinedWhere<A, B, F, K, How>
where
    A: Record,
    B: Record,
    K: Key,
    F: Fn(&A) -> K + Clone + Send + Sync + 'static,
{
    /// Finds the key of a record of the right.
    pub fn equal_to<G>(self, key: G) -> JoinedByKey<A, B, K, How>
    where
        G: Fn(&B) -> K + Clone + Send + Sync + 'static,
    {
        JoinedByKey { streams: self.streams, selector: SideSelector::new(self.left_key, key) }
    }
}

/// Two streams, the keys of both known.
pub struct JoinedByKey<A, B, K, How> {
    streams: JoinedStreams<A, B, How>,
    selector: SideSelector<A, B, K>,
}

impl<A: Record, B: Record, K: Key, How> JoinedByKey<A, B, K, How> {
    /// Groups the records of both by windows. For windows of event time both streams have to know their timestamps.
    pub fn window(self, assigner: impl WindowAssigner<Sided<A, B>>) -> JoinedWindows<A, B, K, How> {
        let both = sided(&self.streams.left, &self.streams.right);
        let windows = KeyedStream::new(&both, self.selector).window(assigner);
        JoinedWindows { windows, how: PhantomData }
    }
}

/// Two streams, grouped by keys and windows.
pub struct JoinedWindows<A, B, K: Key, How> {
    windows: WindowedStream<Sided<A, B>, SideSelector<A, B, K>, ByDefault>,
    how: PhantomData<How>,
}

impl<A: Record, B: Record, K: Key, How> JoinedWindows<A, B, K, How> {
    /// As [`WindowedStream::allowed_lateness`].
    #[must_use]
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        Self { windows: self.windows.allowed_lateness(lateness), ..self }
    }
}

impl<A: Record, B: Record, K: Key> JoinedWindows<A, B, K, InPairs> {
    /// Emits what a function makes of each pair.
    pub fn apply<U, F>(&self, mut function: F) -> DataStream<U>
    where
        U: Record,
        F: FnMut(&A, &B) -> U + Clone + Send + Sync + 'static,
    {
        let emit = move |_: &K, _: &WindowContext, (left, right): &(Vec<A>, Vec<B>), out: &mut Collector<'_, U>| {
            for left in left {
                out.extend(right.iter().map(|right| function(left, right)));
            }
            Ok(())
        };
        self.windows.windowed(BothSides, emit).name("Window Join")
    }
}

impl<A: Record, B: Record, K: Key> JoinedWindows<A, B, K, InGroups> {
    /// Has a function make what is emitted of the records of both sides.
    pub fn apply<U, E, F>(&self, mut function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&[A], &[B], &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        let emit = move |_: &K, _: &WindowContext, (left, right): &(Vec<A>, Vec<B>), out: &mut Collector<'_, U>| {
            function(left, right, out).map_err(Into::into)
        };
        self.windows.windowed(BothSides, emit).name("Co-Group")
    }
}

impl<A: Record, S: KeySelector<A> + Clone + Sync> KeyedStream<A, S> {
    /// Joins this stream with another one of the same key: a record of this one with those of the other that happened within an interval
    /// around it, given by [`between`](IntervalJoined::between).
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn shipped(orders: &DataStream<(u64, i64)>, shipments: &DataStream<(u64, i64)>) -> DataStream<(u64, i64)> {
    /// const HOUR_MS: i64 = 3_600_000;
    /// // Orders that were shipped within a day.
    /// orders
    ///     .key_by(|order| order.0)
    ///     .interval_join(&shipments.key_by(|shipment| shipment.0))
    ///     .between(0, 24 * HOUR_MS)
    ///     .process(|order, shipment, context, out| {
    ///         out.collect((order.0, context.right_timestamp - context.left_timestamp));
    ///         Ok::<_, UserError>(())
    ///     })
    /// # }
    /// ```
    pub fn interval_join<B, R>(&self, other: &KeyedStream<B, R>) -> IntervalJoined<A, B, S::Key>
    where
        B: Record,
        R: KeySelector<B, Key = S::Key> + Clone + Sync,
    {
        // The partition by key comes behind the union.
        let (left, right) = (unpartitioned(self.stream()), unpartitioned(other.stream()));
        let both = sided(&left, &right);
        if both.timestamps().is_none() {
            let problem = "an interval join of streams that do not know their timestamps";
            let remedy = "call `assign_timestamps_and_watermarks` on both, or `with_timestamps` behind the call that \
                          changed their records";
            left.environment().fail(JobError::operator("Interval Join", problem, remedy));
        }
        let (of_left, of_right) = (self.selector().clone(), other.selector().clone());
        let left = move |record: &A| S::into_key(of_left.key(record));
        let selector = SideSelector::new(left, move |record: &B| R::into_key(of_right.key(record)));
        let both = KeyedStream::new(&both, selector);
        IntervalJoined { both, lower_ms: 0, upper_ms: 0, left_late: None, right_late: None }
    }
}

/// A stream without its partitioners.
fn unpartitioned<T: Record>(stream: &DataStream<T>) -> DataStream<T> {
    let ports = stream.ports().iter().map(|port| Port { partition: None, ..port.clone() });
    DataStream::new(stream.environment().clone(), ports.collect()).timed(stream.timestamps().cloned())
}

/// Two keyed streams to be joined by an interval. Flink's `IntervalJoin`.
///
/// Without [`between`](Self::between) records make a pair that happened in the same millisecond.
pub struct IntervalJoined<A, B, K: Key> {
    both: KeyedStream<Sided<A, B>, SideSelector<A, B, K>>,
    lower_ms: i64,
    upper_ms: i64,
    left_late: Option<OutputTag<A>>,
    right_late: Option<OutputTag<B>>,
}

impl<A: Record, B: Record, K: Key> IntervalJoined<A, B, K> {
    /// A record of the right makes a pair with one of the left that happened at `t` if it happened from `t + lower_ms` to
    /// `t + upper_ms`, both included. Either may be negative.
    #[must_use]
    pub fn between(self, lower_ms: i64, upper_ms: i64) -> Self {
        if lower_ms > upper_ms {
            let problem = format!("an interval from {lower_ms} to {upper_ms} ms has nothing in it");
            let error = JobError::operator("Interval Join", problem, "give the lower bound first");
            self.both.stream().environment().fail(error);
        }
        Self { lower_ms, upper_ms, ..self }
    }

    /// Sends late records of the left, those that come after the watermark has passed them, to a side output of the result.
    #[must_use]
    pub fn side_output_left_late_data(self, tag: &OutputTag<A>) -> Self {
        Self { left_late: Some(tag.clone()), ..self }
    }

    /// Sends late records of the right, those that come after the watermark has passed them, to a side output of the result.
    #[must_use]
    pub fn side_output_right_late_data(self, tag: &OutputTag<B>) -> Self {
        Self { right_late: Some(tag.clone()), ..self }
    }

    /// Has a function make what is emitted of each pair.
    pub fn process<U, E, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&A, &B, &JoinContext, &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        let (lower, upper, selector) = (self.lower_ms, self.upper_ms, self.both.selector().clone());
        let (left_late, right_late) = (self.left_late.clone(), self.right_late.clone());
        self.both.stream().transform("Interval Join", move |context, outputs| {
            let (left_late, right_late) = (left_late.clone(), right_late.clone());
            let setup = IntervalJoinSetup { of: context.state()?, lower, upper, left_late, right_late };
            let (next, sides) = outputs.split()?;
            let mut function = function.clone();
            let pair = move |left: &A, right: &B, context: &JoinContext, out: &mut Collector<'_, U>| {
                function(left, right, context, out).map_err(Into::into)
            };
            Ok(erased::<Sided<A, B>>(IntervalJoin::new(setup, selector.clone(), pair, sides, next)?))
        })
    }
}
