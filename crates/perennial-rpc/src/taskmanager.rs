//! TaskManager and JobManager: one stream in each direction, opened by the TaskManager to every JobManager.
//!
//! A JobManager first says who leads ([`ToTaskManager::Leadership`]) and says it again at every change. A TaskManager
//! registers where the leader is, with all that really runs on it, then sends heartbeats and reports. Commands come
//! fenced; the TaskManager admits those of an epoch at least as high as any it has seen and refuses the others.

#[cfg(test)]
pub(crate) mod arbitrary;
mod checkpoint;
#[cfg(feature = "grpc")]
mod gateway;
mod registrar;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub use checkpoint::{CheckpointReport, NotifyCheckpoint, TriggerCheckpoint};
#[cfg(feature = "grpc")]
pub use gateway::{AttachError, Incoming, STREAM_CAPACITY, TaskManagerGateway, TaskManagerServer, attach};
pub use registrar::{Decision, Registrar, StreamId};

use perennial_types::{
    AllocationId, ArtifactDigest, ClusterId, ExecutionAttemptId, ExecutionState, Fence, Incarnation, JobId,
    JobManagerId, LeaderEpoch, MaxParallelism, PlanRequest, SlotIndex, TaskManagerId, TaskRestore, VertexId,
};

/// From a TaskManager to a JobManager.
#[derive(Debug, Clone, PartialEq)]
pub enum FromTaskManager {
    /// First message to a leader of an epoch not registered at before.
    Register(Registration),
    /// Sent every `heartbeat.interval` to every JobManager, and right after a registration was accepted.
    Heartbeat {
        /// Who lives, for the JobManagers it is not registered at; none from one of an older version.
        from: Option<TaskManagerId>,
        /// Commands of deposed leaders that it and its executors have refused since they started.
        stale_commands: u64,
    },
    /// Answer to a command.
    Answer(CommandAnswer),
    /// An execution changed its state.
    Execution(ExecutionReport),
    /// Counters of running executions, once a second.
    Progress(Vec<TaskProgress>),
    /// An executor process ended; its executions that were not terminal have failed with it.
    ExecutorLost {
        /// The job it ran.
        job: JobId,
        /// How it ended, such as `killed by signal 9`.
        cause: String,
        /// Whether its code ended it, by an abort, a fault or an exit, and nobody from outside.
        own_doing: bool,
    },
    /// What became of a checkpoint in one execution.
    Checkpoint(CheckpointReport),
}

/// What a TaskManager offers and what runs on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    /// The cluster it belongs to; none before its first registration.
    pub cluster: Option<ClusterId>,
    /// Its name, stable across restarts.
    pub id: TaskManagerId,
    /// This life of its process.
    pub incarnation: Incarnation,
    /// Name or address under which its executors are reached.
    pub host: String,
    /// Number of slots.
    pub slots: u32,
    /// Architecture and operating system, such as `x86_64-linux`.
    pub target: String,
    /// Process id, for people.
    pub pid: u32,
    /// Every executor alive, with its executions.
    pub executors: Vec<ExecutorReport>,
}

/// A live executor.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutorReport {
    /// The job it runs.
    pub job: JobId,
    /// Where its data port listens, `host:port`.
    pub data_address: String,
    /// What it was given to run and has not forgotten yet.
    pub executions: Vec<ExecutionReport>,
}

/// State of one execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionReport {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Where it stands.
    pub state: ExecutionState,
    /// Why it failed, with the whole chain of causes; only with FAILED.
    pub failure: Option<String>,
    /// Final counters; with a terminal state.
    pub progress: Option<TaskProgress>,
    /// It failed because another executor of the job is gone or cannot be reached: an echo of something else.
    pub peer_lost: bool,
    /// When it was deployed, by its executor's clock, in milliseconds of the Unix epoch: a new leader shows the same.
    pub start_ms: Option<u64>,
    /// What it has said about checkpoints that no leader has settled yet.
    pub checkpoints: Vec<CheckpointReport>,
    /// Its input is over, and it waits for its last checkpoint.
    pub ended: bool,
}

/// Counters of one execution since it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskProgress {
    /// Its job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Records it read (a source: 0).
    pub records_in: u64,
    /// Records it wrote to exchanges, or for a task that ends in a sink, to the sink.
    pub records_out: u64,
    /// Bytes it received from other processes.
    pub bytes_in: u64,
    /// Bytes it sent to other processes.
    pub bytes_out: u64,
    /// Milliseconds spent processing.
    pub busy_ms: u64,
    /// Milliseconds spent waiting for room downstream.
    pub back_pressured_ms: u64,
}

