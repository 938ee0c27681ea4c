//! Writes the parts of one subtask so that each record is in the finished ones exactly once.
//!
//! ```text
//! .part-{subtask}-{attempt}.inprogress            being written; belongs to no checkpoint
//!   │ prepare(n): renamed; synced before n is acknowledged
//! .part-{subtask}-{n}.{attempt}.pending           in the state of checkpoint n
//!   │ commit: renamed, once n is complete
//! part-{subtask}-{n}                              finished
//! ```
//!
//! A checkpoint's number is given once, so names never meet; the attempt in hidden names keeps apart what a dead attempt
//! left and what a living one writes. A rename is durable with the next sync of the directory. That of a commit is done with
//! the next checkpoint, and until that one is complete the transaction is in the one that would be restored.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use perennial::{CheckpointId, Prepared, Record, Reopened, TaskContext, TwoPhaseSink, UserError};

use super::FileError;
use super::lines::Lines;

/// The number that stands for the end of a stream without checkpoints.
const END: CheckpointId = CheckpointId(0);

/// A part that a checkpoint commits.
#[derive(Debug, Clone, PartialEq, Eq, Record)]
struct PendingPart {
    subtask: u32,
    attempt: u32,
    checkpoint: u64,
}

/// What one checkpoint commits: a part, or nothing when only earlier commits had to be made durable.
#[derive(Debug, Clone, PartialEq, Eq, Record)]
pub(super) struct FileTransaction {
    part: Option<PendingPart>,
}

impl PendingPart {
    fn hidden_name(&self) -> String {
        format!(".part-{}-{:010}.{}.pending", self.subtask, self.checkpoint, self.attempt)
    }

    fn name(&self) -> String {
        format!("part-{}-{:010}", self.subtask, self.checkpoint)
    }
}

/// Writes records as lines to parts that are finished with the checkpoints.
pub(super) struct TwoPhaseParts<T> {
    lines: Lines<T>,
    directory: PathBuf,
    subtask: u32,
    attempt: u32,
    /// The part being written, if there is anything in it.
    open: Option<File>,
    /// Number of commits so far.
    commits: u64,
    unsynced: Arc<Unsynced>,
}

/// What is not on the disk yet. Shared with the thread that syncs.
///
/// The sync of a checkpoint does also what those before it left: theirs is dropped when a checkpoint is aborted, while its part
/// goes with the next one.
#[derive(Default)]
struct Unsynced {
    left: Mutex<Left>,
    /// Held while something is synced; `left` is not, since the slot's thread must not wait for a disk.
    syncing: Mutex<()>,
}

#[derive(Default)]
struct Left {
    parts: Vec<File>,
    /// Commits whose renames are durable.
    commits: u64,
    /// Whether the directories above are known to be durable.
    rooted: bool,
    /// A sync has failed. The system then takes what it could not write for written, so no later one can be believed.
    lost: bool,
}

impl Unsynced {
    /// A few lines at a time, none of which panics.
    fn left(&self) -> MutexGuard<'_, Left> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Syncs parts and directory. `commits` are the renames that were done when this was asked for.
    fn sync(&self, directory: &Path, commits: u64) -> Result<(), FileError> {
        let _alone = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let (parts, rooted) = {
            let mut left = self.left();
            if left.lost {
                let source = io::Error::other("an earlier sync failed, and what it held may be lost");
                return Err(FileError::Io { action: "sync", path: directory.to_owned(), source });
            }
            // Until it is known to be otherwise.
            left.lost = true;
            (std::mem::take(&mut left.parts), left.rooted)
        };
        for part in parts {
            part.sync_all().map_err(FileError::io("sync a part in", directory))?;
        }
        sync_directory(directory).map_err(FileError::io("sync", directory))?;
        if !rooted {
            // Another subtask may have made them a moment ago. Who may not read one did not make what is in it either.
            for above in directory.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()) {
                match sync_directory(above) {
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
                    synced => synced.map_err(FileError::io("sync", above))?,
                }
            }
        }
        let mut left = self.left();
        (left.commits, left.rooted, left.lost) = (left.commits.max(commits), true, false);
        Ok(())
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl<T> TwoPhaseParts<T> {
    /// A sink of one subtask into `directory`; `encode` appends a record's line without its newline. Touches no disk.
    pub(super) fn new(directory: &Path, context: &TaskContext, encode: fn(&T, &mut Vec<u8>)) -> Self {
        Self::of(directory, context.attempt.subtask, context.attempt.attempt, encode)
    }

    fn of(directory: &Path, subtask: u32, attempt: u32, encode: fn(&T, &mut Vec<u8>)) -> Self {
        Self {
            lines: Lines::new(encode),
            directory: directory.to_owned(),
            subtask,
            attempt,
            open: None,
            commits: 0,
            unsynced: Arc::default(),
        }
    }

    fn in_progress(&self) -> PathBuf {
        self.directory.join(format!(".part-{}-{}.inprogress", self.subtask, self.attempt))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), FileError> {
        fs::rename(from, to).map_err(FileError::io("rename", from))
    }
}

impl<T> TwoPhaseSink<T> for TwoPhaseParts<T> {
    type Transaction = FileTransaction;

