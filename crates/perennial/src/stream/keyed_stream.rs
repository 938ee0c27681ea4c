//! A stream grouped by a key.

use std::marker::PhantomData;

use perennial_runtime::operators::{Collector, KeyedFunction, StateTtlConfig};
use perennial_runtime::{HashBy, KeySelector, KeyedFold, Route, UserError};
use perennial_types::{Record, ShipStrategy};

use super::process_function::ByClosure;
use super::{DataStream, Partition};
use crate::JobError;
use crate::graph::code::erased;

/// A stream whose records come to the subtask that owns their key. Flink's `KeyedStream`.
///
/// `S` finds the key of a record. The aggregations run: each record emits the new result of its key. Behind
/// [`emit_at_end`](Self::emit_at_end) each key emits once, when the input has ended.
pub struct KeyedStream<T, S> {
    stream: DataStream<T>,
    selector: S,
    emission: Emission,
    ttl: Option<StateTtlConfig>,
    records: PhantomData<fn() -> T>,
}

/// When an aggregation emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Emission {
    EveryRecord,
    AtEnd,
}

impl<T: Record, S: Clone> Clone for KeyedStream<T, S> {
    fn clone(&self) -> Self {
        Self {
            stream: self.stream.clone(),
            selector: self.selector.clone(),
            emission: self.emission,
            ttl: self.ttl,
            records: PhantomData,
        }
    }
}

impl<T: Record, S: KeySelector<T> + Clone + Sync> KeyedStream<T, S> {
    pub(crate) fn new(stream: &DataStream<T>, selector: S) -> Self {
        let by = selector.clone();
        let route = move || Route::<T>::Hash(Box::new(HashBy(by.clone())));
        let ports = stream.ports().iter().cloned().map(|mut port| {
            port.partition = Some(Partition::with_route(ShipStrategy::Hash, route.clone()));
            port
        });
        let ports = ports.collect();
        let stream = DataStream::new(stream.environment().clone(), ports).timed(stream.timestamps().cloned());
        Self { stream, selector, emission: Emission::EveryRecord, ttl: None, records: PhantomData }
    }

    /// The stream, led to the subtasks that own the keys.
    pub(crate) fn stream(&self) -> &DataStream<T> {
        &self.stream
    }

    /// What finds the key of a record.
    pub(crate) fn selector(&self) -> &S {
        &self.selector
    }

    /// How long the state of a key lives, if not for ever.
    pub(super) fn ttl(&self) -> Option<StateTtlConfig> {
        self.ttl
    }

    pub(super) fn with_ttl(&self, config: StateTtlConfig) -> Self {
        Self { ttl: Some(config), ..self.clone() }
    }

    /// State that would live for ever although the user has said otherwise.
    fn refuse_ttl(&self, call: &str) {
        if self.ttl.is_some() {
            let problem = format!("`with_state_ttl` before `{call}`, whose state does not expire");
            let remedy = "use `process` or `process_with`";
            self.stream.environment().fail(JobError::operator(call, problem, remedy));
        }
    }

    /// Makes the aggregations that follow emit once per key when the input has ended, in no order, as Flink does in its batch
    /// execution mode. On an unbounded stream they emit nothing.
    pub fn emit_at_end(&self) -> Self {
        Self { emission: Emission::AtEnd, ..self.clone() }
    }

    /// Combines the records of a key: the result so far and the next record give the new result, which is emitted.
    ///
    /// The first record of a key is its first result.
    pub fn reduce<F>(&self, mut function: F) -> DataStream<T>
    where
        F: FnMut(T, T) -> T + Clone + Send + Sync + 'static,
    {
        let fold = move |result: &mut T, record: T| *result = function(result.clone(), record);
        self.fold_named("Keyed Reduce", T::clone, fold, |_, result: &T| result.clone())
    }

    /// Emits the number of records of the key so far.
    pub fn count(&self) -> DataStream<(S::Key, u64)> {
        let emit = |key: &S::Key, count: &u64| (key.clone(), *count);
        self.fold_named("Keyed Aggregation", |_| 1, |count: &mut u64, _| *count += 1, emit)
    }

