//! One job, from its slots to its end: the core of a JobMaster.
//!
//! A [`Job`] is told what happened ([`Event`]) and answers what has to be done about it ([`Effect`]), in order. The order
//! law is *durable first, then committed, then told*: a placement is recorded before any TaskManager hears of it, that tasks
//! are about to be deployed is recorded while executors start, and every command names the log index of a committed entry.
//!
//! ```text
//!                 slots            recorded          executors ready, deployed       all RUNNING
//! ── Start ──> Waiting ──> Placing ──────> Deploying ───────────────────────> Running
//!                                   ▲                                            │ all FINISHED
//!  recovered ──> Reconciling ───────┘                                            ▼
//!                     │         failure or cancel                             Recording ──> Stopping ──> Ended
//!                     └──────────── any ──────────> Ending ── all terminal ──────┘  EndJob committed
//! ```
//! Start and take-over share one path. After a change of leader the executions of the log are compared with those the
//! TaskManagers report: what runs is adopted and hears nothing; what was placed but never told is deployed as if the
//! leader had never changed. The same comparison runs whenever a TaskManager connects again, so a command lost with a
//! broken connection is repeated and a report lost with it is made up for.
//!
//! A failed execution fails the job: there is no checkpoint to restart from. All others are cancelled, then the end is
//! recorded with the first failure's text. An executor is stopped only after the end of its job is committed, so a leader
//! that dies in between leaves nothing its successor could mistake for a loss.

mod deploy;
mod end;
mod message;
mod reconcile;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_types::{ExecutionAttemptId, ExecutionState, JobGraph, JobStatus, TaskManagerId};

use crate::execution_graph::{ExecutionGraph, Recovered, Transition};
use crate::slot::{SharedSlot, sharing};

pub use message::{Command, CommandKind, Effect, Event, ExecutionUpdate, ExecutorState, Intent, IntentKind, Timer};

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
    /// Index of the newest entry about the job: the intent behind every command until a newer one is committed.
    pub index: u64,
}

/// Where the job stands, finer than [`JobStatus`].
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Made, not started.
    Fresh,
    /// Its slots are asked for.
    Waiting,
    /// The placement is on its way into the log.
    Placing,
    /// Executors start or tasks are deployed; not all are RUNNING yet.
    Deploying,
    /// Every task has reached RUNNING.
    Running,
    /// A new leader waits for the TaskManagers of the job.
    Reconciling,
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

/// How far a TaskManager has come with the job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stage {
    /// Nothing was told to it, or after a change of leader: it has not come yet.
    Unknown,
    /// Its executor was asked for.
    Starting,
    /// Its executor takes commands.
    Ready { data_address: String },
    /// Its executions were sent to it.
    Deployed { data_address: String },
    /// Its executor was told to stop.
    Stopping,
    /// The TaskManager or its executor is no more.
    Gone,
}

/// One job. See the [module](self).
#[derive(Debug)]
pub struct Job {
    graph: JobGraph,
    slots: Vec<SharedSlot>,
    executions: ExecutionGraph,
    phase: Phase,
    /// The TaskManagers of its placement.
    stages: BTreeMap<TaskManagerId, Stage>,
    patience: Patience,
    /// What it waits for, for people; empty when it waits for nothing.
    waiting_for: String,
    /// Log index behind the next command.
    index: u64,
    /// Finished executions that are not recorded yet, and whether a record of others is on its way.
    unrecorded: Vec<ExecutionAttemptId>,
    recording_finished: bool,
    /// Whether the log says that tasks may have been told to run under the present attempts.
    is_told: bool,
    /// Whether the log says that they ran.
    has_run: bool,
}

impl Job {
    /// A job just submitted; `index` is that of the entry that submitted it.
    pub fn new(graph: JobGraph, patience: Patience, index: u64) -> Self {
        let executions = ExecutionGraph::new(&graph);
        Self {
            slots: sharing(&graph),
            executions,
            graph,
            phase: Phase::Fresh,
            stages: BTreeMap::new(),
            patience,
            waiting_for: String::new(),
            index,
            unrecorded: Vec::new(),
            recording_finished: false,
            is_told: false,
            has_run: false,
        }
    }

