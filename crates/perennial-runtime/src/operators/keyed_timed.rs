//! Functions over keyed state that have timers: of one stream, and of two.

use std::sync::Arc;

use perennial_state::KeySelector;
use perennial_types::{Key, Record};

use super::collector::{Collector, SideOutputs};
use super::keyed_context::{KeyContext, KeyState};
use super::keyed_core::KeyedCore;
use super::ttl::StateTtlConfig;
use crate::head::TwoInputs;
use crate::timers::Timer;
use crate::{ChainEvent, Output, StateContext, TaskClock, TaskError, Timestamps, UserError};

/// A function over the records of a keyed stream, with state and timers per key. Flink's `KeyedProcessFunction`.
///
/// One instance serves all keys of a subtask: what belongs to a key is in its state `S`, which is in checkpoints; fields of the
/// function are not. An error fails the task with its text.
pub trait KeyedProcessFunction<K: Key, T, S, U>: Send {
    /// Takes a record.
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, K>,
        record: T,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;

    /// A timer of the key has fired.
    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, K>,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError> {
        let _ = (timer, ctx, state, out);
        Ok(())
    }
}

/// A function over two streams keyed alike, with one state per key that both share. Flink's `KeyedCoProcessFunction`.
pub trait KeyedCoProcessFunction<K: Key, A, B, S, U>: Send {
    /// Takes a record of the first stream.
    fn process_element1(
        &mut self,
        ctx: &mut KeyContext<'_, K>,
        record: A,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;

    /// Takes a record of the second stream.
    fn process_element2(
        &mut self,
        ctx: &mut KeyContext<'_, K>,
        record: B,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;

    /// A timer of the key has fired.
    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, K>,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError> {
        let _ = (timer, ctx, state, out);
        Ok(())
    }
}

/// How an operator reads one of its inputs: where the keys lie, and the timestamps if anybody knows.
pub struct KeyedInput<T, Sel> {
    selector: Sel,
    timestamps: Option<Arc<dyn Timestamps<T>>>,
    /// Of the batch at hand.
    times: Vec<i64>,
}

impl<T, Sel> KeyedInput<T, Sel> {
    /// An input whose keys `selector` finds.
    pub fn new(selector: Sel, timestamps: Option<Arc<dyn Timestamps<T>>>) -> Self {
        Self { selector, timestamps, times: Vec::new() }
    }

    /// Calls a function with each record of a batch, the key selector and the timestamp.
    #[inline(always)]
    pub(super) fn each(
        &mut self,
        batch: &mut Vec<T>,
        mut call: impl FnMut(T, &Sel, Option<i64>) -> Result<(), TaskError>,
    ) -> Result<(), TaskError> {
        self.times.clear();
        if let Some(timestamps) = &self.timestamps {
            timestamps.timestamps(batch, &mut self.times);
        }
        let mut times = self.times.iter().copied();
        batch.drain(..).try_for_each(|record| call(record, &self.selector, times.next()))
    }
}

/// Runs a [`KeyedProcessFunction`].
pub struct KeyedProcess<T, Sel: KeySelector<T>, S, F, U> {
    core: KeyedCore<Sel::Key, S, U>,
    input: KeyedInput<T, Sel>,
    function: F,
}

impl<T, Sel, S, F, U> KeyedProcess<T, Sel, S, F, U>
where
    Sel: KeySelector<T>,
    S: Record + Default,
    F: KeyedProcessFunction<Sel::Key, T, S, U>,
{
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        (of, clock, ttl): (StateContext, TaskClock, Option<StateTtlConfig>),
        input: KeyedInput<T, Sel>,
        function: F,
        (next, sides): (Box<dyn Output<U>>, SideOutputs),
    ) -> Result<Self, TaskError> {
        Ok(Self { core: KeyedCore::new(of, clock, ttl, sides, next)?, input, function })
    }
}

impl<T, Sel, S, F, U> Output<T> for KeyedProcess<T, Sel, S, F, U>
where
    T: Record,
    Sel: KeySelector<T>,
    S: Record + Default,
    F: KeyedProcessFunction<Sel::Key, T, S, U>,
    U: Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let Self { core, input, function } = self;
        core.begin();
        input.each(batch, |record, selector, timestamp| {
            core.record(record, selector, timestamp, |ctx, record, state, out| {
                function.process_element(ctx, record, state, out)
            })
        })?;
        core.end()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        let Self { core, function, .. } = self;
        core.control(event, |timer, ctx, state, out| function.on_timer(timer, ctx, state, out))
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.core.finish()
    }
}

/// Runs a [`KeyedCoProcessFunction`].
pub struct KeyedCoProcess<A, B, SelA: KeySelector<A>, SelB, S, F, U> {
    core: KeyedCore<SelA::Key, S, U>,
    first: KeyedInput<A, SelA>,
    second: KeyedInput<B, SelB>,
    function: F,
}

impl<A, B, SelA, SelB, S, F, U> KeyedCoProcess<A, B, SelA, SelB, S, F, U>
where
    SelA: KeySelector<A>,
    S: Record + Default,
{
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        (of, clock, ttl): (StateContext, TaskClock, Option<StateTtlConfig>),
        (first, second): (KeyedInput<A, SelA>, KeyedInput<B, SelB>),
        function: F,
        (next, sides): (Box<dyn Output<U>>, SideOutputs),
    ) -> Result<Self, TaskError> {
        Ok(Self { core: KeyedCore::new(of, clock, ttl, sides, next)?, first, second, function })
    }
}

impl<A, B, SelA, SelB, S, F, U> TwoInputs<A, B> for KeyedCoProcess<A, B, SelA, SelB, S, F, U>
where
    A: Record,
    B: Record,
    SelA: KeySelector<A>,
    SelB: KeySelector<B, Key = SelA::Key>,
    S: Record + Default,
    F: KeyedCoProcessFunction<SelA::Key, A, B, S, U>,
    U: Send,
{
    fn push1(&mut self, batch: &mut Vec<A>) -> Result<(), TaskError> {
        let Self { core, first, function, .. } = self;
        core.begin();
        first.each(batch, |record, selector, timestamp| {
            core.record(record, selector, timestamp, |ctx, record, state, out| {
                function.process_element1(ctx, record, state, out)
            })
        })?;
        core.end()
    }

    fn push2(&mut self, batch: &mut Vec<B>) -> Result<(), TaskError> {
        let Self { core, second, function, .. } = self;
        core.begin();
        second.each(batch, |record, selector, timestamp| {
            core.record(record, selector, timestamp, |ctx, record, state, out| {
                function.process_element2(ctx, record, state, out)
            })
        })?;
        core.end()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        let Self { core, function, .. } = self;
        core.control(event, |timer, ctx, state, out| function.on_timer(timer, ctx, state, out))
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.core.finish()
    }
}

#[cfg(test)]
mod tests;
