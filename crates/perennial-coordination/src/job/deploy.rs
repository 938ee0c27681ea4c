//! From nothing to running: slots, placement, executors, tasks.

use perennial_types::{ExecutionState, TaskManagerId};

use super::{Command, CommandKind, Effect, Intent, Job, Phase, Stage, Timer};
use crate::execution_graph::{Assignment, Placement};

impl Job {
    pub(super) fn request_slots(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Waiting;
        out.push(Effect::RequestSlots(self.slots.len() as u32));
        out.push(Effect::SetTimer(Timer::Slots, self.patience.slots));
    }

    pub(super) fn note_shortage(&mut self, reason: String) {
        if self.phase == Phase::Waiting {
            self.waiting_for = reason;
        }
    }

    pub(super) fn on_slots_timeout(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.phase == Phase::Waiting {
            let waited = perennial_types::format_duration(self.patience.slots);
            let missing = match self.waiting_for.as_str() {
                "" => format!("needs {} slots", self.slots.len()),
                shortage => shortage.to_owned(),
            };
            self.fail(format!("{missing} (waited {waited}, slot.request.timeout)"), now_ms, out);
            self.advance(now_ms, out);
        }
    }

    /// Puts subtasks into granted slots and has the placement recorded.
    pub(super) fn place(&mut self, granted: Vec<Assignment>, out: &mut Vec<Effect>) {
        if self.phase != Phase::Waiting || granted.len() != self.slots.len() {
            // Granted when nobody wants them any more.
            out.push(Effect::ReleaseSlots);
            return;
        }
        self.waiting_for.clear();
        let mut placements = Vec::with_capacity(self.graph.task_count() as usize);
        for (slot, at) in self.slots.iter().zip(granted) {
            for (vertex, subtask) in &slot.subtasks {
                let Some(attempt) = self.executions.attempt_at(*vertex, *subtask) else { continue };
                self.executions.assign(attempt, at.clone());
                placements.push(Placement { attempt, assignment: at.clone() });
            }
            self.stages.entry(at.taskmanager).or_insert(Stage::Unknown);
        }
        self.phase = Phase::Placing;
        out.push(Effect::Record(Intent::Placement(placements)));
    }

    /// The placement is committed: executors are asked for everywhere.
    pub(super) fn start_executors(&mut self, out: &mut Vec<Effect>) {
        self.begin_deploying(out);
        let names: Vec<TaskManagerId> = self.stages.keys().cloned().collect();
        for taskmanager in names {
            self.start_executor(&taskmanager, out);
        }
    }

    /// While executors start, which takes longer, it is recorded that tasks will be told to run.
    pub(super) fn begin_deploying(&mut self, out: &mut Vec<Effect>) {
        self.phase = Phase::Deploying;
        self.waiting_for.clear();
        if !self.is_told {
            out.push(Effect::Record(Intent::Deployment));
        }
    }

    pub(super) fn start_executor(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        self.set_stage(taskmanager, Stage::Starting);
        self.send(taskmanager, Command::StartExecutor, out);
    }

    pub(super) fn on_executor_ready(
        &mut self,
        taskmanager: &TaskManagerId,
        data_address: String,
        now_ms: u64,
        out: &mut Vec<Effect>,
    ) {
        let starting = self.stages.get(taskmanager) == Some(&Stage::Starting);
        if self.phase == Phase::Deploying && starting {
            self.set_stage(taskmanager, Stage::Ready { data_address });
            self.deploy_when_ready(now_ms, out);
        }
    }

    /// Deploys where it was not done yet, once the address of every executor is known and the intent is committed.
    pub(super) fn deploy_when_ready(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if !self.is_told {
            return;
        }
        let mut executors = Vec::with_capacity(self.stages.len());
        let mut undeployed = Vec::new();
        for (taskmanager, stage) in &self.stages {
            match stage {
                Stage::Ready { data_address } => undeployed.push((taskmanager.clone(), data_address.clone())),
                Stage::Deployed { .. } => {}
                _ => return,
            }
            if let Stage::Ready { data_address } | Stage::Deployed { data_address } = stage {
                executors.push((taskmanager.clone(), data_address.clone()));
            }
        }
        let placement: Vec<_> = self
            .executions
            .executions()
            .filter_map(|(attempt, execution)| {
                let at = execution.assignment()?;
                let position = executors.binary_search_by(|(name, _)| name.cmp(&at.taskmanager)).ok()?;
                Some((attempt, position as u32))
            })
            .collect();
        for (taskmanager, data_address) in undeployed {
            let tasks: Vec<Placement> = self
                .executions
                .executions_on(&taskmanager)
                .filter(|(_, execution)| !execution.state().is_terminal())
                .filter_map(|(attempt, execution)| {
                    Some(Placement { attempt, assignment: execution.assignment()?.clone() })
                })
                .collect();
            for task in &tasks {
                self.executions.transition(task.attempt, ExecutionState::Deploying, None, now_ms);
            }
            self.set_stage(&taskmanager, Stage::Deployed { data_address });
            let deploy = Command::Deploy { tasks, placement: placement.clone(), executors: executors.clone() };
            self.send(&taskmanager, deploy, out);
        }
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
                if self.stages.get(taskmanager) == Some(&Stage::Starting) {
                    let cause = format!("TaskManager {taskmanager} could not start the job's executor: {reason}");
                    self.lose_executions(taskmanager, &cause, now_ms, out);
                }
            }
            CommandKind::Deploy => {
                let cause = format!("TaskManager {taskmanager} could not deploy the job's tasks: {reason}");
                self.refuse_deployment(taskmanager, &cause, now_ms, out);
            }
            // A task that cannot be cancelled is ended with its executor.
            CommandKind::Cancel => {
                if matches!(self.phase, Phase::Ending { .. }) {
                    self.stop_executor(taskmanager, out);
                }
            }
            CommandKind::StopExecutor => self.on_executor_stopped(taskmanager, now_ms, out),
        }
    }

    pub(super) fn set_stage(&mut self, taskmanager: &TaskManagerId, stage: Stage) {
        if let Some(known) = self.stages.get_mut(taskmanager) {
            *known = stage;
        }
    }
}
