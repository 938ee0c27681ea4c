//! One subtask while it runs: input, chain, exchanges.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use perennial_exchange::{
    Barrier, Counters, Element, EventTime, Gate, Payload, Room, Signal, WriteError, WriterControl,
};
use perennial_state::Freeze;
use perennial_types::CheckpointId;

use crate::align::{Aligner, Step};
use crate::builder::{SharedWriter, write_error};
use crate::lineage::Lineage;
use crate::mailbox::{Mailbox, TaskCommand};
use crate::presence::Presence;
use crate::upload::{SnapshotOf, Taken};
use crate::valve::Valve;
use crate::{ChainEvent, Head, SnapshotWriter, SourceStatus, Sweeping, TaskClock, TaskError};

/// Batches a task may take at one poll before its neighbours in the slot get their turn.
const BATCHES_PER_POLL: usize = 16;

/// Records a source is asked for at once: what fits the innermost caches all the way down a chain.
const SOURCE_BATCH: usize = 1024;

/// Time for tables that are being encoded at one poll: a fraction of what a poll takes, and of what a record may wait.
const SWEEP_TIME: Duration = Duration::from_micros(500);

/// What a poll of a task came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Polled {
    /// It worked and may be able to go on.
    Worked,
    /// It has no input, until woken or until this time, which its source or an operator has named.
    Idle(Option<Instant>),
    /// A channel it writes to has no room.
    Blocked,
    /// Its input has ended, and it begins to wait for its last checkpoint. Comes once.
    InputEnded,
    /// It is finished.
    Finished,
}

/// Where a task's records come from.
pub(crate) enum Input {
    /// A source, not to be asked before this time.
    Source(Option<Instant>),
    /// Exchanges.
    Gate {
        gate: Arc<Gate>,
        /// Number of the in-edge that each channel belongs to.
        input_of: Vec<usize>,
        /// Channels whose data has not ended.
        open: usize,
    },
}

impl Input {
    /// Has arrivals wake the thread that waits on `signal`.
    pub(crate) fn attach(&self, signal: &Arc<Signal>) {
        if let Self::Gate { gate, .. } = self {
            gate.attach(Arc::clone(signal));
        }
    }

    /// Drops what waits and refuses what still comes.
    pub(crate) fn close(&self) {
        if let Self::Gate { gate, .. } = self {
            gate.close();
        }
    }

    /// Number of channels; a source has none.
    pub(crate) fn channels(&self) -> usize {
        match self {
            Self::Source(_) => 0,
            Self::Gate { input_of, .. } => input_of.len(),
        }
    }
}

/// What came on a channel besides records.
enum Control {
    Barrier(Barrier),
    Time(EventTime),
    EndOfData,
    End,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It works.
    Working,
    /// It goes on from a checkpoint in which its chain was finished.
    Finished,
    /// Its chain is finished, but not everything it has done is in a completed checkpoint: it takes part in them until one of
    /// which it has taken its part since then is complete.
    Waiting {
        /// Whether it has said so.
        told: bool,
        /// The first and the newest checkpoint that it has taken since then.
        taken: Option<(CheckpointId, CheckpointId)>,
    },
    /// What is left is to send what waits.
    Leaving,
}

/// Where a task is with the job's checkpoints.
pub(crate) struct Checkpointing {
    of: SnapshotOf,
    mailbox: Arc<Mailbox>,
    aligner: Aligner,
    aligning_since: Option<Instant>,
    /// The files of incremental checkpoints, if they are.
    lineage: Option<Arc<Lineage>>,
    /// Tables are being encoded for the last snapshot.
    pub(crate) sweeping: bool,
    /// Snapshots that the owner of the slot is to be given.
    pub(crate) cuts: Vec<Taken>,
}

impl Checkpointing {
    /// Whether the task's thread is in the job's code.
    pub(crate) fn presence(&self) -> &Presence {
        &self.mailbox.presence
    }

    /// Of a task that reads `input` and is told of checkpoints through `mailbox`.
    pub(crate) fn new(of: SnapshotOf, mailbox: Arc<Mailbox>, input: &Input, incremental: bool) -> Self {
        Self {
            of,
            mailbox,
            aligner: Aligner::new(input.channels()),
            aligning_since: None,
            lineage: incremental.then(Arc::default),
            sweeping: false,
            cuts: Vec::new(),
        }
    }
}

