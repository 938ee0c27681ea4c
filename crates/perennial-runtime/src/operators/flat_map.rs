//! One record in, any number of records out.

use std::marker::PhantomData;

use crate::{ChainEvent, Output, TaskError, UserError};

/// Results after which an operator passes on what it has, though its input batch is not done: a few times a batch, so
/// that one batch of records which each become many does not fill the memory.
pub const FLUSH_RECORDS: usize = 4096;

/// Applies a function that appends its results to a buffer; its first error ends the task.
pub struct FlatMap<T, U, F> {
    name: String,
    function: F,
    results: Vec<U>,
    next: Box<dyn Output<U>>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F> FlatMap<T, U, F> {
    /// The operator `name` in front of `next`.
    pub fn new(name: &str, function: F, next: Box<dyn Output<U>>) -> Self {
        Self { name: name.to_owned(), function, results: Vec::new(), next, input: PhantomData }
    }
}

impl<T, U, E, F> Output<T> for FlatMap<T, U, F>
where
    T: Send,
    U: Send,
    E: Into<UserError>,
    F: FnMut(T, &mut Vec<U>) -> Result<(), E> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        for record in batch.drain(..) {
            (self.function)(record, &mut self.results).map_err(|error| TaskError::user(&self.name, error))?;
            if self.results.len() >= FLUSH_RECORDS {
                self.next.push(&mut self.results)?;
            }
        }
        if self.results.is_empty() { Ok(()) } else { self.next.push(&mut self.results) }
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}
