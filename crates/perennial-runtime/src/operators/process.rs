//! One record in, anything out: any number of records, on the main output and on side outputs.

use std::marker::PhantomData;

use super::collector::{Collector, SideOutputs, collect_each};
use crate::{ChainEvent, Output, TaskError, UserError};

/// Applies a function that emits into a [`Collector`]; its first error ends the task.
pub struct Process<T, U, F> {
    name: String,
    function: F,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F> Process<T, U, F> {
    /// The operator `name` in front of `next` and of its side outputs.
    pub fn new(name: &str, function: F, sides: SideOutputs, next: Box<dyn Output<U>>) -> Self {
        Self { name: name.to_owned(), function, results: Vec::new(), sides, next, input: PhantomData }
    }
}

impl<T, U, E, F> Output<T> for Process<T, U, F>
where
    T: Send,
    U: Send,
    E: Into<UserError>,
    F: FnMut(T, &mut Collector<'_, U>) -> Result<(), E> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let Self { name, function, results, sides, next, .. } = self;
        collect_each(name, batch.drain(..), (results, sides, &mut **next), function)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.sides.control(event)?;
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.sides.finish()?;
        self.next.finish()
    }
}
