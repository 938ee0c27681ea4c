//! A stream beside one that every subtask gets all of: rules, settings, small tables.

use std::marker::PhantomData;

use perennial_state::KeySelector;
use perennial_types::{Key, Record};

use super::collector::{Collector, SideOutputs, collect_each};
use super::function_state::{decoded, encoded};
use super::keyed_context::{KeyContext, KeyState};
use super::keyed_core::KeyedCore;
use super::keyed_timed::KeyedInput;
use super::ttl::StateTtlConfig;
use crate::head::TwoInputs;
use crate::timers::Timer;
use crate::{ChainEvent, Output, StateContext, TaskClock, TaskError, UserError};

/// A function over a stream and a broadcast one. Flink's `BroadcastProcessFunction`.
///
/// `M` is the broadcast state, most often a map. Only records of the broadcast stream change it: every subtask gets all of
/// them, so that all have the same state if the function does with each what follows from it and the state alone, in whichever
/// order records of different producers come.
pub trait BroadcastProcessFunction<A, B, M, U>: Send {
    /// Takes a record of the stream.
    fn process_element(&mut self, record: A, broadcast: &M, out: &mut Collector<'_, U>) -> Result<(), UserError>;

    /// Takes a record of the broadcast stream.
    fn process_broadcast_element(
        &mut self,
        record: B,
        broadcast: &mut M,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;
}

/// A function over a keyed stream and a broadcast one, with state and timers per key. Flink's `KeyedBroadcastProcessFunction`.
///
/// For the broadcast state holds what [`BroadcastProcessFunction`] says.
pub trait KeyedBroadcastProcessFunction<K: Key, A, B, S, M, U>: Send {
    /// Takes a record of the keyed stream.
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, K>,
        record: A,
        state: &mut KeyState<'_, S>,
        broadcast: &M,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;

    /// Takes a record of the broadcast stream.
    fn process_broadcast_element(
        &mut self,
        record: B,
        broadcast: &mut M,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError>;

    /// A timer of the key has fired.
    fn on_timer(
        &mut self,
        timer: Timer,
        ctx: &mut KeyContext<'_, K>,
        state: &mut KeyState<'_, S>,
        broadcast: &M,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError> {
        let _ = (timer, ctx, state, broadcast, out);
        Ok(())
    }
}

/// The broadcast state of a checkpoint, or one to begin with.
fn restore<M: Record + Default>(of: &mut StateContext) -> Result<M, TaskError> {
    match of.take_broadcast() {
        None => Ok(M::default()),
        Some(bytes) => decoded(&bytes).map_err(|error| of.error(error)),
    }
}

/// Adds the broadcast state to a snapshot.
fn snapshot<M: Record>(of: &StateContext, broadcast: &M, event: &mut ChainEvent<'_>) {
    if let ChainEvent::Snapshot(writer) = event {
        writer.broadcast(of, encoded(broadcast));
    }
}

/// Runs a [`BroadcastProcessFunction`].
pub struct BroadcastProcess<A, B, M, F, U> {
    of: StateContext,
    broadcast: M,
    function: F,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
    inputs: PhantomData<fn(A, B)>,
}

impl<A, B, M, F, U> BroadcastProcess<A, B, M, F, U>
where
    M: Record + Default,
    F: BroadcastProcessFunction<A, B, M, U>,
{
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        mut of: StateContext,
        function: F,
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let (broadcast, results) = (restore(&mut of)?, Vec::new());
        Ok(Self { of, broadcast, function, results, sides, next, inputs: PhantomData })
    }

    fn push<T>(
        &mut self,
        batch: &mut Vec<T>,
        mut call: impl FnMut(&mut F, T, &mut M, &mut Collector<'_, U>) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        let Self { of, broadcast, function, results, sides, next, .. } = self;
        collect_each(&of.name, batch.drain(..), (results, sides, &mut **next), |record, out| {
            call(function, record, broadcast, out)
        })
    }
}

impl<A, B, M, F, U> TwoInputs<A, B> for BroadcastProcess<A, B, M, F, U>
where
    M: Record + Default,
    F: BroadcastProcessFunction<A, B, M, U>,
    U: Send,
{
    fn push1(&mut self, batch: &mut Vec<A>) -> Result<(), TaskError> {
        self.push(batch, |function, record, broadcast, out| function.process_element(record, broadcast, out))
    }

    fn push2(&mut self, batch: &mut Vec<B>) -> Result<(), TaskError> {
        self.push(batch, |function, record, broadcast, out| function.process_broadcast_element(record, broadcast, out))
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        snapshot(&self.of, &self.broadcast, event);
        self.sides.control(event)?;
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.sides.finish()?;
        self.next.finish()
    }
}

/// Runs a [`KeyedBroadcastProcessFunction`].
pub struct KeyedBroadcastProcess<A, B, Sel: KeySelector<A>, S, M, F, U> {
    core: KeyedCore<Sel::Key, S, U>,
    input: KeyedInput<A, Sel>,
    broadcast: M,
    function: F,
    second: PhantomData<fn(B)>,
}

impl<A, B, Sel, S, M, F, U> KeyedBroadcastProcess<A, B, Sel, S, M, F, U>
where
    Sel: KeySelector<A>,
    S: Record + Default,
    M: Record + Default,
    F: KeyedBroadcastProcessFunction<Sel::Key, A, B, S, M, U>,
{
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        (mut of, clock, ttl): (StateContext, TaskClock, Option<StateTtlConfig>),
        input: KeyedInput<A, Sel>,
        function: F,
        (next, sides): (Box<dyn Output<U>>, SideOutputs),
    ) -> Result<Self, TaskError> {
        let broadcast = restore(&mut of)?;
        let core = KeyedCore::new(of, clock, ttl, sides, next)?;
        Ok(Self { core, input, broadcast, function, second: PhantomData })
    }
}

impl<A, B, Sel, S, M, F, U> TwoInputs<A, B> for KeyedBroadcastProcess<A, B, Sel, S, M, F, U>
where
    A: Record,
    Sel: KeySelector<A>,
    S: Record + Default,
    M: Record + Default,
    F: KeyedBroadcastProcessFunction<Sel::Key, A, B, S, M, U>,
    U: Send,
{
    fn push1(&mut self, batch: &mut Vec<A>) -> Result<(), TaskError> {
        let Self { core, input, broadcast, function, .. } = self;
        core.begin();
        input.each(batch, |record, selector, timestamp| {
            core.record(record, selector, timestamp, |ctx, record, state, out| {
                function.process_element(ctx, record, state, broadcast, out)
            })
        })?;
        core.end()
    }

    fn push2(&mut self, batch: &mut Vec<B>) -> Result<(), TaskError> {
        let Self { core, broadcast, function, .. } = self;
        for record in batch.drain(..) {
            core.collect(|out| function.process_broadcast_element(record, broadcast, out))?;
        }
        core.end()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        let Self { core, broadcast, function, .. } = self;
        snapshot(core.of(), broadcast, event);
        core.control(event, |timer, ctx, state, out| function.on_timer(timer, ctx, state, broadcast, out))
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.core.finish()
    }
}
