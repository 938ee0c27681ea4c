//! The disk of one member: a model of the log's files and of the state's map that forgets what was not synced.
//!
//! A crash leaves of the unsynced records any first part, as of the unflushed batches. Marker and snapshots are real
//! files in memory; a crash comes before or after a change of theirs, never in its middle.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::SmallRng;

use super::checker::Checker;
use super::network::Node;
use super::{Bug, lock};
use crate::kv::{self, Change, Kind, Pair, StateError, View, read};
use crate::log::{Flush, LogDisk, Positions, StoredLogId, StoredPayload, StoredVote};
use crate::raft::Entry;
use crate::state::Tree;

/// Time of one sync in milliseconds, and while the disk stalls.
const SYNC_MS: std::ops::Range<u64> = 1..4;
const STALLED_MS: std::ops::Range<u64> = 40..250;

/// How much later the disk syncs what the bug [`Bug::AckBeforeSync`] has acknowledged.
const LATE_SYNC: Duration = Duration::from_millis(400);

/// One member's disk. Clones share it; it outlives the member's processes.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

struct State {
    node: Node,
    rng: SmallRng,
    bug: Option<Bug>,
    checker: Arc<Mutex<Checker>>,
    log: Log,
    tree: TreeModel,
    stalled: bool,
    /// The next sync fails.
    broken: bool,
}

/// What a crash took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) records: usize,
    pub(super) batches: usize,
}

impl Disk {
    pub(super) fn new(node: Node, rng: SmallRng, bug: Option<Bug>, checker: Arc<Mutex<Checker>>) -> Self {
        let (log, tree) = (Log::default(), TreeModel::default());
        Self(Arc::new(Mutex::new(State { node, rng, bug, checker, log, tree, stalled: false, broken: false })))
    }

    pub(super) fn open_log(&self) -> Box<dyn LogDisk> {
        Box::new(LogModel(self.clone()))
    }

    pub(super) fn open_tree(&self, existed: bool) -> Box<dyn Tree> {
        if !existed {
            self.lock().tree = TreeModel::default();
        }
        Box::new(self.clone())
    }

    /// How long the disk takes for a sync now.
    pub(super) fn delay(&self) -> Duration {
        let mut state = self.lock();
        let range = if state.stalled { STALLED_MS } else { SYNC_MS };
        Duration::from_millis(state.rng.random_range(range))
    }

    pub(super) fn set_stalled(&self, stalled: bool) {
        self.lock().stalled = stalled;
    }

    /// Makes the next sync fail.
    pub(super) fn break_sync(&self) {
        self.lock().broken = true;
    }

    /// The process is gone: forgets a part of what was not synced.
    pub(super) fn crash(&self) -> Lost {
        let mut state = self.lock();
        let State { rng, bug, log, tree, .. } = &mut *state;
        let mut kept = rng.random_range(log.synced..=log.journal.len());
        if *bug == Some(Bug::VoteForgotten) {
            kept = log.synced;
        }
        if *bug == Some(Bug::ForgetsSynced) {
            kept = log.synced.saturating_sub(rng.random_range(0..12));
        }
        let records = log.journal.len() - kept;
        log.journal.truncate(kept);
        log.rebuild();
        let kept = rng.random_range(0..=tree.unflushed.len());
        let batches = tree.unflushed.len() - kept;
        tree.unflushed.truncate(kept);
        tree.settle();
        state.broken = false;
        Lost { records, batches }
    }

    /// Term of the vote there is.
    pub(super) fn term(&self) -> u64 {
        self.lock().log.positions.vote.as_ref().map_or(0, |vote| vote.term)
    }

