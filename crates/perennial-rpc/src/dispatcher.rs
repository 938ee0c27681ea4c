//! Clients and the Dispatcher. Any JobManager answers; one that does not lead forwards to the leader.

mod convert;
mod grpc;

use std::collections::BTreeMap;
use std::pin::Pin;

use tokio_stream::Stream;

use perennial_types::{
    ArtifactDigest, ClusterId, ExceptionEntry, ExecutionState, JobGraph, JobId, JobManagerId, JobStatus, LeaderEpoch,
    PlanRequest, RequestId, RestoreSettings, TakeOver, TaskManagerId, VertexId,
};

pub use grpc::{DispatcherClient, DispatcherServer};

/// A job's summary now and after every change. Ends after the summary of a terminal state, or after an error.
pub type JobSummaries = Pin<Box<dyn Stream<Item = Result<JobSummary, Unavailable>> + Send>>;

/// Reaches the Dispatcher, wherever the leader is.
///
/// Every call answers within the implementation's deadline. All of them are safe to repeat.
pub trait DispatcherGateway: Clone + Send + Sync + 'static {
    /// Records a job. Resolves once the entry is committed; the job runs later.
    fn submit_job(&self, job: SubmitJob) -> impl Future<Output = Result<JobId, SubmitJobError>> + Send;

    /// Asks a job to end. Resolves once the wish is recorded; the tasks end later.
    fn cancel_job(&self, job: JobId, request: RequestId) -> impl Future<Output = Result<(), CancelJobError>> + Send;

    /// Running and ended jobs, in no particular order.
    fn list_jobs(&self) -> impl Future<Output = Result<Vec<JobSummary>, Unavailable>> + Send;

    /// One job; `None` when there is no such job.
    fn job(&self, job: JobId) -> impl Future<Output = Result<Option<JobDetails>, Unavailable>> + Send;

    /// What has failed of one job, newest first; `None` when there is no such job.
    fn exceptions(&self, job: JobId) -> impl Future<Output = Result<Option<Vec<ExceptionEntry>>, Unavailable>> + Send;

    /// Follows one job; `None` when there is no such job.
    fn watch_job(&self, job: JobId) -> impl Future<Output = Result<Option<JobSummaries>, Unavailable>> + Send;

    /// Running and ended jobs as the asked member has applied them, with or without a leader. It may be behind.
    fn list_jobs_stale(&self) -> impl Future<Output = Result<Stale<Vec<JobSummary>>, Unavailable>> + Send;

    /// One job as the asked member has applied it, with or without a leader.
    fn job_stale(&self, job: JobId) -> impl Future<Output = Result<Stale<Option<JobDetails>>, Unavailable>> + Send;

    /// Registered TaskManagers.
    fn taskmanagers(&self) -> impl Future<Output = Result<Vec<TaskManagerSummary>, Unavailable>> + Send;

    /// The JobManager group as the asked member sees it. Answered by that member itself, with or without a leader.
    fn cluster_status(&self) -> impl Future<Output = Result<ClusterStatus, Unavailable>> + Send;

    /// The newest leaderships and how they began, newest first. Answered by the asked member from what it has applied.
    fn leaderships(&self) -> impl Future<Output = Result<Vec<LeadershipSummary>, Unavailable>> + Send;
}

/// An answer of one member from what it has applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Stale<T> {
    /// The answer.
    pub value: T,
    /// How old it may be.
    pub age: StateAge,
}

/// How old a member's applied state may be: everything committed before is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateAge {
    /// The member that answers.
    pub from: JobManagerId,
    /// Index of the last entry applied there.
    pub applied: u64,
    /// Milliseconds since that member last heard from a leader, or as the leader from a quorum; none before the first
    /// time.
    pub age_ms: Option<u64>,
}

/// A job to run.
#[derive(Debug, Clone, PartialEq)]
pub struct SubmitJob {
    /// The client's name for this submission: the same id again gives the same job.
    pub request: RequestId,
    /// The job's id, when the user fixed it.
    pub job: Option<JobId>,
    /// The executable, already in the artifact store.
    pub artifact: ArtifactDigest,
    /// What the graph was planned from.
    pub plan: PlanRequest,
    /// The plan.
    pub graph: JobGraph,
    /// What it starts from; anew without.
    pub restore: Option<RestoreSettings>,
}

