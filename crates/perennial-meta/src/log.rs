//! The Raft log and vote behind openraft's storage traits.
//!
//! One thread writes and calls `fdatasync`. At most one flush is in flight: what is appended meanwhile gathers in memory and
//! goes with the next one, so that many writers share a sync. openraft is told of
//! entries and votes only after the sync that covers them. The first error ends the log for good: a failed sync is
//! never tried again, since the kernel may have dropped the pages it could not write. [`LogStore::failed`] tells it even
//! when nobody waits for the flush that has failed.
//!
//! ```text
//! append ─> WAL buffer ─┐                        ┌─> openraft: these entries are durable
//! save_vote ─> buffer ──┴─> flush (one at a time) ─┤
//!                              ▲                  └─> next flush, if anything waits
//!                              └──────────────────────────┘
//! ```
//!
//! All of that is above [`LogDisk`], below which are the files ([`wal`]) or, in the simulation, a disk that forgets.

mod disk;
mod index;
mod record;
mod recover;
mod wal;
mod writer;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{OptionalSend, RaftLogReader};
use tokio::sync::{oneshot, watch};

use crate::error::OpenError;
use crate::marker::{Floor, MarkerFile};
use crate::raft::{Entry, LogId, TypeConfig, Vote, log_id};
use crate::{files, ground};
pub(crate) use disk::LogDisk;
#[cfg(test)]
pub(crate) use disk::Positions;
pub(crate) use record::{StoredLogId, StoredPayload, StoredVote};
pub(crate) use wal::open as open_files;

/// Bytes of entries read at once for replication.
const READ_BYTES_MAX: usize = 1 << 20;

/// How far the committed index may run ahead of the marker's floor before the marker is written again.
const MARKER_EVERY: u64 = 1000;

/// The log. Clones share it.
#[derive(Clone)]
pub(crate) struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    marker: Arc<MarkerFile>,
    state: Mutex<State>,
    /// Why the log takes nothing any more.
    failed: watch::Sender<Option<String>>,
    /// Term of the newest vote that is durable.
    voted: AtomicU64,
}

struct State {
    /// None after [`LogStore::close`].
    wal: Option<Box<dyn LogDisk>>,
    /// What waits for the next flush.
    waiting: Vec<Waiter>,
    /// Whether a flush is in flight; its completion starts the next one.
    flushing: bool,
    /// The last entry the newest flush has made durable. It may have been truncated since.
    flushed: Option<StoredLogId>,
    /// Why the log takes nothing any more.
    failed: Option<String>,
}

enum Waiter {
    Entries(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<io::Result<()>>),
    /// Truncation or purge: nobody waits, but it has to reach the disk.
    Nobody,
}

/// What one flush covers. Lives in the worker thread until the flush is done.
pub(crate) struct Flush {
    log: Weak<Inner>,
    waiters: Vec<Waiter>,
    /// The last entry that is durable when the flush is done.
    last: Option<StoredLogId>,
}

impl LogStore {
    /// Opens the log. A torn record at its end, never acknowledged, is dropped; any other damage is refused.
    pub(crate) fn open(dir: &Path, marker: Arc<MarkerFile>) -> Result<Self, OpenError> {
        files::create_dir_all(dir).map_err(|source| OpenError::io("create", dir, source))?;
        let wal = ground::open_log(dir)?;
        let flushed = wal.positions().last;
        let state = State { wal: Some(wal), waiting: Vec::new(), flushing: false, flushed, failed: None };
        let (failed, state) = (watch::Sender::new(None), Mutex::new(state));
        let voted = AtomicU64::new(0);
        Ok(Self { inner: Arc::new(Inner { dir: dir.to_owned(), marker, state, failed, voted }) })
    }

    /// Term of the newest vote, 0 when there is none.
    pub(crate) fn term(&self) -> io::Result<u64> {
        Ok(self.inner.lock().wal()?.positions().vote.map_or(0, |vote| vote.term))
    }

    /// Id of the last entry, or of the last purged one.
    pub(crate) fn last(&self) -> io::Result<Option<LogId>> {
        Ok(self.inner.lock().wal()?.positions().last.map(LogId::from))
    }

    /// Whether entries at its beginning have been purged, so that a snapshot is needed to rebuild the state.
    pub(crate) fn is_purged(&self) -> bool {
        self.inner.lock().wal().is_ok_and(|wal| wal.positions().purged.is_some())
    }

