//! What goes into a [`Job`](super::Job) and what comes out.

use std::sync::Arc;
use std::time::Duration;

use perennial_types::{
    CheckpointId, ExecutionAttemptId, ExecutionState, JobStatus, TaskManagerId, TaskSnapshot, VertexSnapshot,
};

use crate::checkpoint::{self, StoredCheckpoint};
use crate::execution_graph::{Assignment, Counters, Placement};

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The JobMaster is there. First event of every job, once.
    Start,
    /// Slots asked for; all of one request at once.
    SlotsGranted(Vec<Assignment>),
    /// The slots asked for are not all there, with what is missing as a text for people.
    SlotsMissing(String),
    /// An intent is committed at this index of the metadata log.
    Recorded {
        /// Which.
        kind: IntentKind,
        /// Where in the log.
        index: u64,
    },
    /// An intent was refused for good; trying again would not help.
    NotRecorded {
        /// Which.
        kind: IntentKind,
        /// Why.
        reason: String,
    },
    /// A TaskManager's executor for the job takes commands.
    ExecutorReady {
        /// The TaskManager.
        taskmanager: TaskManagerId,
        /// Where the executor's data port listens.
        data_address: String,
    },
    /// A command other than [`Command::StartExecutor`] was carried out.
    CommandDone {
        /// By whom.
        taskmanager: TaskManagerId,
        /// Which.
        command: CommandKind,
    },
    /// A command was not carried out, or not answered in time.
    CommandFailed {
        /// By whom.
        taskmanager: TaskManagerId,
        /// Which.
        command: CommandKind,
        /// Why.
        reason: String,
    },
    /// An execution changed its state.
    Execution {
        /// Who says so.
        taskmanager: TaskManagerId,
        /// What it says.
        update: ExecutionUpdate,
    },
    /// Counters of a running execution.
    Progress {
        /// Which.
        attempt: ExecutionAttemptId,
        /// What it has done so far.
        counters: Counters,
    },
    /// An execution has written its share of a checkpoint, or says why it cannot.
    Snapshot {
        /// Who says so.
        taskmanager: TaskManagerId,
        /// Which execution.
        attempt: ExecutionAttemptId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// What it wrote.
        result: Result<TaskSnapshot, String>,
    },
    /// What came of [`Effect::WriteMetadata`].
    MetadataWritten {
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// Where it is, or why it is not.
        result: Result<Arc<StoredCheckpoint>, String>,
    },
    /// The executor of the job on a TaskManager ended.
    ExecutorLost {
        /// Where.
        taskmanager: TaskManagerId,
        /// How.
        cause: String,
        /// Whether its code ended it, by an abort, a fault or an exit, and nobody from outside.
        own_doing: bool,
    },
    /// A TaskManager registered, for the first time or again, with all it runs of this job.
    TaskManagerHere {
        /// Which.
        taskmanager: TaskManagerId,
        /// The job's executor on it, if there is one.
        executor: Option<ExecutorState>,
    },
    /// The connection of a TaskManager broke. It is given some time to come back, and then given up.
    TaskManagerDetached {
        /// Which.
        taskmanager: TaskManagerId,
    },
    /// What came of [`Effect::Probe`].
    Probed {
        /// The TaskManager.
        taskmanager: TaskManagerId,
        /// The address that was asked.
        data_address: String,
        /// What is known now.
        liveness: Liveness,
    },
    /// A TaskManager is given up.
    TaskManagerLost {
        /// Which.
        taskmanager: TaskManagerId,
        /// Why.
        reason: String,
    },
    /// A user's wish to cancel is committed at this index.
    CancelRequested {
        /// Where in the log.
        index: u64,
    },
    /// A timer set by [`Effect::SetTimer`] is over.
    TimerFired(Timer),
}

/// State of one execution as its TaskManager tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutionUpdate {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Where it stands.
    pub state: ExecutionState,
    /// Why it failed; with FAILED.
    pub failure: Option<String>,
    /// It failed because another executor of the job is gone or cannot be reached.
    pub peer_lost: bool,
    /// What it has done; with a terminal state.
    pub counters: Option<Counters>,
    /// When it was deployed, as its executor knows it, in milliseconds of the Unix epoch.
    pub start_ms: Option<u64>,
    /// Its input has ended, and it waits for its last checkpoint.
    pub input_ended: bool,
}

