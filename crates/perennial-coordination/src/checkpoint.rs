//! Checkpoints of one job: when one is taken, what it waits for, and whether it counts.
//!
//! A [`Coordinator`] is part of a [`Job`](crate::job::Job), which tells it what happened and turns what it answers into
//! entries, commands and timers. The order law is the job's: a checkpoint is reserved in the log before anybody is told to
//! take it, its metadata is durable before it is completed in the log, and nobody is told that it is completed before that.
//!
//! ```text
//! may trigger ─> Reserving ─ committed ─> Triggered ─ all acked ─> Writing ─ durable ─> Completing ─ committed ─> told
//!                    └────── tasks lost, declined, timed out, not written ──────┘
//!                                        └──> Aborting ─ committed ─> told
//! ```
//! All entries of a job are recorded one after the other. So when a restarted region's placement is committed, it is decided
//! what became of every checkpoint before it, and the newest completed one is the one to restore. A checkpoint on its way to
//! be completed is not aborted for that reason: the log decides.
//!
//! When the input of every task has ended, the tasks wait for a checkpoint of what their operators have left, to commit and to
//! end. It is taken at once, and if it fails, again after the interval. Once it is completed there is no other.
//!
//! Time exists only as timers that are set and fire. The interval runs from one trigger to the next; when it is over and the
//! job cannot take a checkpoint, the next is taken as soon as it can. So a job that runs with checkpoints always has a
//! timer or a checkpoint on its way.

mod assign;
mod message;
mod metadata;
mod pending;
mod reason;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use perennial_types::{CheckpointId, ExecutionAttemptId, TaskManagerId};

pub use assign::{CannotRestore, OperatorFit, adapt, assign, compare};
pub use message::{Effect, Event, Participant, Timer};
pub use metadata::StoredCheckpoint;
pub(crate) use metadata::by_vertex;
use pending::{Pending, Stage};
pub use reason::Reason;

/// Aborted checkpoints above the newest completed one that are told again to whom may not have heard of them. A task that waits
/// for barriers of an older one has been told, or has seen newer barriers.
const ABORTED_MAX: usize = 16;

/// When checkpoints of a job are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// From one trigger to the next (`execution.checkpointing.interval`); none are taken without.
    pub interval: Option<Duration>,
    /// After so long a checkpoint is given up (`execution.checkpointing.timeout`).
    pub timeout: Duration,
    /// Shortest time between the end of one and the trigger of the next (`execution.checkpointing.min-pause`).
    pub min_pause: Duration,
    /// How many may be on their way (`execution.checkpointing.max-concurrent-checkpoints`).
    pub concurrent_max: NonZeroU32,
    /// How many may fail in a row before the job does (`execution.checkpointing.tolerable-failed-checkpoints`).
    pub failures_tolerated: u32,
}

impl Default for Settings {
    /// None are taken. The rest is as in Flink.
    fn default() -> Self {
        Self {
            interval: None,
            timeout: Duration::from_secs(600),
            min_pause: Duration::ZERO,
            concurrent_max: NonZeroU32::MIN,
            failures_tolerated: 0,
        }
    }
}

/// What the metadata log says of a job's checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointRecord {
    /// Highest number reserved; 0 before the first.
    pub counter: u64,
    /// Reserved and neither completed nor aborted.
    pub in_flight: Vec<CheckpointId>,
    /// The newest that is completed.
    pub completed: Option<Arc<StoredCheckpoint>>,
}

/// How many checkpoints came to which end under this leader.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Completed.
    pub completed: u64,
    /// Aborted.
    pub failed: u64,
}

/// One timer at a time: those set before are told apart by their number.
#[derive(Debug, Clone, Copy, Default)]
struct Wait {
    number: u32,
    runs: bool,
}

impl Wait {
    fn start(&mut self) -> u32 {
        self.number += 1;
        self.runs = true;
        self.number
    }

    fn end(&mut self, number: u32) {
        self.runs &= self.number != number;
    }
}

