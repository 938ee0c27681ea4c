//! Restarting regions: what failed, whether it may run again, and the way there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_types::{ExecutionAttemptId, ExecutionState, JobStatus, TaskManagerId};

use super::exceptions::Failure;
use super::{Command, Effect, Intent, Job, Outcome, Phase, Stage, Step, Timer};
use crate::checkpoint;
use crate::restart_strategy::{Decision, FailureKind};

impl Job {
    /// Executions failed for one reason, and with each its region.
    pub(super) fn fail_executions(
        &mut self,
        executions: Vec<ExecutionAttemptId>,
        failure: Failure,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let mut regions = BTreeSet::new();
        for attempt in executions {
            self.transition(attempt, ExecutionState::Failed, Some(failure.cause.clone()), now_ms);
            regions.extend(self.region_of(attempt));
        }
        self.fail_regions(&regions, failure, now_ms, out);
    }

    /// Restarts regions for one reason, or fails the job when its strategy says so. However many regions one thing hits, it
    /// is one failure. A region that restarts already goes on restarting.
    pub(super) fn fail_regions(
        &mut self,
        regions: &BTreeSet<usize>,
        failure: Failure,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(first) = regions.first() else { return };
        if self.phase != Phase::Active {
            self.note_ending_exception(&failure, now_ms);
            if failure.kind == FailureKind::Loss {
                self.add_cause(&failure.cause);
            }
            return;
        }
        let (cause, kind) = (&failure.cause, failure.kind);
        let restarts = |region: &usize| matches!(self.regions.step(*region), Step::Restarting { .. });
        let fresh: Vec<usize> = regions.iter().copied().filter(|region| !restarts(region)).collect();
        if fresh.is_empty() {
            match (self.strategy.suppresses(kind), self.regions.exception(*first)) {
                // What was taken for a loss was the echo of a failed task.
                (Some(reason), _) => self.fail_for(&failure, format!("{cause}; {reason}"), now_ms, out),
                (None, Some(number)) => self.add_exception(number, &failure, now_ms),
                (None, None) => {}
            }
            return;
        }
        let taken_over = |region: &usize| self.regions.step(*region) == Step::Reconciling;
        if self.restart_is_logged() && fresh.iter().all(taken_over) && self.is_recorded(&fresh) {
            // An earlier leader has decided about it: that is no failure of today, but its wait may not be over.
            let (number, rest) =
                (self.exceptions().last().map(|newest| newest.number), self.strategy.remaining(now_ms));
            self.restart(&fresh, cause, number, rest, now_ms, out);
            return;
        }
        if !self.is_told && kind == FailureKind::Loss {
            // Nothing was told to run, so nothing is lost but a place.
            let number = self.open_exception(&failure, cause, now_ms);
            self.restart(&fresh, cause, Some(number), Duration::ZERO, now_ms, out);
            return;
        }
        match self.strategy.decide(kind, now_ms) {
            Decision::Restart { after } => {
                let number = self.open_exception(&failure, cause, now_ms);
                self.restart(&fresh, cause, Some(number), after, now_ms, out);
            }
            Decision::Suppress { reason } => self.fail_for(&failure, format!("{cause}; {reason}"), now_ms, out),
        }
    }

    /// Restarts regions because of an entry of the exception history.
    fn restart(
        &mut self,
        regions: &[usize],
        cause: &str,
        exception: Option<u64>,
        after: Duration,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        self.coordinate(checkpoint::Event::TasksLost, out);
        if self.is_told && self.logged != JobStatus::Restarting {
            self.logged = JobStatus::Restarting;
            self.restarts = self.restarts.saturating_add(1);
            out.push(Effect::Record(Intent::Restarting { cause: cause.to_owned() }));
        } else if self.is_told && !after.is_zero() {
            // Otherwise it is recorded with the next placement. While the wait goes on the log has time for it.
            out.push(Effect::Record(Intent::Exceptions));
        }
        let waits = !after.is_zero();
        if waits {
            self.restart_wait += 1;
            out.push(Effect::SetTimer(Timer::Restart(self.restart_wait), after));
            let after = perennial_types::format_duration(Duration::from_millis(after.as_millis() as u64));
            self.waiting_for = format!("its restart, {after} after: {cause}");
        }
        let mut attempts = Vec::new();
        for region in regions {
            self.regions.set(*region, Step::Restarting { wait: self.restart_wait, waits });
            self.regions.set_exception(*region, exception);
            if self.is_told {
                self.regions.show_restart(*region);
            }
            self.touched.insert(*region);
            attempts.extend(self.attempts_of(self.regions.tasks(*region)));
        }
        self.cancel_tasks(attempts, now_ms, out);
    }

    pub(super) fn on_restart_due(&mut self, due: u32) {
        if self.phase != Phase::Active {
            return;
        }
        for region in self.regions.all() {
            if self.regions.step(region) == (Step::Restarting { wait: due, waits: true }) {
                self.regions.set(region, Step::Restarting { wait: due, waits: false });
                self.touched.insert(region);
            }
        }
        if due == self.restart_wait && !self.waits_for_slots {
            self.waiting_for.clear();
        }
    }

    /// Cancels executions that have not ended: here when nobody was told of them, else by their TaskManager.
    pub(super) fn cancel_tasks(&mut self, attempts: Vec<ExecutionAttemptId>, now_ms: u64, out: &mut Vec<Effect>) {
        let mut told = BTreeMap::<TaskManagerId, Vec<ExecutionAttemptId>>::new();
        for attempt in attempts {
            let Some(execution) = self.executions.get(attempt) else { continue };
            let (state, at) = (execution.state(), execution.assignment().map(|at| at.taskmanager.clone()));
            match (state, at) {
                (state, _) if state.is_terminal() || state == ExecutionState::Canceling => {}
                // Asked when its TaskManager has come to this leader. One that has come and did not name it has it not.
                (ExecutionState::Reconciling, Some(at)) if self.stage(&at) == Some(&Stage::Unknown) => {}
                (ExecutionState::Created | ExecutionState::Scheduled | ExecutionState::Reconciling, _) | (_, None) => {
                    self.transition(attempt, ExecutionState::Canceled, None, now_ms);
                }
                (_, Some(at)) => {
                    self.transition(attempt, ExecutionState::Canceling, None, now_ms);
                    told.entry(at).or_default().push(attempt);
                }
            }
        }
        for (taskmanager, attempts) in told {
            self.send(&taskmanager, Command::Cancel { attempts }, out);
            self.probe(&taskmanager, out);
        }
    }

    /// A process that is gone is often noticed first by those connected to it: a failing job names both.
    fn add_cause(&mut self, more: &str) {
        if let Phase::Ending { outcome: Outcome::Failed { cause } } = &mut self.phase {
            cause.push_str("; ");
            cause.push_str(more);
        }
    }
}
