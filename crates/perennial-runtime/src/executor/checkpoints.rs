//! Which checkpoints an executor has heard of, and which snapshots wait for what. Pure: nothing here writes or sends.

use std::collections::{BTreeMap, BTreeSet};

use perennial_types::CheckpointId;

use crate::upload::Taken;

/// Snapshots that may wait for the word where to. A barrier of another executor can be quicker than the trigger, not by more than
/// one snapshot of every task.
const EARLY_MAX: usize = 1024;

/// Checkpoints whose directory is remembered, and aborted ones: more than a job has at a time.
const REMEMBERED_MAX: usize = 64;

/// What an executor knows of the job's checkpoints.
pub(super) struct Checkpoints {
    /// Where the files of those go that were triggered and are not over.
    directories: BTreeMap<CheckpointId, String>,
    /// Snapshots of checkpoints that were not triggered here yet.
    early: Vec<Taken>,
    /// The highest that is known to be complete. Those below it are over as well.
    completed: CheckpointId,
    aborted: BTreeSet<CheckpointId>,
}

impl Checkpoints {
    pub(super) fn new() -> Self {
        Self { directories: BTreeMap::new(), early: Vec::new(), completed: CheckpointId(0), aborted: BTreeSet::new() }
    }

    /// Whether nobody waits for this checkpoint any more.
    pub(super) fn is_over(&self, checkpoint: CheckpointId) -> bool {
        checkpoint <= self.completed || self.aborted.contains(&checkpoint)
    }

    /// A checkpoint was triggered, be it again. Returns the snapshots that waited for that, with the directory.
    pub(super) fn triggered(&mut self, checkpoint: CheckpointId, directory: &str) -> Vec<(Taken, String)> {
        if self.is_over(checkpoint) {
            return Vec::new();
        }
        self.directories.insert(checkpoint, directory.to_owned());
        if self.directories.len() > REMEMBERED_MAX {
            self.directories.pop_first();
        }
        let early = std::mem::take(&mut self.early);
        let (now, later) = early.into_iter().partition(|taken| taken.writer.checkpoint() == checkpoint);
        self.early = later;
        let with_directory = |taken| (taken, directory.to_owned());
        Vec::into_iter(now).map(with_directory).collect()
    }

    /// A task has taken a snapshot. Returns it with the directory to write it to, if it is known and still wanted.
    pub(super) fn taken(&mut self, taken: Taken) -> Option<(Taken, String)> {
        let checkpoint = taken.writer.checkpoint();
        if self.is_over(checkpoint) {
            return None;
        }
        if let Some(directory) = self.directories.get(&checkpoint) {
            return Some((taken, directory.clone()));
        }
        // One that finds no place makes its checkpoint time out, which nobody else has heard of here.
        if self.early.len() < EARLY_MAX {
            self.early.push(taken);
        }
        None
    }

    /// A checkpoint is complete.
    pub(super) fn completed(&mut self, checkpoint: CheckpointId) {
        self.completed = self.completed.max(checkpoint);
        self.aborted.retain(|aborted| *aborted > checkpoint);
        self.forget_over();
    }

    /// A checkpoint is given up.
    pub(super) fn aborted(&mut self, checkpoint: CheckpointId) {
        if !self.is_over(checkpoint) {
            self.aborted.insert(checkpoint);
            if self.aborted.len() > REMEMBERED_MAX {
                self.aborted.pop_first();
            }
            self.forget_over();
        }
    }

    fn forget_over(&mut self) {
        let Self { directories, early, completed, aborted } = self;
        let is_over = |checkpoint: &CheckpointId| *checkpoint <= *completed || aborted.contains(checkpoint);
        directories.retain(|checkpoint, _| !is_over(checkpoint));
        early.retain(|taken| !is_over(&taken.writer.checkpoint()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use perennial_types::{ExecutionAttemptId, JobId, MaxParallelism, SnapshotKind, VertexId};

    use super::*;
    use crate::SnapshotWriter;
    use crate::upload::SnapshotOf;

    fn taken(checkpoint: u64) -> Taken {
        let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask: 0, attempt: 0 };
        let max_parallelism = MaxParallelism::default_for(1);
        Taken {
            of: SnapshotOf { job: JobId::from_bytes([2; 16]), attempt, parallelism: 1, max_parallelism },
            writer: SnapshotWriter::new(CheckpointId(checkpoint), SnapshotKind::Checkpoint),
            link: None,
            align: Duration::ZERO,
            sync: Duration::ZERO,
        }
    }

    fn ids(found: impl IntoIterator<Item = (Taken, String)>) -> Vec<(u64, String)> {
        found.into_iter().map(|(taken, directory)| (taken.writer.checkpoint().0, directory)).collect()
    }

    #[test]
    fn a_snapshot_goes_where_its_trigger_says_whichever_comes_first() {
        let mut checkpoints = Checkpoints::new();
        assert_eq!(ids(checkpoints.triggered(CheckpointId(1), "/1")), []);
        assert_eq!(ids(checkpoints.taken(taken(1))), [(1, "/1".to_owned())]);
        assert_eq!(ids(checkpoints.taken(taken(2))), []);
        assert_eq!(ids(checkpoints.taken(taken(3))), []);
        assert_eq!(ids(checkpoints.triggered(CheckpointId(2), "/2")), [(2, "/2".to_owned())]);
        assert_eq!(ids(checkpoints.triggered(CheckpointId(2), "/2")), []);
        assert_eq!(ids(checkpoints.triggered(CheckpointId(3), "/3")), [(3, "/3".to_owned())]);
    }

    #[test]
    fn nothing_is_written_for_a_checkpoint_that_is_over() {
        let mut checkpoints = Checkpoints::new();
        checkpoints.triggered(CheckpointId(5), "/5");
        checkpoints.taken(taken(6));
        checkpoints.aborted(CheckpointId(6));
        checkpoints.completed(CheckpointId(5));
        // A notice that comes late changes nothing.
        checkpoints.completed(CheckpointId(4));
        for checkpoint in [3, 5, 6] {
            assert!(checkpoints.is_over(CheckpointId(checkpoint)));
            assert_eq!(ids(checkpoints.triggered(CheckpointId(checkpoint), "/x")), []);
            assert_eq!(ids(checkpoints.taken(taken(checkpoint))), []);
        }
        assert!(checkpoints.directories.is_empty() && checkpoints.early.is_empty());
        assert!(!checkpoints.is_over(CheckpointId(7)));
    }
}