/// Whether a process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It is.
    Alive,
    /// It is not: its machine says so.
    Gone,
    /// Nobody answers.
    Unknown,
}

/// An executor of the job that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorState {
    /// Where its data port listens.
    pub data_address: String,
    /// What it was given to run and has not forgotten.
    pub executions: Vec<ExecutionUpdate>,
}

/// Something to do. Effects of one event are performed in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write this into the metadata log, trying again until it is committed or refused for good; then tell.
    Record(Intent),
    /// Ask for so many slots beside those held, instead of those asked for before; answered by [`Event::SlotsGranted`],
    /// until then by [`Event::SlotsMissing`]. None: ask for no more.
    RequestSlots(u32),
    /// Give back a slot.
    ReleaseSlot(Assignment),
    /// Give back the slots on one TaskManager.
    ReleaseSlotsOn(TaskManagerId),
    /// Give back all slots, and want none.
    ReleaseSlots,
    /// Tell a TaskManager something, fenced with this index and the leader's epoch.
    Send {
        /// Whom.
        taskmanager: TaskManagerId,
        /// Log index of the committed entry behind it.
        index: u64,
        /// What.
        command: Command,
    },
    /// Find out whether the executor whose data port listens there is alive; answered by [`Event::Probed`]. Whoever accepts
    /// a connection is taken for it.
    Probe {
        /// The TaskManager it is on.
        taskmanager: TaskManagerId,
        /// Where it listens.
        data_address: String,
    },
    /// Make the metadata of a checkpoint durable; answered by [`Event::MetadataWritten`].
    WriteMetadata {
        /// Which.
        checkpoint: CheckpointId,
        /// When it was begun, in milliseconds of the Unix epoch.
        started_ms: u64,
        /// What it consists of.
        vertices: Vec<VertexSnapshot>,
    },
    /// Tell the job after this time.
    SetTimer(Timer, Duration),
    /// The job is over and cleaned up; its JobMaster may go.
    Close,
}

impl Effect {
    /// Whether it makes something run that did not.
    pub fn starts_something(&self) -> bool {
        matches!(
            self,
            Self::Send { command: Command::StartExecutor | Command::Deploy { .. }, .. } | Self::RequestSlots(1..)
        )
    }
}

/// What has to be in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Intent {
    /// Where executions are going to run. Replaces the earlier placement of their subtasks.
    Placement(Vec<Placement>),
    /// Tasks are about to be told to run: from now on nobody can be sure that none has.
    Deployment,
    /// Every task runs.
    Running,
    /// Something failed and is going to run again.
    Restarting {
        /// What failed.
        cause: String,
    },
    /// What has failed is to be remembered, without waiting for something else that is recorded; see
    /// [`Job::exceptions_since`](super::Job::exceptions_since).
    Exceptions,
    /// A task failed and the job is going to end.
    Failing {
        /// The first failure.
        cause: String,
    },
    /// These executions came to their end and are not to be looked for.
    FinishExecutions {
        /// Which.
        attempts: Vec<ExecutionAttemptId>,
    },
    /// The number of a checkpoint: nobody else will have it.
    ReserveCheckpoint(CheckpointId),
    /// A checkpoint counts: from now on it is the one to restore.
    CompleteCheckpoint(Arc<StoredCheckpoint>),
    /// A checkpoint will never count.
    AbortCheckpoint {
        /// Which.
        checkpoint: CheckpointId,
        /// Why.
        reason: String,
    },
    /// The job's one and only end.
    End {
        /// FINISHED, CANCELED or FAILED.
        status: JobStatus,
        /// Why it failed.
        failure: Option<String>,
    },
}

