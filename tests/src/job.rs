//! Jobs as a user submits and follows them.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Cluster, wait_for};

/// A submitted job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submission {
    /// Its id, 32 hexadecimal digits.
    pub job: String,
}

impl Cluster {
    /// `perennial run -d` of one of the sample jobs.
    pub fn submit(&self, job_name: &str, parallelism: u32, args: &[&str]) -> Result<Submission> {
        self.submit_artifact(self.binary(), job_name, parallelism, args)
    }

    /// The same with flags of `run`, such as `-D key=value`.
    pub fn submit_with(&self, job_name: &str, parallelism: u32, flags: &[&str], args: &[&str]) -> Result<Submission> {
        self.run_detached(self.binary(), job_name, parallelism, flags, args)
    }

    /// `perennial run -d` of a job of any artifact.
    pub fn submit_artifact(
        &self,
        artifact: &Path,
        job_name: &str,
        parallelism: u32,
        args: &[&str],
    ) -> Result<Submission> {
        self.run_detached(artifact, job_name, parallelism, &[], args)
    }

    fn run_detached(
        &self,
        artifact: &Path,
        job_name: &str,
        parallelism: u32,
        flags: &[&str],
        args: &[&str],
    ) -> Result<Submission> {
        let artifact = artifact.display().to_string();
        let parallelism = parallelism.to_string();
        let mut line = vec!["run", "-d", "-p", &parallelism, "--job-classname", job_name];
        line.extend(flags);
        line.extend([artifact.as_str(), "--"]);
        line.extend(args);
        let output = self.run_cli(&line)?;
        let job = output.split_once("JobID ").and_then(|(_, rest)| rest.split_whitespace().next());
        Ok(Submission { job: job.with_context(|| format!("no JobID in: {output}"))?.to_owned() })
    }

    /// Flink's JSON of one job.
    pub fn job(&self, submission: &Submission) -> Result<Value> {
        self.rest(&format!("/v1/jobs/{}", submission.job))
    }

    /// State of a job, such as `RUNNING`.
    pub fn job_state(&self, submission: &Submission) -> Result<String> {
        let job = self.job(submission)?;
        Ok(job.get("state").and_then(Value::as_str).context("a job has a state")?.to_owned())
    }

    /// Flink's JSON of what has failed of one job.
    pub fn exceptions(&self, submission: &Submission) -> Result<Value> {
        self.rest(&format!("/v1/jobs/{}/exceptions", submission.job))
    }

    /// Waits until the job is in the state; fails at once when it ends in another.
    pub fn wait_state(&mut self, submission: &Submission, state: &str, limit: Duration) -> Result<()> {
        let reached = wait_for(&format!("job {} to be {state}", submission.job), limit, || {
            self.check_alive()?;
            let seen = self.job_state(submission)?;
            if ["FINISHED", "CANCELED", "FAILED"].contains(&seen.as_str()) {
                return Ok(seen);
            }
            ensure!(seen == state, "it is {seen}");
            Ok(seen)
        })?;
        if reached != state {
            bail!("job {} is {reached}, not {state}: {}", submission.job, self.job(submission)?);
        }
        Ok(())
    }
}
