//! How the library tells the runtime to build a subtask.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_exchange::Payload;
use perennial_types::{ExecutionAttemptId, JobGraph, JobId, MaxParallelism};

use crate::{ChainEvent, SourceStatus, TaskError};

/// A job that can run: the plan and the code behind each vertex.
#[derive(Clone)]
pub struct ExecutableJob {
    /// The plan.
    pub graph: Arc<JobGraph>,
    /// One factory per vertex of the plan, in its order.
    pub vertices: Vec<Arc<dyn VertexFactory>>,
}

/// Builds the chain of one vertex for one subtask.
pub trait VertexFactory: Send + Sync {
    /// Builds the chain. Its exchanges come from `builder`, once for each out-edge of the vertex.
    fn build(&self, builder: &mut crate::TaskBuilder) -> Result<Box<dyn Head>, TaskError>;
}

/// Which subtask an operator is part of.
#[derive(Debug, Clone)]
pub struct TaskContext {
    /// The job.
    pub job: JobId,
    /// Name of the vertex.
    pub vertex_name: String,
    /// Which attempt of which subtask.
    pub attempt: ExecutionAttemptId,
    /// Number of subtasks of the vertex.
    pub parallelism: u32,
    /// Number of key groups of the vertex.
    pub max_parallelism: MaxParallelism,
    /// Effective options of the job, under Flink's keys.
    pub config: Arc<BTreeMap<String, String>>,
}

/// The upper end of a chain: what the task feeds.
pub trait Head: Send {
    /// Hands over what arrived on one input; `input` counts the vertex's in-edges in the order of `JobGraph::edges`.
    ///
    /// Leaves a local payload empty, so that its memory is used again. Returns the number of records it took.
    /// Only for chains that begin with an exchange.
    fn deliver(&mut self, input: usize, payload: &mut Payload) -> Result<usize, TaskError>;

    /// Lets a source emit up to about `max` records into the chain. Only for chains that begin with a source.
    fn poll_source(&mut self, max: usize) -> Result<SourceStatus, TaskError>;

    /// Passes an event through the chain. A source adds where it is to a snapshot.
    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError>;

    /// Every input ended, or the source did. Called once, last.
    fn finish(&mut self) -> Result<(), TaskError>;
}
