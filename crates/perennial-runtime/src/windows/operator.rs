//! Windows of any kind: sessions, global windows, and whatever has a trigger of its own.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

use perennial_state::{KeySelector, KeyedTable};
use perennial_types::{DecodeError, Record};

use super::geometry::{Panes, TimeWindow};
use super::results::{Results, WindowContext, WindowSetup};
use super::trigger::{Both, Domain, Timers, Trigger, TriggerContext, TriggerResult};
use super::{AggregateFunction, progress};
use crate::operators::{Collector, SideOutputs};
use crate::{ChainEvent, Output, TaskError, UserError};

/// Name of the state that holds the open windows of each key.
const WINDOWS: &str = "windows";

/// Which windows a record is in.
pub enum Windows<T> {
    /// Windows whose bounds are the same for all keys.
    Aligned(Panes),
    /// Records of a key with less than so many ms between them are one session. The function is asked for each record.
    Sessions(Arc<dyn Fn(&T) -> i64 + Send + Sync>),
    /// All records of a key are in one.
    Global,
}

impl<T> Clone for Windows<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Aligned(panes) => Self::Aligned(*panes),
            Self::Sessions(gap) => Self::Sessions(Arc::clone(gap)),
            Self::Global => Self::Global,
        }
    }
}

/// One window of one key.
#[derive(Clone)]
struct Open<A, S> {
    window: TimeWindow,
    /// Nothing when it has been purged.
    contents: Option<A>,
    trigger: S,
    timers: Timers,
}

/// The windows of one key.
#[derive(Clone)]
struct KeyWindows<A, S> {
    open: Vec<Open<A, S>>,
    /// When the operator looks at this key next, in event and in processing time; `i64::MAX` when it does not. Follows from the
    /// windows, and is no part of a snapshot.
    looks: Both<i64>,
}

/// No time to look at a key.
const NEVER: Both<i64> = Both { event: i64::MAX, processing: i64::MAX };

impl<A, S> Default for KeyWindows<A, S> {
    fn default() -> Self {
        Self { open: Vec::new(), looks: NEVER }
    }
}

impl<A: Record, S: Record> Record for KeyWindows<A, S> {
    const FIXED_BYTES: Option<usize> = None;

    fn encode(&self, out: &mut Vec<u8>) {
        (self.open.len() as u32).encode(out);
        for Open { window, contents, trigger, timers } in &self.open {
            window.encode(out);
            contents.encode(out);
            trigger.encode(out);
            timers.event.encode(out);
            timers.processing.encode(out);
        }
    }

    fn decode(input: &mut &[u8]) -> Result<Self, DecodeError> {
        let mut open = Vec::new();
        for _ in 0..u32::decode(input)? {
            let (window, contents, trigger) = (Record::decode(input)?, Record::decode(input)?, Record::decode(input)?);
            let timers = Timers { event: Record::decode(input)?, processing: Record::decode(input)? };
            open.push(Open { window, contents, trigger, timers });
        }
        Ok(Self { open, ..Self::default() })
    }
}

/// Keys by the time they are looked at.
type Looks<K> = BTreeMap<i64, Vec<K>>;

/// Keeps the open windows of each key, and fires them when their trigger says so.
///
/// Nothing looks at all keys when time goes on: for each key it is known when to look at it next, and a window that only grows, as
/// sessions do, costs nothing until then.
pub struct WindowOperator<T, Sel: KeySelector<T>, A: AggregateFunction<T>, Tr: Trigger<T>, E, U> {
    windows: Windows<T>,
    selector: Sel,
    table: KeyedTable<Sel::Key, KeyWindows<A::Accumulator, Tr::State>>,
    /// Keys by the times when they are looked at, in event and in processing time. Some have been put off since.
    looks: Both<Looks<Sel::Key>>,
    times: Vec<i64>,
    core: Core<T, A, Tr, E, U>,
}

/// The part that does not know where windows lie.
struct Core<T, A, Tr, E, U> {
    setup: WindowSetup<T>,
    aggregate: A,
    trigger: Tr,
    emit: E,
    watermark: i64,
    now_ms: i64,
    results: Results<U>,
}

