//! What goes into a [`Coordinator`](super::Coordinator) and what comes out.

use std::sync::Arc;
use std::time::Duration;

use perennial_types::{CheckpointId, ExecutionAttemptId, TaskManagerId, TaskSnapshot};

use super::{Reason, StoredCheckpoint};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The JobMaster is there. First event, once.
    Started,
    /// Every task runs, and every TaskManager is connected. Said as often as anybody likes.
    MayTrigger {
        /// Now, in milliseconds of the Unix epoch; becomes the start of the checkpoint.
        now_ms: u64,
        /// Whether the input of every task has ended, and those that have not finished wait for a checkpoint.
        inputs_ended: bool,
    },
    /// A timer is over.
    TimerFired(Timer),
    /// The number is in the log.
    Reserved {
        /// Which.
        checkpoint: CheckpointId,
        /// Every execution that has not finished, as of now.
        participants: Vec<Participant>,
    },
    /// The log refused the number.
    NotReserved(CheckpointId),
    /// An execution has written its share.
    Acked {
        /// Who.
        attempt: ExecutionAttemptId,
        /// Which.
        checkpoint: CheckpointId,
        /// What it wrote.
        snapshot: TaskSnapshot,
    },
    /// An execution cannot write its share.
    Declined {
        /// Who.
        attempt: ExecutionAttemptId,
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// A TaskManager did not pass on that it is to be taken.
    NotTriggered {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// An execution has finished: it has no share to write.
    TaskFinished(ExecutionAttemptId),
    /// The metadata is durable.
    Written(Arc<StoredCheckpoint>),
    /// The metadata cannot be written.
    NotWritten {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// That it is completed is committed.
    Completed(CheckpointId),
    /// It is committed that it will never be completed, or the log has refused to complete it.
    Aborted(CheckpointId),
    /// Executions failed or were lost, and their regions restart.
    TasksLost,
    /// The connection of a TaskManager broke.
    Away(TaskManagerId),
    /// A TaskManager has come, be it again: that its connection broke may not have been noticed.
    Here(TaskManagerId),
    /// The job comes to its end: nothing more is begun.
    Ending,
}

/// Something to do. Effects of one event are performed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Record the number; answered by [`Event::Reserved`].
    Reserve(CheckpointId),
    /// Have the executions on a TaskManager take it.
    Trigger {
        /// Whom to tell.
        to: TaskManagerId,
        /// Which.
        checkpoint: CheckpointId,
    },
    /// Write the metadata; answered by [`Event::Written`].
    Write {
        /// Which.
        checkpoint: CheckpointId,
        /// When it was begun, in milliseconds of the Unix epoch.
        started_ms: u64,
        /// What its executions have written.
        snapshots: Vec<(ExecutionAttemptId, TaskSnapshot)>,
    },
    /// Record that it is completed; answered by [`Event::Completed`].
    Complete(Arc<StoredCheckpoint>),
    /// Record that it will never be completed; answered by [`Event::Aborted`].
    Abort {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: Reason,
    },
    /// Too many in a row have failed, this one last: the job fails with it.
    FailJob {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: Reason,
        /// How many are tolerated.
        tolerated: u32,
    },
    /// Tell what is committed. Repeating it does no harm.
    Notify {
        /// Whom; every TaskManager of the job when none is named.
        to: Option<TaskManagerId>,
        /// The newest that is completed.
        completed: Option<CheckpointId>,
        /// Newer ones that were aborted.
        aborted: Vec<CheckpointId>,
    },
    /// Tell after this time.
    SetTimer(Timer, Duration),
}

/// What the coordinator lets itself be reminded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The next checkpoint is due.
    Interval(u32),
    /// The pause after the last one is over.
    Pause(u32),
    /// This one should be completed by now.
    Timeout(CheckpointId),
}

/// An execution that has a share in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Participant {
    /// Which.
    pub attempt: ExecutionAttemptId,
    /// Where it runs.
    pub taskmanager: TaskManagerId,
}
