//! A job and the events that came to it.

use std::sync::Arc;
use std::time::Duration;

use perennial_types::{
    AllocationId, CheckpointId, CheckpointMetadata, ExecutionAttemptId, ExecutionState, JobEdge, JobId, JobStatus,
    RestartMemory, ShipStrategy, SlotIndex, SnapshotKind, TaskManagerId, VertexId,
};

use crate::checkpoint::{CheckpointRecord, Settings, StoredCheckpoint};
use crate::execution_graph::{Assignment, Recovered};
use crate::job::testing::graph;
use crate::job::*;
use crate::restart_strategy::{Backoff, Policy, RestartStrategy};

pub(super) const PATIENCE: Patience =
    Patience { slots: Duration::from_secs(300), reconciliation: Duration::from_secs(5) };

pub(super) fn tm(name: &str) -> TaskManagerId {
    TaskManagerId(name.to_owned())
}

pub(super) fn at(name: &str, slot: u32) -> Assignment {
    Assignment { taskmanager: tm(name), slot: SlotIndex(slot), allocation: AllocationId::from_bytes([slot as u8; 16]) }
}

/// Task 0 on `a`, task 1 on `b`.
pub(super) fn slots() -> Vec<Assignment> {
    vec![at("a", 0), at("b", 0)]
}

pub(super) fn update(attempt: ExecutionAttemptId, state: ExecutionState) -> ExecutionUpdate {
    let failure = (state == ExecutionState::Failed).then(|| "out of luck".to_owned());
    ExecutionUpdate { attempt, state, failure, peer_lost: false, counters: None, start_ms: None, input_ended: false }
}

/// Losses restart at once, then after 1 s, 1.5 s; failed tasks fail the job.
pub(super) fn losses_only() -> RestartStrategy {
    RestartStrategy::new(Policy::LossesOnly(Backoff { jitter: 0.0, ..Backoff::default() }), RestartMemory::default(), 1)
}

/// Everything restarts after a second, forever.
pub(super) fn always() -> RestartStrategy {
    RestartStrategy::new(
        Policy::FixedDelay { attempts: u32::MAX, delay: Duration::from_secs(1) },
        RestartMemory::default(),
        1,
    )
}

/// A checkpoint every second, given up after ten minutes. A few may fail.
pub(super) fn every_second() -> Settings {
    Settings { interval: Some(Duration::from_secs(1)), failures_tolerated: 3, ..Settings::default() }
}

/// A checkpoint whose metadata was written somewhere.
pub(super) fn stored(checkpoint: CheckpointId) -> Arc<StoredCheckpoint> {
    let (job, kind) = (JobId::from_bytes([7; 16]), SnapshotKind::Checkpoint);
    let metadata = CheckpointMetadata { job, checkpoint, kind, at_ms: 9, vertices: Vec::new() };
    Arc::new(StoredCheckpoint { metadata, started_ms: 5, encoded: Arc::from([]), crc: 0, location: "c".to_owned() })
}

/// Two tasks in two slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `source` sends to `sink`: one region.
    Joined,
    /// Two subtasks of `map`: a region each.
    Apart,
}

impl Shape {
    pub(super) fn graph(self) -> JobGraph {
        match self {
            Self::Apart => graph(&[("map", 2, "default")]),
            Self::Joined => {
                let edges = vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash }];
                JobGraph { edges, ..graph(&[("source", 1, "left"), ("sink", 1, "right")]) }
            }
        }
    }

    pub(super) fn attempt(self, task: u32, attempt: u32) -> ExecutionAttemptId {
        let (vertex, subtask) = match self {
            Self::Joined => (task as u8 + 1, 0),
            Self::Apart => (1, task),
        };
        ExecutionAttemptId { vertex: VertexId::from_bytes([vertex; 16]), subtask, attempt }
    }

    fn task(self, task: u32) -> (usize, u32) {
        match self {
            Self::Joined => (task as usize, 0),
            Self::Apart => (0, task),
        }
    }
}