    /// Index up to which entries are known to be committed and durable here; 0 when that cannot be said now.
    pub(crate) fn floor(&self) -> u64 {
        self.inner.lock().floor()
    }

    /// Whether the marker is behind the newest durable vote, or far behind what is committed.
    pub(crate) fn is_unnoted(&self) -> bool {
        let marker = &self.inner.marker;
        self.inner.voted.load(Ordering::Relaxed) > marker.term_floor()
            || self.floor() >= marker.index_floor() + MARKER_EVERY
    }

    /// Notes in the marker the term of the newest durable vote, and what is committed and durable; after the log itself, so
    /// that the floor is never above what is stored. Blocks, for two syncs: neither an election nor a commit waits for it.
    pub(crate) fn note(&self) -> io::Result<()> {
        let floor = Floor { term: self.inner.voted.load(Ordering::Relaxed), index: self.floor() };
        self.inner.marker.raise(floor)
    }

    /// Resolves when the log takes nothing any more, with the reason.
    pub(crate) async fn failed(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The sender lives as long as this handle.
            _ => std::future::pending().await,
        }
    }

    /// Writes what is left, closes the files and notes how far the log has come. Blocks. Everything else fails afterwards.
    pub(crate) fn close(&self) -> io::Result<()> {
        let (floor, wal) = {
            let mut state = self.inner.lock();
            (state.floor(), state.wal.take())
        };
        drop(wal);
        self.inner.marker.raise(Floor { term: self.inner.voted.load(Ordering::Relaxed), index: floor })
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.inner.lock().wal()?.read(from, to, bytes_max)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held is a bug that has ended its task; the log itself refuses half-done records.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something waits, and starts a flush unless one is in flight.
    fn submit(self: &Arc<Self>, state: &mut State, waiter: Waiter) -> io::Result<()> {
        state.waiting.push(waiter);
        match state.flushing {
            true => Ok(()),
            false => self.flush(state),
        }
    }

    fn flush(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let waiters = std::mem::take(&mut state.waiting);
        let wal = state.wal_mut()?;
        let flush = Flush { log: Arc::downgrade(self), waiters, last: wal.positions().last };
        wal.flush(flush).map_err(|error| self.named(&error))?;
        state.flushing = true;
        Ok(())
    }

    /// The log takes nothing any more.
    fn fail(&self, state: &mut State, error: &io::Error) {
        state.failed = Some(error.to_string());
        for waiter in std::mem::take(&mut state.waiting) {
            waiter.tell(Err(io::Error::new(error.kind(), error.to_string())));
        }
        self.failed.send_replace(state.failed.clone());
    }

    /// An error of the log's files that says which they are.
    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot write the log in {}: {error}", self.dir.display()))
    }
}

impl State {
    fn wal(&self) -> io::Result<&dyn LogDisk> {
        self.check()?;
        self.wal.as_deref().ok_or_else(closed)
    }

    fn wal_mut(&mut self) -> io::Result<&mut (dyn LogDisk + 'static)> {
        self.check()?;
        self.wal.as_deref_mut().ok_or_else(closed)
    }

    /// Index of the newest committed entry if that is durable, else 0. A log that ends at or after a committed id, in order
    /// of term and index, has that entry.
    fn floor(&self) -> u64 {
        let committed = self.wal.as_ref().and_then(|wal| wal.positions().committed);
        committed.filter(|id| Some(*id) <= self.flushed).map_or(0, |id| id.index)
    }

    fn check(&self) -> io::Result<()> {
        self.failed.as_ref().map_or(Ok(()), |reason| Err(io::Error::other(reason.clone())))
    }
}

fn closed() -> io::Error {
    io::Error::other("the log is closed")
}

