//! The writing side of an exchange: spreads the records of one task over its channels.

use std::collections::VecDeque;
use std::sync::Arc;

use perennial_types::{MaxParallelism, Record};

use crate::event_time::Control;
use crate::partition::Partitioner;
use crate::{
    Barrier, Counters, Credit, Element, EventTime, ExchangeError, Gate, LocalChannel, Payload, RemoteSender, Route,
    WriteError,
};

/// Most records in a batch, whatever their size: 64 KiB of pairs of numbers. Measured with the running count of 1,000 keys
/// on two slots: 1024 take a third more time, for each batch crosses from one core to the other.
const BATCH_RECORDS_MAX: usize = 4096;

/// Most lanes for which it pays to look at all records once per lane.
const GATHER_LANES_MAX: usize = 4;

/// Most records that are gathered at once. A power of two.
const GATHER_RECORDS: usize = 512;

/// One channel, seen from its producer.
pub enum OutChannel {
    /// To a task of this process.
    Local {
        /// Where it reads.
        gate: Arc<Gate>,
        /// The channel's number there.
        index: usize,
        /// Credit and memory on their way back.
        channel: Arc<LocalChannel>,
    },
    /// To a task of another process.
    Remote(RemoteSender),
}

impl OutChannel {
    fn credit(&self) -> &Credit {
        match self {
            Self::Local { channel, .. } => channel.credit(),
            Self::Remote(channel) => channel.credit(),
        }
    }

    /// Sends a batch for which credit was taken and leaves it empty. Returns the bytes that leave this process.
    fn send<T: Record>(&self, batch: &mut Vec<T>) -> usize {
        match self {
            Self::Local { gate, index, channel } => {
                let mut boxed = match channel.spare().map(Box::<dyn std::any::Any + Send>::downcast::<Vec<T>>) {
                    Some(Ok(spare)) => spare,
                    _ => Box::new(Vec::with_capacity(batch.capacity())),
                };
                std::mem::swap(&mut *boxed, batch);
                batch.clear();
                gate.put(*index, Element::Data(Payload::Local(boxed)));
                0
            }
            Self::Remote(channel) => {
                let bytes = channel.send(batch);
                batch.clear();
                bytes
            }
        }
    }

    /// Sends what needs no credit. Returns the bytes that leave this process.
    fn send_control(&self, control: Control) -> usize {
        match self {
            Self::Local { gate, index, .. } => {
                gate.put(*index, control.into());
                0
            }
            Self::Remote(channel) => channel.send_control(control),
        }
    }

    /// Sends the end of the data and of the channel: nothing was sent, and nothing will be.
    pub fn end(mut self) {
        self.send_control(Control::EndOfData);
        self.send_end();
    }

    /// Sends the end of the channel, which needs no credit.
    fn send_end(&mut self) {
        match self {
            Self::Local { gate, index, .. } => gate.put(*index, Element::End),
            Self::Remote(channel) => channel.send_end(),
        }
    }
}

/// Sizes that hold for all exchanges of a job.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// Largest batch in bytes (`taskmanager.memory.segment-size`).
    pub segment_bytes: usize,
    /// Batches on their way per channel (`taskmanager.network.memory.buffers-per-channel`).
    pub credit: u32,
}

/// What the task does with an exchange without knowing its type of records.
pub trait WriterControl: Send {
    /// Sends what has waited for room as far as there is some; true when nothing waits any more.
    fn drain(&mut self) -> Result<bool, WriteError>;

    /// Sends batches that are not full, on channels that have room; true when no record is left here.
    fn flush(&mut self) -> Result<bool, WriteError>;

    /// Sends a barrier behind all records pushed so far, on every channel.
    ///
    /// It takes no credit, but overtakes nothing: behind batches that wait for room it waits too.
    fn barrier(&mut self, barrier: Barrier) -> Result<(), WriteError>;

    /// Nothing more will be pushed: sends all there is, then the end of the data of each channel.
    fn finish(&mut self) -> Result<(), WriteError>;

