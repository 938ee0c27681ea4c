//! Checkpoints between a JobManager and the executors: begun, reported, and settled.

use perennial_types::{CheckpointId, ExecutionAttemptId, JobId, SnapshotKind, TaskSnapshot};

/// Take a checkpoint: executions that get no barrier from another begin. The same again is without effect, and so is one that was
/// settled before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TriggerCheckpoint {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// What for.
    pub kind: SnapshotKind,
    /// Whether channels wait for the barriers of the others.
    pub exactly_once: bool,
    /// The checkpoint's own directory, absolute.
    pub directory: String,
    /// When it was triggered, by the leader's clock, in milliseconds of the Unix epoch.
    pub at_ms: u64,
}

/// What became of checkpoints. The same again is without effect, and so is an older notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotifyCheckpoint {
    /// The newest completed one.
    pub completed: Option<CheckpointId>,
    /// Those given up.
    pub aborted: Vec<CheckpointId>,
}

impl NotifyCheckpoint {
    /// Whether nothing about this checkpoint is of interest any more.
    pub fn settles(&self, checkpoint: CheckpointId) -> bool {
        self.completed.is_some_and(|completed| checkpoint <= completed) || self.aborted.contains(&checkpoint)
    }
}

/// What became of a checkpoint in one execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointReport {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Which checkpoint.
    pub checkpoint: CheckpointId,
    /// Its state, durable; or why it has none to give, for people.
    pub result: Result<TaskSnapshot, String>,
}
