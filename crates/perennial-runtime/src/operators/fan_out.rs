//! Several consumers of one stream, and none.

use std::marker::PhantomData;

use crate::{ChainEvent, Output, TaskError};

/// Gives every consumer all records: a copy to each but the last, which gets the records themselves.
pub struct FanOut<T> {
    copies: Vec<T>,
    others: Vec<Box<dyn Output<T>>>,
    last: Box<dyn Output<T>>,
}

impl<T> FanOut<T> {
    /// An output to all of `others` and to `last`.
    pub fn new(others: Vec<Box<dyn Output<T>>>, last: Box<dyn Output<T>>) -> Self {
        Self { copies: Vec::new(), others, last }
    }
}

impl<T: Clone + Send> Output<T> for FanOut<T> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        for output in &mut self.others {
            self.copies.extend_from_slice(batch);
            output.push(&mut self.copies)?;
        }
        self.last.push(batch)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.others.iter_mut().try_for_each(|output| output.control(event))?;
        self.last.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.others.iter_mut().try_for_each(|output| output.finish())?;
        self.last.finish()
    }
}

/// Drops everything: the output nobody reads.
pub struct Discard<T>(PhantomData<fn(T)>);

impl<T> Default for Discard<T> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T> Output<T> for Discard<T> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        batch.clear();
        Ok(())
    }

    fn control(&mut self, _event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        Ok(())
    }
}
