//! One job, from its slots to its end: the core of a JobMaster.
//!
//! A [`Job`] is told what happened ([`Event`]) and answers what has to be done about it ([`Effect`]), in order. The order
//! law is *durable first, then committed, then told*: a placement is recorded before any TaskManager hears of it, that tasks
//! are about to be deployed is recorded while executors start, and every command names the log index of a committed entry.
//!
//! ```text
//! job:     ── Start ──> Active ── all FINISHED ──────────────────────> Recording ──> Stopping ──> Ended
//!                         └─ cancel, failure ──> Ending ─ all terminal ─┘   EndJob committed
//!
//! region:  Unplaced ── slots ──> Placing ── recorded ──> Deploying ── all RUNNING ──> Running
//!             ▲                                              ▲                           │
//!             │                                recovered ─ Reconciling                   │ failure or loss
//!             └── attempts renewed ── Restarting <───────────┴───────────────────────────┘
//!                          all tasks terminal, the strategy's wait over
//! ```
//! Tasks that are connected form a [region](crate::region) and restart together; the others hear nothing of it. Start,
//! take-over and restart share one path: *desired job, assignments, deploy what is missing*. A region that restarts keeps
//! the slots that are still there, asks for those that are not, and uses the executors that run.
//!
//! After a change of leader the executions of the log are compared with those the TaskManagers report: what runs is adopted
//! and hears nothing; what was placed but never told is deployed as if the leader had never changed; a region of which
//! something is missing restarts. The same comparison runs whenever a TaskManager connects again, so a command lost with a
//! broken connection is repeated and a report lost with it is made up for.
//!
//! A failure that the [restart strategy](crate::restart_strategy) suppresses fails the job: all tasks are cancelled, then
//! the end is recorded with that failure's text. An executor is stopped only after the end of its job is committed, so a
//! leader that dies in between leaves nothing its successor could mistake for a loss.
//!
//! A task that has finished is not looked for and not started again, unless a task of its region fails: what it wrote to
//! that one is lost with it, and nobody else can say it again.

mod checkpoints;
mod deploy;
mod end;
mod exceptions;
mod host;
mod loss;
mod message;
mod place;
mod reconcile;
mod recorded;
mod regions;
mod report;
mod restart;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use perennial_types::{ExecutionAttemptId, ExecutionState, JobGraph, JobStatus, TaskManagerId};

use crate::checkpoint::{self, CheckpointRecord, Coordinator};
use crate::execution_graph::{Assignment, ExecutionGraph, Recovered, Transition};
use crate::region::Task;
use crate::restart_strategy::RestartStrategy;
use crate::slot::{SharedSlot, sharing};

use exceptions::Exceptions;
use host::{Host, Stage};
pub use message::{
    Command, CommandKind, Effect, Event, ExecutionUpdate, ExecutorState, Intent, IntentKind, Liveness, Timer,
};
use regions::{Regions, Step};

/// What a job waits for after a change of leader, for people.
const RECONCILING: &str = "the TaskManagers that run it to come to the new leader";

/// How long a job waits for things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For its slots (`slot.request.timeout`).
    pub slots: Duration,
    /// For TaskManagers to come to a new leader.
    pub reconciliation: Duration,
}

/// What the metadata log says of a job that a new leader takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Last status recorded.
    pub status: JobStatus,
    /// Why it is failing, when that was recorded.
    pub failure: Option<String>,
    /// Whether a user asked to cancel it.
    pub cancel_requested: bool,
    /// Its executions; none before its first placement.
    pub executions: Vec<Recovered>,
    /// When its tasks were deployed, in milliseconds of the Unix epoch: adopted tasks keep their start.
    pub deployed_ms: Option<u64>,
    /// When a region restarted last: the start of tasks that are not at their first attempt.
    pub restarted_ms: Option<u64>,
    /// How often it was restarted.
    pub restarts: u32,
    /// Its checkpoints.
    pub checkpoints: CheckpointRecord,
    /// Index of the newest entry about the job: the intent behind every command until a newer one is committed.
    pub index: u64,
}

