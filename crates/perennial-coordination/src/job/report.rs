//! What TaskManagers report about executions.

use perennial_types::{ExecutionState, TaskManagerId};

use super::{Command, Effect, ExecutionUpdate, Job, JobStatus, Phase, Step};
use crate::checkpoint;
use crate::restart_strategy::FailureKind;

impl Job {
    /// Takes a report about one execution.
    pub(super) fn on_report(
        &mut self,
        from: &TaskManagerId,
        update: ExecutionUpdate,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        self.note(&update);
        if self.expects(from, update.attempt) {
            self.take_report(update, now_ms, out);
        } else if !update.state.is_terminal() && !self.is_over() {
            // Of an earlier attempt, of one that runs elsewhere, or of one that was given up: it must not go on.
            self.send(from, Command::Cancel { attempts: vec![update.attempt] }, out);
        }
    }

    /// Takes what does not depend on where the execution stands.
    pub(super) fn note(&mut self, update: &ExecutionUpdate) {
        if let Some(counters) = update.counters {
            self.executions.count(update.attempt, counters);
        }
        if let Some(start_ms) = update.start_ms {
            self.executions.started(update.attempt, start_ms);
        }
    }

    /// Moves an execution as reported.
    fn take_report(&mut self, update: ExecutionUpdate, now_ms: u64, out: &mut Vec<Effect>) {
        if self.transition(update.attempt, update.state, update.failure.clone(), now_ms) {
            self.react(update, now_ms, out);
        }
    }

    /// Does what the new state of an execution asks for.
    pub(super) fn react(&mut self, update: ExecutionUpdate, now_ms: u64, out: &mut Vec<Effect>) {
        let ExecutionUpdate { attempt, state, failure, peer_lost, .. } = update;
        let Some(region) = self.region_of(attempt).filter(|_| self.phase == Phase::Active) else { return };
        let whom = || self.executions.describe(attempt);
        let step = self.regions.step(region);
        match (state, step) {
            (ExecutionState::Finished, Step::Restarting { .. }) => {}
            (ExecutionState::Finished, _) => {
                self.unrecorded.push(attempt);
                self.coordinate(checkpoint::Event::TaskFinished(attempt), out);
            }
            (ExecutionState::Failed, _) => {
                let at = self.executions.get(attempt).and_then(|execution| execution.assignment());
                let at = at.map_or_else(String::new, |at| format!(" on TaskManager {}", at.taskmanager));
                let failure = failure.unwrap_or_else(|| "no cause was given".to_owned());
                let cause = format!("{}{at} failed: {failure}", whom());
                // Those connected to a dead process often tell first.
                let kind = if peer_lost { FailureKind::Loss } else { FailureKind::Task };
                self.fail_region(region, cause, kind, now_ms, out);
            }
            (_, Step::Restarting { .. }) => {}
            (ExecutionState::Canceling | ExecutionState::Canceled, Step::Reconciling) => {
                let cause = format!("{} was cancelled by an earlier leader", whom());
                self.fail_region(region, cause, FailureKind::Loss, now_ms, out);
            }
            (ExecutionState::Canceled, _) => {
                let cause = format!("{} was cancelled without being asked to", whom());
                self.fail_region(region, cause, FailureKind::Task, now_ms, out);
            }
            _ => {}
        }
    }

    /// Whether the log says that the job is restarting: then a region that a new leader finds broken is no new failure.
    pub(super) fn restart_is_logged(&self) -> bool {
        self.logged == JobStatus::Restarting
    }
}