/// Decides about one job's checkpoints. See the [module](self).
#[derive(Debug)]
pub struct Coordinator {
    settings: Settings,
    /// Highest number in the log or on its way there.
    counter: u64,
    /// Those on their way.
    pending: BTreeMap<CheckpointId, Pending>,
    /// Left in flight by an earlier leader.
    left: Vec<CheckpointId>,
    completed: Option<Arc<StoredCheckpoint>>,
    /// Whether every task had finished in that one.
    is_last: bool,
    /// Above `completed`.
    aborted: BTreeSet<CheckpointId>,
    /// How many in a row have failed, of those that count, under this leader.
    failures: u32,
    /// The last one came to nothing: the next waits for its time, whoever waits for it.
    held_back: bool,
    interval: Wait,
    pause: Wait,
    counts: Counts,
}

impl Coordinator {
    /// The checkpoints of a job, as far as the log knows them.
    pub fn new(settings: Settings, record: CheckpointRecord) -> Self {
        Self {
            settings,
            counter: record.counter,
            pending: BTreeMap::new(),
            left: record.in_flight,
            is_last: record.completed.as_ref().is_some_and(|newest| newest.is_last()),
            completed: record.completed,
            aborted: BTreeSet::new(),
            failures: 0,
            held_back: false,
            interval: Wait::default(),
            pause: Wait::default(),
            counts: Counts::default(),
        }
    }

    /// The newest completed checkpoint: the one to restore.
    pub fn completed(&self) -> Option<&Arc<StoredCheckpoint>> {
        self.completed.as_ref()
    }

    /// How many came to which end under this leader.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Those on their way, oldest first.
    pub fn pending(&self) -> impl Iterator<Item = CheckpointId> {
        self.pending.keys().copied()
    }

    /// Whether something will happen by itself: a checkpoint is on its way, or a timer for the next runs.
    pub fn is_armed(&self) -> bool {
        !self.pending.is_empty() || self.interval.runs || self.pause.runs
    }

    /// Whether the next checkpoint is to be taken as soon as the job can; `inputs_ended` says whether all its tasks wait for it.
    pub fn is_due(&self, inputs_ended: bool) -> bool {
        let has_room = self.pending.len() < self.settings.concurrent_max.get() as usize;
        let in_time = !self.interval.runs && !self.pause.runs;
        let at_once = inputs_ended && !self.is_last && self.pending.is_empty() && !self.held_back;
        self.settings.interval.is_some() && (at_once || (has_room && in_time))
    }

