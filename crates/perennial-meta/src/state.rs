//! The applied state on disk: one sled tree, or the simulation's model of one.
//!
//! sled is a cache of *snapshot file + log* that need not survive: a commit never waits for its disk writes to be durable, and a
//! directory that is damaged, half-installed or not of this cluster is deleted and filled again. sled answers damage
//! with panics, so every call into it is guarded and becomes an error ([`tree`]).
//!
//! Each batch costs sled a write to the disk that the log waits for, so what is applied stays in memory for a moment and goes into
//! the tree with all that was applied meanwhile, in one batch with the id of the last entry:
//!
//! ```text
//! apply ──> fresh ── settle, ten times a second ──> writing ──> tree
//! read  ──> fresh, else writing, else tree
//! ```
//! A crash loses the newest of them from the tree, and the next start applies these entries of the log again.

mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::error::OpenError;
use crate::ground;
use crate::kv::{self, Change, Kind, Pair, StateError, View, delete, put, read};
use crate::raft::{LogId, StoredMembership, log_id, term_of};
pub(crate) use tree::{Tree, open as open_sled};

/// Key-value pairs written in one batch while a snapshot is installed.
const INSTALL_BATCH: usize = 1000;

/// Batches that sled may have queued. Its threads write each batch by itself, about 10,000 a second on a good disk, and
/// nothing slows down a caller that is quicker: the queue would take all memory, and minutes to write at the end.
const QUEUED_BATCHES_MAX: u32 = 64;

/// Changed keys with their values; `None` for a key that is gone.
type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// The state. Clones share it.
#[derive(Clone)]
pub(crate) struct StateDb {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    tree: Box<dyn Tree>,
    /// What the tree does not have yet.
    unwritten: RwLock<Unwritten>,
    /// Held while something is written into the tree: batches land in the order of their entries.
    writer: Mutex<()>,
    /// Held for reading by readers, for writing while a snapshot replaces everything.
    installing: RwLock<()>,
    /// Batches since the queue was last seen empty.
    queued: AtomicU32,
}

/// Changes that are applied and not yet in the tree.
#[derive(Default)]
struct Unwritten {
    /// The newest.
    fresh: Changes,
    /// Those on their way into the tree.
    writing: Arc<Changes>,
}

impl Unwritten {
    fn get(&self, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.fresh.get(key).or_else(|| self.writing.get(key))
    }

    /// Puts what has changed over the pairs of the tree.
    fn over(&self, prefix: &[u8], pairs: Vec<Pair>) -> Vec<Pair> {
        overlay(prefix, &self.fresh, overlay(prefix, &self.writing, pairs))
    }
}

/// Changes of entries that are applied together, over the state before them.
pub(crate) struct Pending<'a> {
    state: &'a StateDb,
    changes: Changes,
}

impl StateDb {
    /// Opens the state; deletes what is not usable and starts empty.
    pub(crate) fn open(dir: &Path) -> Result<Self, OpenError> {
        if rebuild_mark(dir).exists() {
            tracing::warn!(dir = %dir.display(), "the state could not be read before; it is rebuilt from snapshot and log");
            remove(dir)?;
        }
        let reason = match open_checked(dir) {
            Ok(state) => return Ok(state),
            Err(reason) => reason,
        };
        tracing::warn!(dir = %dir.display(), reason, "the state is not usable; it is rebuilt from snapshot and log");
        remove(dir)?;
        open_checked(dir).map_err(|what| OpenError::Damaged { path: dir.to_owned(), what })
    }

    /// Throws everything away.
    pub(crate) fn reset(self) -> Result<Self, OpenError> {
        let dir = self.inner.dir.clone();
        drop(self);
        remove(&dir)?;
        Self::open(&dir)
    }

    /// The last entry applied.
    pub(crate) fn applied(&self) -> Result<Option<LogId>, StateError> {
        Ok(read::<kv::applied::Applied>(self, &())?.map(|(term, index)| log_id(term, index)))
    }

    /// The membership in force at the last entry applied.
    pub(crate) fn membership(&self) -> Result<StoredMembership, StateError> {
        Ok(read::<kv::membership::Membership>(self, &())?.unwrap_or_default())
    }

