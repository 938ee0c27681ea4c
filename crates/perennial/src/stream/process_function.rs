//! Process functions with timers.

use std::sync::Arc;

use perennial_runtime::operators::{
    Collector, KeyContext, KeyState, KeyedInput, KeyedProcess, KeyedProcessFunction, StateTtlConfig,
};
use perennial_runtime::{KeySelector, Timestamps, UserError};
use perennial_types::{Key, Record};

use super::{DataStream, KeyedStream};
use crate::graph::code::erased;

impl<T: Record, Sel: KeySelector<T> + Clone + Sync> KeyedStream<T, Sel> {
    /// Does anything with each record, the state of its key and timers of the key. The function is cloned for every subtask.
    ///
    /// ```
    /// # use perennial::prelude::*;
    /// /// Says when a sensor has been silent for a minute of event time.
    /// #[derive(Clone)]
    /// struct Silence;
    ///
    /// impl KeyedProcessFunction<u32, (u32, f64), ValueState<i64>, String> for Silence {
    ///     fn process_element(
    ///         &mut self,
    ///         ctx: &mut KeyContext<'_, u32>,
    ///         _reading: (u32, f64),
    ///         state: &mut KeyState<'_, ValueState<i64>>,
    ///         _out: &mut Collector<'_, String>,
    ///     ) -> Result<(), UserError> {
    ///         let time = ctx.timestamp().ok_or("the stream has no timestamps")?;
    ///         if let Some(before) = state.value() {
    ///             ctx.delete_event_time_timer(before + 60_000);
    ///         }
    ///         state.update(time);
    ///         ctx.register_event_time_timer(time + 60_000);
    ///         Ok(())
    ///     }
    ///
    ///     fn on_timer(
    ///         &mut self,
    ///         timer: Timer,
    ///         ctx: &mut KeyContext<'_, u32>,
    ///         state: &mut KeyState<'_, ValueState<i64>>,
    ///         out: &mut Collector<'_, String>,
    ///     ) -> Result<(), UserError> {
    ///         out.collect(format!("nothing of sensor {} for a minute at {}", ctx.key(), timer.timestamp));
    ///         state.clear();
    ///         Ok(())
    ///     }
    /// }
    ///
    /// # fn silent(readings: &DataStream<(u32, f64)>) -> DataStream<String> {
    /// readings.key_by(|reading| reading.0).process_with(Silence)
    /// # }
    /// ```
    pub fn process_with<S, U, F>(&self, function: F) -> DataStream<U>
    where
        S: Record + Default,
        U: Record,
        F: KeyedProcessFunction<Sel::Key, T, S, U> + Clone + Sync + 'static,
    {
        let ((selector, timestamps), ttl) = (self.clone_parts(), self.ttl());
        self.stream().transform("KeyedProcess", move |context, outputs| {
            let (of, clock, (next, sides)) = (context.state()?, context.builder.clock(), outputs.split()?);
            let input = KeyedInput::new(selector.clone(), timestamps.clone());
            Ok(erased::<T>(KeyedProcess::new((of, clock, ttl), input, function.clone(), (next, sides))?))
        })
    }

    /// Makes the state of the process function that follows be forgotten when it has not been used for some time, in processing
    /// time: `process` or `process_with`.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use perennial::prelude::*;
    /// # fn first_of_the_hour(visits: &DataStream<String>) -> DataStream<String> {
    /// let hour = StateTtlConfig::new(Duration::from_secs(3600));
    /// visits.key_by(String::clone).with_state_ttl(hour).process(|name, _, met: &mut ValueState<bool>, out| {
    ///     if met.value().is_none() {
    ///         out.collect(name.clone());
    ///         met.update(true);
    ///     }
    ///     Ok::<_, UserError>(())
    /// })
    /// # }
    /// ```
    pub fn with_state_ttl(&self, config: StateTtlConfig) -> Self {
        self.with_ttl(config)
    }

    /// What an operator reads the stream with.
    pub(super) fn clone_parts(&self) -> (Sel, Option<Arc<dyn Timestamps<T>>>) {
        (self.selector().clone(), self.stream().timestamps().cloned())
    }
}

/// A closure as a process function without timers. Whether it writes to the state is not known: it counts as if it did.
#[derive(Clone)]
pub(super) struct ByClosure<F>(pub(super) F);

impl<K, T, S, U, E, F> KeyedProcessFunction<K, T, S, U> for ByClosure<F>
where
    K: Key,
    E: Into<UserError>,
    F: FnMut(&K, T, &mut S, &mut Collector<'_, U>) -> Result<(), E> + Send,
{
    fn process_element(
        &mut self,
        ctx: &mut KeyContext<'_, K>,
        record: T,
        state: &mut KeyState<'_, S>,
        out: &mut Collector<'_, U>,
    ) -> Result<(), UserError> {
        (self.0)(ctx.key(), record, &mut *state, out).map_err(Into::into)
    }
}
