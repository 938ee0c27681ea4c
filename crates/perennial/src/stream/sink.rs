//! Where streams end.

use std::any::type_name;
use std::fmt::Debug;
use std::sync::Arc;

use perennial_runtime::operators::{Sink, SinkOperator, TwoPhaseOperator, TwoPhaseSink};
use perennial_runtime::{TaskContext, TaskError, UserError};
use perennial_types::Record;

use super::DataStream;
use super::settings::operator_settings;
use crate::graph::code::{AnyOutput, NodeCode, OperatorContext, Records, erased};
use crate::graph::{NodeId, NodeKind, StreamNode};
use crate::sink::{Collect, Collected, DiscardingSink, PrintSink};
use crate::{JobError, StreamExecutionEnvironment};

/// The end of a stream. Flink's `DataStreamSink`.
pub struct DataStreamSink {
    env: StreamExecutionEnvironment,
    node: NodeId,
}

impl DataStreamSink {
    operator_settings!();

    fn set(&self, _setting: &str, change: impl FnOnce(&mut StreamNode)) -> Self {
        self.env.update(self.node, change);
        Self { env: self.env.clone(), node: self.node }
    }
}

impl<T: Record> DataStream<T> {
    /// Writes the stream to a sink of the user's: `open` makes one for each subtask, where that subtask runs.
    pub fn sink_to<S, F>(&self, open: F) -> DataStreamSink
    where
        S: Sink<T> + 'static,
        F: Fn(&TaskContext) -> S + Send + Sync + 'static,
    {
        self.try_sink_to(move |context| Ok::<S, UserError>(open(context)))
    }

    /// Writes the stream to a sink whose opening can fail; an error fails the task with its text.
    pub fn try_sink_to<S, E, F>(&self, open: F) -> DataStreamSink
    where
        S: Sink<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<S, E> + Send + Sync + 'static,
    {
        self.add_sink("Unnamed", open)
    }

    /// Writes the stream to a sink whose output becomes visible with the checkpoints, each record once. `open` makes one for each
    /// subtask, where that subtask runs; an error fails the task with its text.
    ///
    /// In a job without checkpoints everything becomes visible when the stream ends.
    pub fn two_phase_sink_to<S, E, F>(&self, open: F) -> DataStreamSink
    where
        S: TwoPhaseSink<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<S, E> + Send + Sync + 'static,
    {
        self.add_end("Unnamed", move |context| {
            let sink = open(context.task).map_err(|error| TaskError::user(context.name, error))?;
            Ok(erased::<T>(TwoPhaseOperator::new(context.state()?, sink, context.counters.clone())?))
        })
    }

    fn add_sink<S, E, F>(&self, name: &str, open: F) -> DataStreamSink
    where
        S: Sink<T> + 'static,
        E: Into<UserError>,
        F: Fn(&TaskContext) -> Result<S, E> + Send + Sync + 'static,
    {
        self.add_end(name, move |context| {
            let sink = open(context.task).map_err(|error| TaskError::user(context.name, error))?;
            Ok(erased::<T>(SinkOperator::new(context.name, sink, context.counters.clone())))
        })
    }

    fn add_end(
        &self,
        name: &str,
        build: impl Fn(&OperatorContext<'_>) -> Result<AnyOutput, TaskError> + Send + Sync + 'static,
    ) -> DataStreamSink {
        let env = self.environment();
        let code =
            NodeCode::Operator { build: Arc::new(move |context, _| build(context)), input: Records::<T>::code() };
        let node = env.add_node(NodeKind::Sink, name, code, type_name::<T>(), None);
        env.connect(self.ports(), node);
        DataStreamSink { env: env.clone(), node }
    }

    /// Prints each record to standard output, on a line of its own: text as it is, everything else as [`Debug`] prints it.
    ///
    /// With several subtasks a line begins with the number of its subtask, from 1: `2> `. On a cluster the lines are in the
    /// output of the TaskManagers.
    pub fn print(&self) -> DataStreamSink
    where
        T: Debug,
    {
        self.add_sink("Print to Std. Out", |context| Ok::<_, UserError>(PrintSink::new(None, context)))
    }

    /// As [`print`](Self::print), with a text of the user's in front of each line: `text:2> ` and `text> `.
    pub fn print_with_identifier(&self, identifier: &str) -> DataStreamSink
    where
        T: Debug,
    {
        let identifier = identifier.to_owned();
        self.add_sink("Print to Std. Out", move |context| {
            Ok::<_, UserError>(PrintSink::new(Some(&identifier), context))
        })
    }

    /// Drops every record: for measurements.
    pub fn discard(&self) -> DataStreamSink {
        self.add_sink("Discard", |_| Ok::<_, UserError>(DiscardingSink))
    }

    /// Keeps all records in memory, to be looked at once the job has run. For tests: only in an environment made by
    /// [`StreamExecutionEnvironment::local`].
    pub fn collect(&self) -> Collected<T> {
        let collected = Collected::default();
        if self.environment().is_local() {
            let into = collected.clone();
            self.add_sink("Collect", move |_| Ok::<_, UserError>(Collect::new(into.clone())));
        } else {
            let problem = "`collect` keeps records in the memory of a task, where nobody sees them";
            self.environment()
                .fail(JobError::job(problem, "use it in tests, with `StreamExecutionEnvironment::local()`"));
        }
        collected
    }

    /// Runs the job in this process and gives the records of this stream, in no order among its subtasks.
    ///
    /// For tests, like [`collect`](Self::collect).
    pub fn execute_and_collect(&self) -> Result<Vec<T>, JobError> {
        let collected = self.collect();
        self.environment().execute("execute_and_collect")?;
        Ok(collected.take())
    }
}
