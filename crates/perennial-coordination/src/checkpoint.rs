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
//! Time exists only as timers that are set and fire. The interval runs from one trigger to the next; when it is over and the
//! job cannot take a checkpoint, the next is taken as soon as it can. So a job that runs with checkpoints always has a
//! timer or a checkpoint on its way.

mod assign;
mod message;
mod metadata;
mod pending;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use perennial_types::{CheckpointId, ExecutionAttemptId, TaskManagerId};

pub use assign::{CannotRestore, OperatorFit, adapt, assign, compare};
pub use message::{Effect, Event, Participant, Timer};
pub use metadata::StoredCheckpoint;
pub(crate) use metadata::by_vertex;
use pending::{Pending, Stage};

/// When checkpoints of a job are taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// From one trigger to the next (`execution.checkpointing.interval`); none are taken without.
    pub interval: Option<Duration>,
    /// After so long a checkpoint is given up (`execution.checkpointing.timeout`).
    pub timeout: Duration,
    /// Shortest time between the end of one and the trigger of the next (`execution.checkpointing.min-pause`).
    pub min_pause: Duration,
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
    pending: Option<Pending>,
    /// Left in flight by an earlier leader.
    left: Vec<CheckpointId>,
    completed: Option<Arc<StoredCheckpoint>>,
    /// Newest that was aborted. A task that waits for barriers of an older one has been told, or has seen newer barriers.
    aborted: Option<CheckpointId>,
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
            pending: None,
            left: record.in_flight,
            completed: record.completed,
            aborted: None,
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

    /// The one on its way.
    pub fn pending(&self) -> Option<CheckpointId> {
        self.pending.as_ref().map(|pending| pending.checkpoint)
    }

    /// Whether something will happen by itself: a checkpoint is on its way, or a timer for the next runs.
    pub fn is_armed(&self) -> bool {
        self.pending.is_some() || self.interval.runs || self.pause.runs
    }

    /// Whether the next checkpoint is to be taken as soon as the job can.
    pub fn is_due(&self) -> bool {
        self.settings.interval.is_some() && !self.is_armed()
    }

    /// Applies one event and returns what has to be done, in order.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let out = &mut effects;
        match event {
            Event::Started => self.abort_left(out),
            Event::MayTrigger { now_ms } => self.reserve(now_ms, out),
            Event::TimerFired(Timer::Interval(number)) => self.interval.end(number),
            Event::TimerFired(Timer::Pause(number)) => self.pause.end(number),
            Event::TimerFired(Timer::Timeout(checkpoint)) => self.time_out(checkpoint, out),
            Event::Reserved { checkpoint, participants } => self.trigger(checkpoint, participants, out),
            Event::NotReserved(checkpoint) => {
                if self.stage_of(checkpoint).is_some() {
                    self.counter = checkpoint.0.saturating_sub(1);
                }
                // One to be aborted waits for that entry.
                self.pending.take_if(|pending| pending.is(checkpoint, Stage::Reserving));
            }
            Event::Acked { attempt, checkpoint, snapshot } => {
                if let Some(pending) = self.triggered(checkpoint) {
                    pending.ack(attempt, snapshot);
                    self.write_if_acked(out);
                }
            }
            Event::Declined { attempt, checkpoint, reason } => {
                if self.triggered(checkpoint).is_some_and(|pending| pending.awaits(attempt)) {
                    self.abort(format!("{attempt} declined it: {reason}"), out);
                }
            }
            Event::NotTriggered { checkpoint, reason } => {
                if self.triggered(checkpoint).is_some() {
                    self.abort(reason, out);
                }
            }
            Event::TaskFinished(attempt) => self.note_finished(attempt, out),
            Event::Written(stored) => self.complete(stored, out),
            Event::NotWritten { checkpoint, reason } => {
                if self.stage_of(checkpoint) == Some(Stage::Writing) {
                    self.abort(format!("its metadata was not written: {reason}"), out);
                }
            }
            Event::Completed(checkpoint) => self.on_completed(checkpoint, out),
            Event::Aborted(checkpoint) => self.on_aborted(checkpoint, out),
            Event::TasksLost => {
                if matches!(self.stage(), Some(Stage::Reserving | Stage::Triggered | Stage::Writing)) {
                    self.abort("a task was lost".to_owned(), out);
                }
                self.interval.runs = false;
            }
            Event::Here(taskmanager) => self.repeat(taskmanager, out),
            Event::Ending => {
                self.pending.take_if(|pending| pending.stage != Stage::Completing);
            }
        }
        self.assert_invariants();
        effects
    }

    fn stage(&self) -> Option<Stage> {
        self.pending.as_ref().map(|pending| pending.stage)
    }

    fn stage_of(&self, checkpoint: CheckpointId) -> Option<Stage> {
        self.pending.as_ref().filter(|pending| pending.checkpoint == checkpoint).map(|pending| pending.stage)
    }

    /// The checkpoint of this number, while tasks take it.
    fn triggered(&mut self, checkpoint: CheckpointId) -> Option<&mut Pending> {
        self.pending.as_mut().filter(|pending| pending.is(checkpoint, Stage::Triggered))
    }

    /// Nobody knows who was told of what an earlier leader has left: it is over, and another is taken.
    fn abort_left(&mut self, out: &mut Vec<Effect>) {
        for checkpoint in std::mem::take(&mut self.left) {
            out.push(Effect::Abort { checkpoint, reason: "the leader has changed".to_owned() });
        }
    }

    fn reserve(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let Some(interval) = self.settings.interval.filter(|_| self.is_due()) else { return };
        self.counter += 1;
        let checkpoint = CheckpointId(self.counter);
        self.pending = Some(Pending::new(checkpoint, now_ms));
        out.push(Effect::Reserve(checkpoint));
        out.push(Effect::SetTimer(Timer::Interval(self.interval.start()), interval));
    }

    fn trigger(&mut self, checkpoint: CheckpointId, participants: Vec<Participant>, out: &mut Vec<Effect>) {
        // Tasks may have been lost meanwhile: then the entry that aborts it is on its way.
        let reserved = self.pending.as_mut().filter(|pending| pending.is(checkpoint, Stage::Reserving));
        let Some(pending) = reserved else { return };
        pending.stage = Stage::Triggered;
        pending.expect(participants);
        out.extend(pending.triggers(None));
        out.push(Effect::SetTimer(Timer::Timeout(checkpoint), self.settings.timeout));
        self.write_if_acked(out);
    }

    fn note_finished(&mut self, attempt: ExecutionAttemptId, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.stage == Stage::Triggered) {
            pending.finish(attempt);
            self.write_if_acked(out);
        }
    }

    fn write_if_acked(&mut self, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.is_acked()) {
            pending.stage = Stage::Writing;
            let (checkpoint, started_ms) = (pending.checkpoint, pending.started_ms);
            out.push(Effect::Write { checkpoint, started_ms, snapshots: pending.take_snapshots() });
        }
    }

    fn complete(&mut self, stored: Arc<StoredCheckpoint>, out: &mut Vec<Effect>) {
        let writing = self.pending.as_mut().filter(|pending| pending.is(stored.checkpoint(), Stage::Writing));
        if let Some(pending) = writing {
            pending.stage = Stage::Completing;
            pending.stored = Some(Arc::clone(&stored));
            out.push(Effect::Complete(stored));
        }
    }

    fn on_completed(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        let pending = self.pending.take_if(|pending| pending.is(checkpoint, Stage::Completing));
        let Some(pending) = pending else { return };
        self.completed = pending.stored;
        self.counts.completed += 1;
        self.notify(None, out);
        self.rest(out);
    }

    fn time_out(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        if matches!(self.stage_of(checkpoint), Some(Stage::Triggered | Stage::Writing)) {
            let waited = perennial_types::format_duration(self.settings.timeout);
            let missing = self.pending.as_ref().map_or(0, Pending::missing);
            self.abort(
                format!("{missing} tasks did not answer within {waited} (execution.checkpointing.timeout)"),
                out,
            );
        }
    }

    fn abort(&mut self, reason: String, out: &mut Vec<Effect>) {
        if let Some(pending) = &mut self.pending {
            pending.stage = Stage::Aborting;
            out.push(Effect::Abort { checkpoint: pending.checkpoint, reason });
        }
    }

    /// It will never be completed: the log says so, or has refused to complete it.
    fn on_aborted(&mut self, checkpoint: CheckpointId, out: &mut Vec<Effect>) {
        self.aborted = self.aborted.max(Some(checkpoint));
        self.counts.failed += 1;
        self.notify(None, out);
        if self.pending.take_if(|pending| pending.checkpoint == checkpoint).is_some() {
            self.rest(out);
        }
    }

    fn rest(&mut self, out: &mut Vec<Effect>) {
        if !self.settings.min_pause.is_zero() {
            out.push(Effect::SetTimer(Timer::Pause(self.pause.start()), self.settings.min_pause));
        }
    }

    /// A TaskManager may have missed what it was told: it is told again.
    fn repeat(&mut self, taskmanager: TaskManagerId, out: &mut Vec<Effect>) {
        if let Some(pending) = self.pending.as_ref().filter(|pending| pending.stage == Stage::Triggered) {
            out.extend(pending.triggers(Some(&taskmanager)));
        }
        self.notify(Some(taskmanager), out);
    }

    fn notify(&self, to: Option<TaskManagerId>, out: &mut Vec<Effect>) {
        let completed = self.completed.as_ref().map(|newest| newest.checkpoint());
        let aborted = self.aborted.filter(|aborted| Some(*aborted) > completed);
        if completed.is_some() || aborted.is_some() {
            out.push(Effect::Notify { to, completed, aborted });
        }
    }

    fn assert_invariants(&self) {
        let completed = self.completed.as_ref().map_or(0, |newest| newest.checkpoint().0);
        debug_assert!(completed <= self.counter, "what is completed was reserved");
        debug_assert!(
            self.pending.as_ref().is_none_or(|pending| pending.checkpoint.0 > completed),
            "what is completed is not on its way"
        );
    }
}
