//! Windows over keyed streams.
//!
//! Two operators share the work. [`PaneOperator`] is for windows whose bounds do not depend on the records (tumbling and sliding)
//! and that fire when time has passed them: one table per [pane](Panes), the pane looked for once per run of records, firing a walk
//! over a table. [`WindowOperator`] is for everything else: sessions, global windows, triggers. It keeps, per key, the windows that
//! are open and what their [`Trigger`] remembers. Both get event time by watermarks or processing time by the task's
//! clock, and both keep in their snapshots how far that time was: a window that has fired does not fire again after a restore, and a
//! record that was late stays late.
//!
//! Joins read two streams as one, of [`Sided`] records: a window join is a window over them, [`IntervalJoin`] is an operator of its own.

mod aggregate;
mod geometry;
mod interval_join;
mod operator;
mod panes;
mod progress;
mod results;
mod sided;
#[cfg(test)]
mod tests;
mod trigger;

pub use aggregate::{AggregateFunction, AllOf, CountOf, FieldOf, ReduceWith};
pub use geometry::{Panes, TimeWindow};
pub use interval_join::{IntervalJoin, IntervalJoinSetup, JoinContext};
pub use operator::{WindowOperator, Windows};
pub use panes::PaneOperator;
pub use results::{WindowContext, WindowSetup};
pub use sided::{BothSides, Side, Sided, WithTimes};
pub use trigger::{
    ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, EventTimeTrigger, NeverTrigger,
    ProcessingTimeTrigger, PurgingTrigger, Trigger, TriggerContext, TriggerResult,
};