impl<T, Sel, A, Tr, E, U> WindowOperator<T, Sel, A, Tr, E, U>
where
    T: Record,
    Sel: KeySelector<T>,
    A: AggregateFunction<T>,
    Tr: Trigger<T>,
    U: Send,
    E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
{
    /// The operator in front of `next` and its side outputs. `emit` is called for each window and key that fires.
    pub fn new(
        mut setup: WindowSetup<T>,
        windows: Windows<T>,
        selector: Sel,
        (aggregate, trigger, emit): (A, Tr, E),
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let progress = progress::restore(&mut setup.of)?;
        let watermark = if setup.is_event_time() { progress } else { i64::MIN };
        let (now_ms, results) = (setup.clock.now_ms(), Results::new(&setup.of.name, sides, next));
        let mut core = Core { setup, aggregate, trigger, emit, watermark, now_ms, results };
        let (mut table, mut looks) = (KeyedTable::new(), Both::default());
        let mut entries = Vec::new();
        core.setup.of.take_entries(WINDOWS, |key: Sel::Key, of_key| entries.push((key, of_key)))?;
        for (key, mut of_key) in entries {
            core.look_again(&key, &mut of_key, &mut looks);
            table.insert(key, of_key);
        }
        let operator = Self { windows, selector, table, looks, times: Vec::new(), core };
        operator.schedule();
        Ok(operator)
    }

    fn take(&mut self, record: T, time: i64) -> Result<(), TaskError> {
        let Self { windows, selector, table, looks, core, .. } = self;
        let (key, of_key, _) = table.entry(&record, selector, |_| KeyWindows::default());
        let taken = match windows {
            Windows::Global => core.add(key, of_key, TimeWindow::GLOBAL, record, time),
            Windows::Sessions(gap) => {
                let end = time.saturating_add(gap(&record).max(1));
                core.add_to_session(key, of_key, TimeWindow { start: time, end }, record, time)
            }
            Windows::Aligned(panes) => {
                let mut open = panes.windows(time).filter(|window| !core.is_over(window)).collect::<Vec<_>>();
                match open.pop() {
                    Some(last) => open
                        .into_iter()
                        .try_for_each(|window| core.add(key, of_key, window, record.clone(), time))
                        .and_then(|()| core.add(key, of_key, last, record, time)),
                    None if panes.windows(time).next().is_none() => Ok(()),
                    None => {
                        core.late(record);
                        Ok(())
                    }
                }
            }
        };
        core.look_again(key, of_key, looks);
        if of_key.open.is_empty() {
            let key = key.clone();
            table.remove(&key);
        }
        taken
    }

    /// Time has come to `until`: asks the triggers of all timers up to there, and drops the windows that are over.
    fn advance(&mut self, domain: Domain, until: i64) -> Result<(), TaskError> {
        let Self { table, looks, core, .. } = self;
        while let Some((time, keys)) = first_until(looks.of(domain), until) {
            for key in keys {
                let Some(of_key) = table.get_mut(&key) else { continue };
                if *of_key.looks.of(domain) != time {
                    continue;
                }
                *of_key.looks.of(domain) = i64::MAX;
                core.fire_timers(&key, of_key, domain, time)?;
                core.look_again(&key, of_key, looks);
                if of_key.open.is_empty() {
                    table.remove(&key);
                }
            }
        }
        Ok(())
    }

    fn schedule(&self) {
        if let Some((time, _)) = self.looks.processing.first_key_value() {
            self.core.setup.clock.wake_at(*time);
        }
    }
}

/// Takes the first entry if it is not after `until`. What is at `i64::MAX` is at the end of the input.
fn first_until<K>(looks: &mut BTreeMap<i64, Vec<K>>, until: i64) -> Option<(i64, Vec<K>)> {
    let entry = looks.first_entry()?;
    (*entry.key() <= until).then(|| entry.remove_entry())
}

