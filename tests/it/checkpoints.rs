//! State survives: what was counted is counted once, whatever is killed.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Submission, send_signal, verify_exactly_once, wait_for};
use rustix::process::Signal;

use crate::taskmanagers::subtasks;
use crate::{LIMIT, cluster};

const KEYS: u64 = 1000;

/// Starts the job whose output shows whether each record counted once. It runs until it is cancelled.
fn submit(cluster: &Cluster, out: &Path, options: &[&str]) -> Result<Submission> {
    submit_with(cluster, out, options, KEYS)
}

fn submit_with(cluster: &Cluster, out: &Path, options: &[&str], keys: u64) -> Result<Submission> {
    let out = out.display().to_string();
    let keys = keys.to_string();
    cluster.submit_with("exactly_once", 2, options, &["--keys", &keys, "--rate", "20000", "--out", &out])
}

/// Numbers of the checkpoints that some JobManager has completed, each once, in order.
fn completed(cluster: &mut Cluster) -> Result<Vec<u64>> {
    let mut numbers = logged(cluster, "checkpoint=")?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// What the JobManagers say of completed checkpoints in this field, in the order of each.
fn logged(cluster: &mut Cluster, field: &str) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for jobmanager in 0..cluster.jobmanager_count() {
        // One that was killed says nothing more.
        let Ok(process) = cluster.jobmanager(jobmanager) else { continue };
        let log = process.log();
        for line in log.lines().filter(|line| line.contains("checkpoint completed")) {
            let (_, rest) = line.split_once(field).with_context(|| line.to_owned())?;
            numbers.push(rest.split_whitespace().next().unwrap_or_default().parse()?);
        }
    }
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
    judge_keys(cluster, job, out, KEYS)
}

fn judge_keys(cluster: &mut Cluster, job: &Submission, out: &Path, keys: u64) -> Result<()> {
    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(job, "CANCELED", LIMIT)?;
    let counted = verify_exactly_once(out)?;
    ensure!(counted.keys.len() as u64 == keys, "{} keys", counted.keys.len());
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

/// Checkpoints that have what has changed: their bytes follow the change, what is restored is all there was, and the directory holds
/// what the newest needs and little more, though an executor dies in the middle of it.
#[test]
fn incremental_checkpoints_are_small_and_whole() -> Result<()> {
    const KEYS: u64 = 20_000;
    let mut cluster = cluster().taskmanagers(1, 2).start()?;
    let out = cluster.dir().join("out");
    let checkpoints = cluster.dir().join("checkpoints");
    let directory = format!("execution.checkpointing.dir={}", checkpoints.display());
    let (interval, incremental) =
        ("execution.checkpointing.interval=200ms", "execution.checkpointing.incremental=true");
    let options = ["-D", interval, "-D", incremental, "-D", &directory];
    let job = submit_with(&cluster, &out, &options, KEYS)?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    wait_for("checkpoints much smaller than others", LIMIT, || {
        let bytes = logged(&mut cluster, " bytes=")?;
        // One that has all keys, and then one that has what changes from one to the next, which is a fifth of them.
        let after = bytes.iter().skip_while(|bytes| **bytes < KEYS * 16);
        ensure!(after.clone().any(|bytes| *bytes < KEYS * 8), "{bytes:?}");
        Ok(())
    })?;
    kill_executor(&cluster)?;
    wait_restarts(&cluster, &job, 1)?;
    more(&mut cluster, 3)?;
    wait_for("files that nobody needs to be deleted", LIMIT, || {
        let names = |path: &Path| -> Result<Vec<String>> {
            std::fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().display().to_string())).collect()
        };
        let directory = checkpoints.join(&job.job);
        let (all, shared) = (names(&directory)?, names(&directory.join("shared"))?);
        // One is kept and one may be on its way; of each of two subtasks ten files at most, and one that is written.
        ensure!(all.len() <= 3 && shared.len() <= 22, "{all:?} {shared:?}");
        ensure!(!shared.iter().any(|name| name.contains("-0-0-1.")), "of the attempt before: {shared:?}");
        Ok(())
    })?;
    judge_keys(&mut cluster, &job, &out, KEYS)
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

/// Each subtask is a region. When the executor of one is killed, that one runs again from the newest checkpoint; the other one
/// stays at its first attempt, and what both have written is exact.
#[test]
fn a_region_starts_again_from_a_checkpoint_and_the_others_do_not_notice() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 1).start()?;
    let out = cluster.dir().join("out");
    let out_text = out.display().to_string();
    let options = ["-D", "execution.checkpointing.interval=200ms"];
    let args = ["--apart", "--keys", "2", "--rate", "20000", "--out", &out_text];
    let job = cluster.submit_with("exactly_once", 2, &options, &args)?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    more(&mut cluster, 2)?;
    for kill in 1..=2 {
        for pid in cluster.executors_on(1) {
            send_signal(pid, Signal::KILL)?;
        }
        wait_restarts(&cluster, &job, kill)?;
        let expect = |(taskmanager, attempt, state): &(String, u64, String)| {
            state == "RUNNING" && *attempt == if taskmanager == "tm-2" { kill } else { 0 }
        };
        // The job runs as long as one of its regions does.
        wait_for("the region to run again, and only that one", LIMIT, || {
            let seen = subtasks(&cluster, &job)?;
            ensure!(seen.len() == 2 && seen.iter().all(expect), "{seen:?}");
            Ok(())
        })?;
        more(&mut cluster, 2)?;
    }
    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(&job, "CANCELED", LIMIT)?;
    let counted = verify_exactly_once(&out)?;
    ensure!(counted.keys.len() == 2 && counted.indices.len() > 1000, "{:?}", counted.keys);
    Ok(())
}

/// Everything that is written has to be committed by a checkpoint, the last of it too: it is taken as soon as all inputs have ended,
/// however long the interval is. Killed and led anew meanwhile, the job still ends by itself with all of it, once.
#[test]
fn a_bounded_job_ends_with_a_last_checkpoint_and_all_of_its_output() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 2).start()?;
    let submit = |cluster: &Cluster, name: &str, interval: &str, count: u64, more: &[&str]| -> Result<_> {
        let (out, count) = (cluster.dir().join(name), count.to_string());
        let interval = format!("execution.checkpointing.interval={interval}");
        let args = ["--keys", "100", "--count", &count, "--out", &out.display().to_string()];
        let job = cluster.submit_with("exactly_once", 2, &["-D", &interval], &[&args[..], more].concat())?;
        Ok((job, out))
    };
    let ends = |cluster: &mut Cluster, job: &Submission, out: &Path, count: u64| -> Result<()> {
        cluster.wait_state(job, "FINISHED", LIMIT)?;
        let counted = verify_exactly_once(out)?;
        ensure!(counted.indices.len() as u64 == count && counted.hidden.is_empty(), "{:?}", counted.hidden);
        Ok(())
    };
    let (job, out) = submit(&cluster, "quick", "1h", 100_000, &[])?;
    ends(&mut cluster, &job, &out, 100_000)?;

    let (job, out) = submit(&cluster, "killed", "100ms", 60_000, &["--rate", "20000"])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    more(&mut cluster, 2)?;
    kill_executor(&cluster)?;
    let (leader, _) = cluster.leader(LIMIT)?;
    cluster.jobmanager(leader)?.kill()?;
    cluster.start_jobmanager(leader)?;
    ends(&mut cluster, &job, &out, 60_000)
}
