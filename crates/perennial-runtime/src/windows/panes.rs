//! Tumbling and sliding windows that fire when time has passed them.

use std::mem;

use perennial_state::{EntryBuffer, KeySelector, KeyedTable};
use perennial_types::Record;

use super::geometry::{Pane, Panes};
use super::results::{Results, WindowContext, WindowSetup};
use super::{AggregateFunction, TimeWindow, progress};
use crate::operators::{Collector, SideOutputs};
use crate::{ChainEvent, Output, TaskError, UserError};

/// Emptied tables that are kept for the panes to come: one that is filled while another is read, and one for out-of-order records.
const SPARE_TABLES: usize = 2;

/// Name of the state that holds the accumulators of each key, one entry per pane.
const PANES: &str = "panes";

/// A pane and the accumulators of its keys.
type Open<K, A> = (Pane, KeyedTable<K, A>);

/// Aggregates the records of each key by panes, and emits the windows made of them once they are complete.
///
/// A window that is complete fires for all its keys at once; within its allowed lateness it fires for a key again with each record
/// that comes for it.
pub struct PaneOperator<T, Sel: KeySelector<T>, A: AggregateFunction<T>, E, U> {
    setup: WindowSetup<T>,
    windows: Panes,
    selector: Sel,
    aggregate: A,
    emit: E,
    /// Those with records in them, in the order of time.
    panes: Vec<Open<Sel::Key, A::Accumulator>>,
    /// Empty.
    spare: Vec<KeyedTable<Sel::Key, A::Accumulator>>,
    /// Every window up to here has fired.
    progress: i64,
    watermark: i64,
    times: Vec<i64>,
    results: Results<U>,
}

impl<T, Sel, A, E, U> PaneOperator<T, Sel, A, E, U>
where
    T: Record,
    Sel: KeySelector<T>,
    A: AggregateFunction<T>,
    U: Send,
    E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
{
    /// The operator in front of `next` and its side outputs. `emit` is called for each window and key that fires.
    pub fn new(
        mut setup: WindowSetup<T>,
        windows: Panes,
        selector: Sel,
        (aggregate, emit): (A, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let progress = progress::restore(&mut setup.of)?;
        let watermark = if setup.is_event_time() { progress } else { i64::MIN };
        let results = Results::new(&setup.of.name, sides, next);
        let mut operator = Self {
            setup,
            windows,
            selector,
            aggregate,
            emit,
            panes: Vec::new(),
            spare: Vec::new(),
            progress,
            watermark,
            times: Vec::new(),
            results,
        };
        operator.restore()?;
        operator.schedule();
        Ok(operator)
    }

    fn restore(&mut self) -> Result<(), TaskError> {
        let Self { setup, windows, aggregate, panes, spare, .. } = self;
        setup.of.take_entries(PANES, |key: Sel::Key, (start, accumulator): (i64, A::Accumulator)| {
            // Entries of windows of another size, from before the job was changed, may meet in one pane.
            let table = open(panes, spare, windows.pane(start));
            let merged = table.get_or_insert_with(&key, || aggregate.create_accumulator());
            aggregate.merge(merged, &accumulator);
        })
    }

    fn snapshot(&self) -> EntryBuffer {
        let mut entries = EntryBuffer::new::<Sel::Key, (i64, A::Accumulator)>();
        for (pane, table) in &self.panes {
            for (key, accumulator) in table.iter() {
                entries.push_with(key, |out| {
                    pane.start.encode(out);
                    accumulator.encode(out);
                });
            }
        }
        entries
    }

    /// Takes in records that all lie in one pane.
    #[inline(always)]
    fn take(&mut self, pane: Pane, records: impl Iterator<Item = T>) -> Result<(), TaskError> {
        let last = self.windows.last_of_windows(pane.start);
        if last.saturating_add(self.setup.allowed_lateness) <= self.progress {
            self.results.late(self.setup.late.as_ref(), records);
            return Ok(());
        }
        if self.windows.windows(pane.start).next().is_some_and(|first| first.max_timestamp() <= self.progress) {
            return records.into_iter().try_for_each(|record| self.take_late(pane, record));
        }
        let Self { panes, spare, selector, aggregate, .. } = self;
        let table = open(panes, spare, pane);
        records.for_each(|record| {
            let (_, accumulator, _) = table.entry(&record, selector, |_| aggregate.create_accumulator());
            aggregate.add(accumulator, record);
        });
        Ok(())
    }

    /// Takes in a record some of whose windows have fired, and fires those again that still may.
    #[cold]
    fn take_late(&mut self, pane: Pane, record: T) -> Result<(), TaskError> {
        let Self { setup, windows, selector, aggregate, emit, panes, spare, progress, watermark, results, .. } = self;
        let (key, accumulator, _) =
            open(panes, spare, pane).entry(&record, selector, |_| aggregate.create_accumulator());
        aggregate.add(accumulator, record);
        let key = key.clone();
        let over = progress.saturating_sub(setup.allowed_lateness);
        let fired = windows.windows_after(pane.start, over).take_while(|window| window.max_timestamp() <= *progress);
        for window in fired {
            let mut whole = aggregate.create_accumulator();
            for part in within(panes, &window).iter().filter_map(|(_, table)| table.get(&key)) {
                aggregate.merge(&mut whole, part);
            }
            let context = WindowContext { window, watermark: *watermark };
            results.emit(|out| emit(&key, &context, &whole, out))?;
        }
        Ok(())
    }

    /// Time has come to `progress`: fires the windows that have become complete, those that end first first, and forgets those
    /// that are over.
    fn advance(&mut self, progress: i64) -> Result<(), TaskError> {
        if progress <= self.progress {
            return Ok(());
        }
        for window in self.due(progress) {
            self.fire(window)?;
        }
        self.progress = progress;
        let Self { setup, windows, panes, spare, .. } = self;
        let is_over =
            |pane: &Pane| windows.last_of_windows(pane.start).saturating_add(setup.allowed_lateness) <= progress;
        let over = panes.partition_point(|(pane, _)| is_over(pane));
        for (_, mut table) in panes.drain(..over) {
            // One that has much more room than it needed would be walked and kept for nothing.
            if spare.len() < SPARE_TABLES && table.capacity() / 8 <= table.len() {
                table.clear();
                spare.push(table);
            }
        }
        Ok(())
    }

    /// Windows with records in them that have not fired and end up to `progress`.
    fn due(&self, progress: i64) -> Vec<TimeWindow> {
        let mut due: Vec<TimeWindow> = Vec::new();
        for (pane, _) in &self.panes {
            // Panes are in order, so windows of this one that were not met before end after those that were.
            let after = due.last().map_or(self.progress, TimeWindow::max_timestamp);
            let windows = self.windows.windows_after(pane.start, after);
            due.extend(windows.take_while(|window| window.max_timestamp() <= progress));
        }
        due
    }

    fn fire(&mut self, window: TimeWindow) -> Result<(), TaskError> {
        let Self { aggregate, emit, panes, spare, watermark, results, .. } = self;
        let context = WindowContext { window, watermark: *watermark };
        let parts = within(panes, &window);
        if let [(_, table)] = parts {
            return table.iter().try_for_each(|(key, whole)| results.emit(|out| emit(key, &context, whole, out)));
        }
        let mut merged = spare.pop().unwrap_or_default();
        for (_, table) in parts {
            for (key, part) in table.iter() {
                aggregate.merge(merged.get_or_insert_with(key, || aggregate.create_accumulator()), part);
            }
        }
        merged.iter().try_for_each(|(key, whole)| results.emit(|out| emit(key, &context, whole, out)))?;
        merged.clear();
        spare.push(merged);
        Ok(())
    }

    /// Has processing time come back when the next window is complete.
    fn schedule(&self) {
        if self.setup.is_event_time() {
            return;
        }
        let first = |pane: &Pane| self.windows.windows_after(pane.start, self.progress).next();
        let next = self.panes.iter().filter_map(|(pane, _)| Some(first(pane)?.max_timestamp()));
        if let Some(last) = next.min() {
            self.setup.clock.wake_at(last.saturating_add(1));
        }
    }
}

/// The table of a pane, made when there is none.
fn open<'a, K: perennial_types::Key, V: perennial_types::Record>(
    panes: &'a mut Vec<Open<K, V>>,
    spare: &mut Vec<KeyedTable<K, V>>,
    pane: Pane,
) -> &'a mut KeyedTable<K, V> {
    let at = panes.partition_point(|(other, _)| other.start < pane.start);
    if panes.get(at).is_none_or(|(other, _)| *other != pane) {
        panes.insert(at, (pane, spare.pop().unwrap_or_default()));
    }
    #[expect(clippy::indexing_slicing, reason = "found or inserted at this index")]
    &mut panes[at].1
}

