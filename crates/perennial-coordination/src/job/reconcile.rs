//! Comparing what should run with what runs: when a leader takes over, and whenever a TaskManager connects again.

use std::collections::BTreeSet;

use perennial_types::{ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::{Command, Effect, ExecutorState, Job, Phase, Stage};

impl Job {
    /// A TaskManager says all it runs of this job.
    pub(super) fn compare(
        &mut self,
        taskmanager: &TaskManagerId,
        executor: Option<ExecutorState>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(stage) = self.stages.get(taskmanager).cloned() else {
            // It is not part of the job: a leftover of an earlier placement.
            if executor.is_some() && !matches!(self.phase, Phase::Ended { .. }) {
                self.send(taskmanager, Command::StopExecutor, out);
            }
            return;
        };
        match &self.phase {
            Phase::Fresh | Phase::Waiting | Phase::Placing | Phase::Ended { .. } => {
                if executor.is_some() {
                    self.send(taskmanager, Command::StopExecutor, out);
                }
            }
            Phase::Reconciling | Phase::Deploying | Phase::Running => {
                self.compare_active(taskmanager, &stage, executor, now_ms, out);
            }
            Phase::Ending { .. } => self.compare_ending(taskmanager, &stage, executor, now_ms, out),
            // Nothing is told before the end is committed.
            Phase::Recording { .. } => {
                if executor.is_some() && matches!(stage, Stage::Unknown | Stage::Gone) {
                    self.set_stage(taskmanager, Stage::Starting);
                }
            }
            Phase::Stopping { .. } => match executor {
                Some(_) => self.stop_executor(taskmanager, out),
                None => self.on_executor_stopped(taskmanager, now_ms, out),
            },
        }
    }

    fn compare_active(
        &mut self,
        taskmanager: &TaskManagerId,
        stage: &Stage,
        executor: Option<ExecutorState>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        // While reconciling nothing was told yet: a second visit of a TaskManager counts as its first.
        let stage = match (&self.phase, stage) {
            (Phase::Reconciling, Stage::Starting | Stage::Ready { .. } | Stage::Deployed { .. }) => &Stage::Unknown,
            _ => stage,
        };
        let Some(executor) = executor else {
            match stage {
                // The order was lost with the connection, or the executor with its TaskManager before it had tasks.
                Stage::Starting | Stage::Ready { .. } => self.start_executor(taskmanager, out),
                Stage::Unknown => self.set_stage(taskmanager, Stage::Starting),
                Stage::Deployed { .. } | Stage::Stopping => {
                    let cause = format!("TaskManager {taskmanager} came back without the job's executor");
                    self.lose(taskmanager, &cause, now_ms, out);
                }
                Stage::Gone => {}
            }
            self.advance(now_ms, out);
            return;
        };
        let reported: BTreeSet<ExecutionAttemptId> = executor.executions.iter().map(|update| update.attempt).collect();
        let data_address = executor.data_address;
        for update in executor.executions {
            if self.owns(taskmanager, update.attempt) {
                self.take_report(update, now_ms, out);
            } else if !update.state.is_terminal() {
                self.send(taskmanager, Command::Cancel { attempts: vec![update.attempt] }, out);
            }
        }
        if !self.is_active() {
            // A failure was among the reports; the rest is being cancelled.
            self.advance(now_ms, out);
            return;
        }
        let missing: Vec<(ExecutionAttemptId, ExecutionState)> = self
            .executions
            .executions_on(taskmanager)
            .filter(|(attempt, execution)| !execution.state().is_terminal() && !reported.contains(attempt))
            .map(|(attempt, execution)| (attempt, execution.state()))
            .collect();
        match stage {
            Stage::Unknown if missing.is_empty() => self.set_stage(taskmanager, Stage::Deployed { data_address }),
            Stage::Unknown => self.set_stage(taskmanager, Stage::Ready { data_address }),
            Stage::Starting => {
                self.set_stage(taskmanager, Stage::Ready { data_address });
                self.deploy_when_ready(now_ms, out);
            }
            Stage::Deployed { .. } if missing.iter().all(|(_, state)| *state == ExecutionState::Deploying) => {
                if !missing.is_empty() {
                    // The deployment was lost with the connection.
                    self.set_stage(taskmanager, Stage::Ready { data_address });
                    self.deploy_when_ready(now_ms, out);
                }
            }
            Stage::Deployed { .. } => {
                let whom: Vec<String> = missing.iter().map(|(id, _)| self.executions.describe(*id)).collect();
                let cause = format!("TaskManager {taskmanager} no longer runs {}", whom.join(", "));
                for (attempt, _) in missing {
                    self.executions.transition(attempt, ExecutionState::Failed, Some(cause.clone()), now_ms);
                }
                self.fail(cause, now_ms, out);
            }
            Stage::Ready { .. } | Stage::Stopping | Stage::Gone => {}
        }
        self.advance(now_ms, out);
    }

    fn compare_ending(
        &mut self,
        taskmanager: &TaskManagerId,
        stage: &Stage,
        executor: Option<ExecutorState>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        match executor {
            // It may still be starting: it is stopped once the end is committed.
            None if *stage == Stage::Starting => self.end_executions(taskmanager, now_ms),
            None => {
                self.set_stage(taskmanager, Stage::Gone);
                self.end_executions(taskmanager, now_ms);
            }
            Some(_) if *stage == Stage::Stopping => self.stop_executor(taskmanager, out),
            Some(executor) => {
                let data_address = executor.data_address;
                self.set_stage(taskmanager, Stage::Deployed { data_address });
                let mut running = Vec::new();
                let mut reported = BTreeSet::new();
                for update in executor.executions {
                    reported.insert(update.attempt);
                    if !update.state.is_terminal() {
                        running.push(update.attempt);
                    }
                    if self.owns(taskmanager, update.attempt) {
                        self.take_report(update, now_ms, out);
                    }
                }
                let unheard: Vec<ExecutionAttemptId> = self
                    .executions
                    .executions_on(taskmanager)
                    .filter(|(attempt, execution)| !execution.state().is_terminal() && !reported.contains(attempt))
                    .map(|(attempt, _)| attempt)
                    .collect();
                for attempt in unheard {
                    self.executions.transition(attempt, ExecutionState::Canceled, None, now_ms);
                }
                for attempt in &running {
                    self.executions.transition(*attempt, ExecutionState::Canceling, None, now_ms);
                }
                if !running.is_empty() {
                    self.send(taskmanager, Command::Cancel { attempts: running }, out);
                }
            }
        }
        self.advance(now_ms, out);
    }

    /// Decides what becomes of a recovered job, once enough is known.
    ///
    /// - Every execution was reported: adopted, and nobody is told anything.
    /// - Some were not, all TaskManagers are there, and the log does not say that tasks ran: the leader died between
    ///   recording the placement and telling it. What is missing is deployed under the same attempts.
    /// - No TaskManager of the placement has the job, some have not come in time, and the log says that no task was told
    ///   to run: it starts again, under new attempts.
    /// - Otherwise tasks are lost, and the job fails.
    pub(super) fn decide_reconciliation(&mut self, over: bool, now_ms: u64, out: &mut Vec<Effect>) {
        let missing: Vec<(ExecutionAttemptId, TaskManagerId)> = self
            .executions
            .executions()
            .filter(|(_, execution)| execution.state() == ExecutionState::Reconciling)
            .filter_map(|(attempt, execution)| Some((attempt, execution.assignment()?.taskmanager.clone())))
            .collect();
        if missing.is_empty() {
            self.phase = Phase::Deploying;
            self.waiting_for.clear();
            self.advance(now_ms, out);
            return;
        }
        let absent: Vec<String> = self
            .stages
            .iter()
            .filter(|(_, stage)| **stage == Stage::Unknown)
            .map(|(name, _)| name.to_string())
            .collect();
        if absent.is_empty() && !self.has_run {
            self.deploy_missing(&missing, now_ms, out);
        } else if absent.is_empty() {
            let whom: Vec<String> = missing
                .iter()
                .map(|(attempt, taskmanager)| format!("{} on {taskmanager}", self.executions.describe(*attempt)))
                .collect();
            self.fail_missing(format!("tasks were lost: {}", whom.join(", ")), &missing, now_ms, out);
        } else if over {
            let untouched = self
                .stages
                .values()
                .all(|stage| matches!(stage, Stage::Unknown | Stage::Starting | Stage::Ready { .. }));
            if untouched && !self.is_told {
                self.start_again(out);
            } else {
                let waited = perennial_types::format_duration(self.patience.reconciliation);
                let cause = format!(
                    "tasks were lost: TaskManager {} did not come to the leader within {waited}",
                    absent.join(", ")
                );
                self.fail_missing(cause, &missing, now_ms, out);
            }
        }
    }

    pub(super) fn on_reconciliation_over(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        match self.phase {
            Phase::Reconciling => self.decide_reconciliation(true, now_ms, out),
            Phase::Ending { .. } => {
                let absent: Vec<TaskManagerId> = self
                    .stages
                    .iter()
                    .filter(|(_, stage)| **stage == Stage::Unknown)
                    .map(|(name, _)| name.clone())
                    .collect();
                for taskmanager in absent {
                    self.set_stage(&taskmanager, Stage::Gone);
                    self.end_executions(&taskmanager, now_ms);
                }
                self.advance(now_ms, out);
            }
            _ => {}
        }
    }

    fn fail_missing(
        &mut self,
        cause: String,
        missing: &[(ExecutionAttemptId, TaskManagerId)],
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        for (attempt, _) in missing {
            self.executions.transition(*attempt, ExecutionState::Failed, Some(cause.clone()), now_ms);
        }
        self.fail(cause, now_ms, out);
        self.advance(now_ms, out);
    }

    fn deploy_missing(&mut self, missing: &[(ExecutionAttemptId, TaskManagerId)], now_ms: u64, out: &mut Vec<Effect>) {
        for (attempt, _) in missing {
            self.executions.transition(*attempt, ExecutionState::Scheduled, None, now_ms);
        }
        self.begin_deploying(out);
        let starting: Vec<TaskManagerId> =
            self.stages.iter().filter(|(_, stage)| **stage == Stage::Starting).map(|(name, _)| name.clone()).collect();
        for taskmanager in starting {
            self.start_executor(&taskmanager, out);
        }
        self.deploy_when_ready(now_ms, out);
    }

    fn start_again(&mut self, out: &mut Vec<Effect>) {
        for (taskmanager, stage) in &self.stages {
            if matches!(stage, Stage::Ready { .. }) {
                self.send(taskmanager, Command::StopExecutor, out);
            }
        }
        self.stages.clear();
        self.executions.renew();
        self.waiting_for.clear();
        out.push(Effect::ReleaseSlots);
        self.request_slots(out);
    }
}