/// One subtask while it runs.
pub(crate) struct Task {
    pub(crate) vertex_name: String,
    pub(crate) head: Box<dyn Head>,
    pub(crate) input: Input,
    pub(crate) writers: Vec<SharedWriter>,
    pub(crate) room: Arc<Room>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: TaskClock,
    pub(crate) valve: Valve,
    pub(crate) cancelled: Arc<AtomicBool>,
    pub(crate) stage: Stage,
    /// Whether it stays until a checkpoint has all that it has done.
    pub(crate) last_checkpoint: bool,
    /// Batches may be open in the exchanges.
    pub(crate) unflushed: bool,
    pub(crate) blocked_since: Option<Instant>,
    pub(crate) checkpointing: Checkpointing,
}

impl Task {
    /// Whether the task was asked to stop.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether its thread is in the job's code.
    pub(crate) fn presence(&self) -> &Presence {
        self.checkpointing.presence()
    }

    /// Works for some batches, as long as there is input and room.
    pub(crate) fn poll(&mut self, now: Instant) -> Result<Polled, TaskError> {
        // Before anything else: also a source that finds no room has to make barriers.
        if let Some(commands) = self.checkpointing.mailbox.take() {
            commands.into_iter().try_for_each(|command| self.obey(command))?;
        }
        if let Some(error) = self.room.failure() {
            return Err(error.clone().into());
        }
        if self.checkpointing.sweeping {
            self.sweep(now + SWEEP_TIME)?;
        }
        // A task that is done needs no room, only that nothing waits: credit of a channel that has ended never comes back.
        let free = self.stage != Stage::Working || self.room.is_free();
        if !free || !self.drain()? {
            return Ok(self.blocked(now));
        }
        if let Some(since) = self.blocked_since.take() {
            Counters::add(&self.counters.back_pressured_ns, nanos(now.saturating_duration_since(since)));
        }
        match self.stage {
            Stage::Working if self.is_spent() => return self.finish(),
            Stage::Working => {}
            Stage::Waiting { told: false, taken } => {
                self.stage = Stage::Waiting { told: true, taken };
                return Ok(Polled::InputEnded);
            }
            Stage::Waiting { .. } => return self.wait(),
            Stage::Finished => {
                self.write(|exchange| exchange.finish())?;
                self.leave()?;
                return Ok(Polled::Worked);
            }
            Stage::Leaving => return Ok(Polled::Finished),
        }
        if let Some(now_ms) = self.clock.take_due() {
            self.unflushed = true;
            self.head.control(&mut ChainEvent::Time(now_ms))?;
            // What it emitted may have taken the room.
            return Ok(Polled::Worked);
        }
        let mut worked = false;
        for _ in 0..BATCHES_PER_POLL {
            let mut control = None;
            // When a source without records wants to be asked again, if there are none.
            let idle: Option<Option<Instant>> = match &mut self.input {
                Input::Source(not_before) => {
                    if let Some(time) = *not_before
                        && time > now
                    {
                        Some(Some(time))
                    } else {
                        *not_before = None;
                        // Also one that waits from now on may have emitted something.
                        self.unflushed = true;
                        match self.head.poll_source(SOURCE_BATCH)? {
                            SourceStatus::More => None,
                            SourceStatus::Wait(time) => {
                                *not_before = Some(now + time);
                                Some(*not_before)
                            }
                            SourceStatus::Finished => return self.finish(),
                        }
                    }
                }
                Input::Gate { gate, input_of, open } => match gate.take() {
                    Some((channel, Element::Data(mut payload))) => {
                        self.unflushed = true;
                        let input = input_of.get(channel).copied().unwrap_or_default();
                        let count = self.head.deliver(input, &mut payload)?;
                        Counters::add(&self.counters.records_in, count as u64);
                        match payload {
                            Payload::Local(memory) => gate.worked_off(channel, Some(memory)),
                            Payload::Remote { bytes, .. } => {
                                Counters::add(&self.counters.bytes_in, bytes.len() as u64);
                                gate.worked_off(channel, None);
                            }
                        }
                        None
                    }
                    Some((channel, Element::Barrier(barrier))) => {
                        control = Some((channel, Control::Barrier(barrier)));
                        None
                    }
                    Some((channel, Element::Watermark(time))) => {
                        control = Some((channel, Control::Time(time)));
                        None
                    }
                    Some((channel, Element::EndOfData)) => {
                        *open -= 1;
                        control = Some((channel, Control::EndOfData));
                        None
                    }
                    Some((channel, Element::End)) => {
                        control = Some((channel, Control::End));
                        None
                    }
                    None => match gate.failure() {
                        Some(error) => return Err(error.clone().into()),
                        None => Some(None),
                    },
                },
            };
            match control {
                None => {}
                Some((channel, Control::Barrier(barrier))) => self.on_barrier(channel, barrier)?,
                Some((channel, Control::Time(time))) => {
                    let times = self.valve.time(channel, time);
                    self.tell(times)?;
                }
                Some((channel, Control::EndOfData)) => {
                    if self.is_spent() {
                        return self.finish();
                    }
                    let times = self.valve.ended(channel);
                    self.tell(times)?;
                }
                Some((channel, Control::End)) => self.on_end(channel)?,
            }
            if self.is_spent() {
                return self.finish();
            }
            match idle {
                None => worked = true,
                Some(_) if worked => break,
                Some(source) => return Ok(Polled::Idle(self.earliest(source, now))),
            }
            if !self.room.is_free() {
                break;
            }
        }
        Ok(Polled::Worked)
    }

