//! A keyed stream grouped into windows.

use std::time::Duration;

use perennial_runtime::operators::{Collector, OutputTag};
use perennial_runtime::windows::{
    AggregateFunction, AllOf, CountOf, FieldOf, ReduceWith, Trigger, WindowContext, WindowSetup, Windows,
};
use perennial_runtime::{ByOwned, KeySelector, UserError};
use perennial_types::Record;

use super::{DataStream, KeyedStream, Number};
use crate::JobError;
use crate::windows::{
    Assigned, ByDefault, CountTrigger, Firing, GlobalWindows, OwnTrigger, PurgingTrigger, WindowAssigner,
};

/// The records of each key, grouped into windows. Flink's `WindowedStream`.
///
/// A window of event time fires when the watermark has passed its end: each key that has records in it emits its result. The result
/// carries the event time its own fields say; name it with [`DataStream::with_timestamps`] for windows behind.
pub struct WindowedStream<T, S, Tr = ByDefault> {
    stream: DataStream<T>,
    selector: S,
    assigned: Assigned<T>,
    trigger: Tr,
    allowed_lateness: i64,
    late: Option<OutputTag<T>>,
    /// There is one subtask, since there is one key.
    is_single: bool,
}

impl<T: Record, S: Clone, Tr: Clone> Clone for WindowedStream<T, S, Tr> {
    fn clone(&self) -> Self {
        let (stream, selector, trigger) = (self.stream.clone(), self.selector.clone(), self.trigger.clone());
        let (assigned, late) = (self.assigned.clone(), self.late.clone());
        Self { stream, selector, assigned, trigger, late, ..*self }
    }
}

impl<T: Record, S: KeySelector<T> + Clone + Sync> KeyedStream<T, S> {
    /// Groups the records of each key into windows.
    ///
    /// Windows of event time need a stream that knows its timestamps:
    /// [`assign_timestamps_and_watermarks`](DataStream::assign_timestamps_and_watermarks), or
    /// [`with_timestamps`](DataStream::with_timestamps) behind a call that changed the records.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn per_second(clicks: &DataStream<(u32, i64)>) -> DataStream<(u32, u64)> {
    /// let strategy = WatermarkStrategy::for_monotonous_timestamps().with_timestamp_assigner(|click: &(u32, i64)| click.1);
    /// let clicks = clicks.assign_timestamps_and_watermarks(strategy);
    /// clicks.key_by(|click| click.0).window(TumblingEventTimeWindows::of(Duration::from_secs(1))).count()
    /// # }
    /// ```
    pub fn window(&self, assigner: impl WindowAssigner<T>) -> WindowedStream<T, S> {
        let assigned = assigner.assigned().unwrap_or_else(|problem| {
            let error = JobError::operator("Window", problem, "give a window times of a millisecond or more");
            self.stream().environment().fail(error);
            Assigned::any()
        });
        let (stream, selector) = (self.stream().clone(), self.selector().clone());
        let trigger = ByDefault;
        WindowedStream { stream, selector, assigned, trigger, allowed_lateness: 0, late: None, is_single: false }
    }

    /// Groups the records of each key by their number: each window has `size` of them. What is left at the end of the input fires
    /// nowhere. Flink's `countWindow`.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn sums(readings: &DataStream<(u32, u64)>) -> DataStream<(u32, u64)> {
    /// readings.key_by(|reading| reading.0).count_window(100).sum(|reading| reading.1)
    /// # }
    /// ```
    pub fn count_window(&self, size: u64) -> WindowedStream<T, S, OwnTrigger<PurgingTrigger<CountTrigger>>> {
        self.window(GlobalWindows::create()).trigger(PurgingTrigger::of(CountTrigger::of(size)))
    }
}

