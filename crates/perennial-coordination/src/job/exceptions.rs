//! The job's exception history: what failed, what failed with it, and what of this is not in the log yet.
//!
//! As in Flink, an entry begins with the failure that made tasks restart, or that ended the job. Failures of tasks that are
//! restarting or ending already are added to it: mostly they are its echo. What is new goes into the log with the next entry there
//! is about the job anyway, which is the one that says that it restarts, is placed again, or has ended.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_types::{ExceptionEntry, ExceptionKind, ExecutionAttemptId, FailedTask, JobException, JobExceptions};

use super::{Job, Phase, Stage};
use crate::restart_strategy::FailureKind;

/// Entries kept when nobody says how many: Flink's `web.exception-history-size`.
const KEPT: usize = 16;

/// The newest failures of a job.
#[derive(Debug)]
pub(super) struct Exceptions {
    /// Oldest first. Shared with those who show it.
    entries: Arc<Vec<ExceptionEntry>>,
    /// At which revision each entry changed last, by its number.
    changed: BTreeMap<u64, u64>,
    /// Counts changes.
    revision: u64,
    /// Number of the next entry.
    next: u64,
    kept: usize,
    /// The entry of what ended, or ends, the job.
    ending: Option<u64>,
}

impl Exceptions {
    pub(super) fn new() -> Self {
        Self { entries: Arc::default(), changed: BTreeMap::new(), revision: 0, next: 0, kept: KEPT, ending: None }
    }

    /// What an earlier leader has recorded.
    fn recover(entries: Vec<ExceptionEntry>, kept: usize) -> Self {
        let next = entries.last().map_or(0, |newest| newest.number + 1);
        Self { entries: Arc::new(entries), next, kept, ..Self::new() }
    }

    /// Begins an entry and gives its number.
    fn open(&mut self, root: JobException) -> u64 {
        let number = self.next;
        self.next += 1;
        let entries = Arc::make_mut(&mut self.entries);
        entries.push(ExceptionEntry::new(number, root));
        let surplus = entries.len().saturating_sub(self.kept.max(1));
        for old in entries.drain(..surplus) {
            self.changed.remove(&old.number);
        }
        self.touch(number);
        number
    }

    /// Adds to an entry, unless it is forgotten or has enough.
    fn add(&mut self, number: u64, more: JobException) {
        let entries = Arc::make_mut(&mut self.entries);
        if entries.iter_mut().find(|entry| entry.number == number).is_some_and(|entry| entry.add(more)) {
            self.touch(number);
        }
    }

    fn touch(&mut self, number: u64) {
        self.revision += 1;
        self.changed.insert(number, self.revision);
    }
}

/// Something that failed, before it is decided what follows.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) cause: String,
    what: ExceptionKind,
    /// What the restart strategy is asked about.
    pub(super) kind: FailureKind,
    /// The tasks it hit, with where they were.
    tasks: Vec<FailedTask>,
}

impl Failure {
    /// As entries of the history: the first task, then the others.
    fn exceptions(&self, text: &str, at_ms: u64) -> impl Iterator<Item = JobException> {
        let tasks: Vec<Option<FailedTask>> = match self.tasks.as_slice() {
            [] => vec![None],
            tasks => tasks.iter().cloned().map(Some).collect(),
        };
        let (kind, text) = (self.what, text.to_owned());
        tasks.into_iter().map(move |task| JobException { at_ms, kind, text: text.clone(), task })
    }
}

impl Job {
    /// Goes on with the history an earlier leader has recorded; so many entries are kept.
    pub fn with_exceptions(mut self, recorded: Vec<ExceptionEntry>, kept: usize) -> Self {
        self.exceptions = Exceptions::recover(recorded, kept);
        self
    }

    /// What has failed, oldest first.
    pub fn exceptions(&self) -> &Arc<Vec<ExceptionEntry>> {
        &self.exceptions.entries
    }

    /// Counts changes of the history, for [`Job::exceptions_since`].
    pub fn exceptions_revision(&self) -> u64 {
        self.exceptions.revision
    }