    /// Hash of the state as it is now.
    pub(super) fn state_digest(&self) -> u64 {
        self.lock().tree.live.digest
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

#[derive(Debug, Clone)]
enum Record {
    Vote(StoredVote),
    Append(StoredLogId, StoredPayload),
    Truncate(u64),
    Purge(StoredLogId),
    Commit(StoredLogId),
}

/// The log's files: records in the order they were written, and what they amount to.
#[derive(Default)]
struct Log {
    journal: Vec<Record>,
    /// Records that a crash leaves.
    synced: usize,
    positions: Positions,
    entries: BTreeMap<u64, (StoredLogId, StoredPayload)>,
    syncs: u64,
}

impl Log {
    /// Refuses what the files refuse.
    fn write(&mut self, record: Record) -> io::Result<()> {
        let at = &self.positions;
        let sound = match &record {
            Record::Vote(vote) => at.vote.as_ref().is_none_or(|current| vote >= current),
            Record::Append(id, _) => at.last.is_none_or(|last| *id > last && id.index == last.index + 1),
            Record::Truncate(from) => at.committed.is_none_or(|committed| committed.index < *from),
            Record::Purge(_) => true,
            Record::Commit(id) => Some(*id) >= at.committed && Some(*id) <= at.last,
        };
        if !sound {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{record:?} at {at:?}")));
        }
        self.apply(&record);
        self.journal.push(record);
        Ok(())
    }

    fn apply(&mut self, record: &Record) {
        let at = &mut self.positions;
        match record {
            Record::Vote(vote) => at.vote = Some(vote.clone()),
            Record::Append(id, payload) => {
                at.last = Some(*id);
                self.entries.insert(id.index, (*id, payload.clone()));
            }
            Record::Truncate(from) => {
                self.entries.split_off(from);
                at.last = self.entries.last_key_value().map(|(_, (id, _))| *id).or(at.purged);
            }
            Record::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index + 1));
                at.purged = at.purged.max(Some(*upto));
                at.last = at.last.max(at.purged);
            }
            Record::Commit(id) => at.committed = Some(*id),
        }
    }

    /// Reads the records again, as a process does at its start.
    fn rebuild(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        *self = Self { synced: journal.len(), ..Self::default() };
        journal.iter().for_each(|record| self.apply(record));
        self.journal = journal;
    }
}

struct LogModel(Disk);

impl LogModel {
    fn write(&self, record: Record) -> io::Result<()> {
        self.0.lock().log.write(record)
    }
}

impl LogDisk for LogModel {
    fn positions(&self) -> Positions {
        self.0.lock().log.positions.clone()
    }

    fn read(&self, from: u64, to: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let state = self.0.lock();
        let mut bytes = 0;
        let fitting = state.log.entries.range(from..to).take_while(|(index, (_, payload))| {
            bytes += payload.size();
            bytes <= bytes_max || **index == from
        });
        Ok(fitting.map(|(_, entry)| to_entry(entry)).collect())
    }

    fn save_vote(&mut self, vote: StoredVote) -> io::Result<()> {
        let mut state = self.0.lock();
        lock(&state.checker).vote_saved(state.node, &vote);
        state.log.write(Record::Vote(vote))
    }

    fn append(&mut self, entries: Vec<(StoredLogId, StoredPayload)>) -> io::Result<()> {
        entries.into_iter().try_for_each(|(id, payload)| self.write(Record::Append(id, payload)))
    }

    fn truncate(&mut self, from: u64) -> io::Result<()> {
        self.write(Record::Truncate(from))
    }

    fn purge(&mut self, upto: StoredLogId) -> io::Result<()> {
        self.write(Record::Purge(upto))
    }

    fn commit(&mut self, id: StoredLogId) -> io::Result<()> {
        self.write(Record::Commit(id))
    }

    fn flush(&mut self, flush: Flush) -> io::Result<()> {
        let delay = self.0.delay();
        let disk = self.0.clone();
        let (written, bug) = {
            let state = disk.lock();
            (state.log.journal.len(), state.bug)
        };
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            if std::mem::take(&mut disk.lock().broken) {
                return flush.done(Err(io::Error::from_raw_os_error(5)));
            }
            match bug {
                Some(Bug::AckBeforeSync) => {
                    flush.done(Ok(()));
                    tokio::time::sleep(LATE_SYNC).await;
                    disk.synced(written);
                }
                _ => {
                    disk.synced(written);
                    flush.done(Ok(()));
                }
            }
        });
        Ok(())
    }

    fn syncs(&self) -> u64 {
        self.0.lock().log.syncs
    }
}