    /// Makes the directory, and removes what dead attempts of this subtask left and the checkpoint does not have.
    ///
    /// Only attempts below this one are dead for sure: a command to deploy may come late, when a later attempt is writing. A part
    /// that was prepared for the checkpoint, or before, is in it, for this subtask or for another one. The first attempt of a job
    /// that restores nothing refuses parts that are there.
    fn open(&mut self, restored: Option<Reopened<'_, FileTransaction>>) -> Result<(), UserError> {
        let directory = &self.directory;
        let of = restored.map(|restored| restored.checkpoint.0);
        let kept = |checkpoint: u64| of.is_some_and(|of| checkpoint <= of);
        fs::create_dir_all(directory).map_err(FileError::io("make", directory))?;
        for entry in fs::read_dir(directory).map_err(FileError::io("list", directory))? {
            let entry = entry.map_err(FileError::io("list", directory))?;
            let name = entry.file_name();
            let path = entry.path();
            match name.to_str().and_then(PartName::parse) {
                Some(PartName::Finished { subtask })
                    if subtask == self.subtask && self.attempt == 0 && of.is_none() =>
                {
                    return Err(FileError::Exists { path }.into());
                }
                Some(PartName::Hidden { subtask, attempt, checkpoint })
                    if subtask == self.subtask && attempt < self.attempt && !checkpoint.is_some_and(kept) =>
                {
                    fs::remove_file(&path).map_err(FileError::io("remove", &path))?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Appends the batch to the part being written, and writes it out to the system.
    fn write(&mut self, batch: &mut Vec<T>) -> Result<(), UserError> {
        let path = self.in_progress();
        let Self { lines, open, .. } = self;
        let written = lines.write(batch, |bytes| {
            let file = match open {
                Some(file) => file,
                None => open.insert(File::create(&path).map_err(FileError::io("make", &path))?),
            };
            file.write_all(bytes).map_err(FileError::io("write", &path))
        });
        Ok(written?)
    }

    /// Ends the part being written. Nothing is to be done only when nothing was written and every commit is durable.
    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<Option<Prepared<FileTransaction>>, UserError> {
        let part = match self.open.take() {
            None if self.unsynced.left().commits == self.commits => return Ok(None),
            None => None,
            Some(file) => {
                let part = PendingPart { subtask: self.subtask, attempt: self.attempt, checkpoint: checkpoint.0 };
                self.rename(&self.in_progress(), &self.directory.join(part.hidden_name()))?;
                self.unsynced.left().parts.push(file);
                Some(part)
            }
        };
        let (directory, commits, unsynced) = (self.directory.clone(), self.commits, self.unsynced.clone());
        let durable = move || unsynced.sync(&directory, commits).map_err(io::Error::other);
        Ok(Some(Prepared { transaction: FileTransaction { part }, durable: Box::new(durable) }))
    }

    /// Finishes a part; one that is finished already is fine.
    fn commit(&mut self, transaction: &FileTransaction) -> Result<(), UserError> {
        let Some(part) = &transaction.part else { return Ok(()) };
        let (pending, finished) = (self.directory.join(part.hidden_name()), self.directory.join(part.name()));
        let is_there = finished.try_exists().map_err(FileError::io("look for", &finished))?;
        match pending.try_exists().map_err(FileError::io("look for", &pending))? {
            false if is_there => {}
            false => {
                let source = io::Error::new(io::ErrorKind::NotFound, "it is neither pending nor finished");
                return Err(FileError::Io { action: "finish", path: finished, source }.into());
            }
            // What is written at the end of a stream belongs to no checkpoint; an attempt that starts over writes it again.
            true if is_there && part.checkpoint != END.0 => {
                return Err(FileError::Exists { path: finished }.into());
            }
            true => self.rename(&pending, &finished)?,
        }
        // Counted also when it was done before: that may have been a moment ago, by an attempt that died before it synced.
        self.commits += 1;
        Ok(())
    }
}

/// What the name of a file in the directory says.
#[derive(Debug, PartialEq, Eq)]
enum PartName {
    Finished {
        subtask: u32,
    },
    /// With the checkpoint it waits for, if it is not being written.
    Hidden {
        subtask: u32,
        attempt: u32,
        checkpoint: Option<u64>,
    },
}

impl PartName {
    fn parse(name: &str) -> Option<Self> {
        if let Some(rest) = name.strip_prefix("part-") {
            let (subtask, _) = rest.split_once('-').unwrap_or((rest, ""));
            return Some(Self::Finished { subtask: subtask.parse().ok()? });
        }
        let (subtask, rest) = name.strip_prefix(".part-")?.split_once('-')?;
        let (attempt, checkpoint) = match rest.strip_suffix(".inprogress") {
            Some(attempt) => (attempt, None),
            None => {
                let (checkpoint, attempt) = rest.strip_suffix(".pending")?.split_once('.')?;
                (attempt, Some(checkpoint.parse().ok()?))
            }
        };
        Some(Self::Hidden { subtask: subtask.parse().ok()?, attempt: attempt.parse().ok()?, checkpoint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory, and the attempts of subtask 0 that write into it.
    struct Parts {
        directory: tempfile::TempDir,
    }

    type Sink = TwoPhaseParts<u64>;

    fn reopened(transactions: &[FileTransaction]) -> Option<Reopened<'_, FileTransaction>> {
        let newest = transactions.iter().filter_map(|transaction| Some(transaction.part.as_ref()?.checkpoint)).max();
        newest.map(|newest| Reopened { checkpoint: CheckpointId(newest), transactions })
    }

    impl Parts {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn attempt(&self, subtask: u32, attempt: u32) -> Sink {
            let encode = |record: &u64, line: &mut Vec<u8>| line.extend_from_slice(record.to_string().as_bytes());
            TwoPhaseParts::of(&self.directory.path().join("out"), subtask, attempt, encode)
        }

        /// An attempt of subtask 0 that was opened with what the newest of these is in; with nothing, if there are none.
        fn open(&self, attempt: u32, restored: &[FileTransaction]) -> Sink {
            let mut sink = self.attempt(0, attempt);
            sink.open(reopened(restored)).unwrap();
            for transaction in restored {
                sink.commit(transaction).unwrap();
            }
            sink
        }

        /// Names and lines of all files, in order of name.
        fn files(&self) -> Vec<String> {
            let mut files: Vec<_> = fs::read_dir(self.directory.path().join("out"))
                .unwrap()
                .map(|entry| {
                    let entry = entry.unwrap();
                    let text = fs::read_to_string(entry.path()).unwrap();
                    format!("{}: {}", entry.file_name().to_str().unwrap(), text.trim_end().replace('\n', " "))
                })
                .collect();
            files.sort();
            files
        }
    }

    fn prepare(sink: &mut Sink, checkpoint: u64) -> FileTransaction {
        let prepared = sink.prepare(CheckpointId(checkpoint)).unwrap().unwrap();
        (prepared.durable)().unwrap();
        prepared.transaction
    }

    const NONE: [&str; 0] = [];

    /// At every point where an attempt can die: what it left, what the checkpoint that is restored has of it, and what is there
    /// once the next attempt is open.
    #[test]
    fn whatever_the_crash_each_record_of_a_complete_checkpoint_is_finished_once() {
        type Life = fn(&mut Sink) -> Vec<FileTransaction>;
        let table: [(&str, Life, &[&str], &[&str]); 7] = [
            ("before a write", |_| vec![], &NONE, &NONE),
            (
                "after a write",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    vec![]
                },
                &[".part-0-0.inprogress: 1 2"],
                &NONE,
            ),
            (
                "after the rename to pending, before the sync: checkpoint 1 is not complete",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    let _ = sink.prepare(CheckpointId(1)).unwrap().unwrap();
                    sink.write(&mut vec![3]).unwrap();
                    vec![]
                },
                &[".part-0-0.inprogress: 3", ".part-0-0000000001.0.pending: 1 2"],
                &NONE,
            ),
            (
                "after checkpoint 1 was complete, before the commit",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    let transaction = prepare(sink, 1);
                    sink.write(&mut vec![3]).unwrap();
                    vec![transaction]
                },
                &[".part-0-0.inprogress: 3", ".part-0-0000000001.0.pending: 1 2"],
                &["part-0-0000000001: 1 2"],
            ),
            (
                "after the commit",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    let transaction = prepare(sink, 1);
                    sink.commit(&transaction).unwrap();
                    vec![transaction]
                },
                &["part-0-0000000001: 1 2"],
                &["part-0-0000000001: 1 2"],
            ),
            (
                "after checkpoint 1 was aborted and 2 complete with both",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    // Aborted: what makes it durable is dropped.
                    let first = sink.prepare(CheckpointId(1)).unwrap().unwrap().transaction;
                    sink.write(&mut vec![3]).unwrap();
                    vec![first, prepare(sink, 2)]
                },
                &[".part-0-0000000001.0.pending: 1 2", ".part-0-0000000002.0.pending: 3"],
                &["part-0-0000000001: 1 2", "part-0-0000000002: 3"],
            ),
            (
                "after the commit of 1, with 2 pending and not complete",
                |sink| {
                    sink.write(&mut vec![1, 2]).unwrap();
                    let first = prepare(sink, 1);
                    sink.commit(&first).unwrap();
                    sink.write(&mut vec![3]).unwrap();
                    prepare(sink, 2);
                    vec![first]
                },
                &[".part-0-0000000002.0.pending: 3", "part-0-0000000001: 1 2"],
                &["part-0-0000000001: 1 2"],
            ),
        ];
        for (crash, life, left, expect) in table {
            let parts = Parts::new();
            let restored = life(&mut parts.open(0, &[]));
            assert_eq!(parts.files(), left, "{crash}");
            // The attempt that follows may die right after it was open: again and again the same.
            for attempt in 1..4 {
                parts.open(attempt, &restored);
                assert_eq!(parts.files(), expect, "{crash}, attempt {attempt}");
            }
        }
    }

    #[test]
    fn a_commit_can_be_repeated_and_a_lost_part_is_an_error() {
        let parts = Parts::new();
        let mut sink = parts.open(0, &[]);
        sink.write(&mut vec![7]).unwrap();
        let transaction = prepare(&mut sink, 3);
        for _ in 0..3 {
            sink.commit(&transaction).unwrap();
            assert_eq!(parts.files(), ["part-0-0000000003: 7"]);
        }
        // Any other subtask can do it, as after a rescale.
        parts.attempt(5, 0).commit(&transaction).unwrap();
        fs::remove_file(parts.directory.path().join("out/part-0-0000000003")).unwrap();
        let error = sink.commit(&transaction).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(FileError::Io { action: "finish", .. })), "{error}");
    }

