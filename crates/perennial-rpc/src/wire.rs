//! Generated messages, and the conversions that every conversation needs. Nothing of this leaves the crate.

use perennial_types::{ExecutionAttemptId, ExecutionState, Fence, LeaderEpoch, PlanRequest};

#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated code")]
pub(crate) mod pb {
    include!(concat!(env!("OUT_DIR"), "/perennial.v1.rs"));
}

/// A message that is not what the protocol says: which field, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: `{field}` {problem}")]
pub struct WireError {
    /// Path of the field, such as `deploy.tasks.attempt`.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
}

impl WireError {
    /// The field is absent.
    pub(crate) fn missing(field: &'static str) -> Self {
        Self { field, problem: "is missing".to_owned() }
    }

    /// The field's value is not of its type.
    pub(crate) fn invalid(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self { field, problem: format!("is not valid: {problem}") }
    }
}

/// Reads an id of fixed size from bytes.
pub(crate) fn id<'a, T: TryFrom<&'a [u8]>>(bytes: &'a [u8], field: &'static str) -> Result<T, WireError>
where
    T::Error: std::fmt::Display,
{
    T::try_from(bytes).map_err(|error| WireError::invalid(field, error))
}

impl From<Fence> for pb::Fence {
    fn from(fence: Fence) -> Self {
        Self { epoch: fence.epoch.0, index: fence.index }
    }
}

impl From<pb::Fence> for Fence {
    fn from(fence: pb::Fence) -> Self {
        Self { epoch: LeaderEpoch(fence.epoch), index: fence.index }
    }
}

impl From<ExecutionAttemptId> for pb::ExecutionAttemptId {
    fn from(id: ExecutionAttemptId) -> Self {
        Self { vertex: id.vertex.as_bytes().to_vec().into(), subtask: id.subtask, attempt: id.attempt }
    }
}

impl TryFrom<pb::ExecutionAttemptId> for ExecutionAttemptId {
    type Error = WireError;

    fn try_from(id_pb: pb::ExecutionAttemptId) -> Result<Self, WireError> {
        Ok(Self { vertex: id(&id_pb.vertex, "attempt.vertex")?, subtask: id_pb.subtask, attempt: id_pb.attempt })
    }
}

impl From<ExecutionState> for pb::ExecutionState {
    fn from(state: ExecutionState) -> Self {
        match state {
            ExecutionState::Created => Self::Created,
            ExecutionState::Scheduled => Self::Scheduled,
            ExecutionState::Deploying => Self::Deploying,
            ExecutionState::Initializing => Self::Initializing,
            ExecutionState::Running => Self::Running,
            ExecutionState::Finished => Self::Finished,
            ExecutionState::Canceling => Self::Canceling,
            ExecutionState::Canceled => Self::Canceled,
            ExecutionState::Failed => Self::Failed,
            ExecutionState::Reconciling => Self::Reconciling,
        }
    }
}

/// Reads an execution state from its number.
pub(crate) fn execution_state(number: i32, field: &'static str) -> Result<ExecutionState, WireError> {
    match pb::ExecutionState::try_from(number) {
        Ok(pb::ExecutionState::Created) => Ok(ExecutionState::Created),
        Ok(pb::ExecutionState::Scheduled) => Ok(ExecutionState::Scheduled),
        Ok(pb::ExecutionState::Deploying) => Ok(ExecutionState::Deploying),
        Ok(pb::ExecutionState::Initializing) => Ok(ExecutionState::Initializing),
        Ok(pb::ExecutionState::Running) => Ok(ExecutionState::Running),
        Ok(pb::ExecutionState::Finished) => Ok(ExecutionState::Finished),
        Ok(pb::ExecutionState::Canceling) => Ok(ExecutionState::Canceling),
        Ok(pb::ExecutionState::Canceled) => Ok(ExecutionState::Canceled),
        Ok(pb::ExecutionState::Failed) => Ok(ExecutionState::Failed),
        Ok(pb::ExecutionState::Reconciling) => Ok(ExecutionState::Reconciling),
        Ok(pb::ExecutionState::Unspecified) => Err(WireError::missing(field)),
        Err(_) => Err(WireError::invalid(field, format_args!("{number} is no execution state"))),
    }
}

impl From<PlanRequest> for pb::PlanRequest {
    fn from(plan: PlanRequest) -> Self {
        Self { job: plan.job, args: plan.args, config: plan.config.into_iter().collect() }
    }
}

impl From<pb::PlanRequest> for PlanRequest {
    fn from(plan: pb::PlanRequest) -> Self {
        Self { job: plan.job, args: plan.args, config: plan.config.into_iter().collect() }
    }
}
