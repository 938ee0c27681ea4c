//! Streams beside a broadcast one, and functions with operator state.

use std::marker::PhantomData;

use perennial_runtime::KeySelector;
use perennial_runtime::operators::{
    BroadcastProcess, BroadcastProcessFunction, KeyedBroadcastProcess, KeyedBroadcastProcessFunction, KeyedInput,
    ProcessFunction, StateTtlConfig, StatefulProcess,
};
use perennial_types::Record;

use super::connected::two_inputs;
use super::{DataStream, KeyedStream};
use crate::graph::code::erased;

impl<T: Record> DataStream<T> {
    /// Does anything with each record, with state that belongs to no key: the function says at each checkpoint what it has to
    /// know, and is given it back. It is cloned for every subtask.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// /// Numbers the records of a subtask.
    /// #[derive(Clone, Default)]
    /// struct Numbered {
    ///     next: u64,
    /// }
    ///
    /// impl ProcessFunction<String, (u64, String)> for Numbered {
    ///     fn initialize_state(&mut self, state: &FunctionInitializationContext) -> Result<(), UserError> {
    ///         self.next = state.union_list_state("next")?.into_iter().max().unwrap_or(0);
    ///         Ok(())
    ///     }
    ///
    ///     fn process_element(&mut self, line: String, out: &mut Collector<'_, (u64, String)>) -> Result<(), UserError> {
    ///         out.collect((self.next, line));
    ///         self.next += 1;
    ///         Ok(())
    ///     }
    ///
    ///     fn snapshot_state(&mut self, state: &mut FunctionSnapshotContext) -> Result<(), UserError> {
    ///         state.union_list_state("next", [self.next]);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn numbered(lines: &DataStream<String>) -> DataStream<(u64, String)> {
    /// lines.process_with(Numbered::default())
    /// # }
    /// ```
    pub fn process_with<U, F>(&self, function: F) -> DataStream<U>
    where
        U: Record,
        F: ProcessFunction<T, U> + Clone + Sync + 'static,
    {
        self.transform("Process", move |context, outputs| {
            let (next, sides) = outputs.split()?;
            Ok(erased::<T>(StatefulProcess::new(context.state()?, function.clone(), sides, next)?))
        })
    }

    /// Puts this stream beside one of which every subtask gets all records: rules, settings, small tables. Flink's `connect` with
    /// a `BroadcastStream`.
    ///
    /// Event time is how far both are: a broadcast stream without watermarks holds it back until it ends.
    pub fn connect_broadcast<B: Record>(&self, other: &DataStream<B>) -> BroadcastConnectedStream<T, B> {
        BroadcastConnectedStream { first: self.clone(), second: other.broadcast() }
    }
}

/// A stream and one of which every subtask gets all records. Flink's `BroadcastConnectedStream`.
pub struct BroadcastConnectedStream<A, B> {
    first: DataStream<A>,
    second: DataStream<B>,
}

impl<A: Record, B: Record> BroadcastConnectedStream<A, B> {
    /// Does anything with the records of both: those of the broadcast stream change the broadcast state, the others see it.
    ///
    /// In a checkpoint each subtask has the state, and each restored one gets it from one of them.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// /// Replaces words by what the latest rule about them says.
    /// #[derive(Clone)]
    /// struct Replace;
    ///
    /// impl BroadcastProcessFunction<String, (String, String), MapState<String, String>, String> for Replace {
    ///     fn process_element(
    ///         &mut self,
    ///         word: String,
    ///         rules: &MapState<String, String>,
    ///         out: &mut Collector<'_, String>,
    ///     ) -> Result<(), UserError> {
    ///         out.collect(rules.get(&word).cloned().unwrap_or(word));
    ///         Ok(())
    ///     }
    ///
    ///     fn process_broadcast_element(
    ///         &mut self,
    ///         (word, instead): (String, String),
    ///         rules: &mut MapState<String, String>,
    ///         _: &mut Collector<'_, String>,
    ///     ) -> Result<(), UserError> {
    ///         rules.put(word, instead);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn replaced(words: &DataStream<String>, rules: &DataStream<(String, String)>) -> DataStream<String> {
    /// words.connect_broadcast(rules).process_with(Replace)
    /// # }
    /// ```
    pub fn process_with<M, U, F>(&self, function: F) -> DataStream<U>
    where
        M: Record + Default,
        U: Record,
        F: BroadcastProcessFunction<A, B, M, U> + Clone + Sync + 'static,
    {
        two_inputs((&self.first, &self.second), "Co-Process-Broadcast", move |context, outputs| {
            let (next, sides) = outputs.split()?;
            BroadcastProcess::new(context.state()?, function.clone(), sides, next)
        })
    }
}

impl<A: Record, Sel: KeySelector<A> + Clone + Sync> KeyedStream<A, Sel> {
    /// Puts this stream beside one of which every subtask gets all records. How long state lives is what was said of this one.
    ///
    /// Event time is how far both are: a broadcast stream without watermarks holds it back until it ends.
    pub fn connect_broadcast<B: Record>(&self, other: &DataStream<B>) -> KeyedBroadcastConnectedStream<A, Sel, B> {
        let (first, second) = (self.clone(), other.broadcast());
        KeyedBroadcastConnectedStream { ttl: self.ttl(), first, second, records: PhantomData }
    }
}

/// A keyed stream and one of which every subtask gets all records.
pub struct KeyedBroadcastConnectedStream<A, Sel, B> {
    first: KeyedStream<A, Sel>,
    second: DataStream<B>,
    ttl: Option<StateTtlConfig>,
    records: PhantomData<fn() -> A>,
}

impl<A: Record, Sel: KeySelector<A> + Clone + Sync, B: Record> KeyedBroadcastConnectedStream<A, Sel, B> {
    /// As [`BroadcastConnectedStream::process_with`], with the state of the key and its timers.
    pub fn process_with<S, M, U, F>(&self, function: F) -> DataStream<U>
    where
        S: Record + Default,
        M: Record + Default,
        U: Record,
        F: KeyedBroadcastProcessFunction<Sel::Key, A, B, S, M, U> + Clone + Sync + 'static,
    {
        let ((selector, timestamps), ttl) = (self.first.clone_parts(), self.ttl);
        let streams = (self.first.stream(), &self.second);
        two_inputs(streams, "Co-Process-Broadcast-Keyed", move |context, outputs| {
            let (of, clock, (next, sides)) = (context.state()?, context.builder.clock(), outputs.split()?);
            let input = KeyedInput::new(selector.clone(), timestamps.clone());
            KeyedBroadcastProcess::new((of, clock, ttl), input, function.clone(), (next, sides))
        })
    }
}
