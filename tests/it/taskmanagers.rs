//! TaskManagers that die, with their executors and without.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Submission, descendants, send_signal, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::{LIMIT, cluster};

/// TaskManager, attempt and state of every subtask.
pub(crate) fn subtasks(cluster: &Cluster, job: &Submission) -> Result<Vec<(String, u64, String)>> {
    let details = cluster.job(job)?;
    let vertices = details.get("vertices").and_then(Value::as_array).context("a job has vertices")?;
    let subtasks = vertices.iter().filter_map(|vertex| vertex.get("subtasks")?.as_array()).flatten();
    subtasks
        .map(|subtask| {
            let text = |key: &str| subtask.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let attempt = subtask.get("attempt").and_then(Value::as_u64).context("a subtask has an attempt")?;
            Ok((text("taskmanager-id"), attempt, text("status")))
        })
        .collect()
}

/// Waits until every subtask runs, after one restart.
fn wait_second_attempts(cluster: &Cluster, job: &Submission) -> Result<()> {
    wait_for("every task to run at attempt 1", LIMIT, || {
        let seen = subtasks(cluster, job)?;
        ensure!(seen.iter().all(|(_, attempt, state)| *attempt == 1 && state == "RUNNING"), "{seen:?}");
        Ok(())
    })
}

/// Whether a process runs, as opposed to one that is gone or waits for its parent to notice that it is.
fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The whole process tree of a TaskManager is gone at once: its tasks run again on the other one, which has room.
#[test]
fn tasks_of_a_killed_taskmanager_restart_on_the_other_one() -> Result<()> {
    // So long that only the answer of the dead executor's port can be what is noticed.
    let mut cluster = cluster().taskmanagers(2, 2).config("heartbeat.timeout", "10 min").start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let before = subtasks(&cluster, &job)?;
    let hosts: BTreeSet<&str> = before.iter().map(|(taskmanager, ..)| taskmanager.as_str()).collect();
    assert_eq!(hosts, BTreeSet::from(["tm-1", "tm-2"]), "{before:?}");

    let executors = descendants(cluster.taskmanager(0)?.pid());
    assert_eq!(executors.len(), 1);
    cluster.taskmanager(0)?.kill()?;
    executors.into_iter().try_for_each(|pid| send_signal(pid, Signal::KILL))?;
    let after = wait_for("every task to run on tm-2 at attempt 1", LIMIT, || {
        let seen = subtasks(&cluster, &job)?;
        let there = |(taskmanager, attempt, state): &(String, u64, String)| {
            taskmanager == "tm-2" && *attempt == 1 && state == "RUNNING"
        };
        ensure!(seen.iter().all(there), "{seen:?}");
        Ok(seen)
    })?;
    assert_eq!(after.len(), before.len());
    wait_for("the job to be RUNNING with one restart", LIMIT, || {
        let (state, restarts) = (cluster.job_state(&job)?, cluster.restarts(&job)?);
        ensure!(state == "RUNNING" && restarts == 1, "it is {state}, restarted {restarts} times");
        Ok(())
    })
}

/// A machine vanishes without a word: it answers nothing, so its connection breaks some time later. That does not begin the
/// wait of `heartbeat.timeout` anew.
#[test]
fn a_machine_that_vanishes_is_given_up_after_one_timeout() -> Result<()> {
    // Longer than it takes to notice that the connection is broken.
    let timeout = Duration::from_secs(7);
    let mut cluster = cluster().taskmanagers(2, 2).config("heartbeat.timeout", "7 s").start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let machine = cluster.executors_on(0).into_iter().chain([cluster.taskmanager(0)?.pid()]);
    let machine: Vec<u32> = machine.collect();
    assert_eq!(machine.len(), 2);
    machine.iter().try_for_each(|pid| send_signal(*pid, Signal::STOP))?;

    let mut said = |what: &str| {
        wait_for(what, LIMIT, || {
            let log = cluster.jobmanager(0)?.log();
            ensure!(log.contains(what), "{log}");
            Ok(Instant::now())
        })
    };
    let broken = said("connection of a TaskManager broke")?;
    let lost = said("TaskManager lost")?;
    wait_for("every task to run on tm-2 at attempt 1", LIMIT, || {
        let seen = subtasks(&cluster, &job)?;
        let there = |(taskmanager, attempt, state): &(String, u64, String)| {
            taskmanager == "tm-2" && *attempt == 1 && state == "RUNNING"
        };
        ensure!(seen.iter().all(there), "{seen:?}");
        Ok(())
    })?;
    // The wait had begun before the connection broke.
    assert!(lost - broken < timeout, "{:?}", lost - broken);
    machine.iter().try_for_each(|pid| send_signal(*pid, Signal::CONT))?;
    Ok(())
}