    /// Entries that are not in the history of that revision, or have changed since, and what the restart strategy remembers.
    pub fn exceptions_since(&self, revision: u64) -> JobExceptions {
        let Exceptions { entries, changed, .. } = &self.exceptions;
        let is_news = |entry: &&ExceptionEntry| changed.get(&entry.number).is_some_and(|at| *at > revision);
        JobExceptions { entries: entries.iter().filter(is_news).cloned().collect(), memory: self.strategy.memory() }
    }

    /// A failure of these tasks, described while it is known where they are.
    pub(super) fn describe_failure(&self, what: ExceptionKind, cause: String, tasks: &[ExecutionAttemptId]) -> Failure {
        let kind = match what {
            ExceptionKind::TaskFailed | ExceptionKind::ExecutorFailed | ExceptionKind::JobFailed => FailureKind::Task,
            // What never ran fails the job at once, so that whoever submitted it sees why. Later it is one of the things
            // that happen to machines.
            ExceptionKind::DeploymentFailed if !self.has_run => FailureKind::Task,
            ExceptionKind::DeploymentFailed
            | ExceptionKind::ExecutorLost
            | ExceptionKind::TaskManagerLost
            | ExceptionKind::ConnectionLost => FailureKind::Loss,
        };
        Failure { cause, what, kind, tasks: tasks.iter().map(|attempt| self.failed_task(*attempt)).collect() }
    }

    fn failed_task(&self, attempt: ExecutionAttemptId) -> FailedTask {
        let taskmanager = self.executions.get(attempt).and_then(|execution| execution.assignment());
        let taskmanager = taskmanager.map(|at| at.taskmanager.clone());
        let endpoint = match taskmanager.as_ref().and_then(|at| self.stage(at)) {
            Some(Stage::Ready { data_address }) => Some(data_address.clone()),
            _ => None,
        };
        FailedTask { attempt, name: self.executions.name_of(attempt), taskmanager, endpoint }
    }

    /// Begins an entry; `text` says how it goes on where that is the end of the job.
    pub(super) fn open_exception(&mut self, failure: &Failure, text: &str, at_ms: u64) -> u64 {
        let mut exceptions = failure.exceptions(text, at_ms);
        let Some(root) = exceptions.next() else { return self.exceptions.next };
        let number = self.exceptions.open(root);
        exceptions.for_each(|more| self.exceptions.add(number, more));
        number
    }

    /// Something failed that restarts already, with the failure of this entry.
    pub(super) fn add_exception(&mut self, number: u64, failure: &Failure, at_ms: u64) {
        for more in failure.exceptions(&failure.cause, at_ms) {
            self.exceptions.add(number, more);
        }
    }

    /// Whether the history has a failure of the attempts at which these regions are.
    pub(super) fn is_recorded(&self, regions: &[usize]) -> bool {
        let entries = self.exceptions.entries.iter();
        let failed = entries.flat_map(|entry| std::iter::once(&entry.root).chain(&entry.concurrent));
        let failed = failed.filter_map(|exception| Some(exception.task.as_ref()?.attempt));
        // The tasks of a region get their attempts together.
        let current = failed.filter(|attempt| self.executions.get(*attempt).is_some());
        let recorded: BTreeSet<usize> = current.filter_map(|attempt| self.region_of(attempt)).collect();
        regions.iter().all(|region| recorded.contains(region))
    }

    /// The job ends with the failure of this entry.
    pub(super) fn end_with_exception(&mut self, number: u64) {
        self.exceptions.ending = Some(number);
    }

    /// Something failed while the job ends: it comes with what ends the job, or is the first thing of a cancelled one that does.
    pub(super) fn note_ending_exception(&mut self, failure: &Failure, at_ms: u64) {
        if !matches!(self.phase, Phase::Ending { .. }) {
            return;
        }
        match self.exceptions.ending {
            Some(number) => self.add_exception(number, failure, at_ms),
            None => self.exceptions.ending = Some(self.open_exception(failure, &failure.cause, at_ms)),
        }
    }
}