    /// A job that another leader ran.
    pub fn recover(graph: JobGraph, patience: Patience, record: Record) -> Self {
        let mut this = Self::new(graph, patience, record.index);
        for recovered in &record.executions {
            this.stages.insert(recovered.assignment.taskmanager.clone(), Stage::Unknown);
        }
        let placed = !record.executions.is_empty();
        this.has_run = record.executions.iter().any(|execution| execution.finished)
            || !matches!(record.status, JobStatus::Initializing | JobStatus::Created);
        this.is_told = this.has_run || record.status == JobStatus::Created;
        this.executions = ExecutionGraph::recover(&this.graph, record.executions, record.deployed_ms);
        if record.cancel_requested || record.status == JobStatus::Cancelling {
            this.phase = Phase::Ending { outcome: Outcome::Canceled };
        } else if record.status == JobStatus::Failing {
            let cause = record.failure.unwrap_or_else(|| "the cause was not recorded".to_owned());
            this.phase = Phase::Ending { outcome: Outcome::Failed { cause } };
        } else if placed {
            this.phase = Phase::Reconciling;
        }
        this
    }

    /// Applies one event and returns what has to be done, in order.
    ///
    /// Never blocks and never panics, whatever the order of events. `now_ms` is the time of the event in milliseconds of
    /// the Unix epoch; it becomes part of what people see and decides nothing.
    pub fn apply(&mut self, now_ms: u64, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Start => self.start(now_ms, out),
            Event::SlotsGranted(slots) => self.place(slots, out),
            Event::SlotsMissing(reason) => self.note_shortage(reason),
            Event::Recorded { kind, index } => self.on_recorded(kind, index, now_ms, out),
            Event::NotRecorded { kind, reason } => self.on_not_recorded(kind, reason, now_ms, out),
            Event::ExecutorReady { taskmanager, data_address } => {
                self.on_executor_ready(&taskmanager, data_address, now_ms, out);
            }
            Event::CommandDone { taskmanager, command } => self.on_done(&taskmanager, command, now_ms, out),
            Event::CommandFailed { taskmanager, command, reason } => {
                self.on_command_failed(&taskmanager, command, &reason, now_ms, out);
            }
            Event::Execution { taskmanager, update } => self.on_report(&taskmanager, update, now_ms, out),
            Event::Progress { attempt, counters } => self.executions.count(attempt, counters),
            Event::ExecutorLost { taskmanager, cause } => {
                let cause = format!("the executor on TaskManager {taskmanager} ended: {cause}");
                self.lose(&taskmanager, &cause, now_ms, out);
            }
            Event::TaskManagerLost { taskmanager, reason } => {
                let cause = format!("TaskManager {taskmanager} was lost: {reason}");
                self.lose(&taskmanager, &cause, now_ms, out);
            }
            Event::TaskManagerHere { taskmanager, executor } => self.compare(&taskmanager, executor, now_ms, out),
            Event::CancelRequested { index } => self.cancel(index, now_ms, out),
            Event::TimerFired(Timer::Slots) => self.on_slots_timeout(now_ms, out),
            Event::TimerFired(Timer::Reconciliation) => self.on_reconciliation_over(now_ms, out),
        }
        self.assert_invariants(&effects);
        effects
    }

    /// The job's status, in Flink's words.
    pub fn status(&self) -> JobStatus {
        match &self.phase {
            Phase::Fresh => JobStatus::Initializing,
            Phase::Waiting | Phase::Placing | Phase::Deploying => JobStatus::Created,
            Phase::Running => JobStatus::Running,
            Phase::Reconciling => JobStatus::Reconciling,
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
        match self.phase {
            Phase::Fresh => self.request_slots(out),
            Phase::Reconciling | Phase::Ending { .. } => {
                out.push(Effect::SetTimer(Timer::Reconciliation, self.patience.reconciliation));
                if matches!(self.phase, Phase::Reconciling) {
                    self.waiting_for = "the TaskManagers that run it to come to the new leader".to_owned();
                }
                // What was placed nowhere ends at once; the rest when its TaskManagers have come.
                self.cancel_tasks_if_ending(now_ms, out);
                self.advance(now_ms, out);
            }
            _ => {}
        }
    }

    /// Takes a report about one execution.
    fn on_report(&mut self, from: &TaskManagerId, update: ExecutionUpdate, now_ms: u64, out: &mut Vec<Effect>) {
        if let Some(counters) = update.counters {
            self.executions.count(update.attempt, counters);
        }
        if !self.owns(from, update.attempt) {
            // Of an earlier attempt, or of one that runs elsewhere: it must not go on.
            if !update.state.is_terminal() && !self.is_over() {
                self.send(from, Command::Cancel { attempts: vec![update.attempt] }, out);
            }
            return;
        }
        self.take_report(update, now_ms, out);
        self.advance(now_ms, out);
    }

    /// Moves an execution as reported. A failure among running tasks starts the end of the job.
    fn take_report(&mut self, update: ExecutionUpdate, now_ms: u64, out: &mut Vec<Effect>) {
        let ExecutionUpdate { attempt, state, failure, .. } = update;
        let changed = self.executions.transition(attempt, state, failure.clone(), now_ms);
        if !matches!(changed, Transition::Changed { .. }) || !self.is_active() {
            return;
        }
        let whom = || self.executions.describe(attempt);
        match state {
            ExecutionState::Finished => self.unrecorded.push(attempt),
            ExecutionState::Failed => {
                let at = self.executions.get(attempt).and_then(|execution| execution.assignment());
                let at = at.map_or_else(String::new, |at| format!(" on TaskManager {}", at.taskmanager));
                let failure = failure.unwrap_or_else(|| "no cause was given".to_owned());
                let cause = format!("{}{at} failed: {failure}", whom());
                self.fail(cause, now_ms, out);
            }
            ExecutionState::Canceled => {
                let cause = format!("{} was cancelled without being asked to", whom());
                self.fail(cause, now_ms, out);
            }
            _ => {}
        }
    }

    /// Moves the job on when its tasks allow it. The one place that looks at all of them together.
    fn advance(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        match &self.phase {
            Phase::Reconciling => self.decide_reconciliation(false, now_ms, out),
            Phase::Deploying | Phase::Running => {
                let reached = |state| matches!(state, ExecutionState::Running | ExecutionState::Finished);
                if self.executions.all(|state| state == ExecutionState::Finished) {
                    self.record_end(Outcome::Finished, out);
                    return;
                }
                if self.phase == Phase::Deploying && self.executions.all(reached) {
                    self.phase = Phase::Running;
                    self.waiting_for.clear();
                    if !std::mem::replace(&mut self.has_run, true) {
                        out.push(Effect::Record(Intent::Running));
                    }
                }
                self.record_finished(out);
            }
            Phase::Ending { outcome } if self.executions.all(ExecutionState::is_terminal) => {
                let outcome = outcome.clone();
                self.record_end(outcome, out);
            }
            _ => {}
        }
    }

    /// Records finished executions, one batch at a time: a new leader must not look for them.
    fn record_finished(&mut self, out: &mut Vec<Effect>) {
        if !self.recording_finished && !self.unrecorded.is_empty() {
            self.recording_finished = true;
            out.push(Effect::Record(Intent::FinishExecutions { attempts: std::mem::take(&mut self.unrecorded) }));
        }
    }

    fn on_recorded(&mut self, kind: IntentKind, index: u64, now_ms: u64, out: &mut Vec<Effect>) {
        self.index = self.index.max(index);
        match (kind, &self.phase) {
            (IntentKind::Placement, Phase::Placing) => {
                self.start_executors(out);
                self.advance(now_ms, out);
            }
            (IntentKind::Deployment, _) => {
                self.is_told = true;
                if self.phase == Phase::Deploying {
                    self.deploy_when_ready(now_ms, out);
                }
            }
            (IntentKind::FinishExecutions, _) => {
                self.recording_finished = false;
                self.advance(now_ms, out);
            }
            (IntentKind::End, Phase::Recording { outcome }) => {
                let outcome = outcome.clone();
                self.stop_executors(outcome, out);
            }
            _ => {}
        }
    }

    fn on_not_recorded(&mut self, kind: IntentKind, reason: String, now_ms: u64, out: &mut Vec<Effect>) {
        match (kind, &self.phase) {
            (IntentKind::Placement, Phase::Placing) => {
                self.fail(format!("its placement was refused by the metadata store: {reason}"), now_ms, out);
                self.advance(now_ms, out);
            }
            // A wish to cancel was committed first, and is on its way here.
            (IntentKind::Deployment, _) => {}
            (IntentKind::FinishExecutions, _) => self.recording_finished = false,
            // The log has another end of this job, or has forgotten it: either way it is over.
            (IntentKind::End, Phase::Recording { outcome }) => {
                let outcome = outcome.clone();
                self.stop_executors(outcome, out);
            }
            _ => {}
        }
    }

    /// Whether tasks are meant to run.
    fn is_active(&self) -> bool {
        matches!(self.phase, Phase::Deploying | Phase::Running | Phase::Reconciling)
    }

    /// Whether the end of the job is decided and recorded, or about to be.
    fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Recording { .. } | Phase::Stopping { .. } | Phase::Ended { .. })
    }

    /// Whether `attempt` is the current execution of its subtask and runs on this TaskManager.
    fn owns(&self, taskmanager: &TaskManagerId, attempt: ExecutionAttemptId) -> bool {
        self.executions
            .get(attempt)
            .and_then(|execution| execution.assignment())
            .is_some_and(|at| at.taskmanager == *taskmanager)
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
            !matches!(self.phase, Phase::Ended { .. }) || self.stages.values().all(|stage| *stage == Stage::Gone),
            "an ended job has no executor left"
        );
    }
}
