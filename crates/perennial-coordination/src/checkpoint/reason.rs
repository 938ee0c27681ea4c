//! Why a checkpoint is given up.

use std::time::Duration;

use perennial_types::{ExecutionAttemptId, TaskManagerId};

/// Why a checkpoint is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// An execution could not write its share.
    Declined {
        /// Which.
        attempt: ExecutionAttemptId,
        /// What it says.
        reason: String,
    },
    /// It took too long.
    TimedOut {
        /// Executions that had not answered; none when the metadata was waited for.
        missing: Vec<ExecutionAttemptId>,
        /// `execution.checkpointing.timeout`.
        after: Duration,
    },
    /// Its metadata could not be written.
    NotWritten(String),
    /// A TaskManager did not pass on that it is to be taken.
    NotTriggered(String),
    /// Tasks that took it failed or were lost, and restart.
    TasksLost,
    /// A TaskManager with tasks that had not taken it lost its connection to the leader.
    TaskManagerAway(TaskManagerId),
    /// An earlier leader began it, and nobody knows how far it came.
    LeaderChanged,
}

impl Reason {
    /// Whether it is the fault of a checkpoint, and not of what happened to the job or its leader meanwhile: only these use up
    /// what `execution.checkpointing.tolerable-failed-checkpoints` allows.
    pub fn counts(&self) -> bool {
        match self {
            Self::Declined { .. } | Self::TimedOut { .. } | Self::NotWritten(_) => true,
            Self::NotTriggered(_) | Self::TasksLost | Self::TaskManagerAway(_) | Self::LeaderChanged => false,
        }
    }
}
