//! What the replicated state holds, as callers read it.

use perennial_types::{
    AllocationId, ArtifactDigest, CheckpointId, ExecutionAttemptId, Incarnation, JobGraph, JobId, JobManagerId,
    JobStatus, LeaderEpoch, PlanRequest, RequestId, SlotIndex, SnapshotKind, TaskManagerId,
};
use serde::{Deserialize, Serialize};

/// What a user wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DesiredState {
    /// It runs until its input ends.
    Running,
    /// It was cancelled.
    Canceled,
}

/// A job without its graph: what changes while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobHead {
    /// The job.
    pub job: JobId,
    /// The client's name for the submission.
    pub request: RequestId,
    /// Name, for people.
    pub name: String,
    /// Its executable.
    pub artifact: ArtifactDigest,
    /// Where it stands.
    pub status: JobStatus,
    /// What the user wants.
    pub desired: DesiredState,
    /// The request that cancelled it first.
    pub cancel_request: Option<RequestId>,
    /// When it was submitted, in milliseconds of the Unix epoch.
    pub submitted_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// When it last entered each state it has been in, in order of first entry.
    pub status_times: Vec<(JobStatus, u64)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// How often it was restarted.
    pub restarts: u32,
}

/// A job with all that is known of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// The job.
    pub job: JobId,
    /// The client's name for the submission.
    pub request: RequestId,
    /// Name, for people.
    pub name: String,
    /// Its executable.
    pub artifact: ArtifactDigest,
    /// What the graph was planned from.
    pub plan: PlanRequest,
    /// The plan.
    pub graph: JobGraph,
    /// Where it stands.
    pub status: JobStatus,
    /// What the user wants.
    pub desired: DesiredState,
    /// The request that cancelled it first.
    pub cancel_request: Option<RequestId>,
    /// When it was submitted, in milliseconds of the Unix epoch.
    pub submitted_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
    /// When it last entered each state it has been in, in order of first entry.
    pub status_times: Vec<(JobStatus, u64)>,
    /// Why it failed.
    pub failure: Option<String>,
    /// How often it was restarted.
    pub restarts: u32,
}

impl JobRecord {
    /// Joins what is stored apart because it changes at a different pace.
    pub(crate) fn join(head: JobHead, plan: PlanRequest, graph: JobGraph) -> Self {
        let JobHead { job, request, name, artifact, status, desired, cancel_request, .. } = head;
        let JobHead { submitted_ms, ended_ms, status_times, failure, restarts, .. } = head;
        Self {
            job,
            request,
            name,
            artifact,
            plan,
            graph,
            status,
            desired,
            cancel_request,
            submitted_ms,
            ended_ms,
            status_times,
            failure,
            restarts,
        }
    }
}

/// Where one execution was placed: what a new leader needs to adopt it instead of deploying it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecutionRecord {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// The TaskManager that runs it.
    pub taskmanager: TaskManagerId,
    /// The life of that TaskManager's process.
    pub incarnation: Incarnation,
    /// The slot it runs in.
    pub slot: SlotIndex,
    /// The promise under which the job holds the slot.
    pub allocation: AllocationId,
}

/// The newest placement of one subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacedExecution {
    /// Where it was placed.
    pub record: ExecutionRecord,
    /// Whether it has finished: such a subtask is never started again.
    pub finished: bool,
}

/// An executable in the artifact store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRecord {
    /// SHA-256 of its bytes.
    pub digest: ArtifactDigest,
    /// File name, for people.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// JobManagers known to hold the bytes, ascending.
    pub holders: Vec<JobManagerId>,
}

/// One leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeadershipRecord {
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Who led.
    pub leader: JobManagerId,
    /// When it began, by the leader's clock, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// Log index of its first entry.
    pub index: u64,
}

/// Which numbers of checkpoints a job has used, and which it is taking.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointHead {
    /// The last number used; 0 when none was. Never goes back.
    pub counter: CheckpointId,
    /// Reserved, and neither completed nor aborted yet; ascending.
    pub in_flight: Vec<ReservedCheckpoint>,
    /// Directory of the job's checkpoints, as the first of them named it; empty before.
    pub directory: String,
    /// What the job was started from.
    pub restored: Option<RestoredFrom>,
}

/// The checkpoint or savepoint that a job was started from. The job goes on with the next number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoredFrom {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Directory of its files.
    pub location: String,
}

/// A checkpoint that is being taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReservedCheckpoint {
    /// Its number.
    pub id: CheckpointId,
    /// What for.
    pub kind: SnapshotKind,
    /// Of a checkpoint: the directory of all of the job's checkpoints. Of a savepoint: its own. Absolute.
    pub directory: String,
    /// The client's name for the request, of a savepoint.
    pub request: Option<RequestId>,
    /// When it was reserved, in milliseconds of the Unix epoch.
    pub at_ms: u64,
}

impl ReservedCheckpoint {
    /// The directory of its files.
    pub fn location(&self) -> String {
        match self.kind {
            SnapshotKind::Checkpoint => format!("{}/chk-{}", self.directory, self.id),
            SnapshotKind::Savepoint | SnapshotKind::Suspend { .. } => self.directory.clone(),
        }
    }
}

/// A checkpoint that exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletedCheckpoint {
    /// Its number.
    pub id: CheckpointId,
    /// What for.
    pub kind: SnapshotKind,
    /// When it was begun, in milliseconds of the Unix epoch.
    pub started_ms: u64,
    /// When its last part was there.
    pub at_ms: u64,
    /// Directory of its files.
    pub location: String,
    /// Bytes of its files.
    pub bytes: u64,
    /// CRC-32 of its metadata: the JSON of a `CheckpointMetadata`.
    pub metadata_crc: u32,
    /// That JSON; `None` when it is too large for the log and only in its file.
    pub inline: Option<Vec<u8>>,
}

/// A checkpoint whose files are to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiscardedCheckpoint {
    /// Its number.
    pub id: CheckpointId,
    /// Directory of its files.
    pub location: String,
}
