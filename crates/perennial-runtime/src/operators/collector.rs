//! Where a user's function emits: the main output and the side outputs.

use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::flat_map::FLUSH_RECORDS;
use crate::{ChainEvent, Output, TaskError, UserError};

/// Names a side output and the type of its records. Flink's `OutputTag`.
///
/// Two tags with the same name are the same side output of an operator; their types must agree.
pub struct OutputTag<S> {
    name: Arc<str>,
    records: PhantomData<fn() -> S>,
}

impl<S> OutputTag<S> {
    /// The tag of this name.
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), records: PhantomData }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl<S> Clone for OutputTag<S> {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), records: PhantomData }
    }
}

impl<S> fmt::Debug for OutputTag<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OutputTag({}: {})", self.name, std::any::type_name::<S>())
    }
}

/// Takes what a user's function emits. Flink's `Collector`, and the `output` of its contexts.
pub struct Collector<'a, U> {
    records: &'a mut Vec<U>,
    sides: &'a mut SideOutputs,
}

impl<'a, U> Collector<'a, U> {
    /// A collector into these buffers.
    #[inline(always)]
    pub fn new(records: &'a mut Vec<U>, sides: &'a mut SideOutputs) -> Self {
        Self { records, sides }
    }

    /// Emits a record.
    #[inline(always)]
    pub fn collect(&mut self, record: U) {
        self.records.push(record);
    }

    /// Emits a record to a side output. What nobody reads with `get_side_output` is dropped.
    ///
    /// The type of the tag and of `get_side_output` must agree, else the task fails after this call.
    pub fn output<S: Send + 'static>(&mut self, tag: &OutputTag<S>, record: S) {
        self.sides.emit(tag, record);
    }
}

impl<U> Extend<U> for Collector<'_, U> {
    #[inline(always)]
    fn extend<I: IntoIterator<Item = U>>(&mut self, records: I) {
        self.records.extend(records);
    }
}

/// The side outputs of one operator that somebody reads.
#[derive(Default)]
pub struct SideOutputs {
    outputs: Vec<(Arc<str>, Box<dyn SideOutput>)>,
    wrong_type: Option<String>,
}

impl SideOutputs {
    /// Connects a side output.
    pub fn add<S: Send + 'static>(&mut self, name: &str, next: Box<dyn Output<S>>) {
        self.outputs.push((name.into(), Box::new(Buffered { records: Vec::new(), next })));
    }

    fn emit<S: Send + 'static>(&mut self, tag: &OutputTag<S>, record: S) {
        // There are a few side outputs at most: comparing names is cheaper than hashing one.
        let Some((_, output)) = self.outputs.iter_mut().find(|(name, _)| *name == tag.name) else { return };
        match output.as_any_mut().downcast_mut::<Buffered<S>>() {
            Some(buffered) => buffered.records.push(record),
            None => {
                self.wrong_type =
                    Some(format!("side output `{}` is read as another type than the {tag:?} written", tag.name))
            }
        }
    }

    /// Passes on what was emitted. `operator` is who emitted it.
    pub fn flush(&mut self, operator: &str) -> Result<(), TaskError> {
        if let Some(problem) = self.wrong_type.take() {
            return Err(TaskError::user(operator, problem));
        }
        self.outputs.iter_mut().try_for_each(|(_, output)| output.flush())
    }

    /// Passes on an event of the stream.
    pub fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.outputs.iter_mut().try_for_each(|(_, output)| output.control(event))
    }

    /// Passes on the end of the stream.
    pub fn finish(&mut self) -> Result<(), TaskError> {
        self.outputs.iter_mut().try_for_each(|(_, output)| output.finish())
    }
}

/// Calls a function with each of `items` and passes on what it emits, in portions that fit the caches. The operator's first error
/// ends the task.
#[inline(always)]
pub(super) fn collect_each<I, U, E: Into<UserError>>(
    operator: &str,
    items: impl Iterator<Item = I>,
    (results, sides, next): (&mut Vec<U>, &mut SideOutputs, &mut dyn Output<U>),
    mut call: impl FnMut(I, &mut Collector<'_, U>) -> Result<(), E>,
) -> Result<(), TaskError> {
    for item in items {
        call(item, &mut Collector::new(results, sides)).map_err(|error| TaskError::user(operator, error))?;
        if results.len() >= FLUSH_RECORDS {
            next.push(results)?;
        }
    }
    if !results.is_empty() {
        next.push(results)?;
    }
    sides.flush(operator)
}

struct Buffered<S> {
    records: Vec<S>,
    next: Box<dyn Output<S>>,
}

trait SideOutput: Send {
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn flush(&mut self) -> Result<(), TaskError>;
    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError>;
    fn finish(&mut self) -> Result<(), TaskError>;
}

impl<S: Send + 'static> SideOutput for Buffered<S> {
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn flush(&mut self) -> Result<(), TaskError> {
        if self.records.is_empty() { Ok(()) } else { self.next.push(&mut self.records) }
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.next.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.next.finish()
    }
}
