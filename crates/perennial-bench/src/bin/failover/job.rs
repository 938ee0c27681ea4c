//! The job that must not notice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_rpc::dispatcher::{DispatcherClient, DispatcherGateway, JobDetails};
use perennial_tests::{Report, Submission, wait_for};
use perennial_types::{ExecutionState, JobId, JobStatus};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::product::Product;
use crate::track::Tracks;

/// Records per second of the job, over all subtasks.
pub(crate) const RATE: u64 = 50_000;

/// Subtasks of each stage: one on each TaskManager.
pub(crate) const PARALLELISM: u32 = 2;

/// Longest wait for the job to be in a state.
const STATE_LIMIT: Duration = Duration::from_secs(60);

/// A running `gap_probe`.
pub(crate) struct ProbedJob {
    submission: Submission,
    id: JobId,
    tasks: Tasks,
    changes: Changes,
    probes: TempDir,
}

/// Which attempts run, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tasks {
    restarts: u32,
    /// Attempt and start of each subtask, by vertex and number.
    executions: BTreeMap<(String, u32), (u32, Option<u64>)>,
    /// Process ids.
    executors: BTreeSet<u32>,
}

/// What should not have changed, summed up over a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    restarts: u32,
    attempts: usize,
    starts: usize,
    executors: usize,
}

impl ProbedJob {
    /// Submits the job and waits until all its tasks run.
    pub(crate) fn start(runtime: &Runtime, product: &mut Product, leader: usize) -> Result<Self> {
        // In memory where there is such a place: a probe must not wait for the disk that JobManagers sync.
        let memory = Path::new("/dev/shm");
        let place = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
        let probes = tempfile::Builder::new().prefix("perennial-bench-probes-").tempdir_in(place)?;
        let directory = probes.path().display().to_string();
        let arguments = ["--probes", &directory, "--rate", &RATE.to_string()];
        let submission = product.cluster().submit("gap_probe", PARALLELISM, &arguments)?;
        let id: JobId = submission.job.parse()?;
        let tasks = running(runtime, product, leader, id)?;
        Ok(Self { submission, id, tasks, changes: Changes::default(), probes })
    }

    /// Looks at the job through this leader, and counts what is not as it was when last looked at.
    pub(crate) fn look(&mut self, runtime: &Runtime, product: &mut Product, leader: usize) -> Result<()> {
        let tasks = running(runtime, product, leader, self.id)?;
        self.changes.add(&self.tasks, &tasks);
        self.tasks = tasks;
        Ok(())
    }

    /// Cancels the job; its probes then have written everything.
    pub(crate) fn finish(self, product: &mut Product) -> Result<(Changes, Tracks)> {
        let cluster = product.cluster();
        cluster.run_cli(&["cancel", &self.submission.job])?;
        cluster.wait_state(&self.submission, "CANCELED", STATE_LIMIT)?;
        Ok((self.changes, Tracks::read(self.probes.path())?))
    }
}

/// The job's tasks, once all of them run.
fn running(runtime: &Runtime, product: &mut Product, leader: usize, id: JobId) -> Result<Tasks> {
    let client = product.client(leader)?;
    let details = wait_for("all tasks to run", STATE_LIMIT, || {
        let details = details(runtime, &client, id)?;
        let status = details.summary.status;
        ensure!(status == JobStatus::Running, "the job is {status}: {}", details.summary.failure);
        let all = details.executions.iter().all(|execution| execution.state == ExecutionState::Running);
        ensure!(all && !details.executions.is_empty(), "some do not: {:?}", details.summary.tasks);
        Ok(details)
    })?;
    let executions = details.executions.into_iter();
    Ok(Tasks {
        restarts: details.summary.restarts,
        executions: executions
            .map(|task| ((task.vertex.to_string(), task.subtask), (task.attempt, task.start_ms)))
            .collect(),
        executors: product.cluster().executors().into_iter().collect(),
    })
}

fn details(runtime: &Runtime, client: &DispatcherClient, id: JobId) -> Result<JobDetails> {
    runtime.block_on(client.job(id))?.with_context(|| format!("job {id} is not known"))
}

impl Changes {
    fn add(&mut self, before: &Tasks, after: &Tasks) {
        let was = |key| before.executions.get(key).copied().unwrap_or_default();
        self.restarts += after.restarts.abs_diff(before.restarts);
        self.attempts += after.executions.iter().filter(|(key, now)| was(key).0 != now.0).count();
        self.starts += after.executions.iter().filter(|(key, now)| was(key).1 != now.1).count();
        self.executors += before.executors.difference(&after.executors).count();
    }

    /// Adds a row for each, whose bar is zero.
    pub(crate) fn report(self, report: &mut Report) {
        let rows = [
            ("job restarts", self.restarts as usize),
            ("attempts changed", self.attempts),
            ("start times of subtasks changed", self.starts),
            ("executors restarted", self.executors),
        ];
        for (what, seen) in rows {
            report.row(what, "0", seen.to_string(), seen == 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tasks(restarts: u32, executions: &[(u32, u32, u64)], executors: &[u32]) -> Tasks {
        let executions =
            executions.iter().map(|(subtask, attempt, start)| (("map".to_owned(), *subtask), (*attempt, Some(*start))));
        Tasks { restarts, executions: executions.collect(), executors: executors.iter().copied().collect() }
    }

    #[test]
    fn changes_are_counted_and_summed_up() {
        let before = tasks(0, &[(0, 0, 7), (1, 0, 8)], &[100, 200]);
        let mut changes = Changes::default();
        changes.add(&before, &before);
        assert_eq!(changes, Changes::default());
        let after = tasks(1, &[(0, 1, 9), (1, 0, 9)], &[100, 300]);
        changes.add(&before, &after);
        assert_eq!(changes, Changes { restarts: 1, attempts: 1, starts: 2, executors: 1 });
        changes.add(&after, &before);
        assert_eq!(changes, Changes { restarts: 2, attempts: 2, starts: 4, executors: 2 });
    }
}
