//! A checkpoint on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_types::{CheckpointId, ExecutionAttemptId, TaskManagerId, TaskSnapshot};

use super::{Effect, Participant, Reason, StoredCheckpoint};

/// How far it is. See the [module](super).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Reserving,
    Triggered,
    Writing,
    Completing,
    Aborting,
}

#[derive(Debug)]
pub(super) struct Pending {
    pub(super) checkpoint: CheckpointId,
    pub(super) stage: Stage,
    pub(super) started_ms: u64,
    /// From the moment it is written.
    pub(super) stored: Option<Arc<StoredCheckpoint>>,
    /// From the moment it is to be aborted.
    pub(super) failure: Option<Reason>,
    participants: BTreeMap<ExecutionAttemptId, Share>,
    missing: usize,
}

/// What an execution has to contribute.
#[derive(Debug)]
struct Share {
    taskmanager: TaskManagerId,
    snapshot: Option<TaskSnapshot>,
}

impl Pending {
    pub(super) fn new(checkpoint: CheckpointId, started_ms: u64) -> Self {
        let (stage, participants) = (Stage::Reserving, BTreeMap::new());
        Self { checkpoint, stage, started_ms, stored: None, failure: None, participants, missing: 0 }
    }

    pub(super) fn expect(&mut self, participants: Vec<Participant>) {
        let share = |Participant { attempt, taskmanager }| (attempt, Share { taskmanager, snapshot: None });
        self.participants = participants.into_iter().map(share).collect();
        self.missing = self.participants.len();
    }

    /// What its TaskManagers have to be told for it to be taken.
    pub(super) fn triggers(&self) -> Vec<Effect> {
        let whom: BTreeSet<&TaskManagerId> = self.participants.values().map(|share| &share.taskmanager).collect();
        whom.into_iter().map(|to| Effect::Trigger { to: to.clone(), checkpoint: self.checkpoint }).collect()
    }

    /// Whether it is being taken, and an execution on this TaskManager has not answered.
    pub(super) fn waits_for(&self, taskmanager: &TaskManagerId) -> bool {
        let mut waits = self.participants.values().filter(|share| share.snapshot.is_none());
        self.stage == Stage::Triggered && waits.any(|share| share.taskmanager == *taskmanager)
    }

    /// Whether this execution has not answered.
    pub(super) fn awaits(&self, attempt: ExecutionAttemptId) -> bool {
        self.participants.get(&attempt).is_some_and(|share| share.snapshot.is_none())
    }

    pub(super) fn ack(&mut self, attempt: ExecutionAttemptId, snapshot: TaskSnapshot) {
        if let Some(share) = self.participants.get_mut(&attempt).filter(|share| share.snapshot.is_none()) {
            share.snapshot = Some(snapshot);
            self.missing -= 1;
        }
    }

    /// An execution has finished; what it has written before counts.
    pub(super) fn finish(&mut self, attempt: ExecutionAttemptId) {
        self.ack(attempt, TaskSnapshot { finished: true, ..TaskSnapshot::default() });
    }

    /// Executions that have not answered.
    pub(super) fn missing(&self) -> impl Iterator<Item = ExecutionAttemptId> {
        let missing = self.participants.iter().filter(|(_, share)| share.snapshot.is_none());
        missing.map(|(attempt, _)| *attempt)
    }

    pub(super) fn is_acked(&self) -> bool {
        self.stage == Stage::Triggered && self.missing == 0
    }

    pub(super) fn take_snapshots(&mut self) -> Vec<(ExecutionAttemptId, TaskSnapshot)> {
        let shares = std::mem::take(&mut self.participants);
        shares.into_iter().filter_map(|(attempt, share)| Some((attempt, share.snapshot?))).collect()
    }
}
