//! Functions over the state of a key, with everything an output can be: many records, side outputs, a last word at the end.

use perennial_state::{KeySelector, KeyedTable};
use perennial_types::Record;

use super::collector::{Collector, SideOutputs, collect_each};
use crate::{ChainEvent, Output, StateContext, TaskError, UserError};

/// Calls `process` for each record with the state of its key, and `end` for each key when the input has ended.
///
/// The state of a key not met before is made by `init` from its first record.
pub struct KeyedFunction<T, Sel: KeySelector<T>, S, I, F, E, U> {
    of: StateContext,
    selector: Sel,
    init: I,
    process: F,
    end: E,
    state: KeyedTable<Sel::Key, S>,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
}

impl<T, Sel, S, I, F, E, U> KeyedFunction<T, Sel, S, I, F, E, U>
where
    Sel: KeySelector<T>,
    S: Record,
    I: FnMut(&T) -> S,
    F: FnMut(&Sel::Key, T, &mut S, &mut Collector<'_, U>) -> Result<(), UserError>,
    E: FnMut(&Sel::Key, &S, &mut Collector<'_, U>) -> Result<(), UserError>,
{
    /// The operator in front of `next` and of its side outputs, with the state that `of` has of it.
    pub fn new(
        mut of: StateContext,
        selector: Sel,
        (init, process, end): (I, F, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let state = of.take_table("state")?;
        Ok(Self { of, selector, init, process, end, state, results: Vec::new(), sides, next })
    }
}

impl<T, Sel, S, I, F, E, U> Output<T> for KeyedFunction<T, Sel, S, I, F, E, U>
where
    T: Record,
    Sel: KeySelector<T>,
    S: Record,
    U: Send,
    I: FnMut(&T) -> S + Send,
    F: FnMut(&Sel::Key, T, &mut S, &mut Collector<'_, U>) -> Result<(), UserError> + Send,
    E: FnMut(&Sel::Key, &S, &mut Collector<'_, U>) -> Result<(), UserError> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let Self { of: StateContext { name, .. }, selector, init, process, state, results, sides, next, .. } = self;
        collect_each(name, batch.drain(..), (results, sides, &mut **next), |record, out| {
            let (key, value, _) = state.entry(&record, selector, &mut *init);
            process(key, record, value, out)
        })
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        event.keyed(&self.of, "state", &mut self.state);
        self.sides.control(event)?;
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        let Self { of: StateContext { name, .. }, end, state, results, sides, next, .. } = self;
        collect_each(name, state.iter(), (&mut *results, &mut *sides, &mut **next), |(key, value), out| {
            end(key, value, out)
        })?;
        sides.finish()?;
        next.finish()
    }
}
