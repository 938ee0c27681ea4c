//! State survives: what was counted is counted once, whatever is killed.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Submission, send_signal, verify_exactly_once, wait_for};
use rustix::process::Signal;

use crate::{LIMIT, cluster};

const KEYS: u64 = 1000;

/// Starts the job whose output shows whether each record counted once. It runs until it is cancelled.
fn submit(cluster: &Cluster, out: &Path, options: &[&str]) -> Result<Submission> {
    let out = out.display().to_string();
    let keys = KEYS.to_string();
    cluster.submit_with("exactly_once", 2, options, &["--keys", &keys, "--rate", "20000", "--out", &out])
}

/// Numbers of the checkpoints that some JobManager has completed, each once, in order.
fn completed(cluster: &mut Cluster) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for jobmanager in 0..cluster.jobmanager_count() {
        // One that was killed says nothing more.
        let Ok(process) = cluster.jobmanager(jobmanager) else { continue };
        let log = process.log();
        for line in log.lines().filter(|line| line.contains("checkpoint completed")) {
            let (_, rest) = line.split_once("checkpoint=").with_context(|| line.to_owned())?;
            numbers.push(rest.split_whitespace().next().unwrap_or_default().parse()?);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Waits until `count` more checkpoints are completed.
fn more(cluster: &mut Cluster, count: usize) -> Result<()> {
    let before = completed(cluster)?.len();
    wait_for("more checkpoints", LIMIT, || {
        let numbers = completed(cluster)?;
        ensure!(numbers.len() >= before + count, "{numbers:?}");
        Ok(())
    })
}

fn kill_executor(cluster: &Cluster) -> Result<()> {
    let executor = *cluster.executors().first().context("an executor runs")?;
    send_signal(executor, Signal::KILL)
}

fn wait_restarts(cluster: &Cluster, job: &Submission, count: u64) -> Result<()> {
    wait_for("the job to be RUNNING again", LIMIT, || {
        let (state, restarts) = (cluster.job_state(job)?, cluster.restarts(job)?);
        ensure!(state == "RUNNING" && restarts == count, "it is {state}, restarted {restarts} times");
        Ok(())
    })
}

/// Cancels the job and judges what it has finished.
fn judge(cluster: &mut Cluster, job: &Submission, out: &Path) -> Result<()> {
    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(job, "CANCELED", LIMIT)?;
    let counted = verify_exactly_once(out)?;
    ensure!(counted.keys.len() as u64 == KEYS, "{} keys", counted.keys.len());
    let numbers = completed(cluster)?;
    ensure!(numbers.windows(2).all(|pair| pair.first() < pair.last()), "a number was used twice: {numbers:?}");
    Ok(())
}

/// The executor is killed, its tasks run again from the newest checkpoint, and of all that is finished every count of every key
/// is there once.
#[test]
fn an_executor_that_is_killed_loses_and_repeats_nothing() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 2).start()?;
    let out = cluster.dir().join("out");
    let job = submit(&cluster, &out, &["-D", "execution.checkpointing.interval=200ms"])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    more(&mut cluster, 2)?;
    for kill in 1..=2 {
        kill_executor(&cluster)?;
        wait_restarts(&cluster, &job, kill)?;
        more(&mut cluster, 2)?;
    }
    judge(&mut cluster, &job, &out)
}

/// The leader is killed between checkpoints and the tasks do not notice; the next leader goes on with the numbers, and an executor
/// that is killed later goes on from a checkpoint of either.
#[test]
fn checkpoints_go_on_under_the_next_leader() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 2).start()?;
    let out = cluster.dir().join("out");
    let job = submit(&cluster, &out, &["-D", "execution.checkpointing.interval=200ms"])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    more(&mut cluster, 2)?;
    for _ in 0..2 {
        let (leader, _) = cluster.leader(LIMIT)?;
        cluster.jobmanager(leader)?.kill()?;
        more(&mut cluster, 2)?;
        wait_restarts(&cluster, &job, 0)?;
        cluster.start_jobmanager(leader)?;
        cluster.wait_ready()?;
    }
    kill_executor(&cluster)?;
    wait_restarts(&cluster, &job, 1)?;
    more(&mut cluster, 2)?;
    judge(&mut cluster, &job, &out)
}
