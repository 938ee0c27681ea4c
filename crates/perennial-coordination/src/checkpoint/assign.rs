//! Which of a checkpoint's state goes to which subtask.

use perennial_types::{CheckpointId, ExecutionAttemptId, JobGraph, OperatorRestore, TaskRestore, VertexId};

use super::StoredCheckpoint;

/// Why a checkpoint cannot be restored into a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CannotRestore {
    /// The job has no such subtask, or the checkpoint has none.
    #[error("checkpoint {checkpoint} has no state of {attempt}")]
    UnknownTask {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// Who asked.
        attempt: ExecutionAttemptId,
    },
    /// It was taken with another number of subtasks.
    #[error("checkpoint {checkpoint} was taken of {taken} subtasks of vertex {vertex}, not {wanted}")]
    OtherParallelism {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The vertex.
        vertex: VertexId,
        /// Subtasks then.
        taken: usize,
        /// Subtasks now.
        wanted: u32,
    },
    /// It was taken with another number of key groups.
    #[error("checkpoint {checkpoint} was taken with another maximum parallelism of vertex {vertex}")]
    OtherMaxParallelism {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The vertex.
        vertex: VertexId,
    },
}

/// What an execution starts from: the state of its own subtask, operator by operator.
///
/// Fails when the checkpoint does not fit the graph, so that nothing ever starts from nothing in place of its state.
pub fn assign(
    of: &StoredCheckpoint,
    graph: &JobGraph,
    attempt: ExecutionAttemptId,
) -> Result<TaskRestore, CannotRestore> {
    let StoredCheckpoint { metadata, location, .. } = of;
    let checkpoint = metadata.checkpoint;
    let unknown = CannotRestore::UnknownTask { checkpoint, attempt };
    let vertex = graph.vertices.iter().find(|vertex| vertex.id == attempt.vertex).ok_or(unknown.clone())?;
    let taken = metadata.vertices.iter().find(|taken| taken.vertex == vertex.id).ok_or(unknown.clone())?;
    if taken.subtasks.len() != vertex.parallelism as usize {
        let (taken, wanted) = (taken.subtasks.len(), vertex.parallelism);
        return Err(CannotRestore::OtherParallelism { checkpoint, vertex: vertex.id, taken, wanted });
    }
    if taken.max_parallelism != vertex.max_parallelism.get() {
        return Err(CannotRestore::OtherMaxParallelism { checkpoint, vertex: vertex.id });
    }
    let snapshot = taken.subtasks.get(attempt.subtask as usize).ok_or(unknown)?;
    let operators = snapshot.operators.iter().map(|operator| OperatorRestore {
        operator: operator.operator,
        keyed: operator.keyed.iter().map(|file| (format!("{location}/{}", file.name), file.clone())).collect(),
        list: operator.list.clone(),
    });
    Ok(TaskRestore { checkpoint, operators: operators.collect(), finished: snapshot.finished })
}