    /// A command to deploy that comes late must not cost the attempt that runs its files; nor are other subtasks' files touched.
    #[test]
    fn files_of_living_attempts_and_of_others_are_kept() {
        let parts = Parts::new();
        let mut living = parts.open(2, &[]);
        living.write(&mut vec![1]).unwrap();
        prepare(&mut living, 4);
        living.write(&mut vec![2]).unwrap();
        let mut other = parts.attempt(1, 0);
        other.open(None).unwrap();
        other.write(&mut vec![9]).unwrap();
        fs::write(parts.directory.path().join("out/.part-0-note"), "somebody's").unwrap();
        let before = parts.files();
        assert_eq!(before.len(), 4);
        parts.open(1, &[]);
        assert_eq!(parts.files(), before);
        parts.open(3, &[]);
        assert_eq!(parts.files(), [".part-0-note: somebody's", ".part-1-0.inprogress: 9"]);
    }

    /// After a change of the parallelism another subtask may have to commit what this one prepared, and open later.
    #[test]
    fn parts_that_the_checkpoint_has_are_kept_for_whoever_commits_them() {
        let parts = Parts::new();
        let mut before = parts.open(0, &[]);
        before.write(&mut vec![1]).unwrap();
        let in_it = prepare(&mut before, 3);
        before.write(&mut vec![2]).unwrap();
        prepare(&mut before, 4);
        let nothing = Reopened { checkpoint: CheckpointId(3), transactions: &[] };
        parts.attempt(0, 1).open(Some(nothing)).unwrap();
        assert_eq!(parts.files(), [".part-0-0000000003.0.pending: 1"]);
        parts.attempt(1, 1).commit(&in_it).unwrap();
        assert_eq!(parts.files(), ["part-0-0000000003: 1"]);
    }