    /// Emits the sum of a field over the records of the key so far. Integers wrap around at the end of their range, as
    /// in Flink.
    pub fn sum<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Number,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field("Keyed Aggregation", field, |sum: &mut V, value| *sum = sum.plus(value))
    }

    /// Emits the smallest value of a field over the records of the key so far.
    pub fn min<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Record + PartialOrd,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field("Keyed Aggregation", field, |least: &mut V, value| {
            if value < *least {
                *least = value;
            }
        })
    }

    /// Emits the largest value of a field over the records of the key so far.
    pub fn max<V, F>(&self, field: F) -> DataStream<(S::Key, V)>
    where
        V: Record + PartialOrd,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        self.field("Keyed Aggregation", field, |most: &mut V, value| {
            if value > *most {
                *most = value;
            }
        })
    }

    fn field<V, F>(
        &self,
        name: &str,
        field: F,
        add: impl Fn(&mut V, V) + Clone + Send + Sync + 'static,
    ) -> DataStream<(S::Key, V)>
    where
        V: Record,
        F: Fn(&T) -> V + Clone + Send + Sync + 'static,
    {
        let first = field.clone();
        let fold = move |so_far: &mut V, record: T| add(so_far, field(&record));
        self.fold_named(name, first, fold, |key, so_far: &V| (key.clone(), so_far.clone()))
    }

    /// Aggregates with a state of its own type: `first` makes the state of a key from its first record, `add` takes a
    /// later one into it, `result` says what to emit. The others are this with different functions.
    pub fn aggregate<A, U, I, F, E>(&self, first: I, add: F, result: E) -> DataStream<U>
    where
        A: Record,
        U: Record,
        I: FnMut(&T) -> A + Clone + Send + Sync + 'static,
        F: FnMut(&mut A, T) + Clone + Send + Sync + 'static,
        E: FnMut(&S::Key, &A) -> U + Clone + Send + Sync + 'static,
    {
        self.fold_named("Keyed Aggregation", first, add, result)
    }

    fn fold_named<A, U, I, F, E>(&self, name: &str, first: I, add: F, result: E) -> DataStream<U>
    where
        A: Record,
        U: Record,
        I: FnMut(&T) -> A + Clone + Send + Sync + 'static,
        F: FnMut(&mut A, T) + Clone + Send + Sync + 'static,
        E: FnMut(&S::Key, &A) -> U + Clone + Send + Sync + 'static,
    {
        self.refuse_ttl(name);
        let selector = self.selector.clone();
        if self.emission == Emission::EveryRecord {
            return self.stream.transform(name, move |context, outputs| {
                let functions = (first.clone(), add.clone(), result.clone());
                Ok(erased::<T>(KeyedFold::new(context.state()?, selector.clone(), functions, outputs.main()?)?))
            });
        }
        self.stream.transform(name, move |context, outputs| {
            let (mut first, mut add, mut result) = (first.clone(), add.clone(), result.clone());
            let init = |_: &T| None::<A>;
            let process = move |_: &S::Key, record: T, state: &mut Option<A>, _: &mut Collector<'_, U>| {
                match state {
                    Some(state) => add(state, record),
                    None => *state = Some(first(&record)),
                }
                Ok(())
            };
            let end = move |key: &S::Key, state: &Option<A>, out: &mut Collector<'_, U>| {
                out.extend(state.iter().map(|state| result(key, state)));
                Ok(())
            };
            let (next, sides) = outputs.split()?;
            let functions = (init, process, end);
            Ok(erased::<T>(KeyedFunction::new(context.state()?, selector.clone(), functions, sides, next)?))
        })
    }

    /// Does anything with each record and the state of its key: emits any number of records, or fails.
    ///
    /// The state is one value per key, [`Default`] when the key is new: a [`ValueState`](crate::ValueState),
    /// [`ListState`](crate::ListState) or [`MapState`](crate::MapState), a tuple of them, or a struct that derives
    /// [`Record`].
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// # fn changes(readings: &DataStream<(u32, f64)>) -> DataStream<(u32, f64)> {
    /// readings.key_by(|reading| reading.0).process(|sensor, (_, now), last: &mut ValueState<f64>, out| {
    ///     if let Some(before) = last.value() {
    ///         out.collect((*sensor, now - before));
    ///     }
    ///     last.update(now);
    ///     Ok::<_, UserError>(())
    /// })
    /// # }
    /// ```
    pub fn process<A, U, E, F>(&self, function: F) -> DataStream<U>
    where
        A: Record + Default,
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&S::Key, T, &mut A, &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        if self.ttl.is_some() {
            return self.process_with(ByClosure(function));
        }
        self.process_with_end(function, |_, _, _| Ok::<(), E>(()))
    }

    /// As [`process`](Self::process), and calls `end` with the state of each key, in no order, when the input has ended.
    pub fn process_with_end<A, U, E, F, G>(&self, function: F, end: G) -> DataStream<U>
    where
        A: Record + Default,
        U: Record,
        E: Into<UserError> + 'static,
        F: FnMut(&S::Key, T, &mut A, &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
        G: FnMut(&S::Key, &A, &mut Collector<'_, U>) -> Result<(), E> + Clone + Send + Sync + 'static,
    {
        self.refuse_ttl("process_with_end");
        let selector = self.selector.clone();
        self.stream.transform("KeyedProcess", move |context, outputs| {
            let (mut function, mut end) = (function.clone(), end.clone());
            let process = move |key: &S::Key, record: T, state: &mut A, out: &mut Collector<'_, U>| {
                function(key, record, state, out).map_err(Into::into)
            };
            let end =
                move |key: &S::Key, state: &A, out: &mut Collector<'_, U>| end(key, state, out).map_err(Into::into);
            let (next, sides) = outputs.split()?;
            let functions = (|_: &T| A::default(), process, end);
            Ok(erased::<T>(KeyedFunction::new(context.state()?, selector.clone(), functions, sides, next)?))
        })
    }
}

/// What can be summed up.
pub trait Number: Record {
    /// The sum; integers wrap around.
    fn plus(&self, other: Self) -> Self;
}

macro_rules! numbers {
    ($($integer:ty),*; $($float:ty),*) => {
        $(impl Number for $integer {
            #[inline(always)]
            fn plus(&self, other: Self) -> Self {
                self.wrapping_add(other)
            }
        })*
        $(impl Number for $float {
            #[inline(always)]
            fn plus(&self, other: Self) -> Self {
                self + other
            }
        })*
    };
}
numbers!(u8, i8, u16, i16, u32, i32, u64, i64, u128, i128, usize, isize; f32, f64);
