//! A checkpoint on its way.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_types::{CheckpointId, ExecutionAttemptId, TaskManagerId, TaskSnapshot};

use super::{Effect, Participant, StoredCheckpoint};

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
    participants: BTreeMap<ExecutionAttemptId, Share>,
    missing: usize,
}

/// What an execution has to contribute.
#[derive(Debug)]
struct Share {
    taskmanager: TaskManagerId,
    is_root: bool,
    snapshot: Option<TaskSnapshot>,
}

impl Pending {
    pub(super) fn new(checkpoint: CheckpointId, started_ms: u64) -> Self {
        let (stage, participants) = (Stage::Reserving, BTreeMap::new());
        Self { checkpoint, stage, started_ms, stored: None, participants, missing: 0 }
    }

    pub(super) fn is(&self, checkpoint: CheckpointId, stage: Stage) -> bool {
        self.checkpoint == checkpoint && self.stage == stage
    }

    pub(super) fn expect(&mut self, participants: Vec<Participant>) {
        let share =
            |Participant { attempt, taskmanager, is_root }| (attempt, Share { taskmanager, is_root, snapshot: None });
        self.participants = participants.into_iter().map(share).collect();
        self.missing = self.participants.len();
    }

    /// What its TaskManagers, or one of them, have to be told for it to be taken. An execution that has answered needs no
    /// telling.
    pub(super) fn triggers(&self, only: Option<&TaskManagerId>) -> Vec<Effect> {
        let mut roots = BTreeMap::<&TaskManagerId, Vec<ExecutionAttemptId>>::new();
        for (attempt, share) in self.participants.iter().filter(|(_, share)| share.snapshot.is_none()) {
            if only.is_none_or(|only| *only == share.taskmanager) {
                roots.entry(&share.taskmanager).or_default().extend(share.is_root.then_some(*attempt));
            }
        }
        let checkpoint = self.checkpoint;
        roots.into_iter().map(|(to, roots)| Effect::Trigger { to: to.clone(), checkpoint, roots }).collect()
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

    /// How many executions have not answered.
    pub(super) fn missing(&self) -> usize {
        self.missing
    }

    pub(super) fn is_acked(&self) -> bool {
        self.stage == Stage::Triggered && self.missing == 0
    }

    pub(super) fn take_snapshots(&mut self) -> Vec<(ExecutionAttemptId, TaskSnapshot)> {
        let shares = std::mem::take(&mut self.participants);
        shares.into_iter().filter_map(|(attempt, share)| Some((attempt, share.snapshot?))).collect()
    }
}
