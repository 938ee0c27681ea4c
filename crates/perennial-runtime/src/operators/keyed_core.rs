//! What operators with keyed state and timers have in common, be it with one input or two.

use perennial_state::{KeySelector, KeyedTable};
use perennial_types::{Key, Record};

use super::collector::{Collector, SideOutputs};
use super::flat_map::FLUSH_RECORDS;
use super::keyed_context::{KeyContext, KeyState};
use super::ttl::{StateTtlConfig, Ttl};
use crate::timers::{TimeDomain, Timer, Timers};
use crate::{ChainEvent, Output, StateContext, TaskClock, TaskError, UserError};

/// The state under which the values of the keys lie.
const STATE: &str = "state";

/// State, timers and outputs of an operator.
pub(super) struct KeyedCore<K, S, U> {
    of: StateContext,
    table: KeyedTable<K, S>,
    timers: Timers<K>,
    ttl: Option<Ttl<K>>,
    clock: TaskClock,
    watermark: i64,
    results: Vec<U>,
    sides: SideOutputs,
    next: Box<dyn Output<U>>,
}

impl<K: Key, S: Record + Default, U> KeyedCore<K, S, U> {
    /// With what the checkpoint has of it.
    pub(super) fn new(
        mut of: StateContext,
        clock: TaskClock,
        ttl: Option<StateTtlConfig>,
        sides: SideOutputs,
        next: Box<dyn Output<U>>,
    ) -> Result<Self, TaskError> {
        let (table, timers) = (of.take_table(STATE)?, Timers::restore(&mut of)?);
        let ttl = ttl.map(|config| Ttl::restore(&mut of, config, clock.clone(), &table)).transpose()?;
        let (watermark, results) = (i64::MIN, Vec::new());
        let mut core = Self { of, table, timers, ttl, clock, watermark, results, sides, next };
        core.ask_for_time();
        Ok(core)
    }

    /// A batch begins.
    pub(super) fn begin(&mut self) {
        if let Some(ttl) = &mut self.ttl {
            ttl.begin();
        }
    }

    /// Calls a function with a record and what belongs to its key.
    #[inline(always)]
    pub(super) fn record<T, Sel: KeySelector<T, Key = K>>(
        &mut self,
        record: T,
        selector: &Sel,
        timestamp: Option<i64>,
        call: impl FnOnce(&mut KeyContext<'_, K>, T, &mut KeyState<'_, S>, &mut Collector<'_, U>) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        let Self { of, table, timers, ttl, clock, watermark, results, sides, next } = self;
        let (key, value, mut is_new) = table.entry(&record, selector, |_| S::default());
        if ttl.as_ref().is_some_and(|ttl| ttl.is_expired(key)) {
            *value = S::default();
            is_new = true;
        }
        let mut state = KeyState::new(value);
        let mut context = KeyContext { key, timestamp, watermark: *watermark, clock, timers };
        call(&mut context, record, &mut state, &mut Collector::new(results, sides))
            .map_err(|error| TaskError::user(&of.name, error))?;
        if state.is_absent(is_new) {
            let key = key.clone();
            table.remove(&key);
            ttl.iter_mut().for_each(|ttl| ttl.is_gone(&key));
        } else if let Some(ttl) = ttl {
            ttl.was_used(key, state.is_written());
        }
        if results.len() >= FLUSH_RECORDS { next.push(results) } else { Ok(()) }
    }

    /// Whose state it is.
    pub(super) fn of(&self) -> &StateContext {
        &self.of
    }

    /// Calls a function that is about no key.
    pub(super) fn collect(
        &mut self,
        call: impl FnOnce(&mut Collector<'_, U>) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        let Self { of, results, sides, next, .. } = self;
        call(&mut Collector::new(results, sides)).map_err(|error| TaskError::user(&of.name, error))?;
        if results.len() >= FLUSH_RECORDS { next.push(results) } else { Ok(()) }
    }

    /// Fires what is due, in order; that may register more which is.
    fn fire(
        &mut self,
        domain: TimeDomain,
        until: i64,
        mut call: impl FnMut(
            Timer,
            &mut KeyContext<'_, K>,
            &mut KeyState<'_, S>,
            &mut Collector<'_, U>,
        ) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        self.begin();
        let Self { of, table, timers, ttl, clock, watermark, results, sides, next } = self;
        while let Some((timer, key)) = timers.pop(domain, until) {
            let mut is_new = false;
            let value = table.get_or_insert_with(&key, || {
                is_new = true;
                S::default()
            });
            if ttl.as_ref().is_some_and(|ttl| ttl.is_expired(&key)) {
                *value = S::default();
                is_new = true;
            }
            let mut state = KeyState::new(value);
            let timestamp = (domain == TimeDomain::EventTime).then_some(timer.timestamp);
            let mut context = KeyContext { key: &key, timestamp, watermark: *watermark, clock, timers };
            call(timer, &mut context, &mut state, &mut Collector::new(results, sides))
                .map_err(|error| TaskError::user(&of.name, error))?;
            if state.is_absent(is_new) {
                table.remove(&key);
                ttl.iter_mut().for_each(|ttl| ttl.is_gone(&key));
            } else if let Some(ttl) = ttl {
                ttl.was_used(&key, state.is_written());
            }
            if results.len() >= FLUSH_RECORDS {
                next.push(results)?;
            }
        }
        self.flush()
    }

    /// A batch has ended: passes on what was emitted.
    pub(super) fn end(&mut self) -> Result<(), TaskError> {
        if let Some(ttl) = &mut self.ttl {
            ttl.end(&mut self.table);
        }
        self.flush()
    }

    fn flush(&mut self) -> Result<(), TaskError> {
        if !self.results.is_empty() {
            self.next.push(&mut self.results)?;
        }
        self.sides.flush(&self.of.name)
    }

    /// An event of the chain: fires timers first, with `on_timer`, then passes it on.
    pub(super) fn control(
        &mut self,
        event: &mut ChainEvent<'_>,
        on_timer: impl FnMut(
            Timer,
            &mut KeyContext<'_, K>,
            &mut KeyState<'_, S>,
            &mut Collector<'_, U>,
        ) -> Result<(), UserError>,
    ) -> Result<(), TaskError> {
        match event {
            ChainEvent::Watermark(time) => {
                self.watermark = *time;
                self.fire(TimeDomain::EventTime, *time, on_timer)?;
            }
            ChainEvent::Time(now_ms) => {
                self.fire(TimeDomain::ProcessingTime, *now_ms, on_timer)?;
                self.ask_for_time();
            }
            _ => {}
        }
        if let Some(ttl) = &mut self.ttl {
            ttl.control(&self.of, event, &mut self.table);
        }
        event.keyed(&self.of, STATE, &mut self.table);
        self.timers.control(&self.of, event);
        self.sides.control(event)?;
        self.next.control(event)
    }

    fn ask_for_time(&mut self) {
        if let Some(first) = self.timers.first(TimeDomain::ProcessingTime) {
            self.clock.wake_at(first);
        }
    }

    /// The input has ended.
    pub(super) fn finish(&mut self) -> Result<(), TaskError> {
        self.sides.finish()?;
        self.next.finish()
    }
}
