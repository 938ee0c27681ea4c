//! When windows fire.

use std::time::Duration;

use perennial_types::Record;

use super::TimeWindow;

/// What becomes of a window now. Flink's `TriggerResult`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TriggerResult {
    /// Nothing.
    Continue,
    /// It emits its result and keeps its records.
    Fire,
    /// It forgets its records.
    Purge,
    /// It emits its result and forgets its records.
    FireAndPurge,
}

impl TriggerResult {
    pub(super) fn fires(self) -> bool {
        matches!(self, Self::Fire | Self::FireAndPurge)
    }

    pub(super) fn purges(self) -> bool {
        matches!(self, Self::Purge | Self::FireAndPurge)
    }
}

/// Says when a window fires: asked at each record and at each time it has set a timer for. Flink's `Trigger`.
///
/// What it remembers per key and window is its [`State`](Trigger::State), which goes with the window into checkpoints, as do its
/// timers.
pub trait Trigger<T>: Clone + Send + Sync + 'static {
    /// What it remembers of a window; a new window begins with the default.
    type State: Record + Default;

    /// A record of this time has been added.
    fn on_element(
        &self,
        record: &T,
        time: i64,
        window: &TimeWindow,
        state: &mut Self::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult;

    /// The watermark has reached the time of a timer.
    fn on_event_time(
        &self,
        time: i64,
        window: &TimeWindow,
        state: &mut Self::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult;

    /// The clock has reached the time of a timer.
    fn on_processing_time(
        &self,
        time: i64,
        window: &TimeWindow,
        state: &mut Self::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult;

    /// The window has grown to what `window` is now, by a record or by another window whose state is `other`: a default one when it
    /// just grew. All its timers are gone. Only sessions do that.
    fn on_merge(
        &self,
        window: &TimeWindow,
        state: &mut Self::State,
        other: Self::State,
        context: &mut TriggerContext<'_>,
    );
}

/// Which of the two times something is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Domain {
    Event,
    Processing,
}

/// Something in event time and the same in processing time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Both<X> {
    pub(super) event: X,
    pub(super) processing: X,
}

impl<X> Both<X> {
    pub(super) fn of(&mut self, domain: Domain) -> &mut X {
        match domain {
            Domain::Event => &mut self.event,
            Domain::Processing => &mut self.processing,
        }
    }
}

/// Times at which the trigger of a window is asked, in order.
pub(super) type Timers = Both<Vec<i64>>;

/// What a trigger knows and can ask for. Flink's `TriggerContext`.
pub struct TriggerContext<'a> {
    pub(super) watermark: i64,
    pub(super) now_ms: i64,
    pub(super) timers: &'a mut Timers,
}

impl TriggerContext<'_> {
    /// How far event time is, in ms since 1970; `i64::MIN` before the first watermark, `i64::MAX` at the end of the input.
    pub fn current_watermark(&self) -> i64 {
        self.watermark
    }

    /// How far processing time is, in ms since 1970; `i64::MAX` when windows of processing time fire at the end of the input.
    pub fn current_processing_time(&self) -> i64 {
        self.now_ms
    }

    /// Has [`Trigger::on_event_time`] called when the watermark reaches this time. Asked for twice it is called once.
    pub fn register_event_time_timer(&mut self, time: i64) {
        insert(&mut self.timers.event, time);
    }

    /// Has [`Trigger::on_processing_time`] called when the clock reaches this time. Asked for twice it is called once.
    pub fn register_processing_time_timer(&mut self, time: i64) {
        insert(&mut self.timers.processing, time);
    }

    /// Takes a timer back.
    pub fn delete_event_time_timer(&mut self, time: i64) {
        self.timers.event.retain(|timer| *timer != time);
    }

    /// Takes a timer back.
    pub fn delete_processing_time_timer(&mut self, time: i64) {
        self.timers.processing.retain(|timer| *timer != time);
    }
}

fn insert(timers: &mut Vec<i64>, time: i64) {
    if let Err(at) = timers.binary_search(&time) {
        timers.insert(at, time);
    }
}

/// Fires when the watermark passes the end of the window, and then with each late record. The trigger windows of event time have
/// by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct EventTimeTrigger;

impl<T> Trigger<T> for EventTimeTrigger {
    type State = ();

