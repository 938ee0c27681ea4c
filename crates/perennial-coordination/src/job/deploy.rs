//! From places to running tasks: executors, deployments, and what becomes of commands.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_types::{CheckpointId, ExceptionKind, ExecutionAttemptId, ExecutionState, TaskManagerId};

use super::{Command, CommandKind, Effect, Job, Phase, Stage, Step};
use crate::checkpoint::{self, StoredCheckpoint};
use crate::execution_graph::Placement;

/// Executions by position of their executor.
type PlacedExecutions = Vec<(ExecutionAttemptId, u32)>;

/// Executors with the addresses of their data ports.
type Executors = Vec<(TaskManagerId, String)>;

/// Executions that start from one checkpoint.
type Deployments = (Vec<Placement>, Option<Arc<StoredCheckpoint>>);

impl Job {
    /// Starts the executors that regions wait for, and deploys the regions whose executors are all there.
    ///
    /// What a region waits for is told once: an execution leaves SCHEDULED when it is sent, an executor its stage.
    pub(super) fn deploy(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let mut ready = Vec::new();
        for region in self.regions.deploying().clone() {
            let mut waits = false;
            for taskmanager in self.hosts_to_deploy(region) {
                match self.stage(&taskmanager) {
                    Some(Stage::Ready { .. }) => continue,
                    Some(Stage::Empty) => self.start_executor(&taskmanager, out),
                    _ => {}
                }
                waits = true;
            }
            if !waits && self.is_told {
                ready.push(region);
            }
        }
        if !ready.is_empty() {
            self.send_deployments(&ready, now_ms, out);
        }
    }

    /// Where a region has executions, for as long as one of them has not been told to run.
    fn hosts_to_deploy(&self, region: usize) -> BTreeSet<TaskManagerId> {
        let executions = || self.regions.tasks(region).iter().filter_map(|task| Some(self.executions.at(*task)?.1));
        if executions().all(|execution| execution.state() != ExecutionState::Scheduled) {
            return BTreeSet::new();
        }
        let alive = executions().filter(|execution| !execution.state().is_terminal());
        alive.filter_map(|execution| Some(execution.assignment()?.taskmanager.clone())).collect()
    }

    fn send_deployments(&mut self, regions: &[usize], now_ms: u64, out: &mut Vec<Effect>) {
        let mut tasks = BTreeMap::<(TaskManagerId, Option<CheckpointId>), Deployments>::new();
        for region in regions {
            // Only now that its placement is committed, and with it the end of every checkpoint before.
            let restore = self.regions.deployed(*region, self.checkpoints.completed());
            for task in self.regions.tasks(*region) {
                let Some((attempt, execution)) = self.executions.at(*task) else { continue };
                if let (ExecutionState::Scheduled, Some(at)) = (execution.state(), execution.assignment()) {
                    let placement = Placement { attempt, assignment: at.clone() };
                    let key = (at.taskmanager.clone(), restore.as_ref().map(|stored| stored.checkpoint()));
                    tasks.entry(key).or_insert_with(|| (Vec::new(), restore.clone())).0.push(placement);
                }
            }
        }
        if tasks.is_empty() {
            return;
        }
        let (placement, executors) = self.whereabouts();
        for ((taskmanager, _), (tasks, restore)) in tasks {
            for task in &tasks {
                self.transition(task.attempt, ExecutionState::Deploying, None, now_ms);
            }
            let (placement, executors) = (placement.clone(), executors.clone());
            let deploy = Command::Deploy { tasks, placement, executors, restore };
            self.send(&taskmanager, deploy, out);
        }
    }

    /// Where every execution of the job is, and every executor. No channel leads from one region to another, so of other
    /// regions nothing has to be true: an executor whose address is not known has none, and an execution without a place is
    /// said to be at the first.
    fn whereabouts(&self) -> (PlacedExecutions, Executors) {
        let places = self.executions.executions().filter_map(|(_, execution)| execution.assignment());
        let names: BTreeSet<&TaskManagerId> = places.map(|at| &at.taskmanager).collect();
        let executors: Vec<(TaskManagerId, String)> = names
            .into_iter()
            .map(|name| match self.stage(name) {
                Some(Stage::Ready { data_address }) => (name.clone(), data_address.clone()),
                _ => (name.clone(), String::new()),
            })
            .collect();
        let position = |name: &TaskManagerId| executors.binary_search_by(|(other, _)| other.cmp(name)).unwrap_or(0);
        let placement = self.executions.executions().map(|(attempt, execution)| {
            (attempt, execution.assignment().map_or(0, |at| position(&at.taskmanager)) as u32)
        });
        (placement.collect(), executors)
    }

    pub(super) fn on_done(
        &mut self,
        taskmanager: &TaskManagerId,
        command: CommandKind,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        if command == CommandKind::StopExecutor {
            self.on_executor_stopped(taskmanager, now_ms, out);
        }
    }

    pub(super) fn on_command_failed(
        &mut self,
        taskmanager: &TaskManagerId,
        command: CommandKind,
        reason: &str,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        match command {
            CommandKind::StartExecutor => {
                if self.stage(taskmanager) == Some(&Stage::Starting) {
                    self.set_stage(taskmanager, Stage::Empty);
                    let cause = format!("TaskManager {taskmanager} could not start the job's executor: {reason}");
                    self.refuse(taskmanager, ExecutionState::Scheduled, &cause, now_ms, out);
                }
            }
            CommandKind::Deploy => {
                let cause = format!("TaskManager {taskmanager} could not deploy the job's tasks: {reason}");
                self.refuse(taskmanager, ExecutionState::Deploying, &cause, now_ms, out);
            }
            CommandKind::Cancel => {
                let cancelled = |(_, state): &(_, ExecutionState)| *state == ExecutionState::Canceling;
                let waits = self.alive_on(taskmanager).iter().any(cancelled);
                // A task that cannot be cancelled is ended with its executor.
                if waits && matches!(self.phase, Phase::Active | Phase::Ending { .. }) {
                    self.stop_executor(taskmanager, out);
                }
            }
            CommandKind::TriggerCheckpoint(checkpoint) => {
                let reason = format!("TaskManager {taskmanager} did not pass it on: {reason}");
                self.coordinate(checkpoint::Event::NotTriggered { checkpoint, reason }, out);
            }
            // The next one says the same, and more.
            CommandKind::NotifyCheckpoint => {}
            CommandKind::StopExecutor => self.on_executor_stopped(taskmanager, now_ms, out),
        }
    }

    /// A TaskManager did not take what it was told: executions it has not reported on never started.
    fn refuse(
        &mut self,
        taskmanager: &TaskManagerId,
        told: ExecutionState,
        cause: &str,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let unheard =
            |state| state == told || (state == ExecutionState::Canceling && told == ExecutionState::Deploying);
        let refused: Vec<ExecutionAttemptId> =
            self.alive_on(taskmanager).into_iter().filter(|(_, state)| unheard(*state)).map(|(id, _)| id).collect();
        let failure = self.describe_failure(ExceptionKind::DeploymentFailed, cause.to_owned(), &refused);
        self.fail_executions(refused, failure, now_ms, out);
    }

    /// A recovered region of which nothing has run yet is deployed as it was placed.
    pub(super) fn deploy_recovered(
        &mut self,
        region: usize,
        missing: &[ExecutionAttemptId],
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        for attempt in missing {
            self.transition(*attempt, ExecutionState::Scheduled, None, now_ms);
        }
        if !missing.is_empty() {
            self.record_deployment(out);
        }
        self.regions.set(region, Step::Deploying);
    }
}