impl<T: Record, S: KeySelector<T> + Clone + Sync> WindowedStream<T, S> {
    /// Has windows fire when this trigger says so, and not as they do by default: with the watermark, or the clock, at their end.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn counts(clicks: &DataStream<(u32, i64)>) -> DataStream<(u32, u64)> {
    /// // Every minute, what there is of the day so far.
    /// let days = TumblingEventTimeWindows::of(Duration::from_secs(86_400));
    /// let every_minute = ContinuousEventTimeTrigger::of(Duration::from_secs(60));
    /// clicks.key_by(|click| click.0).window(days).trigger(every_minute).count()
    /// # }
    /// ```
    pub fn trigger<Tr: Trigger<T>>(self, trigger: Tr) -> WindowedStream<T, S, OwnTrigger<Tr>> {
        let Self { stream, selector, assigned, allowed_lateness, late, is_single, .. } = self;
        let trigger = OwnTrigger(trigger);
        WindowedStream { stream, selector, assigned, trigger, allowed_lateness, late, is_single }
    }
}

impl<T: Record, S: KeySelector<T> + Clone + Sync, Tr: Firing<T>> WindowedStream<T, S, Tr> {
    /// For how long after its end a window still takes records; with each that comes it fires again for the key. Only for event
    /// time. By default that is zero.
    #[must_use]
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        let allowed_lateness = i64::try_from(lateness.as_millis()).unwrap_or(i64::MAX);
        Self { allowed_lateness, ..self }
    }

    /// Sends records that come too late for every one of their windows to a side output, which is read at the result.
    ///
    /// Without, they are dropped.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn counted<S: KeySelector<(u32, i64)> + Clone + Sync>(clicks: &KeyedStream<(u32, i64), S>) where S::Key: Key {
    /// let late = OutputTag::<(u32, i64)>::new("late");
    /// let windows = clicks.window(TumblingEventTimeWindows::of(Duration::from_secs(1)));
    /// let counts = windows.allowed_lateness(Duration::from_secs(10)).side_output_late_data(&late).count();
    /// counts.get_side_output(&late).print();
    /// # }
    /// ```
    #[must_use]
    pub fn side_output_late_data(self, tag: &OutputTag<T>) -> Self {
        Self { late: Some(tag.clone()), ..self }
    }

    /// Emits, per key and window, all records combined by a function, which has to be associative.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn hottest(readings: &DataStream<(u32, i64, f64)>) -> DataStream<(u32, i64, f64)> {
    /// let minutes = TumblingEventTimeWindows::of(Duration::from_secs(60));
    /// readings.key_by(|reading| reading.0).window(minutes).reduce(|a, b| if a.2 >= b.2 { a } else { b })
    /// # }
    /// ```
    pub fn reduce<F>(&self, function: F) -> DataStream<T>
    where
        F: Fn(T, T) -> T + Clone + Send + Sync + 'static,
    {
        self.windowed(ReduceWith(function), |_, _, result: &Option<T>, out| {
            out.extend(result.clone());
            Ok(())
        })
    }

    /// Emits, per key and window, the key and the number of records.
    pub fn count(&self) -> DataStream<(S::Key, u64)> {
        self.windowed(CountOf, |key, _, count, out| {
            out.collect((key.clone(), *count));
            Ok(())
        })
    }

    /// Emits, per key and window, the key and the sum of a field. Integers wrap around at the end of their range.
    pub fn sum<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Number,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field(field, |sum: &mut V, value| *sum = sum.plus(value))
    }

    /// Emits, per key and window, the key and the smallest value of a field.
    pub fn min<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Record + PartialOrd,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field(field, |least: &mut V, value| {
            if value < *least {
                *least = value;
            }
        })
    }

    /// Emits, per key and window, the key and the largest value of a field.
    pub fn max<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Record + PartialOrd,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field(field, |most: &mut V, value| {
            if value > *most {
                *most = value;
            }
        })
    }

    fn field<V: Record>(
        &self,
        field: impl Fn(&T) -> V + Clone + Send + Sync + 'static,
        combine: impl Fn(&mut V, V) + Clone + Send + Sync + 'static,
    ) -> DataStream<(S::Key, V)> {
        self.windowed(FieldOf { field, combine }, |key, _, value: &Option<V>, out| {
            out.extend(value.clone().map(|value| (key.clone(), value)));
            Ok(())
        })
    }

    /// Emits, per key and window, the result of an aggregation. What is kept is its accumulator, not the records.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// #[derive(Clone)]
    /// struct Average;
    ///
    /// impl AggregateFunction<(u32, i64, f64)> for Average {
    ///     type Accumulator = (f64, u64);
    ///     type Output = f64;
    ///
    ///     fn create_accumulator(&self) -> (f64, u64) {
    ///         (0.0, 0)
    ///     }
    ///
    ///     fn add(&self, (sum, count): &mut (f64, u64), reading: (u32, i64, f64)) {
    ///         *sum += reading.2;
    ///         *count += 1;
    ///     }
    ///
    ///     fn get_result(&self, (sum, count): &(f64, u64)) -> f64 {
    ///         sum / *count as f64
    ///     }
    ///
    ///     fn merge(&self, (sum, count): &mut (f64, u64), other: &(f64, u64)) {
    ///         *sum += other.0;
    ///         *count += other.1;
    ///     }
    /// }
    /// # fn averages(readings: &DataStream<(u32, i64, f64)>) -> DataStream<f64> {
    /// readings.key_by(|reading| reading.0).window(TumblingEventTimeWindows::of(Duration::from_secs(60))).aggregate(Average)
    /// # }
    /// ```
    pub fn aggregate<A: AggregateFunction<T>>(&self, function: A) -> DataStream<A::Output> {
        let result = function.clone();
        self.windowed(function, move |_, _, accumulator, out| {
            out.collect(result.get_result(accumulator));
            Ok(())
        })
    }

    /// As [`aggregate`](Self::aggregate), and has a function make what is emitted of key, window and result.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn averages<A>(readings: &DataStream<(u32, i64, f64)>, average: A) -> DataStream<(u32, i64, f64)>
    /// # where A: AggregateFunction<(u32, i64, f64), Output = f64> {
    /// let minutes = TumblingEventTimeWindows::of(Duration::from_secs(60));
    /// readings.key_by(|reading| reading.0).window(minutes).aggregate_with(average, |sensor, context, average, out| {
    ///     out.collect((*sensor, context.window.start, average));
    ///     Ok::<_, UserError>(())
    /// })
    /// # }
    /// ```
    pub fn aggregate_with<A, U, E, F>(&self, aggregate: A, mut function: F) -> DataStream<U>
    where
        A: AggregateFunction<T>,
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&S::Key, &WindowContext, A::Output, &mut Collector<'_, U>) -> Result<(), E>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let result = aggregate.clone();
        self.windowed(aggregate, move |key, context, accumulator, out| {
            function(key, context, result.get_result(accumulator), out).map_err(Into::into)
        })
    }

    /// Has a function make what is emitted of all records of key and window, in no order. They are kept until the window is over: an
    /// aggregation keeps less. Flink's `ProcessWindowFunction`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn medians(readings: &DataStream<(u32, i64)>) -> DataStream<(u32, i64, i64)> {
    /// let minutes = TumblingEventTimeWindows::of(Duration::from_secs(60));
    /// readings.key_by(|reading| reading.0).window(minutes).process(|sensor, context, readings, out| {
    ///     let mut values: Vec<i64> = readings.iter().map(|reading| reading.1).collect();
    ///     values.sort_unstable();
    ///     out.extend(values.get(values.len() / 2).map(|median| (*sensor, context.window.start, *median)));
    ///     Ok::<_, UserError>(())
    /// })
    /// # }
    /// ```
    pub fn process<U, E, F>(&self, mut function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&S::Key, &WindowContext, &[T], &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        self.windowed(AllOf::default(), move |key, context, records: &Vec<T>, out| {
            function(key, context, records, out).map_err(Into::into)
        })
    }

    /// Adds the operator: `aggregate` is what windows keep, `emit` what they make of it when they fire.
    pub(super) fn windowed<A, U, E>(&self, aggregate: A, emit: E) -> DataStream<U>
    where
        A: AggregateFunction<T>,
        U: Record,
        E: FnMut(&S::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>
            + Clone
            + Send
            + Sync
            + 'static,
    {
        let Self { stream, selector, assigned, trigger, allowed_lateness, late, .. } = self.clone();
        let (is_event_time, timestamps) = (assigned.is_event_time, stream.timestamps().cloned());
        if is_event_time && timestamps.is_none() {
            let problem = "windows of event time over a stream that does not know its timestamps";
            let remedy = "call `assign_timestamps_and_watermarks` on the stream, or `with_timestamps` behind the call that \
                          changed its records";
            stream.environment().fail(JobError::operator(assigned.name, problem, remedy));
        }
        // A global window is of event time for a trigger that asks for it, if there is any.
        let is_global = matches!(assigned.windows, Windows::Global);
        let timestamps = timestamps.filter(|_| is_event_time || is_global);
        let result = stream.transform(assigned.name, move |context, outputs| {
            let (timestamps, clock) = (timestamps.clone(), context.builder.clock());
            let setup = WindowSetup { of: context.state()?, timestamps, clock, allowed_lateness, late: late.clone() };
            let (next, sides) = outputs.split()?;
            let functions = (aggregate.clone(), emit.clone());
            trigger.operator(setup, &assigned, selector.clone(), functions, sides, next)
        });
        if self.is_single {
            for port in result.ports() {
                result.environment().update(port.node, |node| (node.parallel, node.parallelism) = (false, 1));
            }
        }
        result
    }
}

