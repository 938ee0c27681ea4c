//! A small world around one job: a log, a slot ledger, three TaskManagers with executors, and faults at any time.
//!
//! Everything on its way is kept in order for each pair of ends, and what is delivered next is chosen at random. Executors
//! outlive their TaskManager's connection and the leader. Each has a data port of its own, by which its TaskManager refuses what
//! was meant for the one before. After the faults everything is delivered, and then the job runs whole or has ended, and
//! nothing runs that should not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use perennial_types::{
    AllocationId, CheckpointId, ExecutionAttemptId, ExecutionState, JobId, JobStatus, TaskManagerId, TaskSnapshot,
    VertexSnapshot,
};
use proptest::prelude::*;

use super::fixture::*;
use crate::checkpoint::{self, CheckpointRecord, StoredCheckpoint};
use crate::execution_graph::{Placement, Recovered};
use crate::job::*;
use crate::slot::Ledger;

const JOB: JobId = JobId::from_bytes([7; 16]);
const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone, Copy)]
enum Act {
    /// The oldest entry on its way is committed.
    Commit,
    /// A TaskManager takes its next command.
    Obey(usize),
    /// An executor that starts takes commands from now on.
    GetReady(usize),
    /// The job takes a TaskManager's next event.
    Hear(usize),
    /// The ledger serves the job.
    Grant,
    /// The oldest wait of a restart is over.
    Wake,
    /// An executor is killed.
    KillExecutor(usize),
    /// A connection breaks.
    Break(usize),
    /// A TaskManager that is not connected comes.
    Return(usize),
    /// A TaskManager that is not connected is given up.
    GiveUp(usize),
    /// A task fails.
    Fail(usize, bool),
    /// The input of a task ends: from now on it waits for a checkpoint.
    EndInput(usize),
    /// Another leader takes over.
    TakeOver,
    /// What a TaskManager's tasks were asked to write of a checkpoint is written.
    Ack(usize),
    /// A task there cannot write it.
    Decline(usize),
    /// Metadata on its way is durable.
    Write,
    /// The oldest timer of checkpoints is over.
    Due,
    /// It waits no longer for TaskManagers.
    EndReconciliation,
    Cancel,
}

fn act() -> impl Strategy<Value = Act> {
    let tm = || 0usize..3;
    prop_oneof![
        12 => Just(Act::Commit),
        20 => tm().prop_map(Act::Obey),
        10 => tm().prop_map(Act::GetReady),
        20 => tm().prop_map(Act::Hear),
        6 => Just(Act::Grant),
        4 => Just(Act::Wake),
        2 => tm().prop_map(Act::KillExecutor),
        2 => tm().prop_map(Act::Break),
        3 => tm().prop_map(Act::Return),
        1 => tm().prop_map(Act::GiveUp),
        2 => tm().prop_map(Act::EndInput),
        2 => (tm(), any::<bool>()).prop_map(|(tm, peer_lost)| Act::Fail(tm, peer_lost)),
        1 => Just(Act::TakeOver),
        1 => Just(Act::EndReconciliation),
        12 => tm().prop_map(Act::Ack),
        1 => tm().prop_map(Act::Decline),
        6 => Just(Act::Write),
        4 => Just(Act::Due),
    ]
}

/// A task as its executor knows it.
#[derive(Debug, Clone, Copy)]
struct Running {
    state: ExecutionState,
    input_ended: bool,
    /// The first checkpoint it has taken after that: with its end, it may finish.
    last: Option<CheckpointId>,
}

impl Running {
    fn is_alive(&self) -> bool {
        !self.state.is_terminal()
    }

    fn update(&self, attempt: ExecutionAttemptId) -> ExecutionUpdate {
        ExecutionUpdate { input_ended: self.input_ended, ..update(attempt, self.state) }
    }
}

#[derive(Debug, Default)]
struct Tm {
    connected: bool,
    /// What the executor has and knows of, when there is one.
    executor: Option<BTreeMap<ExecutionAttemptId, Running>>,
    /// Executors started so far: the number of the newest is its port.
    port: u32,
    /// How many orders to start it wait for an answer.
    starting: u32,
    commands: VecDeque<Command>,
    events: VecDeque<Event>,
    /// Attempts that ran here when the job gave this TaskManager up.
    zombies: BTreeSet<ExecutionAttemptId>,
    /// The checkpoint its executor was asked to take part in.
    asked: Option<CheckpointId>,
}