/// From a JobManager to a TaskManager.
#[derive(Debug, Clone, PartialEq)]
pub enum ToTaskManager {
    /// Who leads, as far as this JobManager knows.
    Leadership(Leadership),
    /// The registration was accepted.
    Registered {
        /// The cluster; a TaskManager of another cluster refuses it.
        cluster: ClusterId,
    },
    /// The registration was refused, for a reason only a person can mend.
    Refused {
        /// What is wrong and what to do.
        reason: String,
    },
    /// Answers a heartbeat.
    Heartbeat,
    /// Something to do.
    Command(Command),
}

/// Who leads the JobManager group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    /// The cluster, once it is known.
    pub cluster: Option<ClusterId>,
    /// The JobManager that says so.
    pub from: JobManagerId,
    /// The newest epoch it knows.
    pub epoch: LeaderEpoch,
    /// The leader of that epoch, if it is known and serving.
    pub leader: Option<JobManagerId>,
    /// RPC address of the leader, `host:port`; empty when there is none.
    pub leader_address: String,
    /// RPC address of every member, `host:port`, as far as this JobManager knows.
    pub jobmanagers: Vec<String>,
}

/// A fenced command with a number to answer to.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// Who orders it: a committed entry of the epoch's leader.
    pub fence: Fence,
    /// Number of the command within the stream.
    pub id: u64,
    /// The job it is about.
    pub job: JobId,
    /// What to do.
    pub action: Action,
}

/// What a TaskManager can be told to do. Each is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Fetch the artifact and start the job's executor, unless it runs. Answered with its data address.
    StartExecutor(StartExecutor),
    /// Run these executions. Answered when the executor has accepted them; their states follow as reports.
    Deploy(Deploy),
    /// Cancel these executions.
    Cancel {
        /// Attempts to end.
        attempts: Vec<ExecutionAttemptId>,
    },
    /// End the executor and forget the job.
    StopExecutor,
    /// Begin a checkpoint. Answered when the executor knows of it; what becomes of it follows as reports.
    TriggerCheckpoint(TriggerCheckpoint),
    /// Settle checkpoints.
    NotifyCheckpoint(NotifyCheckpoint),
}

/// All an executor needs to rebuild its job.
#[derive(Debug, Clone, PartialEq)]
pub struct StartExecutor {
    /// The job's executable.
    pub artifact: ArtifactDigest,
    /// Its size in bytes.
    pub artifact_size: u64,
    /// Its file name, for people.
    pub artifact_name: String,
    /// What the JobGraph was planned from.
    pub request: PlanRequest,
    /// Hash the rebuilt JobGraph must have.
    pub structural_hash: u64,
    /// Effective options of the job, under Flink's keys.
    pub config: std::collections::BTreeMap<String, String>,
}

/// Executions for one TaskManager, and where all the others are.
#[derive(Debug, Clone, PartialEq)]
pub struct Deploy {
    /// What this TaskManager runs.
    pub tasks: Vec<TaskDeployment>,
    /// Where every execution of the job runs, these included.
    pub placement: Vec<TaskPlacement>,
    /// Every executor of the job, this one included.
    pub executors: Vec<ExecutorAddress>,
    /// How many subtasks and key groups the vertices have; those not named as planned. Another number comes from a savepoint,
    /// or from a change of the parallelism of a running job.
    pub vertices: Vec<VertexShape>,
}

/// How finely a vertex is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VertexShape {
    /// Which.
    pub vertex: VertexId,
    /// Number of its subtasks.
    pub parallelism: u32,
    /// Number of its key groups.
    pub max_parallelism: MaxParallelism,
}

/// One execution and its slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskDeployment {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// The slot that runs it.
    pub slot: SlotIndex,
    /// The promise under which the job holds the slot.
    pub allocation: AllocationId,
    /// What it begins with; none begins anew.
    pub restore: Option<TaskRestore>,
}

/// Where one execution runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskPlacement {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Index in [`Deploy::executors`].
    pub executor: u32,
}

/// An executor of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorAddress {
    /// The TaskManager it belongs to.
    pub taskmanager: TaskManagerId,
    /// Where its data port listens, `host:port`.
    pub data_address: String,
}

/// Answer to the command of the same number.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandAnswer {
    /// Number of the command.
    pub id: u64,
    /// What became of it.
    pub result: Result<CommandDone, CommandError>,
}

/// A command was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandDone {
    /// The executor takes commands; its data port listens here, `host:port`.
    ExecutorReady {
        /// Where its data port listens.
        data_address: String,
    },
    /// Nothing to tell.
    Done,
}

/// A command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A leader of a higher epoch has spoken. The sender is deposed and must stop commanding.
    #[error("stale: this TaskManager follows {seen}")]
    Stale {
        /// The highest token seen.
        seen: Fence,
    },
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}