impl<T, A, Tr, E, U> Core<T, A, Tr, E, U>
where
    T: Record,
    A: AggregateFunction<T>,
    Tr: Trigger<T>,
    U: Send,
{
    /// When a window is dropped, in the time it is of.
    fn end_of(&self, window: &TimeWindow) -> i64 {
        if self.setup.is_event_time() {
            window.max_timestamp().saturating_add(self.setup.allowed_lateness)
        } else {
            window.end
        }
    }

    /// Whether a window takes no more records.
    fn is_over(&self, window: &TimeWindow) -> bool {
        self.setup.is_event_time() && self.end_of(window) <= self.watermark
    }

    fn late(&mut self, record: T) {
        self.results.late(self.setup.late.as_ref(), std::iter::once(record));
    }

    /// Adds a record to a window that is not over.
    fn add<K>(
        &mut self,
        key: &K,
        of_key: &mut KeyWindows<A::Accumulator, Tr::State>,
        window: TimeWindow,
        record: T,
        time: i64,
    ) -> Result<(), TaskError>
    where
        E: FnMut(&K, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
    {
        let at = of_key.open.iter().position(|open| open.window == window).unwrap_or_else(|| {
            let (contents, trigger, timers) = (None, Tr::State::default(), Timers::default());
            of_key.open.push(Open { window, contents, trigger, timers });
            of_key.open.len() - 1
        });
        let Some(open) = of_key.open.get_mut(at) else { return Ok(()) };
        let mut context = TriggerContext { watermark: self.watermark, now_ms: self.now_ms, timers: &mut open.timers };
        let result = self.trigger.on_element(&record, time, &window, &mut open.trigger, &mut context);
        self.aggregate.add(open.contents.get_or_insert_with(|| self.aggregate.create_accumulator()), record);
        self.obey(result, key, open)
    }

    /// Adds a record to the session around it, which may join several.
    fn add_to_session<K>(
        &mut self,
        key: &K,
        of_key: &mut KeyWindows<A::Accumulator, Tr::State>,
        window: TimeWindow,
        record: T,
        time: i64,
    ) -> Result<(), TaskError>
    where
        E: FnMut(&K, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
    {
        let touched = of_key.open.iter().filter(|open| open.window.intersects(&window));
        let whole = touched.fold(window, |whole, open| whole.cover(&open.window));
        if self.is_over(&whole) {
            self.late(record);
            return Ok(());
        }
        if !of_key.open.iter().any(|open| open.window == whole) {
            self.join_sessions(&mut of_key.open, whole);
        }
        self.add(key, of_key, whole, record, time)
    }

    /// Makes one session of those that touch `whole`, if there are any.
    fn join_sessions(&mut self, open: &mut Vec<Open<A::Accumulator, Tr::State>>, whole: TimeWindow) {
        let touches = |open: &Open<A::Accumulator, Tr::State>| open.window.intersects(&whole);
        let Some(at) = open.iter().position(touches) else { return };
        let mut joined = open.swap_remove(at);
        joined.window = whole;
        joined.timers.event.clear();
        joined.timers.processing.clear();
        loop {
            let part = open.iter().position(touches).map(|at| open.swap_remove(at));
            let is_last = part.is_none();
            let (contents, trigger) = part.map(|part| (part.contents, part.trigger)).unwrap_or_default();
            match (&mut joined.contents, contents) {
                (Some(into), Some(part)) => self.aggregate.merge(into, &part),
                (into @ None, part) => *into = part,
                (Some(_), None) => {}
            }
            let mut context =
                TriggerContext { watermark: self.watermark, now_ms: self.now_ms, timers: &mut joined.timers };
            self.trigger.on_merge(&whole, &mut joined.trigger, trigger, &mut context);
            if is_last {
                open.push(joined);
                return;
            }
        }
    }

    /// Does what a trigger said.
    fn obey<K>(
        &mut self,
        result: TriggerResult,
        key: &K,
        open: &mut Open<A::Accumulator, Tr::State>,
    ) -> Result<(), TaskError>
    where
        E: FnMut(&K, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
    {
        if result.fires()
            && let Some(contents) = &open.contents
        {
            let context = WindowContext { window: open.window, watermark: self.watermark };
            self.results.emit(|out| (self.emit)(key, &context, contents, out))?;
        }
        if result.purges() {
            open.contents = None;
        }
        Ok(())
    }

    /// Asks the triggers of a key whose timers are due, and drops what is over.
    fn fire_timers<K>(
        &mut self,
        key: &K,
        of_key: &mut KeyWindows<A::Accumulator, Tr::State>,
        domain: Domain,
        time: i64,
    ) -> Result<(), TaskError>
    where
        E: FnMut(&K, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError>,
    {
        for open in &mut of_key.open {
            let timers = open.timers.of(domain);
            let due = timers.drain(..timers.partition_point(|timer| *timer <= time)).collect::<Vec<_>>();
            for timer in due {
                let mut context =
                    TriggerContext { watermark: self.watermark, now_ms: self.now_ms, timers: &mut open.timers };
                let (window, state) = (open.window, &mut open.trigger);
                let result = match domain {
                    Domain::Event => self.trigger.on_event_time(timer, &window, state, &mut context),
                    Domain::Processing => self.trigger.on_processing_time(timer, &window, state, &mut context),
                };
                self.obey(result, key, open)?;
            }
        }
        if self.setup.is_event_time() == (domain == Domain::Event) {
            of_key.open.retain(|open| self.end_of(&open.window) > time);
        }
        Ok(())
    }

    /// Sees to it that a key is looked at when its next timer is due or its next window is over.
    fn look_again<K: Clone>(
        &self,
        key: &K,
        of_key: &mut KeyWindows<A::Accumulator, Tr::State>,
        looks: &mut Both<Looks<K>>,
    ) {
        let mut next = NEVER;
        for Open { window, timers, .. } in &of_key.open {
            let Both { event, processing } = &mut next;
            *event = timers.event.first().copied().unwrap_or(i64::MAX).min(*event);
            *processing = timers.processing.first().copied().unwrap_or(i64::MAX).min(*processing);
            let end = if self.setup.is_event_time() { event } else { processing };
            *end = self.end_of(window).min(*end);
        }
        for domain in [Domain::Event, Domain::Processing] {
            let (next, look) = (*next.of(domain), of_key.looks.of(domain));
            if next < *look {
                *look = next;
                looks.of(domain).entry(next).or_default().push(key.clone());
            }
        }
    }
}

impl<T, Sel, A, Tr, E, U> Output<T> for WindowOperator<T, Sel, A, Tr, E, U>
where
    T: Record,
    Sel: KeySelector<T>,
    A: AggregateFunction<T>,
    Tr: Trigger<T>,
    U: Send,
    E: FnMut(&Sel::Key, &WindowContext, &A::Accumulator, &mut Collector<'_, U>) -> Result<(), UserError> + Send,
{
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        self.core.now_ms = self.core.now_ms.max(self.core.setup.clock.now_ms());
        let mut times = mem::take(&mut self.times);
        self.core.setup.times(batch, self.core.now_ms.saturating_sub(1), &mut times);
        for (record, time) in batch.drain(..).zip(times.iter()) {
            self.take(record, *time)?;
        }
        self.times = times;
        self.schedule();
        self.core.results.flush()
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        event.keyed(&self.core.setup.of, WINDOWS, &mut self.table);
        match event {
            ChainEvent::Watermark(time) if *time > self.core.watermark => {
                self.core.watermark = *time;
                self.advance(Domain::Event, *time)?;
                if *time == i64::MAX && !self.core.setup.is_event_time() {
                    self.core.now_ms = i64::MAX;
                    self.advance(Domain::Processing, i64::MAX)?;
                }
                self.core.results.flush()?;
            }
            ChainEvent::Time(now_ms) => {
                self.core.now_ms = self.core.now_ms.max(*now_ms);
                self.advance(Domain::Processing, self.core.now_ms)?;
                self.schedule();
                self.core.results.flush()?;
            }
            ChainEvent::Snapshot(writer) => progress::save(writer, &self.core.setup.of, self.core.watermark),
            _ => {}
        }
        self.core.results.control(event)
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        self.core.results.finish()
    }
}