    /// No barrier comes any more either: sends the end of each channel, once nothing waits.
    fn end(&mut self) -> Result<(), WriteError>;
}

/// What has found no room in a channel, or comes behind what has not.
enum Waiting<T> {
    Batch(Vec<T>),
    Control(Control),
}

struct Lane<T> {
    channel: OutChannel,
    /// The batch being filled.
    open: Vec<T>,
    /// Batches that found no room, oldest first, and barriers and times behind them. No more than one input batch of the
    /// task has made, the open batch in front of each barrier, and one with a time behind it.
    waiting: VecDeque<Waiting<T>>,
    /// Records that make a batch.
    full: usize,
    /// Bytes sent to another process and not counted yet.
    bytes: usize,
}

impl<T: Record> Lane<T> {
    /// Sends the open batch, or puts it behind those that wait.
    fn ship(&mut self) {
        if self.waiting.is_empty() && self.channel.credit().take() {
            self.bytes += self.channel.send(&mut self.open);
        } else {
            let capacity = self.open.capacity();
            let batch = std::mem::replace(&mut self.open, Vec::with_capacity(capacity));
            self.waiting.push_back(Waiting::Batch(batch));
        }
    }

    /// Sends what waits as far as there is credit.
    fn drain(&mut self) {
        while let Some(first) = self.waiting.front() {
            if matches!(first, Waiting::Batch(_)) && !self.channel.credit().take() {
                return;
            }
            match self.waiting.pop_front() {
                Some(Waiting::Batch(mut batch)) => self.bytes += self.channel.send(&mut batch),
                Some(Waiting::Control(control)) => self.bytes += self.channel.send_control(control),
                None => return,
            }
        }
    }

    /// Sends what needs no credit behind all records pushed so far.
    fn control(&mut self, control: Control) {
        if !self.open.is_empty() {
            self.ship();
        }
        match (self.waiting.back_mut(), control) {
            (None, _) => self.bytes += self.channel.send_control(control),
            (Some(Waiting::Control(last @ Control::Time(_))), Control::Time(_)) => *last = control,
            (Some(_), _) => self.waiting.push_back(Waiting::Control(control)),
        }
    }
}

/// Spreads the records of one task over the channels of one exchange, in batches.
///
/// Never blocks: a batch that finds no room waits here. The grammar of calls is `push* finish end`, with barriers, drains and
/// flushes anywhere between, and drains after `end` until nothing waits.
pub struct Writer<T> {
    lanes: Vec<Lane<T>>,
    partitioner: Partitioner<T>,
    segment_bytes: usize,
    /// Channels of the records of one input batch.
    targets: Vec<u32>,
    /// Which records of a piece of the input go to the lane at hand.
    order: Box<[u16; GATHER_RECORDS]>,
    /// Encoding of a sample record.
    sample: Vec<u8>,
    counters: Arc<Counters>,
    ending: bool,
    ends_sent: bool,
}

impl<T: Record> Writer<T> {
    /// A writer over `channels`, which are in the order of the consuming subtasks.
    ///
    /// `max_parallelism` is the consumer's: it decides the key groups of [`Route::Hash`].
    pub fn new(
        channels: Vec<OutChannel>,
        route: Route<T>,
        max_parallelism: MaxParallelism,
        settings: WriterSettings,
        counters: Arc<Counters>,
    ) -> Self {
        let partitioner = Partitioner::new(route, channels.len(), max_parallelism);
        let lane = |channel| Lane { channel, open: Vec::new(), waiting: VecDeque::new(), full: 1, bytes: 0 };
        let mut writer = Self {
            lanes: channels.into_iter().map(lane).collect(),
            partitioner,
            segment_bytes: settings.segment_bytes,
            targets: Vec::new(),
            order: Box::new([0; GATHER_RECORDS]),
            sample: Vec::new(),
            counters,
            ending: false,
            ends_sent: false,
        };
        writer.set_record_bytes(size_of::<T>());
        writer
    }