impl Flush {
    /// The flush has ended.
    pub(crate) fn done(mut self, result: io::Result<()>) {
        let log = self.log.upgrade();
        let failed = match (result, &log) {
            (Err(error), Some(log)) => Some(log.named(&error)),
            (result, _) => result.err(),
        };
        if let Some(log) = log.as_ref().filter(|_| failed.is_none()) {
            log.lock().flushed = self.last;
        }
        for waiter in self.waiters.drain(..) {
            waiter.tell(match &failed {
                None => Ok(()),
                Some(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        let Some(log) = log else { return };
        if let Some(error) = failed {
            return log.fail(&mut log.lock(), &error);
        }
        let mut state = log.lock();
        state.flushing = false;
        let flushed = match state.waiting.is_empty() {
            true => Ok(()),
            false => log.flush(&mut state),
        };
        if let Err(error) = flushed {
            log.fail(&mut state, &error);
        }
    }
}

impl Drop for Flush {
    /// The worker ended without a result.
    fn drop(&mut self) {
        for waiter in self.waiters.drain(..) {
            waiter.tell(Err(io::Error::other("the log's writer has stopped")));
        }
    }
}

impl Waiter {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Entries(callback) => callback.io_completed(result),
            // openraft has stopped when nobody receives.
            Self::Vote(reply) => drop(reply.send(result)),
            Self::Nobody => {}
        }
    }
}

impl Drop for Inner {
    /// The last owner may be the log's own worker thread, which cannot wait for itself to end.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(wal) = state.wal.take() {
            let closing = std::thread::Builder::new().name("meta-log-close".to_owned()).spawn(move || drop(wal));
            if let Err(error) = closing {
                tracing::warn!(%error, "the log was not closed in an orderly way");
            }
        }
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        if from >= to { Ok(Vec::new()) } else { self.read(from, to, usize::MAX) }
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        if start >= end { Ok(Vec::new()) } else { self.read(start, end, READ_BYTES_MAX) }
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.inner.lock().wal()?.positions().vote.as_ref().map(Vote::from))
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let positions = self.inner.lock().wal()?.positions();
        let id = |id: Option<StoredLogId>| id.map(LogId::from);
        Ok(LogState { last_purged_log_id: id(positions.purged), last_log_id: id(positions.last) })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (reply, durable) = oneshot::channel();
        {
            let mut state = self.inner.lock();
            let saved = state.wal_mut()?.save_vote(StoredVote::from(vote));
            saved.map_err(|error| self.inner.named(&error))?;
            self.inner.submit(&mut state, Waiter::Vote(reply))?;
        }
        durable.await.map_err(|_| io::Error::other("the log's writer has stopped"))??;
        // The marker follows within a moment ([`LogStore::note`]): an election does not wait for two more syncs.
        self.inner.voted.fetch_max(vote.leader_id.term, Ordering::Relaxed);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.inner.lock();
        let wal = state.wal_mut()?;
        // A hint that saves work at the next start; it goes to the disk with whatever is flushed next. After a
        // snapshot was installed it can be ahead of the log, and then it is not needed.
        let positions = wal.positions();
        match committed.map(|id| StoredLogId::from(&id)) {
            Some(id) if Some(id) <= positions.last && Some(id) > positions.committed => wal.commit(id),
            _ => Ok(()),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.inner.lock().wal()?.positions().committed.map(LogId::from))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let stored = |entry: Entry| Ok((StoredLogId::from(&entry.log_id), StoredPayload::try_from(entry.payload)?));
        let entries = entries.into_iter().map(stored).collect::<io::Result<Vec<_>>>()?;
        let mut state = self.inner.lock();
        state.wal_mut()?.append(entries).map_err(|error| self.inner.named(&error))?;
        self.inner.submit(&mut state, Waiter::Entries(callback))
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut state = self.inner.lock();
        let wal = state.wal_mut()?;
        let first_removed = last_log_id.map_or(0, |id| id.index + 1);
        if wal.positions().last.is_none_or(|last| last.index < first_removed) {
            return Ok(());
        }
        wal.truncate(first_removed).map_err(|error| self.inner.named(&error))?;
        self.inner.submit(&mut state, Waiter::Nobody)
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let mut state = self.inner.lock();
        state.wal_mut()?.purge(StoredLogId::from(&upto)).map_err(|error| self.inner.named(&error))?;
        self.inner.submit(&mut state, Waiter::Nobody)
    }
}

impl From<&StoredLogId> for LogId {
    fn from(id: &StoredLogId) -> Self {
        log_id(id.term, id.index)
    }
}

impl From<StoredLogId> for LogId {
    fn from(id: StoredLogId) -> Self {
        log_id(id.term, id.index)
    }
}

#[cfg(test)]
mod tests;
