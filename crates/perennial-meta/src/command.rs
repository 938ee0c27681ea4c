//! What can be written to the replicated state, and what becomes of it.
//!
//! A command carries everything its application needs, times included, so that every member computes the same.
//!
//! Stored form: one version byte, then postcard. `JobGraph` and `PlanRequest` are JSON inside it, because they gain
//! fields over time and postcard cannot read a value that lacks one.

use perennial_types::{
    ArtifactDigest, CheckpointId, ClusterId, ExecutionAttemptId, JobExceptions, JobGraph, JobId, JobManagerId,
    JobStatus, LeaderEpoch, PlanRequest, RequestId, SnapshotKind, TakeOver,
};
use serde::{Deserialize, Serialize};

use crate::record::{CompletedCheckpoint, ExecutionRecord};

/// Version byte in front of an encoded command.
const VERSION: u8 = 1;

/// Largest encoded command in bytes: a JobGraph of some thousand vertices, or the placement of 50,000 executions.
pub const COMMAND_BYTES_MAX: usize = 8 << 20;

/// One entry of the metadata log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Names the cluster. Proposed by the first leader; without effect once the cluster has a name.
    Bootstrap {
        /// The name.
        cluster: ClusterId,
    },
    /// The first entry of each leadership; its term is the epoch.
    Lead {
        /// Who leads.
        leader: JobManagerId,
        /// When, by the leader's clock, in milliseconds of the Unix epoch.
        at_ms: u64,
    },
    /// Records who holds an artifact's bytes. Said again with other holders, they are added.
    AddArtifact {
        /// SHA-256 of the bytes.
        digest: ArtifactDigest,
        /// File name, for people.
        name: String,
        /// Size in bytes.
        size: u64,
        /// JobManagers that hold the bytes.
        holders: Vec<JobManagerId>,
    },
    /// Accepts a job in state INITIALIZING. The same request again finds the same job.
    SubmitJob {
        /// The client's name for the submission.
        request: RequestId,
        /// The job's id.
        job: JobId,
        /// Its executable, recorded before.
        artifact: ArtifactDigest,
        /// What the graph was planned from.
        #[serde(with = "json")]
        plan: PlanRequest,
        /// The plan.
        #[serde(with = "json")]
        graph: JobGraph,
        /// What it starts from; a checkpoint belongs to the job from now on, a savepoint does not.
        restored: Option<Box<CompletedCheckpoint>>,
        /// When, in milliseconds of the Unix epoch.
        at_ms: u64,
    },
    /// Moves a job to a state that is not terminal. RESTARTING counts a restart.
    SetStatus {
        /// The job.
        job: JobId,
        /// Its new state.
        status: JobStatus,
        /// When.
        at_ms: u64,
        /// Why, when the reason is a failure; the last one given is kept.
        failure: Option<String>,
    },
    /// Records where executions run. A placement replaces the one of an earlier attempt of its subtask.
    PlaceExecutions {
        /// The job.
        job: JobId,
        /// The placements.
        executions: Vec<ExecutionRecord>,
        /// When.
        at_ms: u64,
    },
    /// Remembers that these attempts have finished.
    FinishExecutions {
        /// The job.
        job: JobId,
        /// The attempts; those not placed are ignored.
        attempts: Vec<ExecutionAttemptId>,
    },
    /// The user wants the job to end: desired state `Canceled`, status CANCELLING.
    CancelJob {
        /// The job.
        job: JobId,
        /// The client's name for the request; the same again is answered like the first time.
        request: RequestId,
        /// When.
        at_ms: u64,
    },
    /// The one terminal result of a job; its executions are dropped, and its checkpoints, but not its savepoints, discarded.
    EndJob {
        /// The job.
        job: JobId,
        /// FINISHED, CANCELED or FAILED.
        status: JobStatus,
        /// When.
        at_ms: u64,
        /// Why it failed.
        failure: Option<String>,
    },
    /// Forgets ended jobs with their requests and checkpoints, and artifacts that no job uses any more. Other jobs are left
    /// alone.
    ForgetJobs {
        /// The jobs.
        jobs: Vec<JobId>,
    },
    /// Records how a leadership began. Without effect unless that leadership itself says so.
    RecordTakeOver {
        /// The leadership.
        epoch: LeaderEpoch,
        /// Its beginning.
        take_over: TakeOver,
    },
    /// Takes the next number for a checkpoint, which is in flight then. The same again is without effect while it is.
    ReserveCheckpoint {
        /// The job.
        job: JobId,
        /// The number: one more than the last one used, whatever became of that.
        checkpoint: CheckpointId,
        /// What for.
        kind: SnapshotKind,
        /// Of a checkpoint: the directory of all of the job's checkpoints. Of a savepoint: its own. Absolute.
        directory: String,
        /// The client's name for the request, of a savepoint.
        request: Option<RequestId>,
        /// Discarded checkpoints whose files are gone; those not discarded are ignored.
        deleted: Vec<CheckpointId>,
        /// When, in milliseconds of the Unix epoch.
        at_ms: u64,
    },
    /// Makes a checkpoint in flight exist. The same again is without effect while it does.
    ///
    /// Discards the checkpoints in flight that are older, and the oldest completed ones; savepoints stay.
    CompleteCheckpoint {
        /// The job.
        job: JobId,
        /// The checkpoint; all its files are durable.
        completed: CompletedCheckpoint,
        /// Completed checkpoints that are kept, this one included; the newest always is.
        retained: u32,
    },
    /// Discards checkpoints in flight: they never come to exist. Others are left alone.
    AbortCheckpoint {
        /// The job.
        job: JobId,
        /// The checkpoints.
        checkpoints: Vec<CheckpointId>,
        /// Why, for people.
        reason: String,
    },
    /// Remembers what has failed of a job, in one entry with what follows from it. Of a job that has ended nothing is added.
    RecordExceptions {
        /// The job.
        job: JobId,
        /// Entries of its history that are new or have changed, and what its restart strategy remembers now.
        news: JobExceptions,
        /// Entries that are kept, these included.
        kept: u32,
        /// What follows, about the same job; the outcome is that of this one.
        then: Option<Box<Command>>,
    },
}