    /// When the task has to be polled again though nothing arrives.
    fn earliest(&self, source: Option<Instant>, now: Instant) -> Option<Instant> {
        let Some(due) = self.clock.due() else { return source };
        let left = u64::try_from(due.saturating_sub(self.clock.now_ms())).unwrap_or_default();
        // Beyond what the clock of the system can say is never.
        let due = now.checked_add(Duration::from_millis(left));
        [source, due].into_iter().flatten().min()
    }

    /// Passes on how far event time is.
    fn tell(&mut self, times: [Option<EventTime>; 2]) -> Result<(), TaskError> {
        for time in times.into_iter().flatten() {
            self.unflushed = true;
            self.head.control(&mut match time {
                EventTime::Watermark(time) => ChainEvent::Watermark(time),
                EventTime::Idle => ChainEvent::Idle,
            })?;
        }
        Ok(())
    }

    /// Whether nothing is left to work on. While a checkpoint is being aligned the chain is not finished: those who have sent their
    /// barrier already may not have finished in it, and so neither may this task.
    fn is_spent(&self) -> bool {
        let has_ended = matches!(self.input, Input::Gate { open: 0, .. });
        has_ended && !self.checkpointing.aligner.is_aligning()
    }

    /// Takes barriers, though no data comes any more.
    fn wait(&mut self) -> Result<Polled, TaskError> {
        let mut worked = false;
        while let Input::Gate { gate, .. } = &self.input {
            match gate.take() {
                Some((channel, Element::Barrier(barrier))) => self.on_barrier(channel, barrier)?,
                Some((channel, Element::End)) => self.on_end(channel)?,
                // Its data has ended.
                Some(_) => {}
                None => match gate.failure() {
                    Some(error) => return Err(error.clone().into()),
                    None => break,
                },
            }
            worked = true;
        }
        Ok(if worked { Polled::Worked } else { Polled::Idle(None) })
    }

    /// Does what the executor said.
    fn obey(&mut self, command: TaskCommand) -> Result<(), TaskError> {
        if self.stage == Stage::Leaving {
            // All of it is in a completed checkpoint.
            return Ok(());
        }
        match command {
            TaskCommand::Trigger(barrier) => {
                let steps = self.checkpointing.aligner.trigger(barrier);
                self.perform(steps)
            }
            TaskCommand::Completed(checkpoint) => {
                self.head.control(&mut ChainEvent::Completed(checkpoint))?;
                match self.stage {
                    // One taken without this attempt is of the attempt that has replaced it.
                    Stage::Waiting { taken: Some((first, newest)), .. } if (first..=newest).contains(&checkpoint) => {
                        self.leave()
                    }
                    _ => Ok(()),
                }
            }
            TaskCommand::Aborted(checkpoint) => {
                let steps = self.checkpointing.aligner.abort(checkpoint);
                self.perform(steps)?;
                self.head.control(&mut ChainEvent::Aborted(checkpoint))
            }
        }
    }

    /// A task that was cancelled still commits what was completed before it was.
    pub(crate) fn obey_last(&mut self) -> Result<(), TaskError> {
        for command in self.checkpointing.mailbox.take().unwrap_or_default() {
            if matches!(command, TaskCommand::Completed(_)) {
                self.obey(command)?;
            }
        }
        Ok(())
    }

    fn on_barrier(&mut self, channel: usize, barrier: Barrier) -> Result<(), TaskError> {
        let steps = self.checkpointing.aligner.barrier(channel, barrier);
        if self.checkpointing.aligner.is_aligning() {
            self.checkpointing.aligning_since.get_or_insert_with(Instant::now);
        }
        self.perform(steps)
    }