    /// Until a commit is durable it must be in the state of some checkpoint, and the next one must wait for its sync.
    #[test]
    fn a_commit_is_synced_with_the_next_checkpoint_also_when_nothing_was_written() {
        let parts = Parts::new();
        let mut sink = parts.open(0, &[]);
        assert!(sink.prepare(CheckpointId(1)).unwrap().is_none(), "nothing was ever written");
        sink.write(&mut vec![1]).unwrap();
        let first = prepare(&mut sink, 2);
        sink.commit(&first).unwrap();
        // Aborted before its sync: the one after it owes the same.
        assert!(sink.prepare(CheckpointId(3)).unwrap().is_some());
        let nothing = prepare(&mut sink, 4);
        sink.commit(&nothing).unwrap();
        assert!(sink.prepare(CheckpointId(5)).unwrap().is_none());
        assert_eq!(parts.files(), ["part-0-0000000002: 1"]);
    }

    #[test]
    fn after_a_sync_that_failed_no_checkpoint_is_believed() {
        let parts = Parts::new();
        let mut sink = parts.open(0, &[]);
        sink.write(&mut vec![1]).unwrap();
        let first = sink.prepare(CheckpointId(1)).unwrap().unwrap().durable;
        let (out, away) = (parts.directory.path().join("out"), parts.directory.path().join("away"));
        fs::rename(&out, &away).unwrap();
        first().unwrap_err();
        fs::rename(&away, &out).unwrap();
        sink.write(&mut vec![2]).unwrap();
        let second = sink.prepare(CheckpointId(2)).unwrap().unwrap().durable;
        second().unwrap_err();
    }

