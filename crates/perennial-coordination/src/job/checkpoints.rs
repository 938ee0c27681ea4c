//! The job's checkpoints: what its [`Coordinator`] is told, and what becomes of what it answers.

use std::sync::Arc;

use perennial_types::{CheckpointId, ExecutionAttemptId, ExecutionState, TaskManagerId, TaskSnapshot};

use super::{Command, Coordinator, Effect, Intent, Job, Phase, Stage, Timer};
use crate::checkpoint::{self, Participant, StoredCheckpoint};

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
                checkpoint::Effect::Trigger { to, checkpoint, roots } => {
                    self.send(&to, Command::TriggerCheckpoint { checkpoint, roots }, out);
                }
                checkpoint::Effect::Write { checkpoint, started_ms, snapshots } => {
                    let vertices = checkpoint::by_vertex(&self.graph, snapshots);
                    out.push(Effect::WriteMetadata { checkpoint, started_ms, vertices });
                }
                checkpoint::Effect::Complete(stored) => {
                    out.push(Effect::Record(Intent::CompleteCheckpoint(stored)));
                }
                checkpoint::Effect::Abort { checkpoint, reason } => {
                    out.push(Effect::Record(Intent::AbortCheckpoint { checkpoint, reason }));
                }
                checkpoint::Effect::Notify { to, completed, aborted } => {
                    self.notify_checkpoint(to, completed, aborted, out);
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
        aborted: Option<CheckpointId>,
        out: &mut Vec<Effect>,
    ) {
        if self.is_over() {
            return;
        }
        for (name, host) in &self.hosts {
            if to.as_ref().is_none_or(|to| to == name) && matches!(host.stage, Stage::Ready { .. }) {
                self.send(name, Command::NotifyCheckpoint { completed, aborted }, out);
            }
        }
    }

    /// Takes the next checkpoint if it is time and every task can take part: all run, and all can be told.
    pub(super) fn trigger_checkpoint_if_due(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.checkpoints.is_due() && self.can_checkpoint() {
            self.coordinate(checkpoint::Event::MayTrigger { now_ms }, out);
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
        let alive = |task| self.executions.at(task).filter(|(_, at)| at.state() != ExecutionState::Finished);
        // By vertex: which of its subtasks read from an execution that has not finished.
        let mut reads: Vec<Vec<bool>> =
            self.graph.vertices.iter().map(|vertex| vec![false; vertex.parallelism as usize]).collect();
        for edge in &self.graph.edges {
            let parallelism = |at: usize| self.graph.vertices.get(at).map_or(0, |vertex| vertex.parallelism);
            let (producers, consumers) = (parallelism(edge.source), parallelism(edge.target));
            let Some(reads) = reads.get_mut(edge.target) else { continue };
            for producer in (0..producers).filter(|producer| alive((edge.source, *producer)).is_some()) {
                for target in edge.ship.targets(producer, producers, consumers) {
                    if let Some(reads) = reads.get_mut(target as usize) {
                        *reads = true;
                    }
                }
                if !edge.ship.is_pointwise() {
                    // One that has not finished reaches all.
                    break;
                }
            }
        }
        let tasks = reads.iter().enumerate();
        let tasks =
            tasks.flat_map(|(vertex, reads)| reads.iter().zip(0..).map(move |(reads, at)| ((vertex, at), *reads)));
        let participants = tasks.filter_map(|(task, reads)| {
            let (attempt, execution) = alive(task)?;
            let taskmanager = execution.assignment()?.taskmanager.clone();
            Some(Participant { attempt, taskmanager, is_root: !reads })
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

    /// A TaskManager with an executor of the job has come, and may have missed something.
    pub(super) fn repeat_checkpoints(&mut self, taskmanager: TaskManagerId, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Active | Phase::Ending { .. }) {
            self.coordinate(checkpoint::Event::Here(taskmanager), out);
        }
    }
}