    /// Nothing pending.
    pub(crate) fn pending(&self) -> Pending<'_> {
        Pending { state: self, changes: BTreeMap::new() }
    }

    /// Gives every pair to `visit`, in order of key.
    pub(crate) fn each<E: From<StateError>>(
        &self,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.settle()?;
        let mut visited = Ok(());
        self.inner.tree.each(&mut |key, value| {
            visited = visit(key, value);
            visited.is_ok()
        })?;
        visited
    }

    /// Replaces everything by the pairs of a snapshot taken at `id`.
    ///
    /// The id of the last entry goes first and comes back last: a state without it is not used.
    pub(crate) fn install<E: From<StateError>>(
        &self,
        id: Option<&LogId>,
        mut pairs: impl FnMut() -> Result<Option<Pair>, E>,
    ) -> Result<(), E> {
        let _alone = self.inner.installing.write().unwrap_or_else(PoisonError::into_inner);
        let _writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        *self.unwritten_mut() = Unwritten::default();
        self.inner.tree.write(vec![delete::<kv::applied::Applied>(&())])?;
        self.inner.tree.clear()?;
        let mut batch = Vec::new();
        while let Some((key, value)) = pairs()? {
            if key == kv::applied::Applied::key(&()) {
                continue;
            }
            batch.push(Change::Put(key, value));
            if batch.len() == INSTALL_BATCH {
                self.write(std::mem::take(&mut batch))?;
            }
        }
        batch.extend(id.map(put_applied));
        self.write(batch)?;
        Ok(())
    }

    /// Sees to it that the next start rebuilds the state.
    pub(crate) fn mark_for_rebuild(&self) {
        if let Err(error) = std::fs::write(rebuild_mark(&self.inner.dir), []) {
            tracing::error!(%error, dir = %self.inner.dir.display(), "could not mark the state for a rebuild; remove it by hand");
        }
    }

    fn write(&self, batch: Vec<Change>) -> Result<(), StateError> {
        self.inner.tree.write(batch)?;
        if self.inner.queued.fetch_add(1, Ordering::Relaxed) >= QUEUED_BATCHES_MAX {
            self.flush_tree()?;
        }
        Ok(())
    }

    /// Whether anything is applied that the tree does not have.
    pub(crate) fn is_unsettled(&self) -> bool {
        !self.unwritten().fresh.is_empty()
    }

    /// Writes into the tree what it does not have yet, in one batch. Blocks.
    pub(crate) fn settle(&self) -> Result<(), StateError> {
        let _writer = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writing = {
            let mut unwritten = self.unwritten_mut();
            if unwritten.fresh.is_empty() {
                return Ok(());
            }
            unwritten.writing = Arc::new(std::mem::take(&mut unwritten.fresh));
            unwritten.writing.clone()
        };
        let batch = writing.iter().map(|(key, value)| match value {
            Some(value) => Change::Put(key.clone(), value.clone()),
            None => Change::Delete(key.clone()),
        });
        // After an error readers go on with what is in memory, and the next start rebuilds the tree.
        self.write(batch.collect())?;
        self.unwritten_mut().writing = Arc::default();
        Ok(())
    }

    fn unwritten(&self) -> RwLockReadGuard<'_, Unwritten> {
        self.inner.unwritten.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn unwritten_mut(&self) -> RwLockWriteGuard<'_, Unwritten> {
        self.inner.unwritten.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what is in memory, here and in sled, so that the next start need not apply it again. Blocks.
    pub(crate) fn flush(&self) -> Result<(), StateError> {
        self.settle()?;
        self.flush_tree()
    }

    fn flush_tree(&self) -> Result<(), StateError> {
        self.inner.queued.store(0, Ordering::Relaxed);
        self.inner.tree.flush()
    }
}

impl Pending<'_> {
    /// Adds the changes of an entry.
    pub(crate) fn add(&mut self, changes: Vec<Change>) {
        self.changes.extend(self::changes(changes));
    }

    /// Makes all changes part of the state, together with the id of the last entry they come from. In the tree they will be all
    /// or not at all. Blocks when too much is in memory.
    pub(crate) fn write(self, id: &LogId) -> Result<(), StateError> {
        let full = {
            let mut unwritten = self.state.unwritten_mut();
            unwritten.fresh.extend(self.changes);
            unwritten.fresh.extend(changes([put_applied(id)]));
            unwritten.fresh.len() > self.state.inner.tree.unwritten_max()
        };
        if full { self.state.settle() } else { Ok(()) }
    }
}

impl View for Pending<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        match self.changes.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.state.get(key),
        }
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        Ok(overlay(prefix, &self.changes, self.state.scan(prefix)?))
    }
}

impl View for StateDb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        // Held to the end: meanwhile nothing new is applied, and what lands in the tree is what is known here.
        let unwritten = self.unwritten();
        match unwritten.get(key) {
            Some(changed) => Ok(changed.clone()),
            None => self.inner.tree.get(key),
        }
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        let unwritten = self.unwritten();
        Ok(unwritten.over(prefix, self.inner.tree.scan(prefix)?))
    }
}

/// A [`View`] for readers: waits while a snapshot is installed.
pub(crate) struct Shared<'a>(pub(crate) &'a StateDb);

impl View for Shared<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let _whole = self.0.inner.installing.read().unwrap_or_else(PoisonError::into_inner);
        self.0.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Pair>, StateError> {
        let _whole = self.0.inner.installing.read().unwrap_or_else(PoisonError::into_inner);
        self.0.scan(prefix)
    }
}

fn changes(of: impl IntoIterator<Item = Change>) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
    of.into_iter().map(|change| match change {
        Change::Put(key, value) => (key, Some(value)),
        Change::Delete(key) => (key, None),
    })
}

/// Pairs whose key begins with `prefix`, with changes over them.
fn overlay(prefix: &[u8], changes: &Changes, pairs: Vec<Pair>) -> Vec<Pair> {
    let mut changed = changes.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)).peekable();
    if changed.peek().is_none() {
        return pairs;
    }
    let mut merged: Changes = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
    merged.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
    merged.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// Records the last entry applied.