    #[test]
    fn a_fresh_job_refuses_parts_that_are_there() {
        let parts = Parts::new();
        let mut sink = parts.open(0, &[]);
        sink.write(&mut vec![1]).unwrap();
        let transaction = prepare(&mut sink, 1);
        sink.commit(&transaction).unwrap();
        let error = parts.attempt(0, 0).open(None).unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(FileError::Exists { .. })), "{error}");
        // Restored from a savepoint, or restarted, it is the same job.
        let nothing = Reopened { checkpoint: CheckpointId(1), transactions: &[] };
        for restored in [reopened(&[transaction]), Some(nothing)] {
            parts.attempt(0, 0).open(restored).unwrap();
        }
        parts.attempt(0, 1).open(None).unwrap();
    }

    /// Without checkpoints the end of the stream finishes all; an attempt that starts over writes over what the one before finished.
    #[test]
    fn the_end_of_a_stream_without_checkpoints_finishes_its_part() {
        let parts = Parts::new();
        for attempt in 0..2 {
            let mut sink = parts.open(attempt, &[]);
            sink.write(&mut vec![u64::from(attempt)]).unwrap();
            let all = prepare(&mut sink, END.0);
            sink.commit(&all).unwrap();
            assert_eq!(parts.files(), [format!("part-0-0000000000: {attempt}")]);
        }
    }
}
