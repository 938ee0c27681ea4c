//! Which files the incremental checkpoints of a subtask are made of: a base, and what has changed since, file by file.
//!
//! The task decides at each barrier whether to build on what it has said before, the upload thread makes files of it, later and
//! in the same order. A snapshot builds on the one before it, whether that one's checkpoint was completed or not: its file is
//! there, and checkpoints name all files they need. Where a snapshot was never written nothing can be built on it: what is on
//! its way is refused, and the next one is a base.
//!
//! An attempt begins with a base of its own and builds on nobody else's files.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use perennial_state::Freeze;
use perennial_types::{SnapshotKind, StateFile};

/// Files of a checkpoint of one subtask. More would be slow to restore, and never fewer in the directory.
const FILES_MAX: usize = 10;

/// Files of one attempt, known to its task and to the upload thread.
#[derive(Default)]
pub(crate) struct Lineage(Mutex<Files>);

#[derive(Default)]
struct Files {
    /// The base, and what goes on top of it, in order.
    written: Vec<StateFile>,
    /// Number of the snapshot that the last of them is of.
    last: u64,
    /// Snapshots taken, or that are to be.
    taken: u64,
    /// One of them will have no file.
    is_broken: bool,
}

impl Files {
    /// Whether it is time to begin anew.
    fn wants_base(&self) -> bool {
        let Some((base, changes)) = self.written.split_first() else { return self.taken == 0 || self.is_broken };
        let bytes: u64 = changes.iter().map(|file| file.bytes).sum();
        self.is_broken || self.written.len() >= FILES_MAX || bytes > base.bytes / 2
    }
}

/// A snapshot's place in the lineage, from the barrier to its file. Dropped before, it breaks the lineage.
pub(crate) struct Link {
    lineage: Arc<Lineage>,
    number: u64,
    is_written: bool,
}

impl Lineage {
    /// The place of a snapshot that is taken now, and what its tables are frozen for. Savepoints have none: they build on nothing,
    /// and nothing is built on them.
    pub(crate) fn link(self: &Arc<Self>, kind: SnapshotKind) -> (Freeze, Option<Link>) {
        if kind != SnapshotKind::Checkpoint {
            return (Freeze::Whole, None);
        }
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let freeze = if files.wants_base() { Freeze::Base } else { Freeze::Delta };
        if freeze == Freeze::Base {
            files.is_broken = false;
        }
        files.taken += 1;
        (freeze, Some(Link { lineage: Arc::clone(self), number: files.taken, is_written: false }))
    }
}

impl Link {
    /// Whether what it builds on has been written; asked before anything is written for it.
    pub(crate) fn check(&self, is_base: bool) -> io::Result<()> {
        let files = self.lineage.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_base || files.last + 1 == self.number {
            return Ok(());
        }
        Err(io::Error::other("the snapshot that it builds on was not written; the next one builds on none"))
    }

    /// The snapshot's file is there. Returns all files that make up the state now, in order.
    pub(crate) fn written(mut self, is_base: bool, file: StateFile) -> Vec<StateFile> {
        self.is_written = true;
        let mut files = self.lineage.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_base {
            files.written.clear();
        }
        files.written.push(file);
        files.last = self.number;
        files.written.clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.is_written {
            self.lineage.0.lock().unwrap_or_else(PoisonError::into_inner).is_broken = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(name: u64, bytes: u64) -> StateFile {
        StateFile { name: name.to_string(), shared: true, bytes, crc: 0, key_groups: None }
    }

    fn take(lineage: &Arc<Lineage>) -> (bool, Link) {
        let (freeze, link) = lineage.link(SnapshotKind::Checkpoint);
        (freeze == Freeze::Base, link.unwrap())
    }

    /// Takes a snapshot of so many bytes; returns its files when they are a new base, and their number.
    fn write(lineage: &Arc<Lineage>, bytes: u64) -> (bool, usize) {
        let (is_base, link) = take(lineage);
        link.check(is_base).unwrap();
        let number = link.number;
        (is_base, link.written(is_base, file(number, bytes)).len())
    }

    #[test]
    fn changes_are_built_on_a_base_until_they_are_half_of_it_or_many() {
        let lineage = Arc::new(Lineage::default());
        let sizes = [100, 20, 30, 1, 100, 51, 100];
        let expected = [(true, 1), (false, 2), (false, 3), (false, 4), (true, 1), (false, 2), (true, 1)];
        assert_eq!(sizes.map(|bytes| write(&lineage, bytes)), expected);
        assert!((2..=FILES_MAX).all(|count| write(&lineage, 0) == (false, count)));
        assert_eq!(write(&lineage, 100), (true, 1));
    }

    #[test]
    fn nothing_is_built_on_a_snapshot_that_was_not_written() {
        let lineage = Arc::new(Lineage::default());
        assert_eq!(write(&lineage, 100), (true, 1));
        let (lost, later) = (take(&lineage), take(&lineage));
        assert!(!lost.0 && !later.0);
        drop(lost.1);
        assert!(later.1.check(false).is_err());
        drop(later.1);
        assert_eq!(write(&lineage, 100), (true, 1));
        assert_eq!(write(&lineage, 10), (false, 2));
        // Tables that have everything need nothing before it.
        let (lost, later) = (take(&lineage), take(&lineage));
        drop(lost.1);
        later.1.check(true).unwrap();
        assert_eq!(later.1.written(true, file(9, 50)).len(), 1);
    }

    #[test]
    fn savepoints_have_no_place_in_it() {
        let lineage = Arc::new(Lineage::default());
        for kind in [SnapshotKind::Savepoint, SnapshotKind::Suspend { drain: false }] {
            let (freeze, link) = lineage.link(kind);
            assert!(freeze == Freeze::Whole && link.is_none());
        }
        assert_eq!(write(&lineage, 1), (true, 1));
    }

    proptest! {
        /// What lets the leader delete files by looking: whatever comes to nothing meanwhile, a checkpoint after a completed one names no
        /// file of that one's number or a lower one that it did not name.
        #[test]
        fn no_file_is_named_again_that_a_checkpoint_has_left_out(
            // What becomes of each: lost, written, or completed; and its bytes.
            outcomes in prop::collection::vec((0u8..8, 0u64..100, any::<bool>()), 1..400),
        ) {
            let lineage = Arc::new(Lineage::default());
            let mut completed = (0, Vec::new());
            let mut waiting = Vec::new();
            for (number, (outcome, bytes, waits)) in (1u64..).zip(outcomes) {
                waiting.push((number, outcome, bytes, take(&lineage)));
                if waits {
                    continue;
                }
                for (number, outcome, bytes, (is_base, link)) in waiting.drain(..) {
                    if outcome == 0 || link.check(is_base).is_err() {
                        continue;
                    }
                    let files = link.written(is_base, file(number, bytes));
                    let numbers: Vec<u64> = files.iter().map(|file| file.name.parse().unwrap()).collect();
                    prop_assert!(numbers.iter().all(|n| *n > completed.0 || completed.1.contains(n)));
                    if outcome > 2 {
                        completed = (number, numbers);
                    }
                }
            }
        }
    }
}
