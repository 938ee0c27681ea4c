//! What has failed of a job, and what its restart strategy remembers of it.

use serde::{Deserialize, Serialize};

use crate::{ExecutionAttemptId, TaskManagerId};

/// Longest text of a failure that others may have followed from, in bytes.
const TEXT_BYTES_MAX: usize = 4096;

/// Longest text of one of the others.
const CONCURRENT_TEXT_BYTES_MAX: usize = 1024;

/// Failures kept of those that came with another one; the rest says nothing that these do not.
const CONCURRENT_MAX: usize = 8;

/// What kind of failure it was: the `exceptionName` of REST.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExceptionKind {
    /// A task's code returned an error or panicked, or what it read or restored makes no sense.
    TaskFailed,
    /// The process that ran the tasks ended by its own doing: an abort, a stack overflow, an exit.
    ExecutorFailed,
    /// The process that ran the tasks was ended, or it is not known how it ended.
    ExecutorLost,
    /// A TaskManager is gone, or did not come to a new leader.
    TaskManagerLost,
    /// Another executor of the job cannot be reached: the echo of a loss.
    ConnectionLost,
    /// A TaskManager could not do as it was told.
    DeploymentFailed,
    /// It concerns the job as a whole, such as missing slots.
    JobFailed,
}

impl ExceptionKind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::TaskFailed,
        Self::ExecutorFailed,
        Self::ExecutorLost,
        Self::TaskManagerLost,
        Self::ConnectionLost,
        Self::DeploymentFailed,
        Self::JobFailed,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskFailed => "TaskFailed",
            Self::ExecutorFailed => "ExecutorFailed",
            Self::ExecutorLost => "ExecutorLost",
            Self::TaskManagerLost => "TaskManagerLost",
            Self::ConnectionLost => "ConnectionLost",
            Self::DeploymentFailed => "DeploymentFailed",
            Self::JobFailed => "JobFailed",
        }
    }
}

/// The task a failure hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedTask {
    /// Which attempt.
    pub attempt: ExecutionAttemptId,
    /// Its name for people, as in Flink: `map (1/2) - execution #0`.
    pub name: String,
    /// Where it ran or was to run.
    pub taskmanager: Option<TaskManagerId>,
    /// Where its process listened for the others of the job, as `host:port`, while that was known.
    pub endpoint: Option<String>,
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobException {
    /// When it was noticed, in milliseconds of the Unix epoch.
    pub at_ms: u64,
    /// What kind.
    pub kind: ExceptionKind,
    /// What happened, with its causes; at most some kilobytes.
    pub text: String,
    /// The task; `None` when it concerns the job as a whole.
    pub task: Option<FailedTask>,
}

/// A failure that made tasks restart or ended the job, with those that came with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionEntry {
    /// Counts the entries of a job, from 0.
    pub number: u64,
    /// The first failure.
    pub root: JobException,
    /// Failures of other tasks that restarted or ended with it, in order; a few.
    pub concurrent: Vec<JobException>,
}

impl ExceptionEntry {
    /// An entry with one failure, whose text is cut to its bound.
    pub fn new(number: u64, mut root: JobException) -> Self {
        cut(&mut root.text, TEXT_BYTES_MAX);
        Self { number, root, concurrent: Vec::new() }
    }

    /// Adds a failure that came with the first. Returns false when enough are known.
    pub fn add(&mut self, mut more: JobException) -> bool {
        if self.concurrent.len() >= CONCURRENT_MAX {
            return false;
        }
        cut(&mut more.text, CONCURRENT_TEXT_BYTES_MAX);
        self.concurrent.push(more);
        true
    }
}

/// What a job's restart strategy remembers of failures: a new leader goes on with it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartMemory {
    /// Restarts it has granted.
    pub restarts: u32,
    /// Failures since the last long peace.
    pub in_a_row: u32,
    /// When the last failure came, in milliseconds of the Unix epoch.
    pub last_ms: Option<u64>,
    /// When what failed last may run again.
    pub restart_ms: Option<u64>,
    /// Times of the latest failures, oldest first, where the strategy asks for them.
    pub recent_ms: Vec<u64>,
}

/// All that is remembered of a job's failures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobExceptions {
    /// The newest entries, oldest first.
    pub entries: Vec<ExceptionEntry>,
    /// What the restart strategy remembers.
    pub memory: RestartMemory,
}

impl JobExceptions {
    /// Takes what is newer in `news`: entries replace those of their number, and the oldest above `kept` go.
    pub fn merge(&mut self, news: Self, kept: usize) {
        for entry in news.entries {
            match self.entries.iter_mut().find(|known| known.number == entry.number) {
                Some(known) => *known = entry,
                None => self.entries.push(entry),
            }
        }
        self.entries.sort_by_key(|entry| entry.number);
        self.entries.drain(..self.entries.len().saturating_sub(kept));
        self.memory = news.memory;
    }
}

/// Cuts a text to so many bytes, and says so. Its beginning says what happened; its end is the least of it.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.push_str("… (cut)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(text: &str) -> JobException {
        JobException { at_ms: 1, kind: ExceptionKind::TaskFailed, text: text.to_owned(), task: None }
    }

    #[test]
    fn texts_and_companions_are_bounded() {
        let long = "ä".repeat(TEXT_BYTES_MAX);
        let mut entry = ExceptionEntry::new(0, failure(&long));
        assert!(entry.root.text.len() < TEXT_BYTES_MAX + 20 && entry.root.text.ends_with("ä… (cut)"));
        for _ in 0..CONCURRENT_MAX {
            assert!(entry.add(failure(&long)));
        }
        assert!(!entry.add(failure("one more")));
        assert!(entry.concurrent.iter().all(|more| more.text.len() < CONCURRENT_TEXT_BYTES_MAX + 20));
    }

    #[test]
    fn news_replace_what_they_name_and_the_oldest_go() {
        let entry = |number, text| ExceptionEntry::new(number, failure(text));
        let mut known = JobExceptions { entries: vec![entry(3, "a"), entry(4, "b")], ..JobExceptions::default() };
        let memory = RestartMemory { restarts: 7, ..RestartMemory::default() };
        known.merge(JobExceptions { entries: vec![entry(4, "c"), entry(5, "d")], memory: memory.clone() }, 2);
        let texts: Vec<_> = known.entries.iter().map(|entry| (entry.number, entry.root.text.as_str())).collect();
        assert_eq!(texts, [(4, "c"), (5, "d")]);
        assert_eq!(known.memory, memory);
    }
}
