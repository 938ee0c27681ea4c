//! Process functions with timers.

use std::sync::Arc;

use perennial_runtime::operators::{KeyedInput, KeyedProcess, KeyedProcessFunction};
use perennial_runtime::{KeySelector, Timestamps};
use perennial_types::Record;

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
        let (selector, timestamps) = self.clone_parts();
        self.stream().transform("KeyedProcess", move |context, outputs| {
            let (of, clock, (next, sides)) = (context.state()?, context.builder.clock(), outputs.split()?);
            let input = KeyedInput::new(selector.clone(), timestamps.clone());
            Ok(erased::<T>(KeyedProcess::new(of, clock, input, function.clone(), (next, sides))?))
        })
    }

    /// What an operator reads the stream with.
    pub(super) fn clone_parts(&self) -> (Sel, Option<Arc<dyn Timestamps<T>>>) {
        (self.selector().clone(), self.stream().timestamps().cloned())
    }
}
