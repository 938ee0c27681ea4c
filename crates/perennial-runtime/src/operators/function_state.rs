//! Operator state of functions: lists that belong to no key.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use perennial_types::Record;

use super::collector::{Collector, SideOutputs, collect_each};
use crate::{ChainEvent, Output, StateContext, TaskError, UserError};

/// Does anything with each record of a stream, and may have state that belongs to no key. Flink's `ProcessFunction` and
/// `CheckpointedFunction`.
///
/// The grammar of calls is `initialize_state (process_element | snapshot_state)*`. An error fails the task with its text.
pub trait ProcessFunction<T, U>: Send {
    /// Called once, first, before any record: takes over what a checkpoint has of the function.
    fn initialize_state(&mut self, state: &FunctionInitializationContext) -> Result<(), UserError> {
        let _ = state;
        Ok(())
    }

    /// Takes a record.
    fn process_element(&mut self, record: T, out: &mut Collector<'_, U>) -> Result<(), UserError>;

    /// A checkpoint cuts here: says what the function has to know to go on from here.
    fn snapshot_state(&mut self, state: &mut FunctionSnapshotContext) -> Result<(), UserError> {
        let _ = state;
        Ok(())
    }
}

/// What a function begins with.
pub struct FunctionInitializationContext {
    restored: bool,
    lists: BTreeMap<String, Vec<Vec<u8>>>,
    union_lists: BTreeMap<String, Vec<Vec<u8>>>,
}

impl FunctionInitializationContext {
    pub(super) fn take(of: &mut StateContext) -> Result<Self, TaskError> {
        let (list, union) = (of.take_list(), of.take_union_list());
        let restored = list.is_some();
        let by_name = |elements: Option<Vec<Vec<u8>>>| {
            let mut named = BTreeMap::<String, Vec<Vec<u8>>>::new();
            for element in elements.unwrap_or_default() {
                let (name, bytes) = decoded::<(String, Vec<u8>)>(&element)?;
                named.entry(name).or_default().push(bytes);
            }
            Ok::<_, UserError>(named)
        };
        let lists = by_name(list).map_err(|error| of.error(error))?;
        let union_lists = by_name(union).map_err(|error| of.error(error))?;
        Ok(Self { restored, lists, union_lists })
    }

    /// Whether there is a checkpoint to go on from.
    pub fn is_restored(&self) -> bool {
        self.restored
    }

    /// This subtask's share of a list state: its own elements, or when the parallelism has changed an even part of those of all.
    pub fn list_state<E: Record>(&self, name: &str) -> Result<Vec<E>, UserError> {
        self.lists.get(name).into_iter().flatten().map(|element| decoded(element)).collect()
    }

    /// The elements of a union list state: those of all subtasks, whichever the parallelism is now.
    pub fn union_list_state<E: Record>(&self, name: &str) -> Result<Vec<E>, UserError> {
        self.union_lists.get(name).into_iter().flatten().map(|element| decoded(element)).collect()
    }
}

/// Takes what a function wants to go on from.
#[derive(Default)]
pub struct FunctionSnapshotContext {
    list: Vec<Vec<u8>>,
    union_list: Vec<Vec<u8>>,
}

impl FunctionSnapshotContext {
    /// Puts elements into a list state, each of which some subtask gets back. Flink's `getListState`.
    pub fn list_state<E: Record>(&mut self, name: &str, elements: impl IntoIterator<Item = E>) {
        self.list.extend(elements.into_iter().map(|element| named(name, &element)));
    }

    /// Puts elements into a union list state, each of which every subtask gets back. Flink's `getUnionListState`.
    ///
    /// They are meant to be few: they travel with every restored subtask.
    pub fn union_list_state<E: Record>(&mut self, name: &str, elements: impl IntoIterator<Item = E>) {
        self.union_list.extend(elements.into_iter().map(|element| named(name, &element)));
    }
}

fn named<E: Record>(name: &str, element: &E) -> Vec<u8> {
    encoded(&(name.to_owned(), encoded(element)))
}

/// A value as an element of a snapshot.
pub(super) fn encoded<R: Record>(value: &R) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

/// A value out of an element of a snapshot.
pub(super) fn decoded<R: Record>(element: &[u8]) -> Result<R, UserError> {
    let mut rest = element;
    let value = R::decode(&mut rest)?;
    if rest.is_empty() { Ok(value) } else { Err(perennial_types::DecodeError::LeftOver(rest.len()).into()) }
}

/// Runs a [`ProcessFunction`].
pub struct StatefulProcess<T, U, F> {
    of: StateContext,
    function: F,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F: ProcessFunction<T, U>> StatefulProcess<T, U, F> {
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        mut of: StateContext,
        mut function: F,
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let state = FunctionInitializationContext::take(&mut of)?;
        function.initialize_state(&state).map_err(|error| of.error(error))?;
        Ok(Self { of, function, results: Vec::new(), sides, next, input: PhantomData })
    }

    #[cfg(test)]
    pub(super) fn function(&self) -> &F {
        &self.function
    }
}

impl<T: Send, U: Send, F: ProcessFunction<T, U>> Output<T> for StatefulProcess<T, U, F> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let Self { of, function, results, sides, next, .. } = self;
        collect_each(&of.name, batch.drain(..), (results, sides, &mut **next), |record, out| {
            function.process_element(record, out)
        })
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        if let ChainEvent::Snapshot(writer) = event {
            let mut state = FunctionSnapshotContext::default();
            self.function.snapshot_state(&mut state).map_err(|error| TaskError::user(&self.of.name, error))?;
            writer.list(&self.of, state.list);
            writer.union_list(&self.of, state.union_list);
        }
        self.sides.control(event)?;
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.sides.finish()?;
        self.next.finish()
    }
}
