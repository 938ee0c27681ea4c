//! Where a job and an execution stand. The states and their order are Flink's.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a job.
///
/// ```text
/// INITIALIZING ─> CREATED ─> RUNNING ─> FINISHED
///                    │          │  ▲
///                    │          ▼  │
///                    └─ loss ─> RESTARTING
///                    ├─ cancel ─> CANCELLING ─> CANCELED
///                    └─ failure ─> FAILING ─> FAILED
/// ```
/// `RECONCILING` is where a new leader's JobMaster starts: it compares the executions in the log with those the
/// TaskManagers report, then the job is `RUNNING` again without a restart. Flink has the name and never uses it.
/// `SUSPENDED` is Flink's name for a job whose JobMaster stopped; here it is never entered by a change of leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum JobStatus {
    /// Accepted, its JobMaster is being made.
    Initializing,
    /// The JobMaster exists and waits for slots.
    Created,
    /// Tasks are deployed or running.
    Running,
    /// Failed for good, its tasks are being cancelled.
    Failing,
    /// Ended by a failure.
    Failed,
    /// A user asked to cancel, its tasks are being cancelled.
    Cancelling,
    /// Ended by a user.
    Canceled,
    /// Ended because all its input did.
    Finished,
    /// Waiting to run again after a failure.
    Restarting,
    /// Stopped here, to be recovered elsewhere.
    Suspended,
    /// A new leader compares what should run with what runs.
    Reconciling,
}

impl JobStatus {
    /// FINISHED, CANCELED, FAILED: nothing will run again under this id.
    pub const fn is_globally_terminal(self) -> bool {
        matches!(self, Self::Failed | Self::Canceled | Self::Finished)
    }

    /// Whether a job may go from this state to that one.
    pub const fn may_become(self, next: JobStatus) -> bool {
        use JobStatus::*;
        match (self, next) {
            (from, _) if from.is_globally_terminal() => false,
            (_, Suspended) | (Initializing | Created | Running | Restarting | Suspended, Reconciling) => true,
            (Initializing, Created | Cancelling | Failing | Failed | Canceled) => true,
            (Created, Running | Restarting | Cancelling | Failing | Canceled | Failed) => true,
            (Running, Finished | Restarting | Cancelling | Failing) => true,
            (Restarting, Running | Created | Cancelling | Failing) => true,
            (Reconciling, Running | Created | Restarting | Cancelling | Failing | Finished) => true,
            (Failing, Failed | Cancelling) => true,
            (Cancelling, Canceled) => true,
            _ => false,
        }
    }

    /// Flink's spelling, upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initializing => "INITIALIZING",
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Failing => "FAILING",
            Self::Failed => "FAILED",
            Self::Cancelling => "CANCELLING",
            Self::Canceled => "CANCELED",
            Self::Finished => "FINISHED",
            Self::Restarting => "RESTARTING",
            Self::Suspended => "SUSPENDED",
            Self::Reconciling => "RECONCILING",
        }
    }

    /// Every state, in Flink's order.
    pub const ALL: [JobStatus; 11] = [
        Self::Initializing,
        Self::Created,
        Self::Running,
        Self::Failing,
        Self::Failed,
        Self::Cancelling,
        Self::Canceled,
        Self::Finished,
        Self::Restarting,
        Self::Suspended,
        Self::Reconciling,
    ];
}

impl fmt::Display for JobStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// State of one execution.
///
/// ```text
/// CREATED ─> SCHEDULED ─> DEPLOYING ─> INITIALIZING ─> RUNNING ─> FINISHED
///    └──────────┴─ cancel ─> CANCELED      │             │
///                  DEPLOYING, INITIALIZING, RUNNING ─> CANCELING ─> CANCELED
///                  any ─> FAILED
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ExecutionState {
    /// Exists in the ExecutionGraph.
    Created,
    /// Waits for a slot.
    Scheduled,
    /// Its deployment was sent.
    Deploying,
    /// Builds its operators and restores their state.
    Initializing,
    /// Processes records.
    Running,
    /// Ended because its input did.
    Finished,
    /// Asked to stop.
    Canceling,
    /// Stopped because it was asked to.
    Canceled,
    /// Ended by an error.
    Failed,
    /// A new leader asks whether it still runs.
    Reconciling,
}

impl ExecutionState {
    /// FINISHED, CANCELED, FAILED.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Canceled | Self::Failed)
    }

    /// Whether an execution may go from this state to that one.
    ///
    /// Reports may skip states (a quick task is FINISHED before its RUNNING was told), so going forward over several
    /// is allowed.
    pub const fn may_become(self, next: ExecutionState) -> bool {
        use ExecutionState::*;
        match (self, next) {
            (from, _) if from.is_terminal() => false,
            (_, Failed) => true,
            (Created | Scheduled, Canceled) => true,
            (Created, Scheduled | Deploying | Reconciling) => true,
            (Scheduled, Deploying) => true,
            (Deploying, Initializing | Running | Finished | Canceling | Canceled) => true,
            (Initializing, Running | Finished | Canceling | Canceled) => true,
            (Running, Finished | Canceling | Canceled) => true,
            (Canceling, Canceled | Finished) => true,
            (Reconciling, _) => true,
            _ => false,
        }
    }

    /// Flink's spelling, upper case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Scheduled => "SCHEDULED",
            Self::Deploying => "DEPLOYING",
            Self::Initializing => "INITIALIZING",
            Self::Running => "RUNNING",
            Self::Finished => "FINISHED",
            Self::Canceling => "CANCELING",
            Self::Canceled => "CANCELED",
            Self::Failed => "FAILED",
            Self::Reconciling => "RECONCILING",
        }
    }

    /// Every state, in Flink's order.
    pub const ALL: [ExecutionState; 10] = [
        Self::Created,
        Self::Scheduled,
        Self::Deploying,
        Self::Initializing,
        Self::Running,
        Self::Finished,
        Self::Canceling,
        Self::Canceled,
        Self::Failed,
        Self::Reconciling,
    ];
}

impl fmt::Display for ExecutionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_a_terminal_state() {
        for from in JobStatus::ALL.into_iter().filter(|s| s.is_globally_terminal()) {
            assert!(JobStatus::ALL.into_iter().all(|to| !from.may_become(to)), "{from}");
        }
        for from in ExecutionState::ALL.into_iter().filter(|s| s.is_terminal()) {
            assert!(ExecutionState::ALL.into_iter().all(|to| !from.may_become(to)), "{from}");
        }
    }

    #[test]
    fn a_failing_job_can_still_be_cancelled_and_a_cancelling_one_ends_canceled() {
        assert!(JobStatus::Failing.may_become(JobStatus::Cancelling));
        assert!(JobStatus::Cancelling.may_become(JobStatus::Canceled));
        assert!(!JobStatus::Cancelling.may_become(JobStatus::Failed));
    }
}
