//! The gate: where everything arrives that one task reads.
//!
//! A queue per channel and a list of channels that have something. Producers of the same process and the readers of
//! connections put elements in, one slot thread takes them out. The gate has one lock, held for some nanoseconds per
//! *batch*. What bounds its queues is the credit of the producers: an element comes only where credit was taken, or is
//! a control element: two ends in the life of a channel, as many barriers as there are checkpoints at a time, and one time
//! behind each of all these. A blocked channel fills up to its credit and no further.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::{Barrier, Credit, EventTime, ExchangeError, Payload, Signal};

/// What comes out of a channel: `(Data | Barrier | Watermark)* EndOfData Barrier* End`.
///
/// A producer whose data has ended is still there for checkpoints, until one has all it has done.
pub enum Element {
    /// A batch.
    Data(Payload),
    /// What came so far belongs to a checkpoint.
    Barrier(Barrier),
    /// How far event time is behind what came so far.
    Watermark(EventTime),
    /// No data and no watermark comes any more.
    EndOfData,
    /// Nothing more comes on this channel.
    End,
}

/// Gives back what a consumer has worked off.
pub trait CreditReturn: Send + Sync {
    /// The consumer has worked off one batch. `memory` is the emptied batch, to be filled again.
    fn worked_off(&self, memory: Option<Box<dyn Any + Send>>);
}

/// A channel between two tasks of this process: its credit and the emptied batches on their way back.
#[derive(Debug)]
pub struct LocalChannel {
    credit: Credit,
    spare: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl LocalChannel {
    /// A channel whose producer may have as many batches on their way as `credit` says.
    pub fn new(credit: Credit) -> Self {
        Self { credit, spare: Mutex::new(Vec::new()) }
    }

    /// Credit of the producer.
    pub fn credit(&self) -> &Credit {
        &self.credit
    }

    /// An emptied batch that came back.
    pub fn spare(&self) -> Option<Box<dyn Any + Send>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl CreditReturn for LocalChannel {
    fn worked_off(&self, memory: Option<Box<dyn Any + Send>>) {
        if let Some(memory) = memory {
            // As many as there is credit: each was on its way once.
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
        }
        self.credit.give(1);
    }
}

struct GateChannel {
    queue: VecDeque<Element>,
    listed: bool,
    ended: bool,
    /// What it has is not to be taken.
    blocked: bool,
    back: Option<Arc<dyn CreditReturn>>,
}

struct GateState {
    channels: Vec<GateChannel>,
    listed: VecDeque<usize>,
}

/// Where everything arrives that one task reads. Shared by the task, its producers in this process and connections.
pub struct Gate {
    state: Mutex<GateState>,
    /// Elements in all queues; written under the lock.
    waiting: AtomicUsize,
    /// Whether the task is gone; what arrives is dropped then.
    closed: AtomicBool,
    failure: OnceLock<ExchangeError>,
    signal: OnceLock<Arc<Signal>>,
}

impl Gate {
    /// A gate with so many channels.
    pub fn new(channels: usize) -> Self {
        let channel =
            || GateChannel { queue: VecDeque::new(), listed: false, ended: false, blocked: false, back: None };
        Self {
            state: Mutex::new(GateState {
                channels: std::iter::repeat_with(channel).take(channels).collect(),
                listed: VecDeque::new(),
            }),
            waiting: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            failure: OnceLock::new(),
            signal: OnceLock::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, GateState> {
        // Nothing in here panics with the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names who is to be woken when something arrives. The first one named stays.
    pub fn attach(&self, signal: Arc<Signal>) {
        let signal = self.signal.get_or_init(|| signal);
        signal.wake();
    }

    /// Names who takes back the credit of a channel.
    pub fn connect(&self, channel: usize, back: Arc<dyn CreditReturn>) {
        if let Some(channel) = self.lock().channels.get_mut(channel) {
            channel.back = Some(back);
        }
    }

    /// Puts an element at the end of a channel. The producer has taken credit for it, or it is a control element.
    ///
    /// A time takes the place of one that waits there already with nothing behind it.
    pub fn put(&self, channel: usize, element: Element) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        {
            let mut state = self.lock();
            let GateState { channels, listed } = &mut *state;
            let Some(at) = channels.get_mut(channel).filter(|at| !at.ended) else { return };
            at.ended = matches!(element, Element::End);
            if let (Element::Watermark(new), Some(Element::Watermark(waiting))) = (&element, at.queue.back_mut()) {
                *waiting = *new;
                return;
            }
            at.queue.push_back(element);
            if !at.listed && !at.blocked {
                at.listed = true;
                listed.push_back(channel);
            }
            self.waiting.fetch_add(1, Ordering::SeqCst);
        }
        self.wake();
    }

    fn wake(&self) {
        if let Some(signal) = self.signal.get() {
            signal.wake();
        }
    }

    /// Whether something waits, be it in a blocked channel.
    pub fn has_input(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes the next element, fairly over the channels, with its channel.
    pub fn take(&self) -> Option<(usize, Element)> {
        if !self.has_input() {
            return None;
        }
        let mut state = self.lock();
        let GateState { channels, listed } = &mut *state;
        let channel = listed.pop_front()?;
        let at = channels.get_mut(channel)?;
        let element = at.queue.pop_front()?;
        if at.queue.is_empty() {
            at.listed = false;
        } else {
            listed.push_back(channel);
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
        Some((channel, element))
    }

    /// Takes nothing more from a channel until [`Gate::unblock_all`]. What still comes waits in it.
    pub fn block(&self, channel: usize) {
        let mut state = self.lock();
        let GateState { channels, listed } = &mut *state;
        let Some(at) = channels.get_mut(channel) else { return };
        at.blocked = true;
        if std::mem::take(&mut at.listed) {
            listed.retain(|other| *other != channel);
        }
    }

    /// Takes from all channels again.
    pub fn unblock_all(&self) {
        {
            let mut state = self.lock();
            let GateState { channels, listed } = &mut *state;
            for (channel, at) in channels.iter_mut().enumerate() {
                if std::mem::take(&mut at.blocked) && !at.queue.is_empty() {
                    at.listed = true;
                    listed.push_back(channel);
                }
            }
        }
        self.wake();
    }

    /// A batch of this channel was worked off: its credit and its memory go back.
    pub fn worked_off(&self, channel: usize, memory: Option<Box<dyn Any + Send>>) {
        let back = self.lock().channels.get(channel).and_then(|at| at.back.clone());
        if let Some(back) = back {
            back.worked_off(memory);
        }
    }

    /// A channel broke. The task finds out at its next poll.
    pub fn fail(&self, error: ExchangeError) {
        let _ = self.failure.set(error);
        self.wake();
    }

    /// The first failure of a channel.
    pub fn failure(&self) -> Option<&ExchangeError> {
        self.failure.get()
    }

    /// Whether the channel has had its end put in.
    pub fn has_ended(&self, channel: usize) -> bool {
        self.lock().channels.get(channel).is_none_or(|at| at.ended)
    }

    /// The task is gone: drops what waits, and drops what still comes.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let mut state = self.lock();
        state.listed.clear();
        for channel in &mut state.channels {
            channel.queue.clear();
            channel.listed = false;
            channel.ended = true;
            channel.back = None;
        }
        self.waiting.store(0, Ordering::SeqCst);
    }
}
