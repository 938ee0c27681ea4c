//! The job's checkpoints: what its [`Coordinator`] is told, and what becomes of what it answers.

use std::sync::Arc;

use perennial_types::{CheckpointId, ExceptionKind, ExecutionAttemptId, ExecutionState, TaskManagerId, TaskSnapshot};

use super::{Command, Coordinator, Effect, Intent, Job, Phase, Stage, Timer};
use crate::checkpoint::{self, Participant, Reason, StoredCheckpoint};

impl Job {
    /// Its checkpoints, for people.
    pub fn checkpoints(&self) -> &Coordinator {
        &self.checkpoints
    }

    /// Tells the coordinator something, and does what it wants done.
    pub(super) fn coordinate(&mut self, event: checkpoint::Event, out: &mut Vec<Effect>) {
        for effect in self.checkpoints.apply(event) {
            match effect {
                checkpoint::Effect::Reserve(checkpoint) => {
                    out.push(Effect::Record(Intent::ReserveCheckpoint(checkpoint)));
                }
                checkpoint::Effect::Trigger { to, checkpoint } => {
                    self.send(&to, Command::TriggerCheckpoint { checkpoint }, out);
                }
                checkpoint::Effect::Write { checkpoint, started_ms, snapshots } => {
                    let vertices = checkpoint::by_vertex(&self.graph, snapshots);
                    out.push(Effect::WriteMetadata { checkpoint, started_ms, vertices });
                }
                checkpoint::Effect::Complete(stored) => {
                    out.push(Effect::Record(Intent::CompleteCheckpoint(stored)));
                }
                checkpoint::Effect::Abort { checkpoint, reason } => {
                    let reason = self.describe_abort(&reason);
                    out.push(Effect::Record(Intent::AbortCheckpoint { checkpoint, reason }));
                }
                checkpoint::Effect::FailJob { checkpoint, reason, tolerated } => {
                    let reason = self.describe_abort(&reason);
                    self.exhausted = Some(format!(
                        "checkpoint {checkpoint} failed, and no more than {tolerated} in a row may \
                         (execution.checkpointing.tolerable-failed-checkpoints): {reason}"
                    ));
                }
                checkpoint::Effect::Notify { to, completed, aborted } => {
                    self.notify_checkpoint(to, completed, &aborted, out);
                }
                checkpoint::Effect::SetTimer(timer, after) => {
                    out.push(Effect::SetTimer(Timer::Checkpoint(timer), after));
                }
            }
        }
    }

    fn notify_checkpoint(
        &self,
        to: Option<TaskManagerId>,
        completed: Option<CheckpointId>,
        aborted: &[CheckpointId],
        out: &mut Vec<Effect>,
    ) {
        if self.is_over() {
            return;
        }
        for (name, host) in &self.hosts {
            if to.as_ref().is_none_or(|to| to == name) && matches!(host.stage, Stage::Ready { .. }) {
                self.send(name, Command::NotifyCheckpoint { completed, aborted: aborted.to_vec() }, out);
            }
        }
    }

    /// Takes the next checkpoint if it is time and every task can take part: all run, and all can be told.
    pub(super) fn trigger_checkpoint_if_due(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let inputs_ended = self.executions.all_inputs_ended();
        if self.checkpoints.is_due(inputs_ended) && self.can_checkpoint() {
            self.coordinate(checkpoint::Event::MayTrigger { now_ms, inputs_ended }, out);
        }
    }

    /// Too many checkpoints have failed: so has every task.
    pub(super) fn fail_if_exhausted(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if let Some(cause) = self.exhausted.take() {
            let all = self.regions.all().collect();
            let failure = self.describe_failure(ExceptionKind::JobFailed, cause, &[]);
            self.fail_regions(&all, failure, now_ms, out);
        }
    }

    /// Why a checkpoint was given up, for people.
    fn describe_abort(&self, reason: &Reason) -> String {
        let place = |attempt: &ExecutionAttemptId| {
            let at = self.executions.get(*attempt).and_then(|execution| execution.assignment());
            let at = at.map_or_else(String::new, |at| format!(" on TaskManager {}", at.taskmanager));
            format!("{}{at}", self.executions.describe(*attempt))
        };
        match reason {
            Reason::Declined { attempt, reason } => format!("{} has no snapshot: {reason}", place(attempt)),
            Reason::TimedOut { missing, after } => {
                let waited = perennial_types::format_duration(*after);
                let who = match missing.as_slice() {
                    [] => "its metadata was not written".to_owned(),
                    [one] => format!("{} did not answer", place(one)),
                    [first, others @ ..] => format!("{} and {} more did not answer", place(first), others.len()),
                };
                format!("{who} within {waited} (execution.checkpointing.timeout)")
            }
            Reason::NotWritten(reason) => format!("its metadata was not written: {reason}"),
            Reason::NotTriggered(reason) => reason.clone(),
            Reason::TasksLost => "a task was lost".to_owned(),
            Reason::TaskManagerAway(taskmanager) => format!("TaskManager {taskmanager} lost its connection"),
            Reason::LeaderChanged => "the leader has changed".to_owned(),
        }
    }

    /// Whether every task runs, or has finished, and every TaskManager is connected.
    pub(super) fn can_checkpoint(&self) -> bool {
        self.phase == Phase::Active && self.regions.all_running() && !self.hosts.values().any(|host| host.detached)
    }

    pub(super) fn on_reserved(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        let participants = self.participants();
        self.coordinate(checkpoint::Event::Reserved { checkpoint, participants }, out);
    }

    /// Every execution that has not finished.
    fn participants(&self) -> Vec<Participant> {
        let alive = self.executions.executions().filter(|(_, at)| at.state() != ExecutionState::Finished);
        let participants = alive.filter_map(|(attempt, execution)| {
            Some(Participant { attempt, taskmanager: execution.assignment()?.taskmanager.clone() })
        });
        participants.collect()
    }

    /// An execution has answered.
    pub(super) fn on_snapshot(
        &mut self,
        from: &TaskManagerId,
        attempt: ExecutionAttemptId,
        checkpoint: CheckpointId,
        result: Result<TaskSnapshot, String>,
        out: &mut Vec<Effect>,
    ) {
        let on = self.executions.get(attempt).and_then(|execution| execution.assignment());
        if self.phase != Phase::Active || on.is_none_or(|at| at.taskmanager != *from) {
            return;
        }
        let event = match result {
            Ok(snapshot) => checkpoint::Event::Acked { attempt, checkpoint, snapshot },
            Err(reason) => checkpoint::Event::Declined { attempt, checkpoint, reason },
        };
        self.coordinate(event, out);
    }

    pub(super) fn on_metadata(
        &mut self,
        checkpoint: CheckpointId,
        result: Result<Arc<StoredCheckpoint>, String>,
        out: &mut Vec<Effect>,
    ) {
        let event = match result {
            Ok(stored) => checkpoint::Event::Written(stored),
            Err(reason) => checkpoint::Event::NotWritten { checkpoint, reason },
        };
        self.coordinate(event, out);
    }

    /// A TaskManager cannot be told anything for now.
    pub(super) fn checkpoints_without(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        if self.phase == Phase::Active {
            self.coordinate(checkpoint::Event::Away(taskmanager.clone()), out);
        }
    }

    /// A TaskManager with an executor of the job has come, and may have missed something.
    pub(super) fn repeat_checkpoints(&mut self, taskmanager: TaskManagerId, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Active | Phase::Ending { .. }) {
            self.coordinate(checkpoint::Event::Here(taskmanager), out);
        }
    }
}
