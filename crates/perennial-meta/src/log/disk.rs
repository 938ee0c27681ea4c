//! What the log is written to.

use std::io;

use super::Flush;
use super::record::{StoredLogId, StoredPayload, StoredVote};
use crate::raft::Entry;

/// Records in order. They are durable as far as the newest flush that has ended; after a crash there are those, and of
/// the later ones any first part.
///
/// Two implementations: [`super::wal`], and the simulation's model. A call per batch, so that the choice costs an entry
/// nothing.
pub(crate) trait LogDisk: Send {
    /// Where the log stands.
    fn positions(&self) -> Positions;

    /// Entries of `from..to`: the first whatever its size, then as many as fit in `bytes_max`.
    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>>;

    /// Replaces the vote. Refuses a lower one.
    fn save_vote(&mut self, vote: StoredVote) -> io::Result<()>;

    /// Adds entries that follow the last one.
    fn append(&mut self, entries: Vec<(StoredLogId, StoredPayload)>) -> io::Result<()>;

    /// Removes the entries from an index on. Refuses to remove a committed one.
    fn truncate(&mut self, from: u64) -> io::Result<()>;

    /// Removes the entries up to this one, which may be beyond the last.
    fn purge(&mut self, upto: StoredLogId) -> io::Result<()>;

    /// Notes what is committed.
    fn commit(&mut self, id: StoredLogId) -> io::Result<()>;

    /// Makes everything durable that was written before, then completes `flush`. Does not wait.
    fn flush(&mut self, flush: Flush) -> io::Result<()>;

    /// How often the disk was synced.
    #[cfg(test)]
    fn syncs(&self) -> u64;
}

/// Where a log stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Positions {
    /// The newest vote.
    pub(crate) vote: Option<StoredVote>,
    /// The last entry, or the last one purged.
    pub(crate) last: Option<StoredLogId>,
    /// The last entry purged.
    pub(crate) purged: Option<StoredLogId>,
    /// The last entry known to be committed.
    pub(crate) committed: Option<StoredLogId>,
}
