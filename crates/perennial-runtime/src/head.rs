//! The upper ends of chains.

use perennial_exchange::Payload;
use perennial_types::Record;

use crate::{ChainEvent, Head, Output, SourceReader, SourceStatus, StateContext, TaskError};

/// Begins a chain that reads records of one type from exchanges: one, or the several of a union.
pub struct InputHead<T> {
    first: Box<dyn Output<T>>,
    decoded: Vec<T>,
}

impl<T: Record> InputHead<T> {
    /// Feeds `first`.
    pub fn new(first: Box<dyn Output<T>>) -> Self {
        Self { first, decoded: Vec::new() }
    }
}

impl<T: Record> Head for InputHead<T> {
    fn deliver(&mut self, input: usize, payload: &mut Payload) -> Result<usize, TaskError> {
        match payload {
            Payload::Local(batch) => {
                let batch = batch.downcast_mut::<Vec<T>>().ok_or_else(|| TaskError::WrongJob {
                    reason: format!("input {input} carries records of another type than its reader's"),
                })?;
                let count = batch.len();
                self.first.push(batch)?;
                Ok(count)
            }
            Payload::Remote { bytes, count } => {
                self.decoded.clear();
                T::decode_batch(bytes, *count, &mut self.decoded)
                    .map_err(|source| TaskError::Decode { input, source })?;
                self.first.push(&mut self.decoded)?;
                Ok(*count)
            }
        }
    }

    fn poll_source(&mut self, _max: usize) -> Result<SourceStatus, TaskError> {
        Err(TaskError::WrongJob { reason: "a task that reads from exchanges was polled as a source".to_owned() })
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.first.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.first.finish()
    }
}

/// Begins a chain that reads from a source.
pub struct SourceHead<T, R> {
    of: StateContext,
    reader: R,
    first: Box<dyn Output<T>>,
    batch: Vec<T>,
}

impl<T: Send + 'static, R: SourceReader<T>> SourceHead<T, R> {
    /// Feeds `first` from `reader`, which goes on from where the checkpoint is that `of` is restored from.
    pub fn new(mut of: StateContext, mut reader: R, first: Box<dyn Output<T>>) -> Result<Self, TaskError> {
        if let Some(splits) = of.take_list() {
            reader.restore(splits).map_err(|error| of.error(error))?;
        }
        Ok(Self { of, reader, first, batch: Vec::new() })
    }
}

impl<T: Send + 'static, R: SourceReader<T>> Head for SourceHead<T, R> {
    fn deliver(&mut self, input: usize, _payload: &mut Payload) -> Result<usize, TaskError> {
        Err(TaskError::WrongJob { reason: format!("source `{}` has an input {input}", self.of.name) })
    }

    fn poll_source(&mut self, max: usize) -> Result<SourceStatus, TaskError> {
        let status = self.reader.poll(&mut self.batch, max).map_err(|source| TaskError::user(&self.of.name, source))?;
        if !self.batch.is_empty() {
            self.first.push(&mut self.batch)?;
        }
        Ok(status)
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        if let ChainEvent::Snapshot(writer) = event {
            let splits = self.reader.snapshot().map_err(|source| TaskError::user(&self.of.name, source))?;
            writer.list(&self.of, splits);
        }
        self.first.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.first.finish()
    }
}

impl<T, R: SourceReader<T> + ?Sized> SourceReader<T> for Box<R> {
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, crate::UserError> {
        (**self).poll(out, max)
    }

    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, crate::UserError> {
        (**self).snapshot()
    }

    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), crate::UserError> {
        (**self).restore(splits)
    }
}
