//! What operators are to each other.

use std::time::{Duration, Instant};

use perennial_exchange::ExchangeError;
use perennial_state::KeyedTable;
use perennial_types::{CheckpointId, DecodeError, Key, Record};

use crate::{SnapshotWriter, StateContext};

/// An error of the user's code.
pub type UserError = Box<dyn std::error::Error + Send + Sync>;

/// Why a task ends in FAILED.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// The user's code returned an error.
    #[error("operator `{operator}` failed")]
    User {
        /// Name of the operator.
        operator: String,
        /// What it returned.
        source: UserError,
    },
    /// The user's code panicked.
    #[error("the task panicked: {message}")]
    Panic {
        /// The panic's message and place.
        message: String,
    },
    /// Another executor of the job is gone or sends what is not of the protocol.
    #[error("exchange with {peer} failed: {reason}")]
    Exchange {
        /// The other executor.
        peer: String,
        /// What happened.
        reason: String,
    },
    /// Records of another executor are not what the job's types say.
    #[error("a batch of input {input} cannot be read")]
    Decode {
        /// Number of the in-edge among those of the vertex.
        input: usize,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// The state of an operator in a checkpoint cannot be had.
    #[error("the state of operator `{operator}` cannot be restored")]
    Restore {
        /// Name of the operator.
        operator: String,
        /// What is wrong with it.
        source: UserError,
    },
    /// The job's code and its JobGraph do not belong together.
    #[error("the job is not the one that was planned: {reason}")]
    WrongJob {
        /// What differs.
        reason: String,
    },
}

impl TaskError {
    /// The error of an operator's user code.
    pub fn user(operator: &str, source: impl Into<UserError>) -> Self {
        Self::User { operator: operator.to_owned(), source: source.into() }
    }
}

impl From<ExchangeError> for TaskError {
    fn from(error: ExchangeError) -> Self {
        Self::Exchange { peer: error.peer, reason: error.reason }
    }
}

/// What happens between two batches of a chain.
pub enum ChainEvent<'a> {
    /// Here a checkpoint cuts: whoever has state adds it. What was pushed before is in it, what is pushed after is not.
    Snapshot(&'a mut SnapshotWriter),
    /// There is time to go on with the tables of the last snapshot.
    Sweep(&'a mut Sweeping),
    /// This checkpoint, and all before it, are complete and will be restored rather than older ones.
    Completed(CheckpointId),
    /// This checkpoint will never be complete.
    Aborted(CheckpointId),
    /// No record of this or an earlier event time is expected any more, but late ones: ms since 1970. It never falls, and may
    /// come a second time. `i64::MAX` comes once the input has ended, before [`Output::finish`]. Who acts on it emits first
    /// and then passes it on.
    Watermark(i64),
    /// Nobody shall wait for a watermark of this input until its next one.
    Idle,
    /// Somebody in the chain asked for this processing time, in ms since 1970, or an earlier one: see
    /// [`TaskClock::wake_at`](crate::TaskClock::wake_at).
    Time(i64),
    /// The last event, after [`Output::finish`]: the last checkpoint is complete, or none is to be waited for. What would have waited
    /// for a checkpoint is done now, durably.
    End,
}

impl ChainEvent<'_> {
    /// Does for a table of an operator whatever the event asks of tables. Called once for each table and event, by the name
    /// the operator has for the table alone: whatever comes to be in a snapshot under it, [`StateContext::take_table`] gives back.
    pub fn keyed<K: Key, V: Record>(&mut self, of: &StateContext, name: &str, table: &mut KeyedTable<K, V>) {
        match self {
            Self::Snapshot(writer) => writer.keyed(of, name, table),
            Self::Sweep(sweeping) => sweeping.more |= table.sweep(sweeping.until),
            Self::Completed(_) | Self::Aborted(_) | Self::Watermark(_) | Self::Idle | Self::Time(_) | Self::End => {}
        }
    }
}

/// A pause between two batches in which tables that were frozen are encoded.
pub struct Sweeping {
    until: Instant,
    more: bool,
}

impl Sweeping {
    /// A pause that ends then. Each table does a little even if that time has come.
    pub(crate) fn new(until: Instant) -> Self {
        Self { until, more: false }
    }

    /// Whether a table is not done yet.
    pub(crate) fn more(&self) -> bool {
        self.more
    }
}

/// Where an operator's records go: the next operator of the chain, an exchange, or nowhere.
///
/// The grammar of calls is `(push | control)* finish control*`: events come in band, between batches, never per record. After
/// `finish` nothing may be pushed.
pub trait Output<T>: Send {
    /// Takes all records of `batch` and leaves it empty, its capacity kept for the caller's next records.
    ///
    /// An exchange never blocks here: what finds no room waits in the exchange, and the task is not polled until it left.
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError>;

    /// Something happened at this place of the stream: does its part, head before tail, and passes the event on to everything
    /// behind it in the chain.
    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError>;

    /// The input has ended: emits what is held back and passes the end on. Called once.
    fn finish(&mut self) -> Result<(), TaskError>;
}

/// Reads the records of one subtask of a source.
pub trait SourceReader<T>: Send {
    /// Appends up to about `max` records to `out`.
    ///
    /// Returns soon: a reader that may have to wait longer than some milliseconds reads on a thread of its own and polls its queue.
    fn poll(&mut self, out: &mut Vec<T>, max: usize) -> Result<SourceStatus, UserError>;

    /// Where the reader is: one element for each split it reads, with the position in it. Readers of other subtasks may get some of
    /// them when the parallelism has changed.
    ///
    /// A source that cannot go back to a position has none, and leaves this as it is.
    fn snapshot(&mut self) -> Result<Vec<Vec<u8>>, UserError> {
        Ok(Vec::new())
    }

    /// Called once, first, on a reader that was opened as any other: from now on it reads these splits and no others. None at all
    /// means that there is nothing left for this subtask.
    ///
    /// A source without positions begins anew, and says so.
    fn restore(&mut self, splits: Vec<Vec<u8>>) -> Result<(), UserError> {
        if !splits.is_empty() {
            return Err("the source has no positions, but the checkpoint has some of it".into());
        }
        eprintln!("WARN a source that cannot repeat what it has read begins anew after a restore");
        Ok(())
    }
}

/// What to expect of a source next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceStatus {
    /// Poll again as soon as there is room.
    More,
    /// Nothing for now; poll again after this time.
    Wait(Duration),
    /// Nothing more, ever.
    Finished,
}

/// An error with all its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