#[derive(Debug)]
struct Log {
    status: JobStatus,
    restarts: u32,
    placed: BTreeMap<(perennial_types::VertexId, u32), (Placement, bool)>,
    index: u64,
    counter: u64,
    in_flight: BTreeSet<CheckpointId>,
    completed: Option<Arc<StoredCheckpoint>>,
}

struct World {
    job: Job,
    shape: Shape,
    strategy: RestartStrategy,
    tms: Vec<Tm>,
    ledger: Ledger,
    allocations: u128,
    on_its_way: VecDeque<Intent>,
    log: Log,
    waits: VecDeque<u32>,
    reconciles: bool,
    writes: VecDeque<(CheckpointId, Vec<VertexSnapshot>)>,
    timers: VecDeque<checkpoint::Timer>,
    closed: bool,
    now_ms: u64,
}

impl Tm {
    /// Has an executor that was ordered, unless one is there.
    fn start(&mut self) {
        if self.executor.is_none() {
            self.executor = Some(BTreeMap::new());
            self.port += 1;
        }
    }

    /// Where the data port of its executor listens.
    fn data_address(&self, taskmanager: &TaskManagerId) -> String {
        format!("{}:{}", taskmanager.0, self.port)
    }
}

fn index_of(name: &TaskManagerId) -> usize {
    NAMES.iter().position(|known| *known == name.0).expect("there are three TaskManagers")
}

impl World {
    fn new(shape: Shape, strategy: RestartStrategy) -> Self {
        let job = Job::new(shape.graph(), PATIENCE, strategy.clone(), every_second(), 1);
        let log = Log {
            status: JobStatus::Initializing,
            restarts: 0,
            placed: BTreeMap::new(),
            index: 1,
            counter: 0,
            in_flight: BTreeSet::new(),
            completed: None,
        };
        let mut this = Self {
            job,
            shape,
            strategy,
            tms: (0..3).map(|_| Tm { connected: true, ..Tm::default() }).collect(),
            ledger: Ledger::default(),
            allocations: 0,
            on_its_way: VecDeque::new(),
            log,
            waits: VecDeque::new(),
            reconciles: false,
            writes: VecDeque::new(),
            timers: VecDeque::new(),
            closed: false,
            now_ms: 0,
        };
        for name in NAMES {
            this.ledger.register(tm(name), 2);
        }
        this.tell(Event::Start);
        this
    }

