//! How user code dies, and what is remembered of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Submission, send_signal, verify_exactly_once, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::{LIMIT, cluster};

/// Entries of a job's exception history, newest first.
fn history(cluster: &Cluster, job: &Submission) -> Result<Vec<Value>> {
    let exceptions = cluster.exceptions(job)?;
    let entries = exceptions.get("exceptionHistory").and_then(|history| history.get("entries")?.as_array().cloned());
    entries.with_context(|| format!("no history: {exceptions}"))
}

fn text<'a>(entry: &'a Value, field: &str) -> &'a str {
    entry.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// Whatever user code does to itself, its task failed with the cause, and a job beside it on the same TaskManager does not
/// notice: its output is exact and it was never restarted.
#[test]
fn however_code_dies_its_cause_is_told_and_the_job_beside_it_does_not_notice() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 2).start()?;
    let out = cluster.dir().join("out");
    let out_text = out.display().to_string();
    let options = ["-D", "execution.checkpointing.interval=200ms"];
    let bystander_args = ["--keys", "100", "--rate", "5000", "--out", &out_text];
    let bystander = cluster.submit_with("exactly_once", 1, &options, &bystander_args)?;
    cluster.wait_state(&bystander, "RUNNING", LIMIT)?;

    for (how, name, causes) in [
        ("error", "TaskFailed", &["record 100 is not welcome"][..]),
        ("panic", "TaskFailed", &["panicked: record 100 is not welcome, at ", "failing.rs:"]),
        ("open", "TaskFailed", &["panicked: there is nowhere to write to"]),
        ("commit", "TaskFailed", &["panicked: transaction 1 cannot be committed"]),
        ("thread", "TaskFailed", &["the reading thread is gone", "nothing to read at number 100"]),
        ("abort", "ExecutorFailed", &["killed by signal 6 (SIGABRT: its code aborted"]),
        ("exit", "ExecutorFailed", &["exited with code 7 without being asked to"]),
        ("overflow", "ExecutorFailed", &["(SIGABRT: ", "has overflowed its stack"]),
        ("allocate", "ExecutorFailed", &["(SIGABRT: ", "memory allocation of 4611686018427387904 bytes failed"]),
    ] {
        let job = cluster.submit("failing", 1, &["--how", how])?;
        cluster.wait_state(&job, "FAILED", LIMIT)?;
        let entries = history(&cluster, &job)?;
        let newest = entries.first().with_context(|| format!("{how}: nothing is remembered"))?;
        ensure!(text(newest, "exceptionName") == name, "{how}: {newest}");
        ensure!(text(newest, "taskName").contains("(1/1) - execution #0"), "{how}: {newest}");
        ensure!(text(newest, "taskManagerId") == "tm-1", "{how}: {newest}");
        for cause in causes {
            ensure!(text(newest, "stacktrace").contains(cause), "{how}: `{cause}` is not in {newest}");
        }
    }
    let told = history(&cluster, &bystander)?;
    ensure!(told.is_empty() && cluster.restarts(&bystander)? == 0, "{told:?}");
    cluster.run_cli(&["cancel", &bystander.job])?;
    cluster.wait_state(&bystander, "CANCELED", LIMIT)?;
    ensure!(!verify_exactly_once(&out)?.indices.is_empty(), "the job beside it has written nothing");
    Ok(())
}

/// A process killed from outside is a loss: it runs again, and who did it is told as far as it can be known.
#[test]
fn a_kill_from_outside_is_told_apart_from_a_fault_of_the_code() -> Result<()> {
    let mut cluster = cluster().start()?;
    let job = cluster.submit("idle", 1, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    for pid in cluster.executors() {
        send_signal(pid, Signal::KILL)?;
    }
    wait_for("the loss to be told", LIMIT, || {
        let entries = history(&cluster, &job)?;
        let newest = entries.first().context("nothing yet")?;
        let cause =
            "killed by signal 9 (SIGKILL, from outside: the kernel's OOM killer has ended no process meanwhile)";
        ensure!(text(newest, "exceptionName") == "ExecutorLost", "{newest}");
        ensure!(text(newest, "stacktrace").contains(cause), "{newest}");
        Ok(())
    })?;
    wait_for("the job to run again", LIMIT, || {
        ensure!(cluster.job_state(&job)? == "RUNNING" && cluster.restarts(&job)? == 1, "it does not");
        Ok(())
    })?;
    let listed = cluster.run_cli(&["list"])?;
    ensure!(listed.contains("restarted 1 times"), "{listed}");
    let told = cluster.run_cli(&["exceptions", &job.job])?;
    ensure!(told.contains("ExecutorLost") && told.contains("on tm-1"), "{told}");
    Ok(())
}

/// The leader is killed while a job fails again and again. The next one has what was remembered, and grants no more attempts
/// than are left; when it is killed too, the one after it still tells why the job has ended.
#[test]
fn attempts_and_causes_survive_the_leaders() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).start()?;
    let options = [
        "-D",
        "restart-strategy.type=fixed-delay",
        "-D",
        "restart-strategy.fixed-delay.attempts=3",
        "-D",
        "restart-strategy.fixed-delay.delay=1s",
    ];
    let job = cluster.submit_with("failing", 1, &options, &[])?;
    wait_for("the first failure", LIMIT, || {
        ensure!(!history(&cluster, &job)?.is_empty(), "none is remembered");
        Ok(())
    })?;
    let (leader, _) = cluster.leader(LIMIT)?;
    cluster.jobmanager(leader)?.kill()?;
    cluster.forget_jobmanager(leader)?;
    cluster.wait_state(&job, "FAILED", LIMIT)?;
    let entries = history(&cluster, &job)?;
    let attempts: Vec<&str> = entries.iter().map(|entry| text(entry, "taskName")).collect();
    let expect: Vec<bool> = (0..4).rev().zip(&attempts).map(|(n, task)| task.ends_with(&format!("#{n}"))).collect();
    ensure!(entries.len() == 4 && expect.iter().all(|right| *right), "{attempts:?}");
    let last = text(entries.first().context("four entries")?, "stacktrace").to_owned();
    ensure!(last.contains("FixedDelayRestartBackoffTimeStrategy(maxNumberRestartAttempts=3"), "{last}");

    cluster.start_jobmanager(leader)?;
    cluster.wait_ready()?;
    let (second, _) = cluster.leader(LIMIT)?;
    cluster.jobmanager(second)?.kill()?;
    cluster.forget_jobmanager(second)?;
    let remembered = wait_for("the history at the third leader", Duration::from_secs(30), || history(&cluster, &job))?;
    ensure!(remembered == entries, "{remembered:?}");
    Ok(())
}
