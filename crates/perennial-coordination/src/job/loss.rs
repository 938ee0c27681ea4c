//! What is gone: executors, TaskManagers, and what to make of a TaskManager whose connection broke.
//!
//! An executor outlives its TaskManager's process, and a TaskManager that starts again adopts it. So a broken connection
//! loses nothing by itself: the executor is asked whether it is there. One that is not takes its tasks with it at once; one
//! that is waits for its TaskManager, as long as that is given time to come back.

use perennial_types::{ExceptionKind, ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::{Effect, Job, Liveness, Phase, Stage};

impl Job {
    /// The executor on a TaskManager ended by itself; the TaskManager is well.
    pub(super) fn on_executor_lost(
        &mut self,
        taskmanager: &TaskManagerId,
        cause: &str,
        own_doing: bool,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(stage) = self.stage(taskmanager).cloned() else { return };
        match (&self.phase, stage) {
            (Phase::Stopping { .. }, _) | (_, Stage::Stopping) => self.on_executor_stopped(taskmanager, now_ms, out),
            (Phase::Active | Phase::Ending { .. }, Stage::Ready { .. }) => {
                let cause = format!("the executor on TaskManager {taskmanager} ended: {cause}");
                let what = if own_doing { ExceptionKind::ExecutorFailed } else { ExceptionKind::ExecutorLost };
                self.lose_executor(taskmanager, what, cause, now_ms, out);
            }
            (Phase::Recording { .. }, Stage::Ready { .. }) => self.set_stage(taskmanager, Stage::Empty),
            // Of one before the one that starts: how that fares is answered to the command.
            _ => {}
        }
    }

    /// Executions that were told to run there did not survive it.
    pub(super) fn lose_executor(
        &mut self,
        taskmanager: &TaskManagerId,
        what: ExceptionKind,
        cause: String,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        use ExecutionState::{Created, Reconciling, Scheduled};
        let told = |state| !matches!(state, Created | Scheduled | Reconciling);
        let lost: Vec<ExecutionAttemptId> =
            self.alive_on(taskmanager).into_iter().filter(|(_, state)| told(*state)).map(|(id, _)| id).collect();
        let failure = self.describe_failure(what, cause, &lost);
        self.set_stage(taskmanager, Stage::Empty);
        self.fail_executions(lost, failure, now_ms, out);
    }

    /// A TaskManager is gone for the job, with its slots and all that was placed there.
    pub(super) fn lose_taskmanager(
        &mut self,
        taskmanager: &TaskManagerId,
        cause: &str,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let lost: Vec<ExecutionAttemptId> = self.alive_on(taskmanager).into_iter().map(|(id, _)| id).collect();
        let failure = self.describe_failure(ExceptionKind::TaskManagerLost, cause.to_owned(), &lost);
        if self.hosts.remove(taskmanager).is_none() {
            return;
        }
        out.push(Effect::ReleaseSlotsOn(taskmanager.clone()));
        for held in &mut self.held {
            held.take_if(|at| at.taskmanager == *taskmanager);
        }
        if matches!(self.phase, Phase::Stopping { .. }) {
            self.close_when_stopped(out);
            return;
        }
        self.fail_executions(lost, failure, now_ms, out);
    }

    /// The connection of a TaskManager broke; it has some time to come back.
    pub(super) fn on_detached(&mut self, taskmanager: &TaskManagerId, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(host) = self.hosts.get_mut(taskmanager) else { return };
        host.detached = true;
        self.checkpoints_without(taskmanager, out);
        let Some(host) = self.hosts.get(taskmanager) else { return };
        let empty = host.stage == Stage::Empty && self.alive_on(taskmanager).is_empty();
        if empty && self.phase == Phase::Active {
            // Nothing of the job is there: a restart need not wait for it.
            self.lose_taskmanager(taskmanager, "its connection broke", now_ms, out);
        } else if !self.is_over() {
            self.probe(taskmanager, out);
        }
    }

    /// An executor on a TaskManager that is not connected was asked whether it lives.
    pub(super) fn on_probed(
        &mut self,
        taskmanager: &TaskManagerId,
        asked: &str,
        liveness: Liveness,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(host) = self.hosts.get(taskmanager).filter(|host| host.detached && !self.is_over()) else { return };
        let same = matches!(&host.stage, Stage::Ready { data_address } if data_address == asked);
        if liveness == Liveness::Gone && same {
            let cause = format!(
                "TaskManager {taskmanager} is not connected and its executor is gone: nobody listens at {asked}"
            );
            self.lose_taskmanager(taskmanager, &cause, now_ms, out);
        }
    }

    /// The executor was stopped, or nobody can tell: what ran there is over.
    pub(super) fn on_executor_stopped(&mut self, taskmanager: &TaskManagerId, now_ms: u64, out: &mut Vec<Effect>) {
        if matches!(self.phase, Phase::Stopping { .. }) {
            if self.stage(taskmanager) == Some(&Stage::Stopping) {
                self.hosts.remove(taskmanager);
                out.push(Effect::ReleaseSlotsOn(taskmanager.clone()));
                self.close_when_stopped(out);
            }
            return;
        }
        if self.stage(taskmanager) != Some(&Stage::Stopping) {
            return;
        }
        self.set_stage(taskmanager, Stage::Empty);
        self.end_cancelled(taskmanager, now_ms);
        let cause = format!("the executor on TaskManager {taskmanager} was stopped: a task could not be cancelled");
        self.lose_executor(taskmanager, ExceptionKind::ExecutorLost, cause, now_ms, out);
    }

    /// What was asked to end on a TaskManager has: its process is no more.
    pub(super) fn end_cancelled(&mut self, taskmanager: &TaskManagerId, now_ms: u64) {
        for (attempt, state) in self.alive_on(taskmanager) {
            if state == ExecutionState::Canceling || matches!(self.phase, Phase::Ending { .. }) {
                self.transition(attempt, ExecutionState::Canceled, None, now_ms);
            }
        }
    }
}