/// Where the job stands, beside its regions.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Made, not started.
    Fresh,
    /// Its regions are placed, deployed, run and restart.
    Active,
    /// Tasks are cancelled; the job will end like this.
    Ending { outcome: Outcome },
    /// The end is on its way into the log.
    Recording { outcome: Outcome },
    /// The end is committed; executors are stopped.
    Stopping { outcome: Outcome },
    /// Nothing is left to do.
    Ended { outcome: Outcome },
}

/// How a job ends.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    Finished,
    Canceled,
    Failed { cause: String },
}

impl Outcome {
    fn status(&self) -> JobStatus {
        match self {
            Self::Finished => JobStatus::Finished,
            Self::Canceled => JobStatus::Canceled,
            Self::Failed { .. } => JobStatus::Failed,
        }
    }

    fn status_until_recorded(&self) -> JobStatus {
        match self {
            Self::Finished => JobStatus::Running,
            Self::Canceled => JobStatus::Cancelling,
            Self::Failed { .. } => JobStatus::Failing,
        }
    }
}

/// One job. See the [module](self).
#[derive(Debug)]
pub struct Job {
    graph: JobGraph,
    executions: ExecutionGraph,
    regions: Regions,
    phase: Phase,
    patience: Patience,
    strategy: RestartStrategy,
    checkpoints: Coordinator,
    exceptions: Exceptions,
    /// That too many checkpoints have failed, until something is done about it.
    exhausted: Option<String>,
    /// The slots it needs, each with the one it holds.
    slots: Vec<SharedSlot>,
    held: Vec<Option<Assignment>>,
    /// Slots asked for and not granted.
    wanted: u32,
    /// Number of the wait for slots, and whether it goes on.
    slot_wait: u32,
    waits_for_slots: bool,
    /// The TaskManagers that have or had to do with it and are not lost.
    hosts: BTreeMap<TaskManagerId, Host>,
    /// What it waits for, for people; empty when it waits for nothing.
    waiting_for: String,
    /// Log index behind the next command.
    index: u64,
    /// Placements on their way into the log: regions with the attempt each is placed under.
    placing: VecDeque<Vec<(usize, u32)>>,
    /// Regions with a task that changed since they were looked at.
    touched: BTreeSet<usize>,
    /// Finished executions that are not recorded yet, and whether a record of others is on its way.
    unrecorded: Vec<ExecutionAttemptId>,
    recording_finished: bool,
    /// Newest status in the log or on its way there.
    logged: JobStatus,
    /// Whether the log says that tasks may have been told to run under the first attempts.
    is_told: bool,
    /// Whether the log says that they ran.
    has_run: bool,
    restarts: u32,
    /// Number of the newest wait of a restart.
    restart_wait: u32,
}

impl Job {
    /// A job just submitted; `index` is that of the entry that submitted it.
    pub fn new(
        graph: JobGraph,
        patience: Patience,
        strategy: RestartStrategy,
        checkpoints: checkpoint::Settings,
        index: u64,
    ) -> Self {
        let checkpoints = Coordinator::new(checkpoints, CheckpointRecord::default());
        let slots = sharing(&graph);
        Self {
            executions: ExecutionGraph::new(&graph),
            regions: Regions::new(&graph),
            graph,
            phase: Phase::Fresh,
            patience,
            strategy,
            checkpoints,
            exceptions: Exceptions::new(),
            exhausted: None,
            held: vec![None; slots.len()],
            slots,
            wanted: 0,
            slot_wait: 0,
            waits_for_slots: false,
            hosts: BTreeMap::new(),
            waiting_for: String::new(),
            index,
            placing: VecDeque::new(),
            touched: BTreeSet::new(),
            unrecorded: Vec::new(),
            recording_finished: false,
            logged: JobStatus::Initializing,
            is_told: false,
            has_run: false,
            restarts: 0,
            restart_wait: 0,
        }
    }

