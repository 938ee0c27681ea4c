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

/// The records that arrived on an input: where they lie, or decoded.
fn records<'a, T: Record>(
    input: usize,
    payload: &'a mut Payload,
    decoded: &'a mut Vec<T>,
) -> Result<&'a mut Vec<T>, TaskError> {
    match payload {
        Payload::Local(batch) => batch.downcast_mut::<Vec<T>>().ok_or_else(|| TaskError::WrongJob {
            reason: format!("input {input} carries records of another type than its reader's"),
        }),
        Payload::Remote { bytes, count } => {
            decoded.clear();
            T::decode_batch(bytes, *count, decoded).map_err(|source| TaskError::Decode { input, source })?;
            Ok(decoded)
        }
    }
}

fn polled_as_source() -> TaskError {
    TaskError::WrongJob { reason: "a task that reads from exchanges was polled as a source".to_owned() }
}

impl<T: Record> Head for InputHead<T> {
    fn deliver(&mut self, input: usize, payload: &mut Payload) -> Result<usize, TaskError> {
        let batch = records(input, payload, &mut self.decoded)?;
        let count = batch.len();
        self.first.push(batch)?;
        Ok(count)
    }

    fn poll_source(&mut self, _max: usize) -> Result<SourceStatus, TaskError> {
        Err(polled_as_source())
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.first.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.first.finish()
    }
}

/// An operator with two inputs. It is always the first of its chain.
///
/// The grammar of calls is `(push1 | push2 | control)* finish`; events are about both inputs together.
pub trait TwoInputs<A, B>: Send {
    /// Takes all records of a batch of the first input and leaves it empty, its capacity kept.
    fn push1(&mut self, batch: &mut Vec<A>) -> Result<(), TaskError>;

    /// Takes all records of a batch of the second input and leaves it empty, its capacity kept.
    fn push2(&mut self, batch: &mut Vec<B>) -> Result<(), TaskError>;

    /// As [`Output::control`].
    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError>;

    /// Both inputs have ended: as [`Output::finish`].
    fn finish(&mut self) -> Result<(), TaskError>;
}

/// Begins a chain that reads records of two types from exchanges.
pub struct TwoInputHead<A, B, O> {
    /// In-edges of the first input; those after them belong to the second.
    first_edges: usize,
    operator: O,
    decoded1: Vec<A>,
    decoded2: Vec<B>,
}

impl<A, B, O: TwoInputs<A, B>> TwoInputHead<A, B, O> {
    /// Feeds `operator`: its first input from so many in-edges, the second one from the rest.
    pub fn new(first_edges: usize, operator: O) -> Self {
        Self { first_edges, operator, decoded1: Vec::new(), decoded2: Vec::new() }
    }
}

impl<A: Record, B: Record, O: TwoInputs<A, B>> Head for TwoInputHead<A, B, O> {
    fn deliver(&mut self, input: usize, payload: &mut Payload) -> Result<usize, TaskError> {
        let Self { first_edges, operator, decoded1, decoded2 } = self;
        let count;
        if input < *first_edges {
            let batch = records(input, payload, decoded1)?;
            count = batch.len();
            operator.push1(batch)?;
        } else {
            let batch = records(input, payload, decoded2)?;
            count = batch.len();
            operator.push2(batch)?;
        }
        Ok(count)
    }

    fn poll_source(&mut self, _max: usize) -> Result<SourceStatus, TaskError> {
        Err(polled_as_source())
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.operator.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.operator.finish()
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
        // One that has come to its end has no position.
        if let ChainEvent::Snapshot(writer) = event
            && !writer.is_finished()
        {
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