    fn set_record_bytes(&mut self, bytes: usize) {
        let fit = self.segment_bytes / bytes.max(1);
        for lane in &mut self.lanes {
            lane.full = fit.clamp(1, BATCH_RECORDS_MAX);
        }
    }

    /// Takes all records of `batch` and leaves it empty, its capacity kept.
    pub fn push(&mut self, batch: &mut Vec<T>) -> Result<(), WriteError> {
        self.check()?;
        Counters::add(&self.counters.records_out, batch.len() as u64);
        self.adapt_to_size(batch);
        match &mut self.partitioner {
            Partitioner::One(channel) => {
                let channel = *channel;
                self.push_to(channel, batch);
            }
            Partitioner::Shares(next) => {
                let first = *next;
                let share = batch.len().div_ceil(self.lanes.len()).max(1);
                let used = batch.len().div_ceil(share);
                *next = (first + used) % self.lanes.len();
                self.push_shares(first, share, batch);
            }
            Partitioner::All => self.push_to_all(batch),
            Partitioner::Each(targets) => {
                self.targets.clear();
                let result = targets.targets(batch, &mut self.targets);
                if let Err(error) = result {
                    batch.clear();
                    return Err(error);
                }
                self.push_to_targets(batch);
            }
        }
        self.count_bytes();
        Ok(())
    }

    fn count_bytes(&mut self) {
        let bytes: usize = self.lanes.iter_mut().map(|lane| std::mem::take(&mut lane.bytes)).sum();
        if bytes > 0 {
            Counters::add(&self.counters.bytes_out, bytes as u64);
        }
    }

    fn check(&self) -> Result<(), WriteError> {
        match self.lanes.first().and_then(|lane| lane.channel.credit().room().failure()) {
            Some(error) => Err(ExchangeError::clone(error).into()),
            None => Ok(()),
        }
    }

    /// Values of varying size: how many make a batch follows from how long one of them is.
    fn adapt_to_size(&mut self, batch: &[T]) {
        if T::FIXED_BYTES.is_none()
            && let Some(record) = batch.first()
        {
            self.sample.clear();
            record.encode(&mut self.sample);
            self.set_record_bytes(self.sample.len().max(size_of::<T>()));
        }
    }

    fn push_to(&mut self, channel: usize, batch: &mut Vec<T>) {
        let Some(lane) = self.lanes.get_mut(channel) else { return };
        let full = lane.full;
        if lane.open.is_empty() && (full / 2..=2 * full).contains(&batch.len()) {
            // A batch of the right size goes as it is.
            if lane.open.capacity() == 0 {
                lane.open.reserve(batch.len());
            }
            std::mem::swap(&mut lane.open, batch);
            lane.ship();
            return;
        }
        let mut records = batch.drain(..);
        loop {
            let room = full.saturating_sub(lane.open.len()).max(1);
            lane.open.extend(records.by_ref().take(room));
            if lane.open.len() < full {
                return;
            }
            lane.ship();
        }
    }

    fn push_shares(&mut self, first: usize, share: usize, batch: &mut Vec<T>) {
        let lanes = self.lanes.len();
        let mut records = batch.drain(..);
        let mut at = first;
        while !records.as_slice().is_empty() {
            let Some(lane) = self.lanes.get_mut(at) else { return };
            let mut left = share.min(records.as_slice().len());
            while left > 0 {
                let piece = left.min(lane.full.saturating_sub(lane.open.len()).max(1));
                lane.open.extend(records.by_ref().take(piece));
                left -= piece;
                if lane.open.len() >= lane.full {
                    lane.ship();
                }
            }
            at = (at + 1) % lanes;
        }
    }

    fn push_to_all(&mut self, batch: &mut Vec<T>) {
        for lane in &mut self.lanes {
            for piece in batch.chunks(lane.full) {
                lane.open.extend_from_slice(piece);
                if lane.open.len() >= lane.full {
                    lane.ship();
                }
            }
        }
        batch.clear();
    }

