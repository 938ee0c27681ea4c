//! TaskManager and executor: length-delimited protobuf over a Unix socket on which the *executor* listens.
//!
//! The executor owns the socket, so that a restarted TaskManager finds it again by path. One TaskManager is connected
//! at a time; a newer connection replaces an older one. On each connection the executor first says [`FromExecutor::Hello`]
//! with all it runs. Reports made while nobody is connected are kept, the latest state of each execution.

mod framing;
#[cfg(test)]
mod tests;
mod wire;

pub use framing::{
    MESSAGE_BYTES_MAX, ReadError, read_from_executor, read_to_executor, write_from_executor, write_to_executor,
};
#[cfg(feature = "grpc")]
pub use framing::{receive_from_executor, send_to_executor};

use perennial_types::{ExecutionAttemptId, Fence, JobId};

use crate::taskmanager::{
    CheckpointReport, CommandError, Deploy, ExecutionReport, NotifyCheckpoint, TaskProgress, TriggerCheckpoint,
};

/// From an executor to its TaskManager.
#[derive(Debug, Clone, PartialEq)]
pub enum FromExecutor {
    /// First message on a connection.
    Hello(Hello),
    /// Answer to a command.
    Answer {
        /// Number of the command.
        id: u64,
        /// What became of it.
        result: Result<(), CommandError>,
    },
    /// An execution changed its state.
    Execution(ExecutionReport),
    /// Counters of running executions, once a second.
    Progress(Vec<TaskProgress>),
    /// What became of a checkpoint in one execution. Kept until it is settled, and said again in the next hello.
    Checkpoint(CheckpointReport),
}

/// Who an executor is and what it runs.
#[derive(Debug, Clone, PartialEq)]
pub struct Hello {
    /// Newest version of the artifact protocol it speaks.
    pub protocol: u32,
    /// The job it runs.
    pub job: JobId,
    /// Its process id.
    pub pid: u32,
    /// Port its data listener has on the TaskManager's host.
    pub data_port: u16,
    /// Highest fencing token it has seen.
    pub fence: Fence,
    /// Every execution it knows.
    pub executions: Vec<ExecutionReport>,
    /// Commands of deposed leaders it has refused since it started.
    pub stale_commands: u64,
}

/// From a TaskManager to an executor.
#[derive(Debug, Clone, PartialEq)]
pub struct ToExecutor {
    /// Who orders it.
    pub fence: Fence,
    /// Number to answer to.
    pub id: u64,
    /// What to do.
    pub action: ExecutorAction,
}

/// What an executor can be told to do. Each is idempotent.
#[derive(Debug, Clone, PartialEq)]
pub enum ExecutorAction {
    /// Run these executions.
    Deploy(Deploy),
    /// Cancel these executions.
    Cancel {
        /// Attempts to end.
        attempts: Vec<ExecutionAttemptId>,
    },
    /// Cancel everything and exit.
    Stop,
    /// Says that the TaskManager lives.
    Heartbeat,
    /// Begin a checkpoint.
    TriggerCheckpoint(TriggerCheckpoint),
    /// Settle checkpoints.
    NotifyCheckpoint(NotifyCheckpoint),
}

/// What an executor is started with: one JSON document in the file named by `exec --spec FILE`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ExecutorSpec {
    /// The job it runs.
    pub job: JobId,
    /// Path of the Unix socket to listen on.
    pub socket: std::path::PathBuf,
    /// Address its data port listens on.
    pub bind_host: String,
    /// Name or address under which other executors reach this one.
    pub host: String,
    /// Data port; 0 takes a free one.
    pub data_port: u16,
    /// Name of its TaskManager, which names it among the job's executors.
    pub taskmanager: String,
    /// What the JobGraph was planned from.
    pub request: perennial_types::PlanRequest,
    /// Hash the rebuilt JobGraph must have.
    pub structural_hash: u64,
    /// Effective options of the job, under Flink's keys.
    pub config: std::collections::BTreeMap<String, String>,
}