/// The panes of a window that have records in them.
fn within<'a, X>(panes: &'a [(Pane, X)], window: &TimeWindow) -> &'a [(Pane, X)] {
    let from = panes.partition_point(|(pane, _)| pane.start < window.start);
    let to = panes.partition_point(|(pane, _)| pane.start <= window.max_timestamp());
    panes.get(from..to).unwrap_or_default()
}

impl<T, Sel, A, E, U> Output<T> for PaneOperator<T, Sel, A, E, U>
where
    T: Record,
    Sel: KeySelector<T>,
    A: AggregateFunction<T>,
    U: Send,
    E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let mut times = mem::take(&mut self.times);
        self.setup.times(batch, self.progress, &mut times);
        let open = self.panes.len();
        let mut records = batch.drain(..);
        let mut rest = times.as_slice();
        // Records come nearly in order: whole batches lie in one pane.
        while let Some(first) = rest.first() {
            let pane = self.windows.pane(*first);
            let run = rest.iter().position(|time| !pane.contains(*time)).unwrap_or(rest.len());
            rest = rest.get(run..).unwrap_or_default();
            if self.windows.windows(pane.start).next().is_none() {
                // Between two windows.
                records.by_ref().take(run).for_each(drop);
            } else {
                self.take(pane, records.by_ref().take(run))?;
            }
        }
        drop(records);
        self.times = times;
        if self.panes.len() != open {
            self.schedule();
        }
        self.results.flush()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        if let ChainEvent::Watermark(time) = event {
            self.watermark = *time;
        }
        if let Some(progress) = self.setup.progress(event) {
            self.advance(progress)?;
            self.results.flush()?;
        }
        match event {
            ChainEvent::Time(_) => self.schedule(),
            ChainEvent::Snapshot(writer) => {
                writer.entries(&self.setup.of, PANES, self.snapshot());
                progress::save(writer, &self.setup.of, self.progress);
            }
            _ => {}
        }
        self.results.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.results.finish()
    }
}