    /// Applies one event and returns what has to be done, in order.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Started => self.abort_left(out),
            Event::MayTrigger { now_ms, inputs_ended } => self.reserve(now_ms, inputs_ended, out),
            Event::TimerFired(Timer::Interval(number)) => {
                self.interval.end(number);
                self.held_back &= self.interval.runs;
            }
            Event::TimerFired(Timer::Pause(number)) => self.pause.end(number),
            Event::TimerFired(Timer::Timeout(checkpoint)) => self.time_out(checkpoint, out),
            Event::Reserved { checkpoint, participants } => self.trigger(checkpoint, participants, out),
            Event::NotReserved(checkpoint) => self.on_not_reserved(checkpoint),
            Event::Acked { attempt, checkpoint, snapshot } => {
                if let Some(pending) = self.in_stage(checkpoint, Stage::Triggered) {
                    pending.ack(attempt, snapshot);
                    self.write_if_acked(checkpoint, out);
                }
            }
            Event::Declined { attempt, checkpoint, reason } => {
                let pending = self.in_stage(checkpoint, Stage::Triggered);
                if pending.is_some_and(|pending| pending.awaits(attempt)) {
                    self.abort(checkpoint, Reason::Declined { attempt, reason }, out);
                }
            }
            Event::NotTriggered { checkpoint, reason } => {
                if self.in_stage(checkpoint, Stage::Triggered).is_some() {
                    self.abort(checkpoint, Reason::NotTriggered(reason), out);
                }
            }
            Event::TaskFinished(attempt) => self.note_finished(attempt, out),
            Event::Written(stored) => self.complete(stored, out),
            Event::NotWritten { checkpoint, reason } => {
                if self.in_stage(checkpoint, Stage::Writing).is_some() {
                    self.abort(checkpoint, Reason::NotWritten(reason), out);
                }
            }
            Event::Completed(checkpoint) => self.on_completed(checkpoint, out),
            Event::Aborted(checkpoint) => self.on_aborted(checkpoint, out),
            Event::TasksLost => self.abort_for_lost_tasks(out),
            Event::Away(taskmanager) => self.abort_without(&taskmanager, out),
            Event::Here(taskmanager) => {
                self.abort_without(&taskmanager, out);
                self.notify(Some(taskmanager), out);
            }
            Event::Ending => self.pending.retain(|_, pending| pending.stage == Stage::Completing),
        }
        self.assert_invariants();
        effects
    }

    /// The checkpoint of this number, if it is that far.
    fn in_stage(&mut self, checkpoint: CheckpointId, stage: Stage) -> Option<&mut Pending> {
        self.pending.get_mut(&checkpoint).filter(|pending| pending.stage == stage)
    }

    /// Nobody knows who was told of what an earlier leader has left: it is over, and another is taken.
    fn abort_left(&mut self, out: &mut Vec<Effect>) {
        for checkpoint in std::mem::take(&mut self.left) {
            out.push(Effect::Abort { checkpoint, reason: Reason::LeaderChanged });
        }
    }

    fn reserve(&mut self, now_ms: u64, inputs_ended: bool, out: &mut Vec<Effect>) {
        let Some(interval) = self.settings.interval.filter(|_| self.is_due(inputs_ended)) else { return };
        self.counter += 1;
        let checkpoint = CheckpointId(self.counter);
        self.pending.insert(checkpoint, Pending::new(checkpoint, now_ms));
        out.push(Effect::Reserve(checkpoint));
        out.push(Effect::SetTimer(Timer::Interval(self.interval.start()), interval));
    }

    /// The log has another idea of the numbers. Those behind it on their way will be refused too.
    fn on_not_reserved(&mut self, checkpoint: CheckpointId) {
        if self.pending.contains_key(&checkpoint) {
            self.counter = self.counter.min(checkpoint.0.saturating_sub(1));
        }
        // One to be aborted waits for that entry.
        if self.in_stage(checkpoint, Stage::Reserving).is_some() {
            self.pending.remove(&checkpoint);
            self.held_back = true;
        }
    }

    fn trigger(&mut self, checkpoint: CheckpointId, participants: Vec<Participant>, out: &mut Vec<Effect>) {
        let timeout = self.settings.timeout;
        // Tasks may have been lost meanwhile: then the entry that aborts it is on its way.
        let Some(pending) = self.in_stage(checkpoint, Stage::Reserving) else { return };
        pending.stage = Stage::Triggered;
        pending.expect(participants);
        out.extend(pending.triggers());
        out.push(Effect::SetTimer(Timer::Timeout(checkpoint), timeout));
        self.write_if_acked(checkpoint, out);
    }

    fn note_finished(&mut self, attempt: ExecutionAttemptId, out: &mut Vec<Effect>) {
        for checkpoint in self.pending().collect::<Vec<_>>() {
            if let Some(pending) = self.in_stage(checkpoint, Stage::Triggered) {
                pending.finish(attempt);
                self.write_if_acked(checkpoint, out);
            }
        }
    }

    fn write_if_acked(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.get_mut(&checkpoint).filter(|pending| pending.is_acked()) {
            pending.stage = Stage::Writing;
            let started_ms = pending.started_ms;
            out.push(Effect::Write { checkpoint, started_ms, snapshots: pending.take_snapshots() });
        }
    }

    fn complete(&mut self, stored: Arc<StoredCheckpoint>, out: &mut Vec<Effect>) {
        if let Some(pending) = self.in_stage(stored.checkpoint(), Stage::Writing) {
            pending.stage = Stage::Completing;
            pending.stored = Some(Arc::clone(&stored));
            out.push(Effect::Complete(stored));
        }
    }

    fn on_completed(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        if self.in_stage(checkpoint, Stage::Completing).is_none() {
            return;
        }
        // Those before it are subsumed, in the log as well.
        let newer = self.pending.split_off(&CheckpointId(checkpoint.0 + 1));
        let mut older = std::mem::replace(&mut self.pending, newer);
        let stored = older.remove(&checkpoint).and_then(|pending| pending.stored);
        self.is_last = stored.as_ref().is_some_and(|stored| stored.is_last());
        self.completed = stored;
        self.aborted.retain(|aborted| *aborted > checkpoint);
        self.counts.completed += 1;
        self.counts.failed += older.len() as u64;
        (self.failures, self.held_back) = (0, false);
        self.notify(None, out);
        self.rest(out);
    }

    fn time_out(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        let after = self.settings.timeout;
        let waits = |stage| matches!(stage, Stage::Triggered | Stage::Writing);
        if let Some(pending) = self.pending.get(&checkpoint).filter(|pending| waits(pending.stage)) {
            let missing = pending.missing().collect();
            self.abort(checkpoint, Reason::TimedOut { missing, after }, out);
        }
    }

    fn abort_for_lost_tasks(&mut self, out: &mut Vec<Effect>) {
        let can_abort = |stage| matches!(stage, Stage::Reserving | Stage::Triggered | Stage::Writing);
        let pending = self.pending.iter().filter(|(_, pending)| can_abort(pending.stage));
        for checkpoint in pending.map(|(checkpoint, _)| *checkpoint).collect::<Vec<_>>() {
            self.abort(checkpoint, Reason::TasksLost, out);
        }
        self.interval.runs = false;
    }

    fn abort(&mut self, checkpoint: CheckpointId, reason: Reason, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.get_mut(&checkpoint) {
            pending.stage = Stage::Aborting;
            pending.failure = Some(reason.clone());
            out.push(Effect::Abort { checkpoint, reason });
        }
    }

    /// It will never be completed: the log says so, or has refused to complete it.
    fn on_aborted(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        if self.completed.as_ref().is_none_or(|newest| newest.checkpoint() < checkpoint) {
            self.aborted.insert(checkpoint);
            if self.aborted.len() > ABORTED_MAX {
                self.aborted.pop_first();
            }
        }
        self.counts.failed += 1;
        self.notify(None, out);
        let Some(pending) = self.pending.remove(&checkpoint) else { return };
        self.rest(out);
        if let Some(reason) = pending.failure.filter(Reason::counts) {
            self.failures += 1;
            self.held_back = self.interval.runs;
            if self.failures > self.settings.failures_tolerated {
                self.failures = 0;
                out.push(Effect::FailJob { checkpoint, reason, tolerated: self.settings.failures_tolerated });
            }
        }
    }

    fn rest(&mut self, out: &mut Vec<Effect>) {
        if !self.settings.min_pause.is_zero() {
            out.push(Effect::SetTimer(Timer::Pause(self.pause.start()), self.settings.min_pause));
        }
    }

    /// A TaskManager has, or had, no connection to the leader: it may have missed what it was told, and what its tasks said may be lost.
    /// Another one is taken when it is back.
    fn abort_without(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        let waits = self.pending.values().filter(|pending| pending.waits_for(taskmanager));
        for checkpoint in waits.map(|pending| pending.checkpoint).collect::<Vec<_>>() {
            self.abort(checkpoint, Reason::TaskManagerAway(taskmanager.clone()), out);
            self.interval.runs = false;
        }
    }

    fn notify(&self, to: Option<TaskManagerId>, out: &mut Vec<Effect>) {
        let completed = self.completed.as_ref().map(|newest| newest.checkpoint());
        if completed.is_some() || !self.aborted.is_empty() {
            out.push(Effect::Notify { to, completed, aborted: self.aborted.iter().copied().collect() });
        }
    }

    fn assert_invariants(&self) {
        let completed = self.completed.as_ref().map_or(0, |newest| newest.checkpoint().0);
        debug_assert!(completed <= self.counter, "what is completed was reserved");
        debug_assert!(
            self.pending.keys().chain(&self.aborted).all(|checkpoint| checkpoint.0 > completed),
            "what is completed is neither on its way nor aborted, nor is what it subsumes"
        );
    }
}
