//! What a checkpoint consists of.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_types::{CheckpointId, CheckpointMetadata, ExecutionAttemptId, JobGraph, TaskSnapshot, VertexSnapshot};

/// A checkpoint whose metadata is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// What it consists of.
    pub metadata: CheckpointMetadata,
    /// When it was begun, in milliseconds of the Unix epoch.
    pub started_ms: u64,
    /// The metadata as it was written.
    pub encoded: Arc<[u8]>,
    /// CRC-32 of that.
    pub crc: u32,
    /// Directory of the checkpoint, which the names of its files are relative to.
    pub location: String,
}

impl StoredCheckpoint {
    /// Which.
    pub fn checkpoint(&self) -> CheckpointId {
        self.metadata.checkpoint
    }

    /// Whether every task had finished in it: nothing is left to be done, and no checkpoint comes after it.
    pub fn is_last(&self) -> bool {
        let mut subtasks = self.metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks).peekable();
        subtasks.peek().is_some() && subtasks.all(|subtask| subtask.finished)
    }

    /// Size of its files, in bytes.
    pub fn bytes(&self) -> u64 {
        self.metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks).map(|subtask| subtask.bytes).sum()
    }
}

/// The snapshots of executions by vertex and subtask; a subtask of which there is none had finished.
pub(crate) fn by_vertex(graph: &JobGraph, snapshots: Vec<(ExecutionAttemptId, TaskSnapshot)>) -> Vec<VertexSnapshot> {
    let tasks = snapshots.into_iter().map(|(attempt, snapshot)| ((attempt.vertex, attempt.subtask), snapshot));
    let mut tasks: BTreeMap<_, _> = tasks.collect();
    let finished = || TaskSnapshot { finished: true, ..TaskSnapshot::default() };
    let vertices = graph.vertices.iter().map(|vertex| VertexSnapshot {
        vertex: vertex.id,
        name: vertex.name.clone(),
        operators: vertex.operators.clone(),
        max_parallelism: vertex.max_parallelism.get(),
        subtasks: (0..vertex.parallelism)
            .map(|subtask| tasks.remove(&(vertex.id, subtask)).unwrap_or_else(finished))
            .collect(),
    });
    vertices.collect()
}