/// One line for each effect, short enough for tables.
pub(super) fn text(effect: &Effect) -> String {
    match effect {
        Effect::Record(Intent::Placement(placements)) => {
            let places = placements.iter().map(|one| format!(" {}", one.assignment.taskmanager));
            format!("place{}", places.collect::<String>())
        }
        Effect::Record(Intent::Deployment) => "record CREATED".to_owned(),
        Effect::Record(Intent::Running) => "record RUNNING".to_owned(),
        Effect::Record(Intent::Restarting { .. }) => "record RESTARTING".to_owned(),
        Effect::Record(Intent::Exceptions) => "record failures".to_owned(),
        Effect::Record(Intent::Failing { .. }) => "record FAILING".to_owned(),
        Effect::Record(Intent::FinishExecutions { attempts }) => format!("record {} finished", attempts.len()),
        Effect::Record(Intent::ReserveCheckpoint(checkpoint)) => format!("reserve {checkpoint}"),
        Effect::Record(Intent::CompleteCheckpoint(stored)) => format!("complete {}", stored.checkpoint()),
        Effect::Record(Intent::AbortCheckpoint { checkpoint, .. }) => format!("abort {checkpoint}"),
        Effect::Record(Intent::End { status, .. }) => format!("record {status}"),
        Effect::RequestSlots(count) => format!("want {count}"),
        Effect::ReleaseSlot(slot) => format!("release {} on {}", slot.slot, slot.taskmanager),
        Effect::ReleaseSlotsOn(at) => format!("release {at}"),
        Effect::ReleaseSlots => "release".to_owned(),
        Effect::Send { taskmanager, index, command } => {
            let what = match command {
                Command::StartExecutor => "start".to_owned(),
                Command::Deploy { tasks, restore, .. } => {
                    let attempts = tasks.iter().map(|task| format!(" #{}", task.attempt.attempt));
                    let from = restore.as_ref().map(|stored| format!(" from {}", stored.checkpoint()));
                    format!("deploy{}{}", attempts.collect::<String>(), from.unwrap_or_default())
                }
                Command::TriggerCheckpoint { checkpoint } => format!("trigger {checkpoint}"),
                Command::NotifyCheckpoint { completed, aborted } => {
                    let completed = completed.map_or_else(|| "-".to_owned(), |id| id.to_string());
                    let aborted: Vec<String> = aborted.iter().map(|id| id.to_string()).collect();
                    format!(
                        "notify {completed}/{}",
                        if aborted.is_empty() { "-".to_owned() } else { aborted.join(",") }
                    )
                }
                Command::Cancel { attempts } => {
                    let attempts = attempts.iter().map(|attempt| format!(" #{}", attempt.attempt));
                    format!("cancel{}", attempts.collect::<String>())
                }
                Command::StopExecutor => "stop".to_owned(),
            };
            format!("{taskmanager}@{index}: {what}")
        }
        Effect::Probe { data_address, .. } => format!("probe {data_address}"),
        Effect::WriteMetadata { checkpoint, .. } => format!("write {checkpoint}"),
        Effect::SetTimer(Timer::Checkpoint(_), _) => "timer Checkpoint".to_owned(),
        Effect::SetTimer(Timer::Restart(_), after) => format!("timer Restart {} ms", after.as_millis()),
        Effect::SetTimer(Timer::Slots(_), _) => "timer Slots".to_owned(),
        Effect::SetTimer(Timer::Reconciliation, _) => "timer Reconciliation".to_owned(),
        Effect::Close => "close".to_owned(),
    }
}

pub(super) struct Fixture {
    pub(super) job: Job,
    pub(super) shape: Shape,
    /// Time of the events, in milliseconds.
    pub(super) now_ms: u64,
}

impl Fixture {
    pub(super) fn new(shape: Shape, strategy: RestartStrategy) -> Self {
        Self::with(shape, strategy, Settings::default())
    }

    pub(super) fn with(shape: Shape, strategy: RestartStrategy, checkpoints: Settings) -> Self {
        Self { job: Job::new(shape.graph(), PATIENCE, strategy, checkpoints, 10), shape, now_ms: 9 }
    }

    /// A job whose placement is committed at 20 and whose executors were asked for.
    pub(super) fn placed(shape: Shape, strategy: RestartStrategy) -> Self {
        let mut this = Self::new(shape, strategy);
        this.apply(Event::Start);
        this.apply(Event::SlotsGranted(slots()));
        this.recorded(IntentKind::Placement, 20);
        this
    }

    pub(super) fn deployed(shape: Shape, strategy: RestartStrategy) -> Self {
        let mut this = Self::placed(shape, strategy);
        this.recorded(IntentKind::Deployment, 20);
        this.ready("a");
        this.ready("b");
        this
    }

    pub(super) fn running(shape: Shape, strategy: RestartStrategy) -> Self {
        let mut this = Self::deployed(shape, strategy);
        this.report("a", 0, ExecutionState::Running);
        this.report("b", 1, ExecutionState::Running);
        assert_eq!(this.job.status(), JobStatus::Running);
        this
    }

