//! Windows over keyed streams.
//!
//! Two operators share the work. [`PaneOperator`] is for windows whose bounds do not depend on the records (tumbling and sliding)
//! and that fire when time has passed them: one table per [pane](Panes), the pane looked for once per run of records, firing a walk
//! over a table. [`WindowOperator`] is for everything else: sessions, global windows, triggers. It keeps, per key, the windows that
//! are open and what their [`Trigger`] remembers. Both get event time by watermarks or processing time by the task's
//! clock, and both keep in their snapshots how far that time was: a window that has fired does not fire again after a restore, and a
//! record that was late stays late.

mod aggregate;
mod geometry;
mod panes;
mod progress;
mod results;
#[cfg(test)]
mod tests;

pub use aggregate::{AggregateFunction, AllOf, CountOf, FieldOf, ReduceWith};
pub use geometry::{Panes, TimeWindow};
pub use panes::PaneOperator;
pub use results::{WindowContext, WindowSetup, WindowTime};
