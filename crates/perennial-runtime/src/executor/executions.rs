//! What an executor was given to run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use perennial_exchange::{Counters, Peer};
use perennial_rpc::taskmanager::{
    CheckpointReport, Deploy, ExecutionReport, ExecutorAddress, NotifyCheckpoint, TaskProgress,
};
use perennial_types::{CheckpointId, ExecutionAttemptId, ExecutionState, JobGraph, JobId, SlotIndex};

use crate::mailbox::Mailbox;
use crate::slot::NewTask;
use crate::wiring::{Place, Placement};

/// One execution as its executor knows it.
pub(super) struct Execution {
    pub(super) slot: SlotIndex,
    start_ms: u64,
    pub(super) state: ExecutionState,
    /// Whether it waits for its last checkpoint.
    pub(super) input_ended: bool,
    pub(super) failure: Option<String>,
    /// Whether it failed because another executor is gone.
    pub(super) peer_lost: bool,
    pub(super) counters: Arc<Counters>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) mailbox: Arc<Mailbox>,
    /// What it has said of checkpoints that are not settled: a few, since none begins while many are under way.
    checkpoints: Vec<CheckpointReport>,
}

/// Executions by attempt. Of each subtask the newest attempt is remembered after its end.
pub(super) struct Executions {
    job: JobId,
    all: BTreeMap<ExecutionAttemptId, Execution>,
}

impl Executions {
    pub(super) fn new(job: JobId) -> Self {
        Self { job, all: BTreeMap::new() }
    }

    pub(super) fn knows(&self, attempt: ExecutionAttemptId) -> bool {
        self.all.contains_key(&attempt)
    }

    /// Adds an execution and forgets earlier attempts of its subtask that have ended.
    pub(super) fn add(
        &mut self,
        attempt: ExecutionAttemptId,
        slot: SlotIndex,
        counters: Arc<Counters>,
        task: &NewTask,
    ) {
        self.all.retain(|old, execution| {
            (old.vertex, old.subtask) != (attempt.vertex, attempt.subtask) || !execution.state.is_terminal()
        });
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let start_ms = since_1970.map_or(0, |since| since.as_millis() as u64);
        let (state, input_ended, failure, peer_lost) = (ExecutionState::Deploying, false, None, false);
        let (cancelled, mailbox) = (Arc::clone(&task.cancelled), Arc::clone(&task.mailbox));
        let checkpoints = Vec::new();
        let execution = Execution {
            slot,
            start_ms,
            state,
            input_ended,
            failure,
            peer_lost,
            counters,
            cancelled,
            mailbox,
            checkpoints,
        };
        self.all.insert(attempt, execution);
    }

    pub(super) fn get_mut(&mut self, attempt: ExecutionAttemptId) -> Option<&mut Execution> {
        self.all.get_mut(&attempt)
    }

    pub(super) fn attempts(&self) -> impl Iterator<Item = ExecutionAttemptId> {
        self.all.keys().copied()
    }

    /// Those that have not ended.
    pub(super) fn alive(&self) -> impl Iterator<Item = (ExecutionAttemptId, &Execution)> {
        let alive = self.all.iter().filter(|(_, execution)| !execution.state.is_terminal());
        alive.map(|(attempt, execution)| (*attempt, execution))
    }

    pub(super) fn all_ended(&self) -> bool {
        self.all.values().all(|execution| execution.state.is_terminal())
    }

    pub(super) fn report(&self, attempt: ExecutionAttemptId) -> Option<ExecutionReport> {
        let execution = self.all.get(&attempt)?;
        let (state, failure) = (execution.state, execution.failure.clone());
        let progress = state.is_terminal().then(|| self.progress_of(attempt, &execution.counters));
        let (peer_lost, start_ms) = (execution.peer_lost, Some(execution.start_ms));
        Some(ExecutionReport {
            job: self.job,
            attempt,
            state,
            failure,
            progress,
            peer_lost,
            start_ms,
            checkpoints: execution.checkpoints.clone(),
            ended: execution.input_ended,
        })
    }

    /// Keeps what an execution says of a checkpoint until that is settled. Returns whether it is known, and has not said so before.
    pub(super) fn keep(&mut self, report: &CheckpointReport) -> bool {
        let Some(execution) = self.all.get_mut(&report.attempt) else { return false };
        let is_new = execution.checkpoints.iter().all(|kept| kept.checkpoint != report.checkpoint);
        if is_new {
            execution.checkpoints.push(report.clone());
        }
        is_new
    }

    /// What was said of a checkpoint that is not settled.
    pub(super) fn said_of(&self, checkpoint: CheckpointId) -> Vec<CheckpointReport> {
        let all = self.all.values().flat_map(|execution| &execution.checkpoints);
        all.filter(|kept| kept.checkpoint == checkpoint).cloned().collect()
    }

    /// Forgets what was said of checkpoints that are settled.
    pub(super) fn settle(&mut self, notice: &NotifyCheckpoint) {
        for execution in self.all.values_mut() {
            execution.checkpoints.retain(|kept| !notice.settles(kept.checkpoint));
        }
    }

    pub(super) fn reports(&self) -> impl Iterator<Item = ExecutionReport> {
        self.attempts().filter_map(|attempt| self.report(attempt))
    }

    /// Counters of what has not ended.
    pub(super) fn progress(&self) -> impl Iterator<Item = TaskProgress> {
        self.alive().map(|(attempt, execution)| self.progress_of(attempt, &execution.counters))
    }

    fn progress_of(&self, attempt: ExecutionAttemptId, counters: &Counters) -> TaskProgress {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        TaskProgress {
            job: self.job,
            attempt,
            records_in: read(&counters.records_in),
            records_out: read(&counters.records_out),
            bytes_in: read(&counters.bytes_in),
            bytes_out: read(&counters.bytes_out),
            busy_ms: read(&counters.busy_ns) / 1_000_000,
            back_pressured_ms: read(&counters.back_pressured_ns) / 1_000_000,
        }
    }
}

/// Where every subtask runs, or what is missing.
pub(super) fn placement_of(graph: &JobGraph, deploy: &Deploy, me: &str) -> Result<Placement, String> {
    let mut vertices = Vec::new();
    for vertex in &graph.vertices {
        let mut places = Vec::new();
        for subtask in 0..vertex.parallelism {
            let mut candidates =
                deploy.placement.iter().filter(|at| at.attempt.vertex == vertex.id && at.attempt.subtask == subtask);
            let (Some(at), None) = (candidates.next(), candidates.next()) else {
                return Err(format!("subtask {subtask} of `{}` does not have exactly one place", vertex.name));
            };
            let executor = at.executor as usize;
            if executor >= deploy.executors.len() {
                return Err(format!("subtask {subtask} of `{}` is placed on no executor", vertex.name));
            }
            places.push(Place { attempt: at.attempt, executor });
        }
        vertices.push(places);
    }
    let here = deploy.executors.iter().position(|executor| executor.taskmanager.0 == me);
    let here = here.ok_or_else(|| format!("the deployment does not name the executor on {me}"))?;
    let peer = |at: &ExecutorAddress| Peer { name: at.taskmanager.0.clone(), address: at.data_address.clone() };
    Ok(Placement { places: vertices, executors: deploy.executors.iter().map(peer).collect(), here })
}
