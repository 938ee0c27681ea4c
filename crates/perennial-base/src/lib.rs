//! How Perennial's processes live: their tasks, their logs, how they try again.
//!
//! Knows nothing about clusters or jobs. Start with [`TaskGroup`], which owns every background task of a component.

mod backoff;
mod task_group;
pub mod telemetry;

pub use backoff::Backoff;
pub use task_group::{OnError, TaskFailure, TaskGroup};
