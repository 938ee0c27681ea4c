//! Reads of the applied state.

use perennial_types::{ArtifactDigest, ClusterId, JobId, RequestId};

use crate::record::{ArtifactRecord, JobHead, JobRecord, LeadershipRecord, PlacedExecution};

/// Why the state could not be read. The store reports itself as failed too.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the metadata state cannot be read: {0}")]
pub struct ReadError(pub(crate) String);

/// Reads what this member has applied. Cheap to clone. On a standby it may be behind the leader.
#[derive(Clone)]
pub struct StateReader {}

impl StateReader {
    /// The cluster's name, once bootstrapped.
    pub fn cluster_id(&self) -> Result<Option<ClusterId>, ReadError> {
        unimplemented!()
    }

    /// One job.
    pub fn job(&self, _job: JobId) -> Result<Option<JobRecord>, ReadError> {
        unimplemented!()
    }

    /// One job without its graph.
    pub fn job_head(&self, _job: JobId) -> Result<Option<JobHead>, ReadError> {
        unimplemented!()
    }

    /// All jobs, ended ones included, ascending by id.
    pub fn jobs(&self) -> Result<Vec<JobRecord>, ReadError> {
        unimplemented!()
    }

    /// All jobs without their graphs: what a listing needs.
    pub fn job_heads(&self) -> Result<Vec<JobHead>, ReadError> {
        unimplemented!()
    }

    /// The job a request made.
    pub fn request(&self, _request: RequestId) -> Result<Option<JobId>, ReadError> {
        unimplemented!()
    }

    /// One artifact.
    pub fn artifact(&self, _digest: ArtifactDigest) -> Result<Option<ArtifactRecord>, ReadError> {
        unimplemented!()
    }

    /// All artifacts.
    pub fn artifacts(&self) -> Result<Vec<ArtifactRecord>, ReadError> {
        unimplemented!()
    }

    /// Placements of a job's subtasks, in order of vertex id and subtask.
    pub fn executions(&self, _job: JobId) -> Result<Vec<PlacedExecution>, ReadError> {
        unimplemented!()
    }

    /// The newest leaderships, oldest first.
    pub fn leaderships(&self) -> Result<Vec<LeadershipRecord>, ReadError> {
        unimplemented!()
    }

    /// Log index of the last entry applied.
    pub fn applied(&self) -> u64 {
        unimplemented!()
    }
}
