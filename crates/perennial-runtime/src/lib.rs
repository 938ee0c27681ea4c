//! Runs tasks: chains of operators, fed by exchanges or sources, on slot threads.
//!
//! The boundary to the library `perennial` is small. A job is an [`ExecutableJob`]: its JobGraph and, per vertex, a
//! [`VertexFactory`] that builds a subtask's chain from the user's code. A chain is a tree of [`Output`]s, each an operator
//! that owns what comes after it; records move through it in batches, the user's closures are monomorphised inside the
//! operators and the virtual call is per batch (DATAPLANE §2.1 has the measurements).

pub mod operator;
pub mod operators;
pub mod vertex;
pub mod windows;

pub mod executor;
pub mod local;

mod align;
mod builder;
mod clock;
mod event_time;
mod head;
mod keyed;
mod lineage;
mod mailbox;
mod panics;
mod presence;
mod settings;
mod slot;
mod snapshot;
mod task;
#[cfg(test)]
mod tests;
mod timers;
mod upload;
mod valve;
mod wiring;

pub use builder::TaskBuilder;
pub use clock::TaskClock;
pub use event_time::{AssignWatermarks, Timestamps, WatermarkSettings};
pub use head::{InputHead, SourceHead, TwoInputHead, TwoInputs};
pub use keyed::{HashBy, KeyedFold};
pub use operator::{ChainEvent, Output, SourceReader, SourceStatus, Sweeping, TaskError, UserError};
pub use perennial_exchange::{Counters, KeyHash, Payload, Route};
pub use perennial_state::{ByOwned, ByRef, KeySelector};
pub use snapshot::{Durable, OperatorState, Restored, SnapshotWriter, StateContext};
pub use timers::{TimeDomain, Timer, Timers};
pub use vertex::{ExecutableJob, Head, TaskContext, VertexFactory};