fn put_applied(id: &LogId) -> Change {
    put::<kv::applied::Applied>(&(), &(term_of(id), id.index))
}

/// Opens the tree and reads all of it once, so that damage shows now. The error is for people.
fn open_checked(dir: &Path) -> Result<StateDb, String> {
    let tree = ground::open_tree(dir)?;
    let state = StateDb {
        inner: Arc::new(Inner {
            dir: dir.to_owned(),
            tree,
            unwritten: RwLock::default(),
            writer: Mutex::new(()),
            installing: RwLock::new(()),
            queued: AtomicU32::new(0),
        }),
    };
    let mut pairs = 0_usize;
    state
        .each::<StateError>(|_, _| {
            pairs += 1;
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    let applied = state.applied().map_err(|error| error.to_string())?;
    state.membership().map_err(|error| error.to_string())?;
    match applied {
        None if pairs > 0 => Err("a snapshot was being installed when the process ended".to_owned()),
        _ => Ok(state),
    }
}

fn rebuild_mark(dir: &Path) -> PathBuf {
    dir.with_extension("rebuild")
}

/// Deletes the directory, then the mark that asked for it.
fn remove(dir: &Path) -> Result<(), OpenError> {
    for (path, removed) in
        [(dir.to_owned(), std::fs::remove_dir_all(dir)), (rebuild_mark(dir), std::fs::remove_file(rebuild_mark(dir)))]
    {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(OpenError::io("remove", &path, error));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(view: &impl View) -> Vec<(u8, u8)> {
        view.scan(b"k").unwrap().iter().map(|(key, value)| (key[1], value[0])).collect()
    }

    #[test]
    fn an_entry_sees_those_before_it_though_all_are_written_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDb::open(&dir.path().join("state")).unwrap();
        let put = |key: u8, value: u8| Change::Put(vec![b'k', key], vec![value]);
        let mut pending = state.pending();
        pending.add(vec![put(1, 1), put(2, 1), put(3, 1)]);
        pending.write(&log_id(1, 1)).unwrap();
        let mut pending = state.pending();
        pending.add(vec![put(2, 2), Change::Delete(vec![b'k', 3]), put(0, 2)]);
        assert_eq!(pending.get(&[b'k', 2]).unwrap(), Some(vec![2]));
        assert_eq!(pending.get(&[b'k', 3]).unwrap(), None);
        assert_eq!(pairs(&pending), [(0, 2), (1, 1), (2, 2)]);
        assert_eq!(pairs(&state), [(1, 1), (2, 1), (3, 1)], "not written yet");
        pending.write(&log_id(1, 9)).unwrap();
        assert_eq!(pairs(&state), [(0, 2), (1, 1), (2, 2)]);
        assert_eq!(state.applied().unwrap(), Some(log_id(1, 9)));
    }

    #[test]
    fn what_is_not_in_the_tree_yet_is_read_and_what_was_settled_survives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDb::open(&path).unwrap();
        let put = |key: u8, value: u8| Change::Put(vec![b'k', key], vec![value]);
        let write = |changes, index| {
            let mut pending = state.pending();
            pending.add(changes);
            pending.write(&log_id(1, index)).unwrap();
        };
        write(vec![put(1, 1), put(2, 1)], 1);
        assert!(state.is_unsettled() && state.inner.tree.scan(b"k").unwrap().is_empty());
        assert_eq!(pairs(&state), [(1, 1), (2, 1)]);
        state.settle().unwrap();
        assert!(!state.is_unsettled());
        write(vec![put(2, 2), Change::Delete(vec![b'k', 1])], 2);
        assert_eq!(state.get(&[b'k', 1]).unwrap(), None);
        assert_eq!(pairs(&state), [(2, 2)]);
        assert_eq!(state.applied().unwrap(), Some(log_id(1, 2)));
        state.inner.tree.flush().unwrap();
        drop(state);
        // As after a kill: the tree is behind, and the log has the rest.
        let state = StateDb::open(&path).unwrap();
        assert_eq!((pairs(&state), state.applied().unwrap()), (vec![(1, 1), (2, 1)], Some(log_id(1, 1))));
    }

    #[test]
    fn a_state_that_was_being_replaced_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDb::open(&path).unwrap();
        let mut left: Vec<Pair> = (0..INSTALL_BATCH + 1).map(|n| (n.to_be_bytes().to_vec(), vec![1])).collect();
        let broken = || left.pop().map(Some).ok_or_else(|| StateError("the snapshot ended early".to_owned()));
        assert!(state.install(Some(&log_id(1, 5)), broken).is_err());
        assert_eq!(state.scan(&[]).unwrap().len(), INSTALL_BATCH, "a part was written");
        drop(state);
        let state = StateDb::open(&path).unwrap();
        assert_eq!(state.applied().unwrap(), None);
        assert!(state.scan(b"").unwrap().is_empty());
    }
}
