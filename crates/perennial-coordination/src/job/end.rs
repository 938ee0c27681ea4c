//! Every way a job comes to its end: finished, cancelled, failed, and the loss of what ran it.

use std::collections::BTreeMap;

use perennial_types::{ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::{Command, Effect, Intent, Job, Outcome, Phase, Stage};

impl Job {
    /// Begins to end the job with FAILED, unless it is ending already: the first failure is the cause.
    pub(super) fn fail(&mut self, cause: String, now_ms: u64, out: &mut Vec<Effect>) {
        if self.is_over() || matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        out.push(Effect::Record(Intent::Failing { cause: cause.clone() }));
        self.end(Outcome::Failed { cause }, now_ms, out);
    }

    /// Begins to end the job with CANCELED. A failing job can still be cancelled.
    pub(super) fn cancel(&mut self, index: u64, now_ms: u64, out: &mut Vec<Effect>) {
        self.index = self.index.max(index);
        if self.is_over() || self.phase == (Phase::Ending { outcome: Outcome::Canceled }) {
            return;
        }
        self.end(Outcome::Canceled, now_ms, out);
        self.advance(now_ms, out);
    }

    fn end(&mut self, outcome: Outcome, now_ms: u64, out: &mut Vec<Effect>) {
        self.phase = Phase::Ending { outcome };
        self.waiting_for.clear();
        self.cancel_tasks_if_ending(now_ms, out);
    }

    /// Cancels every task that is not terminal: here when nobody was told of it, else by its TaskManager.
    pub(super) fn cancel_tasks_if_ending(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        let mut told = BTreeMap::<TaskManagerId, Vec<ExecutionAttemptId>>::new();
        let mut untold = Vec::new();
        for (attempt, execution) in self.executions.executions() {
            match (execution.state(), execution.assignment()) {
                // Asked when its TaskManager has come to this leader.
                (ExecutionState::Reconciling, Some(at)) if !self.has_come(&at.taskmanager) => {}
                (state, _) if state.is_terminal() || state == ExecutionState::Canceling => {}
                (ExecutionState::Created | ExecutionState::Scheduled, _) | (_, None) => untold.push(attempt),
                (_, Some(at)) => told.entry(at.taskmanager.clone()).or_default().push(attempt),
            }
        }
        for attempt in untold {
            self.executions.transition(attempt, ExecutionState::Canceled, None, now_ms);
        }
        for (taskmanager, attempts) in told {
            for attempt in &attempts {
                self.executions.transition(*attempt, ExecutionState::Canceling, None, now_ms);
            }
            self.send(&taskmanager, Command::Cancel { attempts }, out);
        }
    }

    /// Whether this leader has heard of the TaskManager.
    fn has_come(&self, taskmanager: &TaskManagerId) -> bool {
        self.stages.get(taskmanager).is_some_and(|stage| *stage != Stage::Unknown)
    }

    /// The executor or the whole TaskManager is gone, and what ran there with it.
    pub(super) fn lose(&mut self, taskmanager: &TaskManagerId, cause: &str, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(stage) = self.stages.get(taskmanager) else { return };
        match (&self.phase, stage) {
            (_, Stage::Gone) | (Phase::Ended { .. }, _) => {}
            (Phase::Stopping { .. }, _) => self.on_executor_stopped(taskmanager, now_ms, out),
            _ => {
                self.set_stage(taskmanager, Stage::Gone);
                self.lose_executions(taskmanager, cause, now_ms, out);
            }
        }
    }

    /// Everything on a TaskManager that has not ended failed for one reason.
    pub(super) fn lose_executions(
        &mut self,
        taskmanager: &TaskManagerId,
        cause: &str,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let lost: Vec<ExecutionAttemptId> = self
            .executions
            .executions_on(taskmanager)
            .filter(|(_, execution)| !execution.state().is_terminal())
            .map(|(attempt, _)| attempt)
            .collect();
        let any = !lost.is_empty();
        for attempt in lost {
            self.executions.transition(attempt, ExecutionState::Failed, Some(cause.to_owned()), now_ms);
        }
        if any {
            self.add_cause(cause);
            self.fail(cause.to_owned(), now_ms, out);
        }
        self.advance(now_ms, out);
    }

    /// A process that is gone is often noticed first by those connected to it: a failing job names both.
    fn add_cause(&mut self, more: &str) {
        if let Phase::Ending { outcome: Outcome::Failed { cause } } = &mut self.phase {
            cause.push_str("; ");
            cause.push_str(more);
        }
    }

    /// A TaskManager did not take its tasks. Those it has not reported on never started.
    pub(super) fn refuse_deployment(
        &mut self,
        taskmanager: &TaskManagerId,
        cause: &str,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let unheard: Vec<ExecutionAttemptId> = self
            .executions
            .executions_on(taskmanager)
            .filter(|(_, execution)| matches!(execution.state(), ExecutionState::Deploying | ExecutionState::Canceling))
            .map(|(attempt, _)| attempt)
            .collect();
        if unheard.is_empty() {
            return;
        }
        for attempt in unheard {
            self.executions.transition(attempt, ExecutionState::Failed, Some(cause.to_owned()), now_ms);
        }
        self.fail(cause.to_owned(), now_ms, out);
        self.advance(now_ms, out);
    }

    /// Has the job's one end recorded.
    pub(super) fn record_end(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let failure = match &outcome {
            Outcome::Failed { cause } => Some(cause.clone()),
            Outcome::Finished | Outcome::Canceled => None,
        };
        self.waiting_for.clear();
        out.push(Effect::Record(Intent::End { status: outcome.status(), failure }));
        self.phase = Phase::Recording { outcome };
    }

    /// The end is committed: executors go, and with each the slots on its TaskManager.
    pub(super) fn stop_executors(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.phase = Phase::Stopping { outcome };
        for (taskmanager, stage) in self.stages.clone() {
            match stage {
                // Never told anything, or not there: what it may still run is stopped when it comes to the leader.
                Stage::Unknown | Stage::Gone => self.set_stage(&taskmanager, Stage::Gone),
                Stage::Stopping => {}
                Stage::Starting | Stage::Ready { .. } | Stage::Deployed { .. } => self.stop_executor(&taskmanager, out),
            }
        }
        self.close_when_stopped(out);
    }

    pub(super) fn stop_executor(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        self.set_stage(taskmanager, Stage::Stopping);
        self.send(taskmanager, Command::StopExecutor, out);
    }

    /// The executor is no more, or nobody can tell: the slots are given back and its tasks are over.
    pub(super) fn on_executor_stopped(&mut self, taskmanager: &TaskManagerId, now_ms: u64, out: &mut Vec<Effect>) {
        if self.stages.get(taskmanager) != Some(&Stage::Stopping) {
            return;
        }
        self.set_stage(taskmanager, Stage::Gone);
        if matches!(self.phase, Phase::Stopping { .. }) {
            out.push(Effect::ReleaseSlotsOn(taskmanager.clone()));
            self.close_when_stopped(out);
        } else {
            self.end_executions(taskmanager, now_ms);
            self.advance(now_ms, out);
        }
    }

    /// Takes what has not ended on a TaskManager for cancelled: its process is no more.
    pub(super) fn end_executions(&mut self, taskmanager: &TaskManagerId, now_ms: u64) {
        let left: Vec<ExecutionAttemptId> = self
            .executions
            .executions_on(taskmanager)
            .filter(|(_, execution)| !execution.state().is_terminal())
            .map(|(attempt, _)| attempt)
            .collect();
        for attempt in left {
            self.executions.transition(attempt, ExecutionState::Canceled, None, now_ms);
        }
    }

    fn close_when_stopped(&mut self, out: &mut Vec<Effect>) {
        let Phase::Stopping { outcome } = &self.phase else { return };
        if self.stages.values().all(|stage| *stage == Stage::Gone) {
            self.phase = Phase::Ended { outcome: outcome.clone() };
            out.push(Effect::ReleaseSlots);
            out.push(Effect::Close);
        }
    }
}
