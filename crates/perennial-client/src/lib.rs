//! Reaches a cluster from outside: finds a JobManager that answers, plans and submits jobs, follows them.
//!
//! A [`Client`] is a [`DispatcherGateway`] over a list of endpoints. Any JobManager will do, since one that does not lead
//! forwards; the client tries them in turn and again while the cluster has no leader. [`Client::submit`] is the whole
//! way from a file to a running job. Nothing here prints: the command line and REST do.

mod artifact;
mod client;
mod follow;
mod roles;
mod submit;

pub use artifact::{Artifact, ArtifactFileError};
pub use client::Client;
pub use perennial_rpc::artifact::{ArtifactGateway, PutArtifactError};
pub use perennial_rpc::dispatcher::{
    CancelJobError, ClusterStatus, DispatcherGateway, ExecutionSummary, JobDetails, JobSummaries, JobSummary,
    LeadershipSummary, MemberRole, MemberStatus, MemberSummary, Stale, StateAge, SubmitJob, SubmitJobError,
    TaskManagerSummary, Unavailable,
};
pub use perennial_rpc::group::{
    ChangedMember, GroupError, GroupGateway, GroupMember, LeaderTransfer, MemberChange, Place, SnapshotContent,
};
pub use perennial_rpc::transport::AddressError;
pub use roles::{Plan, RoleError};
pub use submit::{PrepareError, Prepared, SubmitError, describe};

#[cfg(test)]
mod testing;
