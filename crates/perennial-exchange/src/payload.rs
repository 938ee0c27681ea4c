//! What travels, and how it finds its channel.

use std::any::Any;

use bytes::Bytes;

/// A batch as it comes out of an exchange.
pub enum Payload {
    /// A `Vec<T>` of the same process, moved by pointer. Whoever reads it leaves it empty, so that its memory is used again.
    Local(Box<dyn Any + Send>),
    /// Encoded records of another process: `Record::decode_batch` of `count` values.
    Remote {
        /// The encoded batch.
        bytes: Bytes,
        /// Number of records in it.
        count: usize,
    },
}

/// The user's partitioner: the subtask for a record, given the number of subtasks.
pub type ChooseSubtask<T> = Box<dyn FnMut(&T, u32) -> u32 + Send>;

/// How an exchange spreads records over its channels. [`ShipStrategy`](perennial_types::ShipStrategy) with code.
pub enum Route<T> {
    /// To the one connected subtask.
    Forward,
    /// Round robin over all connected subtasks: REBALANCE, and RESCALE, which is connected to fewer.
    RoundRobin,
    /// To a random subtask.
    Shuffle,
    /// A copy to each.
    Broadcast,
    /// To subtask 0.
    Global,
    /// By key group.
    Hash(Box<dyn KeyHash<T>>),
    /// Where the function says, in `0..subtasks`; other numbers are an error of the user's.
    Custom(ChooseSubtask<T>),
}

/// Key hashes of a batch: the virtual call is per batch, the key selector is monomorphised inside.
pub trait KeyHash<T>: Send {
    /// Appends [`Key::key_hash`](perennial_types::Key::key_hash) of each record's key.
    fn hash_batch(&mut self, batch: &[T], hashes: &mut Vec<u32>);
}
