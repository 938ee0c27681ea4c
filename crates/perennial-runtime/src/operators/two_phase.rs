//! Sinks whose output becomes visible with a checkpoint, once.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use perennial_types::{CheckpointId, Record};

use crate::snapshot::{Durable, StateContext};
use crate::{ChainEvent, Counters, Output, TaskError, UserError};

/// The checkpoint that a sink prepares for when none comes any more.
const END: CheckpointId = CheckpointId(0);

/// What a sink has written up to a checkpoint and will make visible later.
pub struct Prepared<X> {
    /// Names it, well enough for any subtask to make it visible.
    pub transaction: X,
    /// What has to be done before the transaction outlives this process: it waits for a disk, so another thread does it.
    pub durable: Durable,
}

/// What a checkpoint has of a sink.
#[derive(Debug)]
pub struct Reopened<'a, X> {
    /// Its number.
    pub checkpoint: CheckpointId,
    /// Transactions that this subtask commits next. After a change of the parallelism they may have been prepared by another
    /// one, and what this one prepared for the checkpoint or for one before may be another's now.
    pub transactions: &'a [X],
}

/// A sink that writes in transactions: what it wrote before a checkpoint becomes visible when the checkpoint is complete, and
/// exactly once. Flink's Sink V2, writer and committer in one.
///
/// The grammar of calls is `open (write | prepare | commit)*`. All of them are on the slot's thread: they should not wait for
/// a disk.
pub trait TwoPhaseSink<T>: Send {
    /// Names something that is to be made visible. It lives in checkpoints.
    type Transaction: Record;

    /// Called once, first, with what the checkpoint has for this subtask; with nothing in a job that starts anew. What earlier
    /// attempts left and the checkpoint does not have is to be dropped.
    fn open(&mut self, restored: Option<Reopened<'_, Self::Transaction>>) -> Result<(), UserError>;

    /// Takes all records of the batch; whatever is left in it is dropped by the caller.
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError>;

    /// Ends the transaction at hand, if there is anything in it. What is written from now on belongs to the next.
    ///
    /// When no checkpoint comes any more it is asked once more, for checkpoint 0: for what is in no checkpoint, if the job takes none,
    /// and for what has to be done until the commits so far are durable. What it gives is made durable and committed at once.
    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Prepared<Self::Transaction>>, UserError>;

    /// Makes a transaction visible. It may have been made visible before, by this call in another life: then nothing is to be
    /// done.
    fn commit(&mut self, transaction: &Self::Transaction) -> Result<(), UserError>;
}

/// The end of a chain: a [`TwoPhaseSink`] and its transactions.
pub struct TwoPhaseOperator<T, S: TwoPhaseSink<T>> {
    state: StateContext,
    sink: S,
    /// Transactions that are not known to be committed, by the checkpoint that commits them.
    prepared: BTreeMap<CheckpointId, Vec<S::Transaction>>,
    /// The newest checkpoint that this attempt has a part in.
    taken: CheckpointId,
    counters: Arc<Counters>,
    input: PhantomData<fn(T)>,
}

impl<T, S: TwoPhaseSink<T>> TwoPhaseOperator<T, S> {
    /// Opens the sink and commits what the checkpoint that is restored has of it: that checkpoint was complete.
    pub fn new(mut state: StateContext, mut sink: S, counters: Arc<Counters>) -> Result<Self, TaskError> {
        let (checkpoint, mut restored) = (state.restored_checkpoint(), Vec::new());
        for bytes in state.take_list().unwrap_or_default() {
            let mut rest = bytes.as_slice();
            restored.push(S::Transaction::decode(&mut rest).map_err(|error| state.error(error))?);
        }
        let user = |error| TaskError::user(&state.name, error);
        let transactions = &restored;
        sink.open(checkpoint.map(|checkpoint| Reopened { checkpoint, transactions })).map_err(user)?;
        restored.iter().try_for_each(|transaction| sink.commit(transaction)).map_err(user)?;
        let (prepared, taken) = (BTreeMap::new(), CheckpointId(0));
        Ok(Self { state, sink, prepared, taken, counters, input: PhantomData })
    }

    /// Commits what was prepared for this checkpoint and those before it, oldest first.
    fn commit(&mut self, checkpoint: CheckpointId) -> Result<(), TaskError> {
        while let Some(first) = self.prepared.first_entry().filter(|first| *first.key() <= checkpoint) {
            for transaction in first.remove() {
                self.sink.commit(&transaction).map_err(|error| TaskError::user(&self.state.name, error))?;
            }
        }
        Ok(())
    }

    /// Commits what no checkpoint will, and makes all commits durable.
    fn end(&mut self) -> Result<(), TaskError> {
        // Once for what is not committed, once for the commits.
        for _ in 0..2 {
            if let Some(Prepared { transaction, durable }) = self.sink.prepare(END).map_err(|error| self.user(error))? {
                durable().map_err(|error| self.user(error.into()))?;
                self.prepared.entry(CheckpointId(u64::MAX)).or_default().push(transaction);
            }
            self.commit(CheckpointId(u64::MAX))?;
        }
        Ok(())
    }

    fn user(&self, error: UserError) -> TaskError {
        TaskError::user(&self.state.name, error)
    }
}

impl<T: Send, S: TwoPhaseSink<T>> Output<T> for TwoPhaseOperator<T, S> {
    fn push(&mut self, batch: &mut Vec<T>) -> Result<(), TaskError> {
        let count = batch.len() as u64;
        let written = self.sink.write(batch);
        batch.clear();
        self.counters.records_out.fetch_add(count, Ordering::Relaxed);
        written.map_err(|error| self.user(error))
    }

    fn control(&mut self, event: &mut ChainEvent<'_>) -> Result<(), TaskError> {
        match event {
            ChainEvent::Snapshot(writer) => {
                let checkpoint = writer.checkpoint();
                self.taken = self.taken.max(checkpoint);
                let prepared = self.sink.prepare(checkpoint).map_err(|error| self.user(error))?;
                if let Some(Prepared { transaction, durable }) = prepared {
                    writer.durable(durable);
                    // A savepoint that stays a side branch commits nothing: the next checkpoint does.
                    self.prepared.entry(checkpoint).or_default().push(transaction);
                }
                let encoded = self.prepared.values().flatten().map(|transaction| {
                    let mut bytes = Vec::new();
                    transaction.encode(&mut bytes);
                    bytes
                });
                writer.uncommitted(&self.state, encoded.collect());
            }
            // One taken without this attempt is of the attempt that has replaced it, which has written the same records again.
            ChainEvent::Completed(checkpoint) if *checkpoint > self.taken => {}
            ChainEvent::Completed(checkpoint) => {
                let checkpoint = *checkpoint;
                self.commit(checkpoint)?;
            }
            // What was prepared for it goes with the next one.
            ChainEvent::Aborted(_) => {}
            ChainEvent::Watermark(_) | ChainEvent::Idle | ChainEvent::Time(_) | ChainEvent::Sweep(_) => {}
            ChainEvent::End => self.end()?,
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), TaskError> {
        // Its last transaction is prepared for the last checkpoint, or at the end.
        Ok(())
    }
}