    fn push_to_targets(&mut self, batch: &mut Vec<T>) {
        if !std::mem::needs_drop::<T>() && self.lanes.len() <= GATHER_LANES_MAX {
            self.gather(batch);
        } else {
            self.scatter(batch);
        }
    }

    /// Records to look at between two looks at the lanes, so that none grows beyond twice its batches.
    fn piece(&self) -> usize {
        self.lanes.iter().map(|lane| lane.full).min().unwrap_or(1)
    }

    /// Plain data for few lanes: notes without a branch which records a lane gets, then copies them in one go.
    ///
    /// Each push of a scatter waits for the vector's length that the one before has written; here nothing waits.
    #[expect(clippy::indexing_slicing, reason = "measured loops; positions are masked, records as many as targets")]
    fn gather(&mut self, batch: &mut Vec<T>) {
        let records = batch.as_slice();
        let piece = self.piece().min(GATHER_RECORDS);
        for (number, targets) in self.targets.chunks(piece).enumerate() {
            let records = &records[number * piece..];
            for (number, lane) in (0..).zip(&mut self.lanes) {
                let mut count = 0;
                for (i, target) in targets.iter().enumerate() {
                    self.order[count & (GATHER_RECORDS - 1)] = i as u16;
                    count += usize::from(*target == number);
                }
                lane.open.extend(self.order[..count].iter().map(|i| records[usize::from(*i)].clone()));
                if lane.open.len() >= lane.full {
                    lane.ship();
                }
            }
        }
        batch.clear();
    }

    fn scatter(&mut self, batch: &mut Vec<T>) {
        let mut records = batch.drain(..);
        let piece = self.piece();
        for targets in self.targets.chunks(piece) {
            for lane in &mut self.lanes {
                lane.open.reserve(targets.len());
            }
            let lanes = self.lanes.as_mut_slice();
            #[expect(clippy::indexing_slicing, reason = "measured loop; targets are below the number of lanes")]
            for (target, record) in targets.iter().zip(records.by_ref()) {
                lanes[*target as usize].open.push(record);
            }
            for lane in lanes {
                if lane.open.len() >= lane.full {
                    lane.ship();
                }
            }
        }
    }

    /// Says on every channel how far event time is, behind all records pushed so far. It takes no credit, but overtakes nothing.
    pub fn watermark(&mut self, time: EventTime) -> Result<(), WriteError> {
        self.control(Control::Time(time))
    }

    fn control(&mut self, control: Control) -> Result<(), WriteError> {
        self.check()?;
        self.lanes.iter_mut().for_each(|lane| lane.control(control));
        self.count_bytes();
        Ok(())
    }
}

impl<T: Record> WriterControl for Writer<T> {
    fn drain(&mut self) -> Result<bool, WriteError> {
        self.check()?;
        let mut empty = true;
        for lane in &mut self.lanes {
            lane.drain();
            empty &= lane.waiting.is_empty();
        }
        if empty && self.ending && !self.ends_sent {
            self.ends_sent = true;
            self.lanes.iter_mut().for_each(|lane| lane.channel.send_end());
        }
        self.count_bytes();
        Ok(empty)
    }

    fn flush(&mut self) -> Result<bool, WriteError> {
        self.check()?;
        let mut empty = true;
        for lane in &mut self.lanes {
            if lane.open.is_empty() {
                continue;
            }
            if lane.waiting.is_empty() && lane.channel.credit().take() {
                lane.bytes += lane.channel.send(&mut lane.open);
            } else {
                empty = false;
            }
        }
        self.count_bytes();
        Ok(empty)
    }

    fn barrier(&mut self, barrier: Barrier) -> Result<(), WriteError> {
        self.control(Control::Barrier(barrier))
    }

    fn finish(&mut self) -> Result<(), WriteError> {
        self.control(Control::EndOfData)
    }

    fn end(&mut self) -> Result<(), WriteError> {
        self.ending = true;
        self.drain().map(drop)
    }
}