/// All records of a stream, grouped into windows in one subtask. Flink's `AllWindowedStream`.
pub struct AllWindowedStream<T, Tr = ByDefault> {
    windows: WindowedStream<T, Everything<T>, Tr>,
}

/// The selector of one key for all records.
type Everything<T> = ByOwned<fn(&T), ()>;

impl<T: Record> DataStream<T> {
    /// Groups all records into windows, whatever their keys. The operator has one subtask, which all records go through: group by
    /// a key first where there is one.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn total(clicks: &DataStream<(u32, i64)>) -> DataStream<u64> {
    /// clicks.window_all(TumblingEventTimeWindows::of(Duration::from_secs(1))).count()
    /// # }
    /// ```
    pub fn window_all(&self, assigner: impl WindowAssigner<T>) -> AllWindowedStream<T> {
        let everything: Everything<T> = ByOwned::new(|_: &T| ());
        let windows = KeyedStream::new(self, everything).window(assigner);
        AllWindowedStream { windows: WindowedStream { is_single: true, ..windows } }
    }
}

impl<T: Record> AllWindowedStream<T> {
    /// As [`WindowedStream::trigger`].
    pub fn trigger<Tr: Trigger<T>>(self, trigger: Tr) -> AllWindowedStream<T, OwnTrigger<Tr>> {
        AllWindowedStream { windows: self.windows.trigger(trigger) }
    }
}

