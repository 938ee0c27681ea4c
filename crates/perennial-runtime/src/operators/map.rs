//! One record in, one record out.

use std::marker::PhantomData;

use crate::{ChainEvent, Output, TaskError, UserError};

/// Applies a function that cannot fail.
pub struct Map<T, U, F> {
    function: F,
    results: Vec<U>,
    next: Box<dyn Output<U>>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F: FnMut(T) -> U> Map<T, U, F> {
    /// The operator in front of `next`.
    pub fn new(function: F, next: Box<dyn Output<U>>) -> Self {
        Self { function, results: Vec::new(), next, input: PhantomData }
    }
}

impl<T: Send, U: Send, F: FnMut(T) -> U + Send> Output<T> for Map<T, U, F> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        self.results.extend(batch.drain(..).map(&mut self.function));
        self.next.push(&mut self.results)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}

/// Applies a function that can fail; its first error ends the task.
pub struct TryMap<T, U, F> {
    name: String,
    function: F,
    results: Vec<U>,
    next: Box<dyn Output<U>>,
    input: PhantomData<fn(T)>,
}

impl<T, U, F> TryMap<T, U, F> {
    /// The operator `name` in front of `next`.
    pub fn new(name: &str, function: F, next: Box<dyn Output<U>>) -> Self {
        Self { name: name.to_owned(), function, results: Vec::new(), next, input: PhantomData }
    }
}

impl<T, U, E, F> Output<T> for TryMap<T, U, F>
where
    T: Send,
    U: Send,
    E: Into<UserError>,
    F: FnMut(T) -> Result<U, E> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        self.results.reserve(batch.len());
        for record in batch.drain(..) {
            let result = (self.function)(record).map_err(|error| TaskError::user(&self.name, error))?;
            self.results.push(result);
        }
        self.next.push(&mut self.results)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}