/// An [`Intent`] without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IntentKind {
    /// [`Intent::Placement`].
    Placement,
    /// [`Intent::Deployment`].
    Deployment,
    /// [`Intent::Running`], [`Intent::Restarting`], [`Intent::Exceptions`] or [`Intent::Failing`]: nothing waits for it.
    Status,
    /// [`Intent::FinishExecutions`].
    FinishExecutions,
    /// [`Intent::ReserveCheckpoint`].
    ReserveCheckpoint(CheckpointId),
    /// [`Intent::CompleteCheckpoint`].
    CompleteCheckpoint(CheckpointId),
    /// [`Intent::AbortCheckpoint`].
    AbortCheckpoint(CheckpointId),
    /// [`Intent::End`].
    End,
}

impl Intent {
    /// Which kind it is.
    pub fn kind(&self) -> IntentKind {
        match self {
            Self::Placement(_) => IntentKind::Placement,
            Self::Deployment => IntentKind::Deployment,
            Self::Running | Self::Restarting { .. } | Self::Exceptions | Self::Failing { .. } => IntentKind::Status,
            Self::FinishExecutions { .. } => IntentKind::FinishExecutions,
            Self::ReserveCheckpoint(checkpoint) => IntentKind::ReserveCheckpoint(*checkpoint),
            Self::CompleteCheckpoint(stored) => IntentKind::CompleteCheckpoint(stored.checkpoint()),
            Self::AbortCheckpoint { checkpoint, .. } => IntentKind::AbortCheckpoint(*checkpoint),
            Self::End { .. } => IntentKind::End,
        }
    }
}

/// What a TaskManager is told about the job. Each may be repeated without harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Start the job's executor, unless it runs.
    StartExecutor,
    /// Run executions.
    Deploy {
        /// What this TaskManager runs.
        tasks: Vec<Placement>,
        /// Where every execution of the job runs, by position in `executors`.
        placement: Vec<(ExecutionAttemptId, u32)>,
        /// Every executor of the job with the address of its data port; none for one that has no channel with these.
        executors: Vec<(TaskManagerId, String)>,
        /// The checkpoint they start from; none before the first is completed.
        restore: Option<Arc<StoredCheckpoint>>,
    },
    /// Cancel executions.
    Cancel {
        /// Which.
        attempts: Vec<ExecutionAttemptId>,
    },
    /// Take a checkpoint: executions that no barrier reaches begin, the others follow the barriers.
    TriggerCheckpoint {
        /// Which.
        checkpoint: CheckpointId,
    },
    /// What the log says of checkpoints.
    NotifyCheckpoint {
        /// The newest that is completed.
        completed: Option<CheckpointId>,
        /// Newer ones that were aborted.
        aborted: Vec<CheckpointId>,
    },
    /// End the executor and forget the job.
    StopExecutor,
}

/// A [`Command`] without its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommandKind {
    /// [`Command::StartExecutor`].
    StartExecutor,
    /// [`Command::Deploy`].
    Deploy,
    /// [`Command::Cancel`].
    Cancel,
    /// [`Command::TriggerCheckpoint`].
    TriggerCheckpoint(CheckpointId),
    /// [`Command::NotifyCheckpoint`].
    NotifyCheckpoint,
    /// [`Command::StopExecutor`].
    StopExecutor,
}

impl Command {
    /// Which kind it is.
    pub fn kind(&self) -> CommandKind {
        match self {
            Self::StartExecutor => CommandKind::StartExecutor,
            Self::Deploy { .. } => CommandKind::Deploy,
            Self::Cancel { .. } => CommandKind::Cancel,
            Self::TriggerCheckpoint { checkpoint, .. } => CommandKind::TriggerCheckpoint(*checkpoint),
            Self::NotifyCheckpoint { .. } => CommandKind::NotifyCheckpoint,
            Self::StopExecutor => CommandKind::StopExecutor,
        }
    }
}

/// What a job lets itself be reminded of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timer {
    /// The slots of this wait should be there by now.
    Slots(u32),
    /// TaskManagers should have come to the new leader by now.
    Reconciliation,
    /// Regions may restart after this wait.
    Restart(u32),
    /// The next checkpoint, or the end of one.
    Checkpoint(checkpoint::Timer),
}
