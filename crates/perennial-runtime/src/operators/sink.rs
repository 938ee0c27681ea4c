//! Where records leave the job.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::{ChainEvent, Counters, Output, TaskError, UserError};

/// Writes records somewhere outside the job: one instance per subtask.
///
/// The grammar of calls is `write* finish`. A slow sink slows the job: it is called on the slot's thread, and while it
/// works nothing else runs on that slot.
pub trait Sink<T>: Send {
    /// Takes all records of the batch; whatever is left in it is dropped by the caller.
    ///
    /// A batch is some thousand records, or fewer when the stream is slow: a sink that buffers should have written what it
    /// took when it returns, for there may be no other call for a long time.
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError>;

    /// The stream has ended: writes out and closes what is open. Called once.
    fn finish(&mut self) -> Result<(), UserError> {
        Ok(())
    }
}

impl<T> Sink<T> for Box<dyn Sink<T>> {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        (**self).write(batch)
    }

    fn finish(&mut self) -> Result<(), UserError> {
        (**self).finish()
    }
}

/// The end of a chain: hands batches to a [`Sink`].
pub struct SinkOperator<S> {
    name: String,
    sink: S,
    counters: Arc<Counters>,
}

impl<S> SinkOperator<S> {
    /// The operator `name` that writes to `sink` and counts what it wrote.
    pub fn new(name: &str, sink: S, counters: Arc<Counters>) -> Self {
        Self { name: name.to_owned(), sink, counters }
    }
}

impl<T: Send, S: Sink<T>> Output<T> for SinkOperator<S> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let count = batch.len() as u64;
        let written = self.sink.write(batch);
        batch.clear();
        self.counters.records_out.fetch_add(count, Ordering::Relaxed);
        written.map_err(|error| TaskError::user(&self.name, error))
    }

    fn control(&mut self, _event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        // What it was given, it has written: nothing is held back that a checkpoint had to keep.
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.sink.finish().map_err(|error| TaskError::user(&self.name, error))
    }
}
