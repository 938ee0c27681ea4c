//! What window operators have in common: where time comes from, and where results go.

use std::sync::Arc;

use super::TimeWindow;
use crate::operators::{Collector, FLUSH_RECORDS, OutputTag, SideOutputs};
use crate::{ChainEvent, Output, StateContext, TaskClock, TaskError, Timestamps, UserError};

/// Which time windows are of.
pub enum WindowTime<T> {
    /// When things happened, as records and watermarks say.
    Event(Arc<dyn Timestamps<T>>),
    /// When records are processed, as this clock says. The end of the input completes all windows.
    Processing(TaskClock),
}

impl<T> WindowTime<T> {
    /// The time of each record. Processing time never goes back behind `progress`, whatever the clock does.
    #[inline(always)]
    pub(super) fn of_records(&self, batch: &[T], progress: i64, times: &mut Vec<i64>) {
        times.clear();
        match self {
            Self::Event(timestamps) => timestamps.timestamps(batch, times),
            Self::Processing(clock) => times.resize(batch.len(), clock.now_ms().max(progress.saturating_add(1))),
        }
    }

    /// How far time is after an event: everything up to this is over. `None` when the event does not say.
    pub(super) fn progress(&self, event: &ChainEvent<'_>) -> Option<i64> {
        match (self, event) {
            (Self::Event(_), ChainEvent::Watermark(time)) => Some(*time),
            (Self::Processing(_), ChainEvent::Watermark(i64::MAX)) => Some(i64::MAX),
            // This millisecond is not over yet.
            (Self::Processing(_), ChainEvent::Time(now)) => Some(now.saturating_sub(1)),
            _ => None,
        }
    }

    /// Asks for the clock's event once everything up to `last` is over.
    pub(super) fn wake_after(&self, last: i64) {
        if let Self::Processing(clock) = self {
            clock.wake_at(last.saturating_add(1));
        }
    }
}

/// What a window operator is made of, besides its functions.
pub struct WindowSetup<T> {
    /// Its state.
    pub of: StateContext,
    /// Which time its windows are of.
    pub time: WindowTime<T>,
    /// For how many ms after its end a window takes records, which it then fires for at once. Only in event time.
    pub allowed_lateness: i64,
    /// Where records go that come later. Without, they are dropped.
    pub late: Option<OutputTag<T>>,
}

/// What a window's function is told of its window. Flink's `ProcessWindowFunction.Context`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowContext {
    /// The window that fires.
    pub window: TimeWindow,
    /// How far event time is, in ms since 1970; `i64::MIN` before the first watermark.
    pub watermark: i64,
}

/// Where the results of an operator go.
pub(super) struct Results<U> {
    name: String,
    records: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
}

impl<U: Send> Results<U> {
    pub(super) fn new(name: &str, sides: SideOutputs, next: Box<dyn Output<U>>) -> Self {
        Self { name: name.to_owned(), records: Vec::new(), sides, next }
    }

    /// Lets a function of the user emit, and passes on what has become enough.
    #[inline(always)]
    pub(super) fn emit(
        &mut self,
        function: impl FnOnce(&mut Collector<'_, U>) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        function(&mut Collector::new(&mut self.records, &mut self.sides))
            .map_err(|error| TaskError::user(&self.name, error))?;
        if self.records.len() >= FLUSH_RECORDS { self.next.push(&mut self.records) } else { Ok(()) }
    }

    /// Puts records that come too late where they belong.
    pub(super) fn late<T: Send + 'static>(&mut self, tag: Option<&OutputTag<T>>, records: impl Iterator<Item = T>) {
        match tag {
            Some(tag) => {
                let mut collector = Collector::new(&mut self.records, &mut self.sides);
                records.for_each(|record| collector.output(tag, record));
            }
            None => records.for_each(drop),
        }
    }

    /// Passes on what there is.
    pub(super) fn flush(&mut self) -> Result<(), TaskError> {
        if !self.records.is_empty() {
            self.next.push(&mut self.records)?;
        }
        self.sides.flush(&self.name)
    }

    pub(super) fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        self.sides.control(event)?;
        self.next.control(event)
    }

    pub(super) fn finish(&mut self) -> Result<(), TaskError> {
        self.sides.finish()?;
        self.next.finish()
    }
}
