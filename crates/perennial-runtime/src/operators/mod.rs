//! The operators of the library: what stands between an input and an exchange.
//!
//! Each is generic over the user's closure and owns the operator behind it as a boxed [`Output`](crate::Output): the
//! virtual call is per batch, the loop over the records is monomorphised, and a buffer for the results is reused.

mod broadcast;
mod co_process;
mod collector;
mod fan_out;
mod filter;
mod flat_map;
mod function_state;
mod keyed_context;
mod keyed_core;
mod keyed_process;
mod keyed_timed;
mod map;
#[cfg(test)]
mod operator_state_tests;
mod process;
mod sink;
mod ttl;
mod two_phase;

pub use broadcast::{BroadcastProcess, BroadcastProcessFunction, KeyedBroadcastProcess, KeyedBroadcastProcessFunction};
pub use co_process::{CoProcess, CoProcessFunction};
pub use collector::{Collector, OutputTag, SideOutputs};
pub use fan_out::{Discard, FanOut};
pub use filter::{Filter, TryFilter};
pub use flat_map::{FLUSH_RECORDS, FlatMap};
pub use function_state::{FunctionInitializationContext, FunctionSnapshotContext, ProcessFunction, StatefulProcess};
pub use keyed_context::{KeyContext, KeyState};
pub use keyed_process::KeyedFunction;
pub use keyed_timed::{KeyedCoProcess, KeyedCoProcessFunction, KeyedInput, KeyedProcess, KeyedProcessFunction};
pub use map::{Map, TryMap};
pub use process::Process;
pub use sink::{Sink, SinkOperator};
pub use ttl::{StateTtlConfig, UpdateType};
pub use two_phase::{Prepared, Reopened, TwoPhaseOperator, TwoPhaseSink};
