//! The library jobs are written with: typed streams, and the roles of the executable they become.
//!
//! ```no_run
//! use perennial::prelude::*;
//!
//! fn main() -> std::process::ExitCode {
//!     JobRegistry::new().job("squares", squares).run()
//! }
//!
//! fn squares(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
//!     env.from_sequence(0..args.parse_or("count", 100)?)
//!         .map(|n| n * n)
//!         .key_by(|n| n % 10)
//!         .count()
//!         .print();
//!     Ok(())
//! }
//! ```
//!
//! `cargo run -- --count 1000` runs this in its own process; `perennial run target/release/squares -- --count 1000` runs the same file on a
//! cluster. Files and sockets are in `perennial-connectors`.
//!
//! Inside: calls on [`DataStream`]s add to a StreamGraph (`graph`), which is planned as Flink plans it and gets its code
//! back as chains of operators from `perennial-runtime`. Nothing here opens a connection, and no async runtime is linked.

extern crate self as perennial;

mod args;
mod environment;
mod error;
mod event_time;
mod graph;
mod registry;
mod roles;
mod sink;
mod source;
pub mod state;
mod stream;
pub mod windows;

pub use args::Args;
pub use environment::StreamExecutionEnvironment;
pub use error::JobError;
pub use event_time::WatermarkStrategy;
pub use perennial_derive::{Key, Record};
pub use perennial_runtime::operators::{
    BroadcastProcessFunction, CoProcessFunction, Collector, FunctionInitializationContext, FunctionSnapshotContext,
    KeyContext, KeyState, KeyedBroadcastProcessFunction, KeyedCoProcessFunction, KeyedProcessFunction, OutputTag,
    Prepared, ProcessFunction, Reopened, Sink, StateTtlConfig, TwoPhaseSink, UpdateType,
};
pub use perennial_runtime::windows::{AggregateFunction, JoinContext, Side, Sided, TimeWindow, WindowContext};
pub use perennial_runtime::{
    Durable, KeySelector, SourceReader, SourceStatus, TaskContext, TaskError, TimeDomain, Timer, UserError,
};
pub use perennial_types::{CheckpointId, DecodeError, Key, Record};
pub use registry::JobRegistry;
pub use roles::local::JobResult;
pub use sink::Collected;
pub use source::Generated;
pub use state::{AggregatingState, ListState, MapState, ReducingState, ValueState};
pub use stream::{
    AllWindowedStream, BroadcastConnectedStream, ConnectedStreams, DataStream, DataStreamSink, InGroups, InPairs,
    IntervalJoined, JoinedByKey, JoinedStreams, JoinedWhere, JoinedWindows, KeyedBroadcastConnectedStream,
    KeyedConnectedStreams, KeyedStream, Number, SideSelector, WindowedStream,
};

#[cfg(doctest)]
mod refused_derives {
    //! Each of these does not compile, and the error says what to do.
    //!
    //! ```compile_fail
    //! #[derive(Clone, Copy, perennial::Record)]
    //! union Either { a: u32, b: f32 }
    //! ```
    //! ```compile_fail
    //! #[derive(Clone, perennial::Record)]
    //! struct Borrows<'a> { text: &'a str }
    //! ```
    //! ```compile_fail
    //! struct NotARecord;
    //! #[derive(Clone, perennial::Record)]
    //! struct Has { field: NotARecord }
    //! ```
    //! ```compile_fail
    //! #[derive(Clone, PartialEq, Eq, Hash, perennial::Record, perennial::Key)]
    //! struct Floats { field: f64 }
    //! ```
}

/// What a job usually needs: `use perennial::prelude::*`.
pub mod prelude {
    pub use crate::windows::{
        ContinuousEventTimeTrigger, ContinuousProcessingTimeTrigger, CountTrigger, EventTimeSessionWindows,
        EventTimeTrigger, GlobalWindows, ProcessingTimeSessionWindows, ProcessingTimeTrigger, PurgingTrigger,
        SlidingEventTimeWindows, SlidingProcessingTimeWindows, Trigger, TriggerContext, TriggerResult,
        TumblingEventTimeWindows, TumblingProcessingTimeWindows,
    };
    pub use crate::{
        AggregateFunction, AggregatingState, AllWindowedStream, Args, BroadcastProcessFunction, CoProcessFunction,
        Collector, DataStream, DataStreamSink, FunctionInitializationContext, FunctionSnapshotContext, JobError,
        JobRegistry, JoinContext, Key, KeyContext, KeySelector, KeyState, KeyedBroadcastProcessFunction,
        KeyedCoProcessFunction, KeyedProcessFunction, KeyedStream, ListState, MapState, OutputTag, ProcessFunction,
        Record, ReducingState, Sink, SourceReader, SourceStatus, StateTtlConfig, StreamExecutionEnvironment,
        TaskContext, TimeDomain, TimeWindow, Timer, UserError, ValueState, WatermarkStrategy, WindowContext,
        WindowedStream,
    };
}

/// What derived code names.
#[doc(hidden)]
pub mod __private {
    pub use perennial_types::{DecodeError, Key, Record, add_fixed, combine, fixed_or_zero};
}