    /// A job taken over with both tasks at attempt 3.
    pub(super) fn recovered(shape: Shape, status: JobStatus, finished: &[u32]) -> Self {
        Self::recovered_with(shape, status, finished, Settings::default(), CheckpointRecord::default()).0
    }

    /// The same with checkpoints, and what it does first.
    pub(super) fn recovered_with(
        shape: Shape,
        status: JobStatus,
        finished: &[u32],
        settings: Settings,
        checkpoints: CheckpointRecord,
    ) -> (Self, Vec<String>) {
        let executions = [("a", 0), ("b", 1)]
            .into_iter()
            .map(|(name, task)| Recovered {
                attempt: shape.attempt(task, 3),
                assignment: at(name, 0),
                finished: finished.contains(&task),
            })
            .collect();
        let record = Record {
            status,
            failure: None,
            cancel_requested: false,
            executions,
            deployed_ms: Some(333),
            restarted_ms: Some(777),
            restarts: 3,
            checkpoints,
            index: 50,
        };
        let mut job = Job::recover(shape.graph(), PATIENCE, losses_only(), settings, record);
        let effects = job.apply(1, Event::Start);
        assert!(!effects.iter().any(Effect::starts_something), "{effects:?}");
        (Self { job, shape, now_ms: 9 }, effects.iter().map(text).collect())
    }

    pub(super) fn current(&self, task: u32) -> ExecutionAttemptId {
        self.job.executions.at(self.shape.task(task)).expect("the task exists").0
    }

    /// Attempt numbers of both tasks.
    pub(super) fn attempts(&self) -> [u32; 2] {
        [self.current(0).attempt, self.current(1).attempt]
    }

    pub(super) fn state(&self, task: u32) -> ExecutionState {
        self.job.executions.at(self.shape.task(task)).expect("the task exists").1.state()
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<String> {
        self.job.apply(self.now_ms, event).iter().map(text).collect()
    }

    pub(super) fn ready(&mut self, name: &str) -> Vec<String> {
        self.apply(Event::ExecutorReady { taskmanager: tm(name), data_address: format!("{name}:1") })
    }

    pub(super) fn report(&mut self, name: &str, task: u32, state: ExecutionState) -> Vec<String> {
        let update = update(self.current(task), state);
        self.apply(Event::Execution { taskmanager: tm(name), update })
    }

    pub(super) fn recorded(&mut self, kind: IntentKind, index: u64) -> Vec<String> {
        self.apply(Event::Recorded { kind, index })
    }

    pub(super) fn done(&mut self, name: &str, command: CommandKind) -> Vec<String> {
        self.apply(Event::CommandDone { taskmanager: tm(name), command })
    }

    pub(super) fn refused(&mut self, name: &str, command: CommandKind) -> Vec<String> {
        let reason = "no space left on device".to_owned();
        self.apply(Event::CommandFailed { taskmanager: tm(name), command, reason })
    }

    pub(super) fn lose_executor(&mut self, name: &str) -> Vec<String> {
        self.apply(Event::ExecutorLost {
            taskmanager: tm(name),
            cause: "killed by signal 9".to_owned(),
            own_doing: false,
        })
    }

    pub(super) fn lose(&mut self, name: &str) -> Vec<String> {
        self.apply(Event::TaskManagerLost { taskmanager: tm(name), reason: "silent for 5 s".to_owned() })
    }

    pub(super) fn detach(&mut self, name: &str) -> Vec<String> {
        self.apply(Event::TaskManagerDetached { taskmanager: tm(name) })
    }

    pub(super) fn probed(&mut self, name: &str, liveness: Liveness) -> Vec<String> {
        self.apply(Event::Probed { taskmanager: tm(name), data_address: format!("{name}:1"), liveness })
    }

    /// A TaskManager comes with an executor that has these executions, or with none.
    pub(super) fn here(&mut self, name: &str, executions: Option<&[(u32, ExecutionState)]>) -> Vec<String> {
        let executions: Option<Vec<_>> =
            executions.map(|executions| executions.iter().map(|(task, state)| (self.current(*task), *state)).collect());
        self.here_with(name, executions.as_deref())
    }

    /// The same with any attempts.
    pub(super) fn here_with(
        &mut self,
        name: &str,
        executions: Option<&[(ExecutionAttemptId, ExecutionState)]>,
    ) -> Vec<String> {
        let executor = executions.map(|executions| ExecutorState {
            data_address: format!("{name}:1"),
            executions: executions.iter().map(|(attempt, state)| update(*attempt, *state)).collect(),
        });
        self.apply(Event::TaskManagerHere { taskmanager: tm(name), executor })
    }
}
