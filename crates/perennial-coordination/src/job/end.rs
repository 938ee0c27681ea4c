//! Every way a job comes to its end: finished, cancelled, failed.

use crate::checkpoint;

use super::exceptions::Failure;
use super::{Effect, Intent, Job, Outcome, Phase, Stage};
use perennial_types::{ExceptionKind, ExecutionAttemptId, TaskManagerId};

impl Job {
    /// Begins to end the job with FAILED for a reason that concerns no task, unless it is ending already: the first failure is
    /// the cause.
    pub(super) fn fail(&mut self, cause: String, now_ms: u64, out: &mut Vec<Effect>) {
        let failure = self.describe_failure(ExceptionKind::JobFailed, cause, &[]);
        let cause = failure.cause.clone();
        self.fail_for(&failure, cause, now_ms, out);
    }

    /// The same for any failure; `cause` says in full why the job ends.
    pub(super) fn fail_for(&mut self, failure: &Failure, cause: String, now_ms: u64, out: &mut Vec<Effect>) {
        if self.is_over() || matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        let number = self.open_exception(failure, &cause, now_ms);
        self.end_with_exception(number);
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
    }

    fn end(&mut self, outcome: Outcome, now_ms: u64, out: &mut Vec<Effect>) {
        self.phase = Phase::Ending { outcome };
        self.coordinate(checkpoint::Event::Ending, out);
        self.waiting_for.clear();
        self.waits_for_slots = false;
        self.cancel_all_if_ending(now_ms, out);
    }

    /// Cancels every task that has not ended.
    pub(super) fn cancel_all_if_ending(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Ending { .. }) {
            let all: Vec<ExecutionAttemptId> = self.executions.executions().map(|(attempt, _)| attempt).collect();
            self.cancel_tasks(all, now_ms, out);
        }
    }

    /// Has the job's one end recorded.
    pub(super) fn record_end(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        let failure = match &outcome {
            Outcome::Failed { cause } => Some(cause.clone()),
            Outcome::Finished | Outcome::Canceled => None,
        };
        self.coordinate(checkpoint::Event::Ending, out);
        self.waiting_for.clear();
        out.push(Effect::Record(Intent::End { status: outcome.status(), failure }));
        self.phase = Phase::Recording { outcome };
    }

    /// The end is committed: executors go, and with each the slots on its TaskManager.
    pub(super) fn stop_executors(&mut self, outcome: Outcome, out: &mut Vec<Effect>) {
        self.phase = Phase::Stopping { outcome };
        // Never told anything, or not there: what it may still run is stopped when it comes to the leader.
        self.hosts.retain(|_, host| !matches!(host.stage, Stage::Unknown | Stage::Empty));
        let names: Vec<TaskManagerId> = self.hosts.keys().cloned().collect();
        for taskmanager in names {
            if self.stage(&taskmanager) != Some(&Stage::Stopping) {
                self.stop_executor(&taskmanager, out);
            }
        }
        self.close_when_stopped(out);
    }

    pub(super) fn close_when_stopped(&mut self, out: &mut Vec<Effect>) {
        let Phase::Stopping { outcome } = &self.phase else { return };
        if self.hosts.is_empty() {
            self.phase = Phase::Ended { outcome: outcome.clone() };
            out.push(Effect::ReleaseSlots);
            out.push(Effect::Close);
        }
    }
}