    fn tell(&mut self, event: Event) {
        if self.closed {
            return;
        }
        self.now_ms += 10;
        for effect in self.job.apply(self.now_ms, event) {
            self.perform(effect);
        }
        // SeaTunnel #10675.
        assert!(
            !self.job.can_checkpoint() || self.job.checkpoints().is_armed(),
            "it runs, and nobody will ask for a checkpoint: {:#?}",
            self.job.checkpoints()
        );
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Record(intent) => {
                if matches!(intent, Intent::End { .. }) {
                    self.on_its_way.clear();
                }
                self.on_its_way.push_back(intent);
            }
            Effect::RequestSlots(count) => self.ledger.request(JOB, count),
            Effect::ReleaseSlot(slot) => self.ledger.release_slot(JOB, &slot),
            Effect::ReleaseSlotsOn(name) => {
                self.ledger.release_on(JOB, &name);
                // The job has given the TaskManager up, or its executor there has stopped.
                let tm = &mut self.tms[index_of(&name)];
                let alive = tm.executor.iter().flatten().filter(|(_, task)| task.is_alive());
                tm.zombies.extend(alive.map(|(attempt, _)| *attempt).collect::<Vec<_>>());
            }
            Effect::ReleaseSlots => self.ledger.release(JOB),
            Effect::Send { taskmanager, command, index } => {
                assert!(index <= self.log.index, "told before it was committed");
                self.check_checkpoints(&command);
                if let Command::Deploy { tasks, .. } = &command {
                    self.check_deployment(tasks);
                }
                let tm = &mut self.tms[index_of(&taskmanager)];
                if tm.connected {
                    tm.commands.push_back(command);
                }
            }
            Effect::Probe { taskmanager, data_address } => {
                let tm = &mut self.tms[index_of(&taskmanager)];
                let liveness = if tm.executor.is_some() { Liveness::Alive } else { Liveness::Gone };
                tm.events.push_back(Event::Probed { taskmanager, data_address, liveness });
            }
            Effect::SetTimer(Timer::Restart(wait), _) => self.waits.push_back(wait),
            Effect::SetTimer(Timer::Reconciliation, _) => self.reconciles = true,
            Effect::SetTimer(Timer::Slots(_), _) => {}
            Effect::SetTimer(Timer::Checkpoint(timer), _) => self.timers.push_back(timer),
            Effect::WriteMetadata { checkpoint, vertices, .. } => self.writes.push_back((checkpoint, vertices)),
            Effect::Close => self.closed = true,
        }
    }

    /// Nothing is told to run of which another attempt runs, except on a TaskManager that was given up.
    fn check_deployment(&self, tasks: &[Placement]) {
        for Placement { attempt: new, .. } in tasks {
            for tm in &self.tms {
                for (old, task) in tm.executor.iter().flatten() {
                    let other = (old.vertex, old.subtask) == (new.vertex, new.subtask) && old.attempt != new.attempt;
                    assert!(
                        !other || !task.is_alive() || tm.zombies.contains(old),
                        "{new} is told to run while {old} does"
                    );
                }
            }
        }
    }

    /// Whatever has been told to be completed is in the log, what is to be taken is reserved, and the newest that counts is
    /// restored: never one before, whatever is on its way.
    fn check_checkpoints(&self, command: &Command) {
        let newest = self.log.completed.as_ref().map(|stored| stored.checkpoint());
        match command {
            Command::Deploy { restore, .. } => {
                assert_eq!(restore.as_ref().map(|stored| stored.checkpoint()), newest, "restored");
            }
            Command::TriggerCheckpoint { checkpoint } => {
                assert!(self.log.in_flight.contains(checkpoint), "{checkpoint} is taken and not reserved");
            }
            Command::NotifyCheckpoint { completed, aborted } => {
                assert_eq!(*completed, newest, "told to be completed");
                assert!(aborted.iter().all(|aborted| !self.log.in_flight.contains(aborted)), "told to be aborted");
            }
            Command::StartExecutor | Command::Cancel { .. } | Command::StopExecutor => {}
        }
    }

    fn commit(&mut self) {
        let Some(intent) = self.on_its_way.pop_front() else { return };
        self.log.index += 1;
        let (kind, log) = (intent.kind(), &mut self.log);
        let set = |log: &mut Log, status: JobStatus| {
            if log.status == JobStatus::Cancelling {
                return;
            }
            assert!(log.status == status || log.status.may_become(status), "{} -> {status}", log.status);
            log.restarts += u32::from(status == JobStatus::Restarting && log.status != status);
            log.status = status;
        };
        match intent {
            Intent::Placement(placements) => {
                for placement in placements {
                    let task = (placement.attempt.vertex, placement.attempt.subtask);
                    log.placed.insert(task, (placement, false));
                }
            }
            Intent::Deployment => set(log, JobStatus::Created),
            Intent::Running => set(log, JobStatus::Running),
            Intent::Restarting { .. } => set(log, JobStatus::Restarting),
            Intent::Failing { .. } => set(log, JobStatus::Failing),
            Intent::FinishExecutions { attempts } => {
                for (placement, finished) in log.placed.values_mut() {
                    *finished |= attempts.contains(&placement.attempt);
                }
            }
            Intent::ReserveCheckpoint(checkpoint) => {
                assert_eq!(checkpoint.0, log.counter + 1, "every number is the next");
                log.counter = checkpoint.0;
                log.in_flight.insert(checkpoint);
            }
            Intent::CompleteCheckpoint(stored) => {
                assert!(log.in_flight.remove(&stored.checkpoint()), "completed and not in flight");
                log.completed = Some(stored);
            }
            Intent::AbortCheckpoint { checkpoint, .. } => {
                log.in_flight.remove(&checkpoint);
            }
            Intent::Exceptions => {}
            Intent::End { status, .. } => {
                let is_last = log.completed.as_ref().is_some_and(|newest| newest.is_last());
                assert!(status != JobStatus::Finished || is_last, "what was written last is in no checkpoint");
                log.status = status;
            }
        }
        let index = log.index;
        self.tell(Event::Recorded { kind, index });
    }

    fn obey(&mut self, at: usize) {
        let taskmanager = tm(NAMES[at]);
        let tm = &mut self.tms[at];
        let Some(command) = tm.commands.pop_front() else { return };
        let (kind, address) = (command.kind(), tm.data_address(&taskmanager));
        let said =
            |attempt, state| Event::Execution { taskmanager: taskmanager.clone(), update: update(attempt, state) };
        match (command, &mut tm.executor) {
            (Command::StartExecutor, None) => {
                tm.starting += 1;
                return;
            }
            (Command::StartExecutor, Some(_)) => {
                let data_address = address;
                tm.events.push_back(Event::ExecutorReady { taskmanager, data_address });
                return;
            }
            (Command::Deploy { .. }, None) => {
                let reason = "the executor is not ready".to_owned();
                tm.events.push_back(Event::CommandFailed { taskmanager, command: kind, reason });
                return;
            }
            (Command::Deploy { executors, .. }, Some(_)) if !executors.contains(&(taskmanager.clone(), address)) => {
                let reason = "it is meant for an earlier executor".to_owned();
                tm.events.push_back(Event::CommandFailed { taskmanager, command: kind, reason });
                return;
            }
            (Command::Deploy { tasks, restore, .. }, Some(executor)) => {
                for task in tasks {
                    if executor.contains_key(&task.attempt) {
                        continue;
                    }
                    let ExecutionAttemptId { vertex, subtask, .. } = task.attempt;
                    let snapshots = restore.iter().flat_map(|stored| &stored.metadata.vertices);
                    let restored =
                        snapshots.filter(|at| at.vertex == vertex).find_map(|at| at.subtasks.get(subtask as usize));
                    let same = |old: &ExecutionAttemptId| {
                        (old.vertex, old.subtask) == (task.attempt.vertex, task.attempt.subtask)
                    };
                    executor.retain(|old, task| !same(old) || task.is_alive());
                    let finished = restored.is_some_and(|snapshot| snapshot.finished);
                    let state = if finished { ExecutionState::Finished } else { ExecutionState::Running };
                    executor.insert(task.attempt, Running { state, input_ended: finished, last: None });
                    tm.events.push_back(said(task.attempt, ExecutionState::Running));
                    if finished {
                        tm.events.push_back(said(task.attempt, state));
                    }
                }
            }
            (Command::Cancel { attempts }, Some(executor)) => {
                for attempt in attempts {
                    if let Some(task) = executor.get_mut(&attempt).filter(|task| task.is_alive()) {
                        task.state = ExecutionState::Canceled;
                        tm.events.push_back(said(attempt, ExecutionState::Canceled));
                    }
                }
            }
            (Command::Cancel { .. } | Command::TriggerCheckpoint { .. } | Command::NotifyCheckpoint { .. }, None) => {}
            (Command::TriggerCheckpoint { checkpoint }, Some(_)) => tm.asked = Some(checkpoint),
            (Command::NotifyCheckpoint { completed, aborted }, Some(executor)) => {
                tm.asked = tm.asked.filter(|asked| Some(*asked) > completed && !aborted.contains(asked));
                let ends = |task: &Running| task.is_alive() && task.last.is_some() && task.last <= completed;
                for (attempt, task) in executor.iter_mut().filter(|(_, task)| ends(task)) {
                    task.state = ExecutionState::Finished;
                    tm.events.push_back(said(*attempt, task.state));
                }
            }
            (Command::StopExecutor, executor) => {
                *executor = None;
                for _ in 0..std::mem::take(&mut tm.starting) {
                    let (taskmanager, reason) = (taskmanager.clone(), "it was stopped".to_owned());
                    let command = CommandKind::StartExecutor;
                    tm.events.push_back(Event::CommandFailed { taskmanager, command, reason });
                }
            }
        }
        tm.events.push_back(Event::CommandDone { taskmanager, command: kind });
    }

    fn get_ready(&mut self, at: usize) {
        let tm = &mut self.tms[at];
        if tm.starting == 0 {
            return;
        }
        tm.start();
        for _ in 0..std::mem::take(&mut tm.starting) {
            let taskmanager = super::fixture::tm(NAMES[at]);
            let data_address = tm.data_address(&taskmanager);
            if tm.connected {
                tm.events.push_back(Event::ExecutorReady { taskmanager, data_address });
            }
        }
    }

    fn hear(&mut self, at: usize) {
        let Some(event) = self.tms[at].events.pop_front() else { return };
        if self.closed && matches!(event, Event::TaskManagerHere { .. }) {
            // No job owns what it has: its JobMaster or the Dispatcher stops it.
            self.tms[at].executor = None;
        }
        self.tell(event);
    }

    /// Tasks of an executor answer for the checkpoint it was asked for.
    fn answer(&mut self, at: usize, result: Result<(), String>) {
        let taskmanager = tm(NAMES[at]);
        let Tm { executor, asked, events, connected, .. } = &mut self.tms[at];
        let Some(checkpoint) = asked.take() else { return };
        for (attempt, task) in executor.iter_mut().flatten().filter(|(_, task)| task.is_alive()) {
            if task.input_ended {
                task.last.get_or_insert(checkpoint);
            }
            let snapshot = TaskSnapshot { finished: task.input_ended, ..TaskSnapshot::default() };
            let (taskmanager, attempt) = (taskmanager.clone(), *attempt);
            let result = result.clone().map(|()| snapshot);
            if *connected {
                events.push_back(Event::Snapshot { taskmanager, attempt, checkpoint, result });
            }
        }
    }

    fn write(&mut self) {
        if let Some((checkpoint, vertices)) = self.writes.pop_front() {
            let mut stored = (*stored(checkpoint)).clone();
            stored.metadata.vertices = vertices;
            self.tell(Event::MetadataWritten { checkpoint, result: Ok(Arc::new(stored)) });
        }
    }

    fn due(&mut self) {
        if let Some(timer) = self.timers.pop_front() {
            self.tell(Event::TimerFired(Timer::Checkpoint(timer)));
        }
    }

    fn grant(&mut self) {
        let allocations = &mut self.allocations;
        let grants = self.ledger.grant(|| {
            *allocations += 1;
            AllocationId::from_bytes(allocations.to_be_bytes())
        });
        for grant in grants {
            self.tell(Event::SlotsGranted(grant.slots));
        }
    }

    fn wake(&mut self) {
        if let Some(wait) = self.waits.pop_front() {
            self.tell(Event::TimerFired(Timer::Restart(wait)));
        }
    }

    fn disconnect(&mut self, at: usize) {
        let tm = &mut self.tms[at];
        (tm.connected, tm.asked) = (false, None);
        tm.commands.clear();
        tm.events.clear();
        // Answers go with the stream by which the orders came; the executor starts all the same.
        if std::mem::take(&mut tm.starting) > 0 {
            tm.start();
        }
        self.ledger.lose(&TaskManagerId(NAMES[at].to_owned()));
    }

    fn come(&mut self, at: usize) {
        let taskmanager = tm(NAMES[at]);
        self.ledger.register(taskmanager.clone(), 2);
        let tm = &mut self.tms[at];
        tm.connected = true;
        let executor = tm.executor.as_ref().map(|executions| ExecutorState {
            data_address: tm.data_address(&taskmanager),
            executions: executions.iter().map(|(attempt, task)| task.update(*attempt)).collect(),
        });
        tm.events.push_back(Event::TaskManagerHere { taskmanager, executor });
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Commit => self.commit(),
            Act::Obey(at) => self.obey(at),
            Act::GetReady(at) => self.get_ready(at),
            Act::Hear(at) => self.hear(at),
            Act::Grant => self.grant(),
            Act::Wake => self.wake(),
            Act::KillExecutor(at) => {
                let tm = &mut self.tms[at];
                if tm.executor.take().is_some() && tm.connected {
                    let (taskmanager, cause) = (TaskManagerId(NAMES[at].to_owned()), "killed".to_owned());
                    tm.events.push_back(Event::ExecutorLost { taskmanager, cause, own_doing: false });
                }
            }
            Act::Break(at) if self.tms[at].connected => {
                self.disconnect(at);
                self.tms[at].events.push_back(Event::TaskManagerDetached { taskmanager: tm(NAMES[at]) });
            }
            Act::Return(at) if !self.tms[at].connected => self.come(at),
            Act::GiveUp(at) if !self.tms[at].connected => {
                let (taskmanager, reason) = (tm(NAMES[at]), "silent".to_owned());
                self.tms[at].events.push_back(Event::TaskManagerLost { taskmanager, reason });
            }
            Act::Fail(at, peer_lost) => self.change(at, |task, update| {
                task.state = ExecutionState::Failed;
                ExecutionUpdate { peer_lost, ..update(task) }
            }),
            Act::EndInput(at) => self.change(at, |task, update| {
                task.input_ended = true;
                update(task)
            }),
            Act::Ack(at) => self.answer(at, Ok(())),
            Act::Decline(at) => self.answer(at, Err("no space".to_owned())),
            Act::Write => self.write(),
            Act::Due => self.due(),
            Act::TakeOver => self.take_over(),
            Act::EndReconciliation if std::mem::take(&mut self.reconciles) => {
                self.tell(Event::TimerFired(Timer::Reconciliation));
            }
            Act::Cancel => {
                self.log.index += 1;
                if !self.log.status.is_globally_terminal() {
                    self.log.status = JobStatus::Cancelling;
                }
                let index = self.log.index;
                self.tell(Event::CancelRequested { index });
            }
            Act::Break(_) | Act::Return(_) | Act::GiveUp(_) | Act::EndReconciliation => {}
        }
    }

    /// Something happens to the first task there whose input has not ended, or else to the first that is alive.
    fn change(
        &mut self,
        at: usize,
        change: impl FnOnce(&mut Running, &dyn Fn(&Running) -> ExecutionUpdate) -> ExecutionUpdate,
    ) {
        let taskmanager = tm(NAMES[at]);
        let Tm { executor, events, connected, .. } = &mut self.tms[at];
        let alive = executor.iter_mut().flatten().filter(|(_, task)| task.is_alive());
        if let Some((attempt, task)) = alive.min_by_key(|(_, task)| task.input_ended) {
            let update = change(task, &|task| task.update(*attempt));
            if *connected {
                events.push_back(Event::Execution { taskmanager, update });
            }
        }
    }

    fn take_over(&mut self) {
        if self.log.status.is_globally_terminal() {
            return;
        }
        (self.on_its_way, self.waits, self.reconciles) = Default::default();
        (self.writes, self.timers) = Default::default();
        self.ledger = Ledger::default();
        let executions: Vec<Recovered> = self
            .log
            .placed
            .values()
            .map(|(Placement { attempt, assignment }, finished)| Recovered {
                attempt: *attempt,
                assignment: assignment.clone(),
                finished: *finished,
            })
            .collect();
        for execution in &executions {
            self.ledger.hold(JOB, &execution.assignment);
        }
        let record = Record {
            status: self.log.status,
            failure: None,
            cancel_requested: false,
            executions,
            deployed_ms: Some(1),
            restarted_ms: None,
            restarts: self.log.restarts,
            checkpoints: CheckpointRecord {
                counter: self.log.counter,
                in_flight: self.log.in_flight.iter().copied().collect(),
                completed: self.log.completed.clone(),
            },
            index: self.log.index,
        };
        let strategy = self.strategy.clone();
        self.job = Job::recover(self.shape.graph(), PATIENCE, strategy, every_second(), record);
        for at in 0..3 {
            let here = self.tms[at].connected;
            self.disconnect(at);
            if here {
                self.come(at);
            }
        }
        self.tell(Event::Start);
    }

    /// No more faults: everything that is on its way arrives, everybody comes, every wait ends.
    fn heal(&mut self) {
        for at in 0..3 {
            self.act(Act::Return(at));
        }
        for _ in 0..10_000 {
            for at in 0..3 {
                self.hear(at);
                self.obey(at);
                self.get_ready(at);
                self.act(Act::Ack(at));
            }
            self.commit();
            self.write();
            self.grant();
            let quiet = self.tms.iter().all(|tm| tm.commands.is_empty() && tm.events.is_empty() && tm.starting == 0);
            if quiet && self.on_its_way.is_empty() && self.writes.is_empty() {
                if self.waits.is_empty() {
                    return;
                }
                self.wake();
            }
        }
        panic!("it never comes to rest");
    }

    fn alive(&self) -> BTreeSet<(TaskManagerId, ExecutionAttemptId)> {
        let tms = self.tms.iter().zip(NAMES);
        let all = tms.flat_map(|(at, name)| at.executor.iter().flatten().map(move |one| (tm(name), one)));
        all.filter(|(_, (_, task))| task.is_alive()).map(|(name, (attempt, _))| (name, *attempt)).collect()
    }
}