    fn on_element(
        &self,
        _: &T,
        _: i64,
        window: &TimeWindow,
        (): &mut (),
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if window.max_timestamp() <= context.watermark {
            return TriggerResult::Fire;
        }
        context.register_event_time_timer(window.max_timestamp());
        TriggerResult::Continue
    }

    fn on_event_time(&self, time: i64, window: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        if time == window.max_timestamp() { TriggerResult::Fire } else { TriggerResult::Continue }
    }

    fn on_processing_time(&self, _: i64, _: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(&self, window: &TimeWindow, (): &mut (), (): (), context: &mut TriggerContext<'_>) {
        // One that has ended already fires with the record that made it grow.
        if window.max_timestamp() > context.watermark {
            context.register_event_time_timer(window.max_timestamp());
        }
    }
}

/// Fires when the clock has reached the end of the window. The trigger windows of processing time have by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessingTimeTrigger;

impl<T> Trigger<T> for ProcessingTimeTrigger {
    type State = ();

    fn on_element(
        &self,
        _: &T,
        _: i64,
        window: &TimeWindow,
        (): &mut (),
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        context.register_processing_time_timer(window.end);
        TriggerResult::Continue
    }

    fn on_event_time(&self, _: i64, _: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_processing_time(
        &self,
        time: i64,
        window: &TimeWindow,
        (): &mut (),
        _: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if time == window.end { TriggerResult::Fire } else { TriggerResult::Continue }
    }

    fn on_merge(&self, window: &TimeWindow, (): &mut (), (): (), context: &mut TriggerContext<'_>) {
        context.register_processing_time_timer(window.end);
    }
}

/// Never fires. The trigger global windows have by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct NeverTrigger;

impl<T> Trigger<T> for NeverTrigger {
    type State = ();