/// Executors outlive their TaskManager's process, and the next one adopts them: nobody notices.
#[test]
fn executors_of_a_killed_taskmanager_process_are_adopted_by_the_next() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 2).config("heartbeat.timeout", "30 s").start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let before = subtasks(&cluster, &job)?;
    let old = cluster.taskmanager(0)?.pid();
    let executors = descendants(old);
    assert_eq!(executors.len(), 1);

    cluster.taskmanager(0)?.kill()?;
    cluster.start_taskmanager(0)?;
    let new = u64::from(cluster.taskmanager(0)?.pid());
    wait_for("the new process to be registered", LIMIT, || {
        let known = cluster.rest("/v1/taskmanagers")?;
        let all = known.get("taskmanagers").and_then(Value::as_array).context("a list")?;
        ensure!(all.iter().any(|tm| tm.get("pid").and_then(Value::as_u64) == Some(new)), "{known}");
        Ok(())
    })?;
    assert!(executors.iter().all(|pid| runs(*pid)), "{executors:?}");
    assert_eq!(subtasks(&cluster, &job)?, before, "no attempt changed");
    assert_eq!((cluster.job_state(&job)?.as_str(), cluster.restarts(&job)?), ("RUNNING", 0));

    // Not below the new process, so they have to be ended here.
    cluster.run_cli(&["cancel", &job.job])?;
    wait_for("the adopted executor to end", LIMIT, || {
        ensure!(!executors.iter().any(|pid| runs(*pid)), "it runs");
        Ok(())
    })
}

/// Tasks whose code does not return are ended with their executor, so that they hold up neither a restart nor a cancel.
#[test]
fn tasks_that_ignore_being_cancelled_are_killed() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 1).config("task.cancellation.timeout", "1 s").start()?;
    let job = cluster.submit("stubborn", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let executors = cluster.executors_of(&job);
    let first = cluster.executors_on(0);
    assert_eq!((executors.len(), first.len()), (2, 1));
    for index in 0..2 {
        wait_for("code that does not return", LIMIT, || {
            let log = cluster.taskmanager(index)?.log();
            ensure!(log.contains("this does not return"), "{log}");
            Ok(())
        })?;
    }

    first.into_iter().try_for_each(|pid| send_signal(pid, Signal::KILL))?;
    wait_second_attempts(&cluster, &job)?;
    assert_eq!(cluster.restarts(&job)?, 1);
    assert!(!executors.iter().any(|pid| runs(*pid)), "{executors:?}");
    let log = cluster.jobmanager(0)?.log();
    let cause = "had not ended 1 s after it was cancelled (task.cancellation.timeout)";
    assert!(log.lines().any(|line| line.contains("executor lost") && line.contains(cause)), "{log}");

    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(&job, "CANCELED", LIMIT)?;
    let told = cluster.run_cli(&["exceptions", &job.job])?;
    assert!(told.matches("(task.cancellation.timeout)").count() >= 2, "of the restart and of the cancel: {told}");
    Ok(())
}

/// One executor dies: it is started again where it was, and the other one goes on being used.
#[test]
fn a_killed_executor_is_started_again() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 1).start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let (victims, others) = (descendants(cluster.taskmanager(0)?.pid()), descendants(cluster.taskmanager(1)?.pid()));
    victims.iter().try_for_each(|pid| send_signal(*pid, Signal::KILL))?;
    wait_second_attempts(&cluster, &job)?;
    let replaced = descendants(cluster.taskmanager(0)?.pid());
    assert!(replaced.len() == 1 && replaced != victims, "{replaced:?}");
    assert_eq!(descendants(cluster.taskmanager(1)?.pid()), others);
    Ok(())
}