/// Runs the acts, heals, and checks that the job runs whole or is over; then has its inputs end or cancels it.
fn check_world(shape: Shape, strategy: RestartStrategy, ends: bool, acts: Vec<Act>) -> Result<(), TestCaseError> {
    let mut world = World::new(shape, strategy);
    for act in acts {
        world.act(act);
    }
    world.heal();
    let alive = world.alive();
    if world.closed {
        prop_assert!(world.log.status.is_globally_terminal());
        prop_assert!(alive.is_empty(), "{:?} run after the end", alive);
        return Ok(());
    }
    prop_assert_eq!(world.job.status(), JobStatus::Running, "{:#?}", world.job);
    prop_assert_eq!(world.log.status, JobStatus::Running);
    prop_assert_eq!(world.log.restarts, world.job.restarts(), "what is shown survives a take-over");
    let expected: BTreeSet<_> = world
        .job
        .executions()
        .executions()
        .filter(|(_, execution)| execution.state() != ExecutionState::Finished)
        .map(|(attempt, execution)| (execution.assignment().unwrap().taskmanager.clone(), attempt))
        .collect();
    prop_assert_eq!(alive, expected, "what runs is what should run");
    let held: BTreeSet<_> = world.ledger.holdings().map(|(_, at)| (at.taskmanager, at.slot)).collect();
    for at in world.job.held.iter().flatten() {
        prop_assert!(held.contains(&(at.taskmanager.clone(), at.slot)), "{:?} is not held", at);
    }
    let before = world.log.completed.as_ref().map(|stored| stored.checkpoint());
    while !world.timers.is_empty() && world.log.completed.as_ref().map(|stored| stored.checkpoint()) <= before {
        world.act(Act::Due);
        world.heal();
    }
    let after = world.log.completed.as_ref().map(|stored| stored.checkpoint());
    prop_assert!(after > before, "no checkpoint after {:?}: {:#?}", before, world.job.checkpoints());
    if ends {
        for at in [0, 0, 1, 1, 2, 2] {
            world.act(Act::EndInput(at));
        }
        world.heal();
        // One that failed is repeated when its time has come.
        while !world.closed && !world.timers.is_empty() {
            world.act(Act::Due);
            world.heal();
        }
        prop_assert_eq!(world.log.status, JobStatus::Finished, "{:#?}", world.job);
    }
    world.act(Act::Cancel);
    world.heal();
    prop_assert!(world.closed && world.alive().is_empty(), "{:#?}", world.job);
    prop_assert_eq!(world.ledger.holdings().count(), 0, "slots are given back");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_a_job_comes_to_rest_and_runs_nothing_twice(
        joined in any::<bool>(),
        patient in any::<bool>(),
        ends in any::<bool>(),
        acts in proptest::collection::vec(act(), 0..200),
    ) {
        let shape = if joined { Shape::Joined } else { Shape::Apart };
        check_world(shape, if patient { always() } else { losses_only() }, ends, acts)?;
    }
}