impl Disk {
    fn synced(&self, written: usize) {
        let mut state = self.lock();
        state.log.syncs += 1;
        let mut written = written;
        if matches!(state.bug, Some(Bug::VoteNotSynced | Bug::VoteForgotten)) {
            // Votes at the end wait for an entry that takes them along.
            let from = state.log.synced;
            let records = state.log.journal.get(from..written).unwrap_or_default();
            written =
                from + records.iter().rposition(|record| !matches!(record, Record::Vote(_))).map_or(0, |at| at + 1);
        }
        state.log.synced = state.log.synced.max(written);
    }
}

fn to_entry((id, payload): &(StoredLogId, StoredPayload)) -> Entry {
    Entry { log_id: (*id).into(), payload: payload.clone().into() }
}

/// Pairs, and a hash over all of them that is cheap to keep.
#[derive(Debug, Clone, Default)]
pub(super) struct Map {
    pairs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(super) digest: u64,
}

impl Map {
    pub(super) fn change(&mut self, change: &Change) {
        let (key, old) = match change {
            Change::Put(key, value) => {
                self.digest ^= pair_hash(key, value);
                (key, self.pairs.insert(key.clone(), value.clone()))
            }
            Change::Delete(key) => (key, self.pairs.remove(key)),
        };
        self.digest ^= old.map_or(0, |old| pair_hash(key, &old));
    }
}

fn pair_hash(key: &[u8], value: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

impl View for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.pairs.get(key).cloned())
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        let within = self.pairs.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(within.map(|(key, value)| (key.clone(), value.clone())).collect())
    }
}

/// The state's map: what a crash leaves, and what came after.
#[derive(Default)]
struct TreeModel {
    durable: Map,
    /// `None` stands for the removal of everything.
    unflushed: Vec<Option<Vec<Change>>>,
    live: Map,
    /// A snapshot is being installed: the next entry applied need not follow the last.
    installing: bool,
}

impl TreeModel {
    fn settle(&mut self) {
        for batch in self.unflushed.drain(..) {
            match batch {
                Some(batch) => batch.iter().for_each(|change| self.durable.change(change)),
                None => self.durable = Map::default(),
            }
        }
        self.live = self.durable.clone();
        self.installing = false;
    }
}

impl Tree for Disk {
    /// None: the checker looks at every entry as it is applied. What this model loses in a crash is more than waits in memory.
    fn unwritten_max(&self) -> usize {
        0
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.lock().tree.live.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        self.lock().tree.live.scan(prefix)
    }

    fn each(&self, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StateError> {
        let pairs = self.lock().tree.live.pairs.clone();
        pairs.iter().all(|(key, value)| visit(key, value));
        Ok(())
    }

    fn write(&self, mut batch: Vec<Change>) -> Result<(), StateError> {
        let mut state = self.lock();
        let State { node, rng, bug, checker, log, tree, .. } = &mut *state;
        if *bug == Some(Bug::LosesAChange) && batch.len() > 1 && rng.random_ratio(1, 50) {
            batch.remove(0);
        }
        let before = read::<kv::applied::Applied>(&tree.live, &())?;
        batch.iter().for_each(|change| tree.live.change(change));
        let after = read::<kv::applied::Applied>(&tree.live, &())?;
        tree.unflushed.push(Some(batch));
        match (before, after) {
            (Some(_), None) => tree.installing = true,
            (before, Some((_, index))) if before != after => {
                let entries = if std::mem::take(&mut tree.installing) {
                    Vec::new()
                } else {
                    let first = before.map_or(0, |(_, index)| index + 1);
                    log.entries.range(first..=index).map(|(_, entry)| to_entry(entry)).collect()
                };
                lock(checker).applied(*node, index, entries, tree.live.digest);
            }
            _ => {}
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StateError> {
        let mut state = self.lock();
        state.tree.live = Map::default();
        state.tree.unflushed.push(None);
        state.tree.installing = true;
        Ok(())
    }

    fn flush(&self) -> Result<(), StateError> {
        let mut state = self.lock();
        let installing = state.tree.installing;
        state.tree.settle();
        state.tree.installing = installing;
        Ok(())
    }
}

/// The key under which the last applied entry is kept.
pub(super) fn put_applied(term: u64, index: u64) -> Change {
    Change::Put(kv::applied::Applied::key(&()), kv::applied::Applied::encode(&(term, index)))
}
