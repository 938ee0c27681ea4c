//! The sinks that need nothing but this process.

use std::any::Any;
use std::fmt::Debug;
use std::io::{Write, stdout};
use std::sync::{Arc, Mutex, PoisonError};

use perennial_runtime::operators::Sink;
use perennial_runtime::{TaskContext, UserError};

/// Prints lines to standard output.
pub(crate) struct PrintSink {
    prefix: String,
    lines: Vec<u8>,
}

impl PrintSink {
    /// Flink's prefixes: the identifier, and the subtask when there are several.
    pub(crate) fn new(identifier: Option<&str>, context: &TaskContext) -> Self {
        let subtask = (context.parallelism > 1).then(|| context.attempt.subtask + 1);
        let prefix = match (identifier, subtask) {
            (None, None) => String::new(),
            (None, Some(subtask)) => format!("{subtask}> "),
            (Some(identifier), None) => format!("{identifier}> "),
            (Some(identifier), Some(subtask)) => format!("{identifier}:{subtask}> "),
        };
        Self { prefix, lines: Vec::new() }
    }
}

impl<T: Debug + 'static> Sink<T> for PrintSink {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        self.lines.clear();
        for record in batch.drain(..) {
            self.lines.extend_from_slice(self.prefix.as_bytes());
            match (&record as &dyn Any).downcast_ref::<String>() {
                Some(text) => self.lines.extend_from_slice(text.as_bytes()),
                None => write!(self.lines, "{record:?}")?,
            }
            self.lines.push(b'\n');
        }
        // One lock for the batch: lines of subtasks do not mix.
        let mut out = stdout().lock();
        out.write_all(&self.lines)?;
        Ok(out.flush()?)
    }
}

/// Drops records.
pub(crate) struct DiscardingSink;

impl<T> Sink<T> for DiscardingSink {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        batch.clear();
        Ok(())
    }
}

/// What a stream's [`collect`](crate::DataStream::collect) kept. Clones are the same records.
pub struct Collected<T>(Arc<Mutex<Vec<T>>>);

impl<T> Clone for Collected<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Collected<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T> Collected<T> {
    /// Takes the records that have arrived and leaves none.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Keeps records for [`Collected`].
pub(crate) struct Collect<T>(Collected<T>);

impl<T> Collect<T> {
    pub(crate) fn new(into: Collected<T>) -> Self {
        Self(into)
    }
}

impl<T: Send> Sink<T> for Collect<T> {
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        let Self(Collected(records)) = self;
        records.lock().unwrap_or_else(PoisonError::into_inner).append(batch);
        Ok(())
    }
}
