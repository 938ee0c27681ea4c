//! The product under measurement.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use perennial_tests::{Cluster, ClusterBuilder, Submission};

use crate::comparison::{Comparison, Deployment};
use crate::measure::Subject;
use crate::program::{Directory, Program};

/// Slots, and so subtasks of every vertex: as many as the limits have producing threads.
const SLOTS: u32 = 2;
/// Longest time from submission to RUNNING.
const SUBMIT_LIMIT: Duration = Duration::from_secs(30);

/// Starts a workload as the product runs it. `binary` finds the `perennial` of the cluster, for those that need one.
pub(crate) fn start(comparison: &Comparison, binary: impl FnOnce() -> Result<PathBuf>) -> Result<Box<dyn Subject>> {
    let keys = comparison.keys.to_string();
    match comparison.deployment {
        Deployment::Local => Ok(Box::new(Program::start(|command, counters| {
            command
                .args([
                    "job",
                    "--job-classname",
                    comparison.job,
                    "-p",
                    &SLOTS.to_string(),
                    "--",
                    "--keys",
                    &keys,
                    "--counters",
                ])
                .arg(counters);
        })?)),
        Deployment::TwoExecutors => Ok(Box::new(ClusterJob::start(comparison.job, &keys, &binary()?)?)),
    }
}

/// A job on a real cluster with as many TaskManagers as there are slots, so that every slot is an executor of its own.
struct ClusterJob {
    cluster: Cluster,
    submission: Submission,
    // After the cluster, whose executors write there until they are gone.
    directory: Directory,
}

impl ClusterJob {
    fn start(job: &str, keys: &str, binary: &Path) -> Result<Self> {
        let directory = Directory::new()?;
        let mut cluster = ClusterBuilder::new(binary).taskmanagers(SLOTS as usize, 1).start()?;
        let counters = directory.counters().display().to_string();
        let artifact = std::env::current_exe()?;
        let arguments = ["--keys", keys, "--counters", &counters];
        let submission = cluster.submit_artifact(&artifact, job, SLOTS, &arguments)?;
        cluster.wait_state(&submission, "RUNNING", SUBMIT_LIMIT)?;
        Ok(Self { cluster, submission, directory })
    }
}

impl Subject for ClusterJob {
    fn pids(&self) -> Vec<u32> {
        self.cluster.processes().map(|process| process.pid()).chain(self.cluster.executors()).collect()
    }

    fn counters(&self) -> &Path {
        self.directory.counters()
    }

    fn check_alive(&mut self) -> Result<()> {
        self.cluster.check_alive()?;
        let state = self.cluster.job_state(&self.submission)?;
        ensure!(state == "RUNNING", "the job is {state}: {}", self.cluster.job(&self.submission)?);
        Ok(())
    }
}
