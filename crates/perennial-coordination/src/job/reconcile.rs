//! Comparing what should run with what runs: when a leader takes over, and whenever a TaskManager connects again.

use std::collections::BTreeSet;

use perennial_types::{ExceptionKind, ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::{Command, Effect, ExecutorState, Host, Job, Phase, Stage, Step};

impl Job {
    /// A TaskManager says all it runs of this job.
    pub(super) fn compare(
        &mut self,
        taskmanager: &TaskManagerId,
        executor: Option<ExecutorState>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let Some(host) = self.hosts.get_mut(taskmanager) else {
            // It is not part of the job: a leftover of an earlier placement, whose tasks run elsewhere or soon will.
            if executor.is_some() && !matches!(self.phase, Phase::Ended { .. }) {
                self.send(taskmanager, Command::StopExecutor, out);
            }
            return;
        };
        host.detached = false;
        let stage = host.stage.clone();
        match &self.phase {
            Phase::Fresh | Phase::Ended { .. } => {}
            Phase::Active | Phase::Ending { .. } => match executor {
                None => self.compare_without_executor(taskmanager, &stage, now_ms, out),
                Some(_) if stage == Stage::Stopping => self.stop_executor(taskmanager, out),
                Some(executor) => self.compare_executions(taskmanager, executor, now_ms, out),
            },
            // Nothing is told before the end is committed.
            Phase::Recording { .. } => {
                if let (Some(executor), Stage::Unknown | Stage::Empty) = (executor, stage) {
                    self.set_stage(taskmanager, Stage::Ready { data_address: executor.data_address });
                }
            }
            Phase::Stopping { .. } => match executor {
                Some(_) => self.stop_executor(taskmanager, out),
                None => self.on_executor_stopped(taskmanager, now_ms, out),
            },
        }
    }

    fn compare_without_executor(
        &mut self,
        taskmanager: &TaskManagerId,
        stage: &Stage,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        match stage {
            // The order was lost with the connection, or the executor with its TaskManager before it had tasks.
            Stage::Starting if self.phase == Phase::Active => self.start_executor(taskmanager, out),
            Stage::Starting => self.end_cancelled(taskmanager, now_ms),
            Stage::Unknown => {
                self.set_stage(taskmanager, Stage::Empty);
                self.give_up_unheard(taskmanager, &BTreeSet::new(), now_ms, out);
            }
            Stage::Ready { .. } | Stage::Empty => {
                self.end_cancelled(taskmanager, now_ms);
                let cause = format!("TaskManager {taskmanager} came back without the job's executor");
                self.lose_executor(taskmanager, ExceptionKind::ExecutorLost, cause, now_ms, out);
            }
            Stage::Stopping => self.on_executor_stopped(taskmanager, now_ms, out),
        }
    }

    fn compare_executions(
        &mut self,
        taskmanager: &TaskManagerId,
        executor: ExecutorState,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let asked_for = self.stage(taskmanager) == Some(&Stage::Starting) && self.phase == Phase::Active;
        if !asked_for {
            self.set_stage(taskmanager, Stage::Ready { data_address: executor.data_address });
        }
        let (mut reported, mut unwanted, mut changed) = (BTreeSet::new(), Vec::new(), Vec::new());
        for update in executor.executions {
            let (attempt, runs) = (update.attempt, !update.state.is_terminal());
            self.note(&update);
            let expected = self.expects(taskmanager, attempt);
            reported.insert(attempt);
            if expected && self.transition(attempt, update.state, update.failure.clone(), now_ms) {
                changed.push(update);
            }
            if runs && (!expected || self.is_to_end(attempt)) {
                self.transition(attempt, ExecutionState::Canceling, None, now_ms);
                unwanted.push(attempt);
            }
        }
        if !unwanted.is_empty() {
            self.send(taskmanager, Command::Cancel { attempts: unwanted }, out);
        }
        // Only now that all is known: a failure among these cancels the others.
        for update in changed {
            self.react(update, now_ms, out);
        }
        self.give_up_unheard(taskmanager, &reported, now_ms, out);
        if asked_for && self.phase == Phase::Active {
            // It may be an earlier one, of whose end word is on its way. The answer to the order is about the one to come.
            self.start_executor(taskmanager, out);
        }
    }

    /// Whether an execution is not meant to go on.
    fn is_to_end(&self, attempt: ExecutionAttemptId) -> bool {
        let region = self.region_of(attempt);
        let restarts = region.is_some_and(|region| matches!(self.regions.step(region), Step::Restarting { .. }));
        restarts || self.phase != Phase::Active
    }

    /// Looks at executions that a TaskManager was to run and does not know of.
    fn give_up_unheard(
        &mut self,
        taskmanager: &TaskManagerId,
        reported: &BTreeSet<ExecutionAttemptId>,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let mut lost = Vec::new();
        for (attempt, state) in self.alive_on(taskmanager) {
            if reported.contains(&attempt) {
                continue;
            }
            match state {
                _ if self.is_to_end(attempt) => {
                    self.transition(attempt, ExecutionState::Canceled, None, now_ms);
                }
                // The deployment was lost with the connection.
                ExecutionState::Deploying => {
                    self.executions.undeploy(attempt);
                    if let Some(region) = self.region_of(attempt) {
                        self.regions.deploy_again(region);
                    }
                }
                ExecutionState::Initializing | ExecutionState::Running | ExecutionState::Canceling => {
                    lost.push(attempt)
                }
                // Not told yet, or decided when the other TaskManagers of its region have come.
                _ => self.touched.extend(self.region_of(attempt)),
            }
        }
        if !lost.is_empty() {
            let whom: Vec<String> = lost.iter().map(|id| self.executions.describe(*id)).collect();
            let cause = format!("TaskManager {taskmanager} no longer runs {}", whom.join(", "));
            let failure = self.describe_failure(ExceptionKind::ExecutorLost, cause, &lost);
            self.fail_executions(lost, failure, now_ms, out);
        }
    }

    /// Decides what becomes of recovered regions, each as soon as enough is known of it.
    ///
    /// - Every execution was reported: adopted, and nobody is told anything.
    /// - Some were not, all TaskManagers of the region are there, and the log does not say that tasks ran: the leader died
    ///   between recording the placement and telling it. What is missing is deployed under the same attempts.
    /// - Otherwise tasks are lost, and the region restarts.
    pub(super) fn reconcile(&mut self, touched: &BTreeSet<usize>, now_ms: u64, out: &mut Vec<Effect>) {
        let mut lost = Vec::new();
        for region in touched {
            if self.regions.step(*region) != Step::Reconciling {
                continue;
            }
            let mut missing = Vec::new();
            let mut absent = false;
            for task in self.regions.tasks(*region) {
                let Some((attempt, execution)) = self.executions.at(*task) else { continue };
                if execution.state() == ExecutionState::Reconciling {
                    missing.push(attempt);
                    let stage = execution.assignment().and_then(|at| self.stage(&at.taskmanager));
                    absent |= stage == Some(&Stage::Unknown);
                }
            }
            if missing.is_empty() || (!absent && !self.has_run) {
                if self.restart_is_logged() {
                    self.regions.show_restart(*region);
                }
                self.deploy_recovered(*region, &missing, now_ms, out);
                self.touched.insert(*region);
            } else if !absent {
                lost.extend(missing);
            }
        }
        if !lost.is_empty() {
            let on = |id: &ExecutionAttemptId| Some(&self.executions.get(*id)?.assignment()?.taskmanager);
            let whom: Vec<String> = lost
                .iter()
                .filter_map(|id| Some(format!("{} on {}", self.executions.describe(*id), on(id)?)))
                .collect();
            let cause = format!("tasks were lost: {}", whom.join(", "));
            let failure = self.describe_failure(ExceptionKind::ExecutorLost, cause, &lost);
            self.fail_executions(lost, failure, now_ms, out);
        }
    }

    /// TaskManagers that have not come to a new leader are given up.
    pub(super) fn on_reconciliation_over(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if !matches!(self.phase, Phase::Active | Phase::Ending { .. }) {
            return;
        }
        let absent: Vec<TaskManagerId> = self
            .hosts
            .iter()
            .filter(|(_, Host { stage, .. })| *stage == Stage::Unknown)
            .map(|(name, _)| name.clone())
            .collect();
        let mut lost = Vec::new();
        for taskmanager in &absent {
            self.hosts.remove(taskmanager);
            for held in &mut self.held {
                held.take_if(|at| at.taskmanager == *taskmanager);
            }
            out.push(Effect::ReleaseSlotsOn(taskmanager.clone()));
            self.end_cancelled(taskmanager, now_ms);
            lost.extend(self.alive_on(taskmanager).into_iter().map(|(id, _)| id));
        }
        let names: Vec<&str> = absent.iter().map(|name| name.0.as_str()).collect();
        let waited = perennial_types::format_duration(self.patience.reconciliation);
        let cause =
            format!("tasks were lost: TaskManager {} did not come to the leader within {waited}", names.join(", "));
        let failure = self.describe_failure(ExceptionKind::TaskManagerLost, cause, &lost);
        self.fail_executions(lost, failure, now_ms, out);
    }
}