    fn on_end(&mut self, channel: usize) -> Result<(), TaskError> {
        let steps = self.checkpointing.aligner.ended(channel);
        self.perform(steps)
    }

    fn perform(&mut self, steps: Vec<Step>) -> Result<(), TaskError> {
        for step in steps {
            match (step, &self.input) {
                (Step::Block(channel), Input::Gate { gate, .. }) => gate.block(channel),
                (Step::Unblock, Input::Gate { gate, .. }) => gate.unblock_all(),
                (Step::Block(_) | Step::Unblock, Input::Source(_)) => {}
                (Step::Cut(barrier), _) => self.cut(barrier)?,
            }
        }
        if !self.checkpointing.aligner.is_aligning() {
            self.checkpointing.aligning_since = None;
        }
        Ok(())
    }

    /// Takes the snapshot of the chain, head to tail, then sends the barrier on; nothing is pushed in between.
    fn cut(&mut self, barrier: Barrier) -> Result<(), TaskError> {
        let started = Instant::now();
        let align = self.checkpointing.aligning_since;
        let (mut writer, link) = if let Stage::Waiting { taken, .. } = &mut self.stage {
            let (first, newest) = taken.unwrap_or((barrier.checkpoint, barrier.checkpoint));
            *taken = Some((first, newest.max(barrier.checkpoint)));
            (SnapshotWriter::of_finished(barrier.checkpoint, barrier.kind), None)
        } else {
            let lineage = self.checkpointing.lineage.as_ref();
            let (freeze, link) = lineage.map_or((Freeze::Whole, None), |lineage| lineage.link(barrier.kind));
            (SnapshotWriter::frozen_for(barrier.checkpoint, barrier.kind, freeze), link)
        };
        self.head.control(&mut ChainEvent::Snapshot(&mut writer))?;
        self.write(|exchange| exchange.barrier(barrier))?;
        self.checkpointing.sweeping = true;
        self.checkpointing.cuts.push(Taken {
            of: self.checkpointing.of,
            writer,
            link,
            align: align.map(|since| started.saturating_duration_since(since)).unwrap_or_default(),
            sync: started.elapsed(),
        });
        Ok(())
    }

    fn blocked(&mut self, now: Instant) -> Polled {
        self.blocked_since.get_or_insert(now);
        Polled::Blocked
    }

    /// Goes on with the tables of the last snapshot.
    fn sweep(&mut self, until: Instant) -> Result<(), TaskError> {
        let mut sweeping = Sweeping::new(until);
        self.head.control(&mut ChainEvent::Sweep(&mut sweeping))?;
        self.checkpointing.sweeping = sweeping.more();
        Ok(())
    }

    fn finish(&mut self) -> Result<Polled, TaskError> {
        // Nothing comes to a chain after its end, so the snapshot is brought to its own first.
        while self.checkpointing.sweeping {
            self.sweep(Instant::now() + SWEEP_TIME)?;
        }
        self.head.control(&mut ChainEvent::Watermark(i64::MAX))?;
        self.head.finish()?;
        if self.last_checkpoint {
            self.stage = Stage::Waiting { told: false, taken: None };
        } else {
            self.leave()?;
        }
        Ok(Polled::Worked)
    }

    /// Nothing keeps the task any more but what it has not sent yet.
    fn leave(&mut self) -> Result<(), TaskError> {
        self.head.control(&mut ChainEvent::End)?;
        self.write(|exchange| exchange.end())?;
        self.stage = Stage::Leaving;
        Ok(())
    }

    fn write(&self, mut what: impl FnMut(&mut dyn WriterControl) -> Result<(), WriteError>) -> Result<(), TaskError> {
        self.writers.iter().try_for_each(|exchange| {
            let mut exchange = exchange.lock().unwrap_or_else(PoisonError::into_inner);
            what(&mut *exchange).map_err(|error| write_error(&self.vertex_name, error))
        })
    }

    /// Sends what waits in the exchanges for room; true when nothing waits any more.
    fn drain(&mut self) -> Result<bool, TaskError> {
        let mut empty = true;
        for writer in &self.writers {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            empty &= writer.drain().map_err(|error| write_error(&self.vertex_name, error))?;
        }
        Ok(empty)
    }

    /// Sends batches that are not full.
    pub(crate) fn flush(&mut self) -> Result<(), TaskError> {
        if self.unflushed {
            let mut empty = true;
            for writer in &self.writers {
                let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
                empty &= writer.flush().map_err(|error| write_error(&self.vertex_name, error))?;
            }
            self.unflushed = !empty;
        }
        Ok(())
    }
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