    /// A job that another leader ran.
    pub fn recover(
        graph: JobGraph,
        patience: Patience,
        strategy: RestartStrategy,
        checkpoints: checkpoint::Settings,
        record: Record,
    ) -> Self {
        let mut this = Self::new(graph, patience, strategy, checkpoints, record.index);
        this.checkpoints = Coordinator::new(checkpoints, record.checkpoints);
        this.logged = record.status;
        this.restarts = record.restarts;
        this.has_run = record.executions.iter().any(|execution| execution.finished)
            || !matches!(record.status, JobStatus::Initializing | JobStatus::Created);
        this.is_told = this.has_run || record.status == JobStatus::Created;
        if !record.executions.is_empty() {
            for recovered in &record.executions {
                this.hosts.insert(recovered.assignment.taskmanager.clone(), Host::new(Stage::Unknown));
            }
            let (deployed_ms, restarted_ms) = (record.deployed_ms, record.restarted_ms);
            this.executions = ExecutionGraph::recover(&this.graph, record.executions, |attempt| {
                if attempt == 0 { deployed_ms } else { restarted_ms.or(deployed_ms) }
            });
            this.recover_slots();
            for region in this.regions.all() {
                this.regions.set(region, Step::Reconciling);
            }
        }
        if record.cancel_requested || record.status == JobStatus::Cancelling {
            this.phase = Phase::Ending { outcome: Outcome::Canceled };
        } else if record.status == JobStatus::Failing {
            let cause = record.failure.unwrap_or_else(|| "the cause was not recorded".to_owned());
            this.phase = Phase::Ending { outcome: Outcome::Failed { cause } };
        }
        this
    }

