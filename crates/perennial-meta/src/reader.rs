//! Reads of the applied state.

use perennial_types::{ArtifactDigest, ClusterId, JobExceptions, JobId, LeaderEpoch, RequestId, TakeOver};
use tokio::sync::watch;

use crate::kv::{self, StateError, list, read};
use crate::record::{
    ArtifactRecord, CheckpointHead, CompletedCheckpoint, DiscardedCheckpoint, JobHead, JobRecord, LeadershipRecord,
    PlacedExecution,
};
use crate::state::{Shared, StateDb};

/// Why the state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata state cannot be read: {0}")]
pub struct ReadError(String);

impl From<StateError> for ReadError {
    fn from(error: StateError) -> Self {
        Self(error.0)
    }
}

/// Reads what this member has applied. Cheap to clone.
///
/// On a standby it may be behind the leader. Each method reads a state as of some entry; two calls may see different
/// ones.
#[derive(Clone)]
pub struct StateReader {
    pub(crate) state: StateDb,
    pub(crate) applied: watch::Receiver<u64>,
}

impl StateReader {
    /// The cluster's name, once bootstrapped.
    pub fn cluster_id(&self) -> Result<Option<ClusterId>, ReadError> {
        Ok(read::<kv::cluster::Cluster>(&Shared(&self.state), &())?)
    }

    /// One job.
    pub fn job(&self, job: JobId) -> Result<Option<JobRecord>, ReadError> {
        self.job_head(job)?.map_or(Ok(None), |head| self.with_graph(head))
    }

    /// One job without its graph.
    pub fn job_head(&self, job: JobId) -> Result<Option<JobHead>, ReadError> {
        Ok(read::<kv::job::Job>(&Shared(&self.state), &job)?)
    }

    /// All jobs, ended ones included, ascending by id.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, ReadError> {
        let heads = self.job_heads()?.into_iter();
        heads.filter_map(|head| self.with_graph(head).transpose()).collect()
    }

    /// All jobs without their graphs, ascending by id: what a listing needs.
    pub fn job_heads(&self) -> Result<Vec<JobHead>, ReadError> {
        Ok(list::<kv::job::Job>(&Shared(&self.state), &[])?)
    }

    /// The job a request made.
    pub fn request(&self, request: RequestId) -> Result<Option<JobId>, ReadError> {
        Ok(read::<kv::request::Request>(&Shared(&self.state), &request)?)
    }

    /// One artifact.
    pub fn artifact(&self, digest: ArtifactDigest) -> Result<Option<ArtifactRecord>, ReadError> {
        Ok(read::<kv::artifact::Artifact>(&Shared(&self.state), &digest)?)
    }

    /// All artifacts, ascending by digest.
    pub fn artifacts(&self) -> Result<Vec<ArtifactRecord>, ReadError> {
        Ok(list::<kv::artifact::Artifact>(&Shared(&self.state), &[])?)
    }

    /// Newest placements of a job's subtasks, ascending by vertex id and subtask.
    pub fn executions(&self, job: JobId) -> Result<Vec<PlacedExecution>, ReadError> {
        Ok(list::<kv::execution::Execution>(&Shared(&self.state), job.as_bytes())?)
    }

    /// What failed of a job last; `None` when nothing has, or there is no such job.
    pub fn exceptions(&self, job: JobId) -> Result<Option<JobExceptions>, ReadError> {
        Ok(read::<kv::exceptions::Exceptions>(&Shared(&self.state), &job)?)
    }

    /// Which numbers of checkpoints a job has used, and which it is taking; `None` before the first.
    pub fn checkpoint_head(&self, job: JobId) -> Result<Option<CheckpointHead>, ReadError> {
        Ok(read::<kv::checkpoint_head::CheckpointHeads>(&Shared(&self.state), &job)?)
    }

    /// Completed checkpoints and savepoints of a job, ascending by number.
    pub fn checkpoints(&self, job: JobId) -> Result<Vec<CompletedCheckpoint>, ReadError> {
        Ok(list::<kv::checkpoint::Checkpoints>(&Shared(&self.state), job.as_bytes())?)
    }

    /// Checkpoints of a job whose files are to be deleted, ascending by number.
    pub fn discarded(&self, job: JobId) -> Result<Vec<DiscardedCheckpoint>, ReadError> {
        Ok(list::<kv::discarded::Discarded>(&Shared(&self.state), job.as_bytes())?)
    }

    /// The newest leaderships, oldest first.
    pub fn leaderships(&self) -> Result<Vec<LeadershipRecord>, ReadError> {
        Ok(list::<kv::leadership::Leadership>(&Shared(&self.state), &[])?)
    }

    /// How a leadership began, if its leader recorded it.
    pub fn take_over(&self, epoch: LeaderEpoch) -> Result<Option<TakeOver>, ReadError> {
        Ok(read::<kv::take_over::TakeOvers>(&Shared(&self.state), &epoch)?)
    }

    /// Log index of the last entry applied.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// `None` when the job was forgotten since its head was read.
    fn with_graph(&self, head: JobHead) -> Result<Option<JobRecord>, ReadError> {
        let planned = read::<kv::job_graph::JobGraphs>(&Shared(&self.state), &head.job)?;
        Ok(planned.map(|planned| JobRecord::join(head, planned.plan, planned.graph)))
    }
}