impl<T: Record, Tr: Firing<T>> AllWindowedStream<T, Tr> {
    /// As [`WindowedStream::allowed_lateness`].
    #[must_use]
    pub fn allowed_lateness(self, lateness: Duration) -> Self {
        Self { windows: self.windows.allowed_lateness(lateness) }
    }

    /// As [`WindowedStream::side_output_late_data`].
    #[must_use]
    pub fn side_output_late_data(self, tag: &OutputTag<T>) -> Self {
        Self { windows: self.windows.side_output_late_data(tag) }
    }

    /// As [`WindowedStream::reduce`].
    pub fn reduce<F>(&self, function: F) -> DataStream<T>
    where
        F: Fn(T, T) -> T + Clone + Send + Sync + 'static,
    {
        self.windows.reduce(function)
    }

    /// Emits the number of records of each window that has some.
    pub fn count(&self) -> DataStream<u64> {
        self.windows.aggregate(CountOf)
    }

    /// As [`WindowedStream::aggregate`].
    pub fn aggregate<A: AggregateFunction<T>>(&self, function: A) -> DataStream<A::Output> {
        self.windows.aggregate(function)
    }

    /// As [`WindowedStream::process`], without a key.
    pub fn process<U, E, F>(&self, mut function: F) -> DataStream<U>
    where
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&WindowContext, &[T], &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        self.windows.process(move |(), context, records, out| function(context, records, out))
    }
}