/// Why a job was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitJobError {
    /// The artifact has to be uploaded first.
    #[error("artifact {digest} is not in the artifact store")]
    UnknownArtifact {
        /// Its digest.
        digest: ArtifactDigest,
    },
    /// Another submission has this job id.
    #[error("job {job} exists already")]
    Duplicate {
        /// The id.
        job: JobId,
    },
    /// The graph makes no sense.
    #[error("the job graph is not valid: {reason}")]
    InvalidGraph {
        /// What is wrong with it.
        reason: String,
    },
    /// What it is to be started from cannot be used. Nothing was changed.
    #[error("{reason}")]
    CannotRestore {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Nothing is known to have been written; try again with the same request id.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why a job could not be cancelled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CancelJobError {
    /// No such job.
    #[error("no job {job}")]
    UnknownJob {
        /// The id.
        job: JobId,
    },
    /// It has ended before.
    #[error("job {job} has ended already: {status}")]
    AlreadyEnded {
        /// The id.
        job: JobId,
        /// How it ended.
        status: JobStatus,
    },
    /// Nothing is known to have been written; try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The cluster cannot answer now. Always safe to try again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// There is no leader, or it is not reached.
    #[error("no leader: {reason}")]
    NoLeader {
        /// What was tried, each endpoint with its reason.
        reason: String,
    },
    /// The leader could not record the request.
    #[error("the metadata store refused: {reason}")]
    Store {
        /// Why.
        reason: String,
    },
    /// Nobody answered, or the answer made no sense.
    #[error("no JobManager answers: {reason}")]
    Unreachable {
        /// Each endpoint that was tried with its reason.
        reason: String,
    },
    /// A disk is nearly full: new work is refused, everything else goes on.
    #[error("no room for new work: {reason}")]
    NoRoom {
        /// Which directory, how much is free, and the option.
        reason: String,
    },
}

/// One line of a job listing.
#[derive(Debug, Clone, PartialEq)]
pub struct JobSummary {
    /// The job.
    pub job: JobId,
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub status: JobStatus,
    /// When it was submitted, in milliseconds of the Unix epoch.
    pub start_ms: u64,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// Subtasks by state.
    pub tasks: BTreeMap<ExecutionState, u32>,
    /// Sum of the slots it holds or waits for.
    pub slots_needed: u32,
    /// What it waits for, such as `needs 8 slots, 4 are free`; empty when it waits for nothing.
    pub waiting_for: String,
    /// Why it failed; empty when it did not.
    pub failure: String,
    /// How often it was restarted.
    pub restarts: u32,
}

/// A job with its vertices.
#[derive(Debug, Clone, PartialEq)]
pub struct JobDetails {
    /// The same as in a listing.
    pub summary: JobSummary,
    /// The plan.
    pub graph: JobGraph,
    /// The executable.
    pub artifact: ArtifactDigest,
    /// What the graph was planned from.
    pub plan: PlanRequest,
    /// Every subtask's current execution.
    pub executions: Vec<ExecutionSummary>,
}

/// One execution.
#[derive(Debug, Clone, PartialEq)]
pub struct ExecutionSummary {
    /// Its vertex.
    pub vertex: VertexId,
    /// Which copy of it.
    pub subtask: u32,
    /// Which attempt.
    pub attempt: u32,
    /// Where it stands.
    pub state: ExecutionState,
    /// Where it runs.
    pub taskmanager: Option<TaskManagerId>,
    /// Where its TaskManager's executors are reached.
    pub host: String,
    /// When it was deployed, in milliseconds of the Unix epoch.
    pub start_ms: Option<u64>,
    /// When it ended.
    pub end_ms: Option<u64>,
    /// Records read so far.
    pub records_in: u64,
    /// Records written so far.
    pub records_out: u64,
    /// Why it failed; empty when it did not.
    pub failure: String,
}

/// A registered TaskManager.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskManagerSummary {
    /// Its name.
    pub id: TaskManagerId,
    /// Where its executors are reached.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// Slots it offers.
    pub slots: u32,
    /// Slots no job holds.
    pub free_slots: u32,
    /// Milliseconds since its last heartbeat.
    pub heartbeat_age_ms: u64,
    /// Commands of deposed leaders that it and its executors have refused since they started.
    pub stale_commands: u64,
}

/// The JobManager group as one member sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterStatus {
    /// The cluster, once bootstrapped.
    pub cluster: Option<ClusterId>,
    /// Who answers.
    pub from: JobManagerId,
    /// Newest epoch.
    pub epoch: LeaderEpoch,
    /// Who leads.
    pub leader: Option<JobManagerId>,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Every member.
    pub members: Vec<MemberSummary>,
    /// How the member that answers stands.
    pub own: MemberStatus,
    /// Milliseconds since the member that answers last heard from a leader, or as the leader from a quorum.
    pub age_ms: Option<u64>,
}

/// How a member stands, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemberStatus {
    /// What it is in Raft.
    pub role: MemberRole,
    /// Index of the last entry of its log.
    pub last_log: u64,
    /// Index of the last entry it knows to be committed.
    pub committed: u64,
    /// Index of the last entry in its newest snapshot; 0 without one.
    pub snapshot: u64,
    /// A leader's: milliseconds since a quorum last acknowledged it.
    pub quorum_ack_ms: Option<u64>,
    /// Version of its build.
    pub version: String,
    /// Milliseconds since its process started.
    pub uptime_ms: u64,
}

/// What a member is in Raft.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MemberRole {
    /// It leads.
    Leader,
    /// It votes and follows.
    #[default]
    Follower,
    /// It stands for election.
    Candidate,
    /// It follows without a vote.
    Learner,
}

impl MemberRole {
    /// Its name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
        }
    }
}

/// A member of the JobManager group.
#[derive(Debug, Clone, PartialEq)]
pub struct MemberSummary {
    /// Its number.
    pub id: JobManagerId,
    /// Its name in the peer list.
    pub name: String,
    /// RPC address.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Entries it is behind the leader, as far as the answering member knows.
    pub lag: Option<u64>,
}

/// A leadership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeadershipSummary {
    /// Its epoch.
    pub epoch: LeaderEpoch,
    /// Who led.
    pub leader: JobManagerId,
    /// When it began, by the leader's clock, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// How it began. `None` before that is recorded, and for good when the leader ended before.
    pub take_over: Option<TakeOver>,
}
