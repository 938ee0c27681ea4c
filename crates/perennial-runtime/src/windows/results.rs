//! What window operators have in common: where time comes from, and where results go.

use std::sync::Arc;

use super::TimeWindow;
use crate::operators::{Collector, FLUSH_RECORDS, OutputTag, SideOutputs};
use crate::{ChainEvent, Output, StateContext, TaskClock, TaskError, Timestamps, UserError};

/// What a window operator is made of, besides its functions.
pub struct WindowSetup<T> {
    /// Its state.
    pub of: StateContext,
    /// Where the event time of records lies, for windows of event time. Without, windows are of processing time, and the end of
    /// the input completes them all.
    pub timestamps: Option<Arc<dyn Timestamps<T>>>,
    /// The processing time of the task.
    pub clock: TaskClock,
    /// For how many ms after its end a window takes records, which it then fires for at once. Only in event time.
    pub allowed_lateness: i64,
    /// Where records go that come later. Without, they are dropped.
    pub late: Option<OutputTag<T>>,
}

impl<T> WindowSetup<T> {
    pub(super) fn is_event_time(&self) -> bool {
        self.timestamps.is_some()
    }

    /// The time of each record. Processing time never goes back behind `progress`, whatever the clock does.
    #[inline(always)]
    pub(super) fn times(&self, batch: &[T], progress: i64, times: &mut Vec<i64>) {
        times.clear();
        match &self.timestamps {
            Some(timestamps) => timestamps.timestamps(batch, times),
            None => times.resize(batch.len(), self.clock.now_ms().max(progress.saturating_add(1))),
        }
    }

    /// How far time is after an event: everything up to this is over. `None` when the event does not say.
    pub(super) fn progress(&self, event: &ChainEvent<'_>) -> Option<i64> {
        match event {
            ChainEvent::Watermark(time) if self.is_event_time() || *time == i64::MAX => Some(*time),
            // This millisecond is not over yet.
            ChainEvent::Time(now) if !self.is_event_time() => Some(now.saturating_sub(1)),
            _ => None,
        }
    }
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
