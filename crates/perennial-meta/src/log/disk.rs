//! What the log is written to, and `raft-log` as such.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use raft_log::RaftLog;
use raft_log::api::raft_log_writer::RaftLogWriter;

use super::Flush;
use super::stored::{StoredLogId, StoredPayload, StoredVote, Wal};
use crate::error::OpenError;
use crate::raft::Entry;

/// Size at which a file of the log is closed. Entries of the open file stay in memory, so this bounds that memory too.
const FILE_BYTES_MAX: usize = 1 << 20;

/// Records after which a file of the log is closed, for the same reason.
const FILE_RECORDS_MAX: usize = 8192;

/// Entries of closed files kept in memory for followers that are a little behind, in number and bytes.
const CACHE_ENTRIES_MAX: usize = 1024;
const CACHE_BYTES_MAX: usize = 1 << 20;

/// Records in order. They are durable as far as the newest flush that has ended; after a crash there are those, and of
/// the later ones any first part.
///
/// Two implementations: `raft-log`, and the simulation's model. A call per batch, so that the choice costs an entry nothing.
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
#[derive(Debug, Clone, Default)]
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

impl LogDisk for RaftLog<Wal> {
    fn positions(&self) -> Positions {
        let state = self.log_state();
        let id = |id: Option<&StoredLogId>| id.copied();
        Positions {
            vote: state.vote().cloned(),
            last: id(state.last()),
            purged: id(state.purged()),
            committed: id(state.committed()),
        }
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for entry in RaftLog::read(self, from, to) {
            let (id, payload) = entry?;
            bytes += payload.size();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(Entry { log_id: id.into(), payload: payload.into() });
        }
        Ok(entries)
    }

    fn save_vote(&mut self, vote: StoredVote) -> io::Result<()> {
        RaftLogWriter::save_vote(self, vote).map(drop)
    }

    fn append(&mut self, entries: Vec<(StoredLogId, StoredPayload)>) -> io::Result<()> {
        entries.into_iter().try_for_each(|entry| RaftLogWriter::append(self, [entry]).map(drop))
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        RaftLogWriter::truncate(self, from).map(drop)
    }

    fn purge(&mut self, upto: StoredLogId) -> io::Result<()> {
        RaftLogWriter::purge(self, upto).map(drop)
    }

    fn commit(&mut self, id: StoredLogId) -> io::Result<()> {
        RaftLogWriter::commit(self, id).map(drop)
    }

    fn flush(&mut self, flush: Flush) -> io::Result<()> {
        RaftLogWriter::flush(self, true, Some(flush))
    }

    #[cfg(test)]
    fn syncs(&self) -> u64 {
        self.stat().flush_metrics.sync_batch_count
    }
}

/// Opens the files of a log. A torn record at its end, never acknowledged, is dropped; any other damage is refused.
pub(crate) fn open(dir: &Path) -> Result<Box<dyn LogDisk>, OpenError> {
    let mut config = raft_log::Config::new(dir.display());
    config.wal.chunk_max_size = Some(FILE_BYTES_MAX);
    config.wal.chunk_max_records = Some(FILE_RECORDS_MAX);
    config.wal.read_buffer_size = Some(64 << 10);
    config.wal.flush_batch_wait = Some(Duration::ZERO);
    // Waiting for room while `State` is locked would wait for the worker, which needs the lock to go on.
    config.wal.flush_queue_max_bytes = Some(usize::MAX / 2);
    config.log_cache_max_items = Some(CACHE_ENTRIES_MAX);
    config.log_cache_capacity = Some(CACHE_BYTES_MAX);
    let damaged = |what: String| OpenError::Damaged { path: dir.to_owned(), what };
    let opened = std::panic::catch_unwind(|| RaftLog::open(Arc::new(config)));
    let wal = match opened {
        Ok(Ok(wal)) => wal,
        Ok(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(OpenError::InUse { path: dir.to_owned() });
        }
        Ok(Err(error)) => return Err(damaged(error.to_string())),
        Err(_) => return Err(damaged("the log's files contradict each other".to_owned())),
    };
    check_contiguous(&wal).map_err(damaged)?;
    Ok(Box::new(wal))
}

/// Every entry between the purged and the last one has to be there.
fn check_contiguous(wal: &RaftLog<Wal>) -> Result<(), String> {
    let state = wal.log_state();
    let after = |id: Option<&StoredLogId>| id.map_or(0, |id| id.index + 1);
    let (mut next, end) = (after(state.purged()), after(state.last()));
    for entry in wal.read(next, end) {
        let (id, _) = entry.map_err(|error| error.to_string())?;
        if id.index != next {
            return Err(format!("entry {next} is missing"));
        }
        next += 1;
    }
    match next == end {
        true => Ok(()),
        false => Err(format!("entry {next} is missing")),
    }
}