/// What became of a command. Everything but an error of the store is an outcome, and is the same on every member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was recorded.
    Done,
    /// It was without effect, as its documentation says.
    Ignored,
    /// The job was accepted.
    Accepted(JobId),
    /// The request had been seen before and made this job.
    SameRequest(JobId),
    /// Another submission has this job id.
    DuplicateJob(JobId),
    /// The artifact is not recorded.
    UnknownArtifact(ArtifactDigest),
    /// There is no such job.
    UnknownJob(JobId),
    /// The job has ended before, in this state.
    AlreadyEnded(JobId, JobStatus),
    /// A job in this state cannot go to that one.
    IllegalStatus {
        /// The job.
        job: JobId,
        /// Where it stands.
        from: JobStatus,
        /// Where it was to go.
        to: JobStatus,
    },
    /// The jobs were forgotten.
    Forgotten {
        /// Those that were; others were unknown or have not ended.
        jobs: Vec<JobId>,
        /// Artifacts no job uses any more; their records are gone, their bytes may go.
        artifacts: Vec<ArtifactDigest>,
    },
    /// A checkpoint of the job cannot have this number.
    CheckpointIdTaken {
        /// The number the next one has.
        next: CheckpointId,
    },
    /// The checkpoint is not in flight: it was never reserved, or was discarded, and must not exist.
    CheckpointUnknown(CheckpointId),
}

/// Bytes that are no command of a version known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a metadata command: {0}")]
pub struct DecodeCommandError(String);

impl Command {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a Vec grows, and no field of a command refuses to serialize")
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeCommandError> {
        match bytes {
            [VERSION, body @ ..] => match postcard::take_from_bytes(body) {
                Ok((command, [])) => Ok(command),
                Ok((_, rest)) => Err(DecodeCommandError(format!("{} bytes after its end", rest.len()))),
                Err(error) => Err(DecodeCommandError(error.to_string())),
            },
            [version, ..] => Err(DecodeCommandError(format!("version {version}, this build reads {VERSION}"))),
            [] => Err(DecodeCommandError("no bytes".to_owned())),
        }
    }

    /// Its name, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bootstrap { .. } => "Bootstrap",
            Self::Lead { .. } => "Lead",
            Self::AddArtifact { .. } => "AddArtifact",
            Self::SubmitJob { .. } => "SubmitJob",
            Self::SetStatus { .. } => "SetStatus",
            Self::PlaceExecutions { .. } => "PlaceExecutions",
            Self::FinishExecutions { .. } => "FinishExecutions",
            Self::RecordExceptions { then: Some(then), .. } => then.name(),
            Self::RecordExceptions { .. } => "RecordExceptions",
            Self::CancelJob { .. } => "CancelJob",
            Self::EndJob { .. } => "EndJob",
            Self::ForgetJobs { .. } => "ForgetJobs",
            Self::RecordTakeOver { .. } => "RecordTakeOver",
            Self::ReserveCheckpoint { .. } => "ReserveCheckpoint",
            Self::CompleteCheckpoint { .. } => "CompleteCheckpoint",
            Self::AbortCheckpoint { .. } => "AbortCheckpoint",
        }
    }
}

/// A field stored as JSON text.
pub(crate) mod json {
    use serde::de::DeserializeOwned;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<T: Serialize, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(value).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, T: DeserializeOwned, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        serde_json::from_str(<&str>::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