    fn on_element(&self, _: &T, _: i64, _: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_event_time(&self, _: i64, _: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_processing_time(&self, _: i64, _: &TimeWindow, (): &mut (), _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(&self, _: &TimeWindow, (): &mut (), (): (), _: &mut TriggerContext<'_>) {}
}

/// Fires with every n-th record of a window, and not at its end. Flink's `CountTrigger`.
#[derive(Debug, Clone, Copy)]
pub struct CountTrigger {
    count: u64,
}

impl CountTrigger {
    /// Fires with every `count`-th record; zero counts as one.
    pub fn of(count: u64) -> Self {
        Self { count: count.max(1) }
    }
}

impl<T> Trigger<T> for CountTrigger {
    type State = u64;

    fn on_element(&self, _: &T, _: i64, _: &TimeWindow, seen: &mut u64, _: &mut TriggerContext<'_>) -> TriggerResult {
        *seen += 1;
        if *seen < self.count {
            return TriggerResult::Continue;
        }
        *seen = 0;
        TriggerResult::Fire
    }

    fn on_event_time(&self, _: i64, _: &TimeWindow, _: &mut u64, _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_processing_time(&self, _: i64, _: &TimeWindow, _: &mut u64, _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(&self, _: &TimeWindow, seen: &mut u64, other: u64, _: &mut TriggerContext<'_>) {
        *seen += other;
    }
}

/// Fires each time event time has gone on by an interval, and at the end of the window. Flink's `ContinuousEventTimeTrigger`.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousEventTimeTrigger {
    interval_ms: i64,
}

impl ContinuousEventTimeTrigger {
    /// Fires at whole multiples of this interval since 1970, which counts as at least a millisecond.
    pub fn of(interval: Duration) -> Self {
        Self { interval_ms: i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1) }
    }

    fn wait(&self, from: i64, window: &TimeWindow, next: &mut Option<i64>, context: &mut TriggerContext<'_>) {
        // At the end of the input there is nothing more to come, and no time after it.
        if context.watermark < i64::MAX {
            let until = (from - from.rem_euclid(self.interval_ms)).saturating_add(self.interval_ms);
            let until = until.min(window.max_timestamp());
            *next = Some(until);
            context.register_event_time_timer(until);
        }
    }
}

impl<T> Trigger<T> for ContinuousEventTimeTrigger {
    /// When it fires next, before the end of the window.
    type State = Option<i64>;

    fn on_element(
        &self,
        record: &T,
        time: i64,
        window: &TimeWindow,
        next: &mut Option<i64>,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if next.is_none() {
            self.wait(time, window, next, context);
        }
        EventTimeTrigger.on_element(record, time, window, &mut (), context)
    }

    fn on_event_time(
        &self,
        time: i64,
        window: &TimeWindow,
        next: &mut Option<i64>,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if time == window.max_timestamp() {
            return TriggerResult::Fire;
        }
        if *next != Some(time) {
            return TriggerResult::Continue;
        }
        self.wait(time, window, next, context);
        TriggerResult::Fire
    }

    fn on_processing_time(
        &self,
        _: i64,
        _: &TimeWindow,
        _: &mut Option<i64>,
        _: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_merge(
        &self,
        window: &TimeWindow,
        next: &mut Option<i64>,
        other: Option<i64>,
        context: &mut TriggerContext<'_>,
    ) {
        *next = [*next, other].into_iter().flatten().min();
        if let Some(next) = next {
            context.register_event_time_timer(*next);
        }
        <EventTimeTrigger as Trigger<T>>::on_merge(&EventTimeTrigger, window, &mut (), (), context);
    }
}

/// Fires each time the clock has gone on by an interval. Flink's `ContinuousProcessingTimeTrigger`.
#[derive(Debug, Clone, Copy)]
pub struct ContinuousProcessingTimeTrigger {
    interval_ms: i64,
}

impl ContinuousProcessingTimeTrigger {
    /// Fires at whole multiples of this interval since 1970, which counts as at least a millisecond.
    pub fn of(interval: Duration) -> Self {
        Self { interval_ms: i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1) }
    }

    fn wait(&self, next: &mut Option<i64>, context: &mut TriggerContext<'_>) {
        let now = context.now_ms;
        // At the end of the input there is no time after it.
        if now < i64::MAX {
            let until = (now - now.rem_euclid(self.interval_ms)).saturating_add(self.interval_ms);
            *next = Some(until);
            context.register_processing_time_timer(until);
        }
    }
}

impl<T> Trigger<T> for ContinuousProcessingTimeTrigger {
    /// When it fires next.
    type State = Option<i64>;

    fn on_element(
        &self,
        _: &T,
        _: i64,
        _: &TimeWindow,
        next: &mut Option<i64>,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if next.is_none() {
            self.wait(next, context);
        }
        TriggerResult::Continue
    }

    fn on_event_time(&self, _: i64, _: &TimeWindow, _: &mut Option<i64>, _: &mut TriggerContext<'_>) -> TriggerResult {
        TriggerResult::Continue
    }

    fn on_processing_time(
        &self,
        time: i64,
        _: &TimeWindow,
        next: &mut Option<i64>,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        if *next != Some(time) {
            return TriggerResult::Continue;
        }
        self.wait(next, context);
        TriggerResult::Fire
    }

    fn on_merge(&self, _: &TimeWindow, next: &mut Option<i64>, other: Option<i64>, context: &mut TriggerContext<'_>) {
        *next = [*next, other].into_iter().flatten().min();
        if let Some(next) = next {
            context.register_processing_time_timer(*next);
        }
    }
}

/// Fires as another trigger does, and has the window forget its records each time. Flink's `PurgingTrigger`.
#[derive(Debug, Clone)]
pub struct PurgingTrigger<Tr> {
    inner: Tr,
}

impl<Tr> PurgingTrigger<Tr> {
    /// Around this trigger.
    pub fn of(inner: Tr) -> Self {
        Self { inner }
    }
}

fn purging(result: TriggerResult) -> TriggerResult {
    if result == TriggerResult::Fire { TriggerResult::FireAndPurge } else { result }
}

impl<T, Tr: Trigger<T>> Trigger<T> for PurgingTrigger<Tr> {
    type State = Tr::State;

    fn on_element(
        &self,
        record: &T,
        time: i64,
        window: &TimeWindow,
        state: &mut Tr::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        purging(self.inner.on_element(record, time, window, state, context))
    }

    fn on_event_time(
        &self,
        time: i64,
        window: &TimeWindow,
        state: &mut Tr::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        purging(self.inner.on_event_time(time, window, state, context))
    }

    fn on_processing_time(
        &self,
        time: i64,
        window: &TimeWindow,
        state: &mut Tr::State,
        context: &mut TriggerContext<'_>,
    ) -> TriggerResult {
        purging(self.inner.on_processing_time(time, window, state, context))
    }

    fn on_merge(&self, window: &TimeWindow, state: &mut Tr::State, other: Tr::State, context: &mut TriggerContext<'_>) {
        self.inner.on_merge(window, state, other, context);
    }
}
