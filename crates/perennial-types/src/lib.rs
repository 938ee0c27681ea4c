//! The vocabulary of Perennial: ids, epochs, key groups, job graphs, states, options.
//!
//! Plain data and pure functions. Nothing here is async, opens a socket or reads a clock. A type lives here once a
//! second crate needs it; until then it lives beside the interface that uses it.
//!
//! Start with [`JobGraph`] (what a user asks for), [`JobStatus`] and [`ExecutionState`] (where it stands) and
//! [`Fence`] (who may command it).

mod checkpoint;
pub mod config;
mod exception;
mod fence;
mod id;
mod job_graph;
mod key_group;
mod manifest;
mod record;
mod status;
mod take_over;
mod units;

pub use checkpoint::{
    CheckpointMetadata, ClaimMode, OperatorRestore, OperatorSnapshot, RestoreSettings, SHARED_DIRECTORY, SnapshotKind,
    StateFile, TaskRestore, TaskSnapshot, VertexSnapshot,
};
pub use config::{ConfigOption, Configuration};
pub use exception::{ExceptionEntry, ExceptionKind, FailedTask, JobException, JobExceptions, RestartMemory};
pub use fence::{Fence, LeaderEpoch};
pub use id::{
    AllocationId, ArtifactDigest, CheckpointId, ClusterId, ExecutionAttemptId, Incarnation, JobId, JobManagerId,
    OperatorId, ParseIdError, RequestId, SlotIndex, TaskManagerId, VertexId,
};
pub use job_graph::{DEFAULT_SLOT_SHARING_GROUP, JobEdge, JobGraph, JobVertex, OperatorInfo, ShipStrategy};
pub use key_group::{KeyGroup, KeyGroupRange, MaxParallelism, key_group, murmur, subtask_of};
pub use manifest::{ARTIFACT_PROTOCOL, ArtifactManifest, MANIFEST_MAGIC, PlanRequest, ProtocolRange};
pub use record::{DecodeError, Key, Record};

#[doc(hidden)]
pub use record::{add_fixed, combine, fixed_or_zero};
pub use status::{ExecutionState, JobStatus};
pub use take_over::{ElectionCause, TakeOver};
pub use units::{ByteSize, ParseUnitError, format_duration, parse_duration};
