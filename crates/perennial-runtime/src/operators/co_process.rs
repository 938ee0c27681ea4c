//! Functions over two streams without keys.

use super::collector::{Collector, SideOutputs, collect_each};
use crate::head::TwoInputs;
use crate::{ChainEvent, Output, TaskError, UserError};

/// A function over two streams. Flink's `CoProcessFunction`, `CoMapFunction` and `CoFlatMapFunction`.
///
/// An error fails the task with its text.
pub trait CoProcessFunction<A, B, U>: Send {
    /// Takes a record of the first stream.
    fn process_element1(&mut self, record: A, out: &mut Collector<'_, U>) -> Result<(), UserError>;

    /// Takes a record of the second stream.
    fn process_element2(&mut self, record: B, out: &mut Collector<'_, U>) -> Result<(), UserError>;
}

/// Runs a [`CoProcessFunction`].
pub struct CoProcess<F, U> {
    name: String,
    function: F,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
}

impl<F, U> CoProcess<F, U> {
    /// The operator `name` in front of `next` and of its side outputs.
    pub fn new(name: &str, function: F, sides: SideOutputs, next: Box<dyn Output<U>>) -> Self {
        Self { name: name.to_owned(), function, results: Vec::new(), sides, next }
    }

    fn push<T>(
        &mut self,
        batch: &mut Vec<T>,
        mut call: impl FnMut(&mut F, T, &mut Collector<'_, U>) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        let Self { name, function, results, sides, next } = self;
        collect_each(name, batch.drain(..), (results, sides, &mut **next), |record, out| call(function, record, out))
    }
}

impl<A, B, F, U> TwoInputs<A, B> for CoProcess<F, U>
where
    F: CoProcessFunction<A, B, U>,
    U: Send,
{
    fn push1(&mut self, batch: &mut Vec<A>) -> Result<(), TaskError> {
        self.push(batch, |function, record, out| function.process_element1(record, out))
    }

    fn push2(&mut self, batch: &mut Vec<B>) -> Result<(), TaskError> {
        self.push(batch, |function, record, out| function.process_element2(record, out))
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
