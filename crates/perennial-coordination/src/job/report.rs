//! What TaskManagers report about executions.

use std::collections::BTreeSet;

use perennial_types::{ExceptionKind, ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::exceptions::Failure;
use super::{Command, Effect, ExecutionUpdate, Job, JobStatus, Phase, Stage, Step};
use crate::checkpoint;

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
        // A TaskManager that came without an executor tells the last states of what ran in it, then that it was lost.
        let was_before = !update.state.is_terminal() && self.stage(from) == Some(&Stage::Empty);
        if was_before {
            return;
        }
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
        if update.input_ended {
            self.executions.end_input(update.attempt);
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
        let Some(region) = self.region_of(attempt) else { return };
        if self.phase != Phase::Active {
            if state == ExecutionState::Failed {
                let failure = self.failure_of(attempt, failure, peer_lost);
                self.note_ending_exception(&failure, now_ms);
            }
            return;
        }
        let whom = || self.executions.describe(attempt);
        let step = self.regions.step(region);
        match (state, step) {
            (ExecutionState::Finished, Step::Restarting { .. }) => {}
            (ExecutionState::Finished, _) => {
                self.unrecorded.push(attempt);
                self.coordinate(checkpoint::Event::TaskFinished(attempt), out);
            }
            (ExecutionState::Failed, _) => {
                let failure = self.failure_of(attempt, failure, peer_lost);
                self.fail_regions(&BTreeSet::from([region]), failure, now_ms, out);
            }
            (_, Step::Restarting { .. }) => {}
            (ExecutionState::Canceling | ExecutionState::Canceled, Step::Reconciling) => {
                let cause = format!("{} was cancelled by an earlier leader", whom());
                let failure = self.describe_failure(ExceptionKind::ExecutorLost, cause, &[attempt]);
                self.fail_regions(&BTreeSet::from([region]), failure, now_ms, out);
            }
            (ExecutionState::Canceled, _) => {
                let cause = format!("{} was cancelled without being asked to", whom());
                let failure = self.describe_failure(ExceptionKind::TaskFailed, cause, &[attempt]);
                self.fail_regions(&BTreeSet::from([region]), failure, now_ms, out);
            }
            _ => {}
        }
    }

    /// What its TaskManager says of an execution that failed.
    fn failure_of(&self, attempt: ExecutionAttemptId, failure: Option<String>, peer_lost: bool) -> Failure {
        let at = self.executions.get(attempt).and_then(|execution| execution.assignment());
        let at = at.map_or_else(String::new, |at| format!(" on TaskManager {}", at.taskmanager));
        let failure = failure.unwrap_or_else(|| "no cause was given".to_owned());
        let cause = format!("{}{at} failed: {failure}", self.executions.describe(attempt));
        // Those connected to a dead process often tell first.
        let what = if peer_lost { ExceptionKind::ConnectionLost } else { ExceptionKind::TaskFailed };
        self.describe_failure(what, cause, &[attempt])
    }

    /// Whether the log says that the job is restarting: then a region that a new leader finds broken is no new failure.
    pub(super) fn restart_is_logged(&self) -> bool {
        self.logged == JobStatus::Restarting
    }
}