    /// Applies one event and returns what has to be done, in order.
    ///
    /// Never blocks and never panics, whatever the order of events. `now_ms` is the time of the event in milliseconds of
    /// the Unix epoch; it becomes part of what people see, and the restart strategy measures how often failures come by it.
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Start => {
                // First of all: before anything is placed, it is decided what an earlier leader has left.
                self.coordinate(checkpoint::Event::Started, out);
                self.start(now_ms, out);
            }
            Event::SlotsGranted(slots) => self.take_slots(slots, out),
            Event::SlotsMissing(reason) => self.note_shortage(reason),
            Event::Recorded { kind, index } => self.on_recorded(kind, index, out),
            Event::NotRecorded { kind, reason } => self.on_not_recorded(kind, reason, now_ms, out),
            Event::ExecutorReady { taskmanager, data_address } => self.on_executor_ready(&taskmanager, data_address),
            Event::CommandDone { taskmanager, command } => self.on_done(&taskmanager, command, now_ms, out),
            Event::CommandFailed { taskmanager, command, reason } => {
                self.on_command_failed(&taskmanager, command, &reason, now_ms, out);
            }
            Event::Execution { taskmanager, update } => self.on_report(&taskmanager, update, now_ms, out),
            Event::Progress { attempt, counters } => self.executions.count(attempt, counters),
            Event::ExecutorLost { taskmanager, cause, own_doing } => {
                self.on_executor_lost(&taskmanager, &cause, own_doing, now_ms, out);
            }
            Event::TaskManagerDetached { taskmanager } => self.on_detached(&taskmanager, now_ms, out),
            Event::Probed { taskmanager, data_address, liveness } => {
                self.on_probed(&taskmanager, &data_address, liveness, now_ms, out);
            }
            Event::TaskManagerLost { taskmanager, reason } => {
                let cause = format!("TaskManager {taskmanager} was lost: {reason}");
                self.lose_taskmanager(&taskmanager, &cause, now_ms, out);
            }
            Event::TaskManagerHere { taskmanager, executor } => {
                let has_executor = executor.is_some();
                self.compare(&taskmanager, executor, now_ms, out);
                if has_executor {
                    self.repeat_checkpoints(taskmanager, out);
                }
            }
            Event::Snapshot { taskmanager, attempt, checkpoint, result } => {
                self.on_snapshot(&taskmanager, attempt, checkpoint, result, out);
            }
            Event::MetadataWritten { checkpoint, result } => self.on_metadata(checkpoint, result, out),
            Event::CancelRequested { index } => self.cancel(index, now_ms, out),
            Event::TimerFired(Timer::Slots(wait)) => self.on_slots_timeout(wait, now_ms, out),
            Event::TimerFired(Timer::Reconciliation) => self.on_reconciliation_over(now_ms, out),
            Event::TimerFired(Timer::Restart(wait)) => self.on_restart_due(wait),
            Event::TimerFired(Timer::Checkpoint(timer)) => self.coordinate(checkpoint::Event::TimerFired(timer), out),
        }
        self.settle(now_ms, out);
        self.assert_invariants(&effects);
        effects
    }

    /// The job's status, in Flink's words.
    pub fn status(&self) -> JobStatus {
        match &self.phase {
            // Of a job that was taken over nothing is known before its TaskManagers have come, its start included.
            Phase::Fresh | Phase::Active if self.regions.any_reconciling() => JobStatus::Reconciling,
            Phase::Fresh => JobStatus::Initializing,
            Phase::Active if self.regions.any_restarting() => JobStatus::Restarting,
            Phase::Active if self.regions.all_running() => JobStatus::Running,
            Phase::Active => JobStatus::Created,
            Phase::Ending { outcome } | Phase::Recording { outcome } => outcome.status_until_recorded(),
            Phase::Stopping { outcome } | Phase::Ended { outcome } => outcome.status(),
        }
    }

    /// Why the job fails or failed; empty when it does not.
    pub fn failure(&self) -> &str {
        match &self.phase {
            Phase::Ending { outcome: Outcome::Failed { cause } }
            | Phase::Recording { outcome: Outcome::Failed { cause } }
            | Phase::Stopping { outcome: Outcome::Failed { cause } }
            | Phase::Ended { outcome: Outcome::Failed { cause } } => cause,
            _ => "",
        }
    }

    /// How often it was restarted, under earlier leaders too: as often as the log says, once what is on its way is there.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// What the job waits for, for people; empty when it waits for nothing.
    pub fn waiting_for(&self) -> &str {
        &self.waiting_for
    }

    /// What the user asked for.
    pub fn graph(&self) -> &JobGraph {
        &self.graph
    }

    /// Its tasks.
    pub fn executions(&self) -> &ExecutionGraph {
        &self.executions
    }

    fn start(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let recovered = self.regions.any_reconciling();
        if self.phase == Phase::Fresh {
            self.phase = Phase::Active;
        } else if !matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        if recovered {
            out.push(Effect::SetTimer(Timer::Reconciliation, self.patience.reconciliation));
            if self.phase == Phase::Active {
                self.waiting_for = RECONCILING.to_owned();
            }
        }
        self.touched.extend(self.regions.all());
        // What was placed nowhere ends at once; the rest when its TaskManagers have come.
        self.cancel_all_if_ending(now_ms, out);
    }

    /// Moves regions and the job on as far as their tasks allow. The one place where steps are taken.
    fn settle(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        self.fail_if_exhausted(now_ms, out);
        while self.phase == Phase::Active && !self.touched.is_empty() {
            let touched = std::mem::take(&mut self.touched);
            self.reconcile(&touched, now_ms, out);
            for region in touched {
                self.settle_region(region);
            }
        }
        match &self.phase {
            Phase::Active if self.regions.all_finished() => self.record_end(Outcome::Finished, out),
            Phase::Active => {
                if self.waiting_for == RECONCILING && !self.regions.any_reconciling() {
                    self.waiting_for.clear();
                }
                self.place(out);
                self.deploy(now_ms, out);
                self.note_running(out);
                self.record_finished(out);
                self.trigger_checkpoint_if_due(now_ms, out);
            }
            Phase::Ending { outcome } if self.executions.all(ExecutionState::is_terminal) => {
                let outcome = outcome.clone();
                self.record_end(outcome, out);
            }
            _ => {}
        }
    }

    fn settle_region(&mut self, region: usize) {
        let reached = |state| matches!(state, ExecutionState::Running | ExecutionState::Finished);
        match self.regions.step(region) {
            Step::Restarting { waits: false, .. } if self.all_in(region, ExecutionState::is_terminal) => {
                for task in self.regions.tasks(region).to_vec() {
                    self.executions.renew(task);
                }
                self.regions.set(region, Step::Unplaced);
            }
            Step::Deploying if self.all_in(region, reached) => {
                self.regions.set(region, Step::Running);
                self.touched.insert(region);
            }
            Step::Running if self.all_in(region, |state| state == ExecutionState::Finished) => {
                self.regions.finish(region);
            }
            _ => {}
        }
    }

    /// Moves an execution, and remembers to look at its region.
    fn transition(
        &mut self,
        attempt: ExecutionAttemptId,
        state: ExecutionState,
        failure: Option<String>,
        now_ms: u64,
    ) -> bool {
        let changed = matches!(self.executions.transition(attempt, state, failure, now_ms), Transition::Changed { .. });
        if changed && let Some(region) = self.region_of(attempt) {
            self.touched.insert(region);
        }
        changed
    }

    fn region_of(&self, attempt: ExecutionAttemptId) -> Option<usize> {
        self.regions.of(self.executions.task_of(attempt)?)
    }

    /// Whether the current execution of every task of a region is in such a state.
    fn all_in(&self, region: usize, holds: impl Fn(ExecutionState) -> bool) -> bool {
        let mut tasks = self.regions.tasks(region).iter();
        tasks.all(|task| self.executions.at(*task).is_none_or(|(_, execution)| holds(execution.state())))
    }

    /// Current executions of some tasks.
    fn attempts_of(&self, tasks: &[Task]) -> Vec<ExecutionAttemptId> {
        tasks.iter().filter_map(|task| Some(self.executions.at(*task)?.0)).collect()
    }

    /// Current executions on a TaskManager that have not ended.
    fn alive_on(&self, taskmanager: &TaskManagerId) -> Vec<(ExecutionAttemptId, ExecutionState)> {
        let alive = self.executions.executions_on(taskmanager).map(|(attempt, execution)| (attempt, execution.state()));
        alive.filter(|(_, state)| !state.is_terminal()).collect()
    }

    /// Whether the end of the job is decided and recorded, or about to be.
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Recording { .. } | Phase::Stopping { .. } | Phase::Ended { .. })
    }

    /// Whether `attempt` is the current execution of its subtask, runs on this TaskManager and has not ended.
    fn expects(&self, taskmanager: &TaskManagerId, attempt: ExecutionAttemptId) -> bool {
        self.executions.get(attempt).is_some_and(|execution| {
            !execution.state().is_terminal() && execution.assignment().is_some_and(|at| at.taskmanager == *taskmanager)
        })
    }

    fn send(&self, to: &TaskManagerId, command: Command, out: &mut Vec<Effect>) {
        out.push(Effect::Send { taskmanager: to.clone(), index: self.index, command });
    }

    /// Cheap things that hold after every event.
    fn assert_invariants(&self, effects: &[Effect]) {
        debug_assert!(
            !self.is_over() || !effects.iter().any(Effect::starts_something),
            "a job that is over starts nothing"
        );
        debug_assert!(
            !matches!(self.phase, Phase::Ended { .. }) || self.hosts.is_empty(),
            "an ended job has no executor left"
        );
    }
}
