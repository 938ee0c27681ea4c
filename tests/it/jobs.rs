//! Jobs through their lives.

use std::fs;

use anyhow::{Context, Result, ensure};
use perennial_tests::wait_for;
use serde_json::Value;

use crate::{LIMIT, cluster};

/// A cancelled job ends CANCELED, its executors are gone and its slots are free.
#[test]
fn cancel_frees_slots_and_ends_executors() -> Result<()> {
    let mut cluster = cluster().taskmanagers(2, 1).start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let output = cluster.run_cli(&["cancel", &job.job])?;
    assert!(output.contains(&format!("Cancelled job {}.", job.job)), "{output}");
    cluster.wait_state(&job, "CANCELED", LIMIT)?;
    wait_for("executors to end and slots to be free", LIMIT, || {
        ensure!(cluster.executors().is_empty(), "executors run");
        let known = cluster.rest("/v1/taskmanagers")?;
        let all = known.get("taskmanagers").and_then(Value::as_array).context("a list")?;
        ensure!(all.iter().all(|tm| tm.get("freeSlots") == tm.get("slotsNumber")), "{known}");
        Ok(())
    })
}

/// A user's error fails the job with its message, in the job's REST answer and on the attached command line (exit code 8).
#[test]
fn a_users_error_is_what_the_user_sees() -> Result<()> {
    let cluster = cluster().start()?;
    let binary = cluster.binary().display().to_string();
    let output = cluster.cli(&["run", "--job-classname", "failing", &binary]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("record 100 is not welcome"), "{text}");
    Ok(())
}

/// A panic in user code fails its job with the panic's message; the TaskManager and another job go on.
#[test]
fn a_panic_fails_one_job_only() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 2).start()?;
    let bystander = cluster.submit("idle", 1, &[])?;
    cluster.wait_state(&bystander, "RUNNING", LIMIT)?;
    let binary = cluster.binary().display().to_string();
    let output = cluster.cli(&["run", "--job-classname", "failing", &binary, "--", "--how", "panic"]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{text}");
    assert!(text.contains("panicked"), "{text}");
    assert_eq!(cluster.job_state(&bystander)?, "RUNNING");
    Ok(())
}

/// What `print()` prints is in the TaskManager's log.
#[test]
fn printed_records_reach_the_taskmanagers_log() -> Result<()> {
    let mut cluster = cluster().start()?;
    let input = cluster.dir().join("input.txt");
    fs::write(&input, "perennial streams never run dry\n")?;
    let job = cluster.submit("wordcount", 1, &["--input", input.to_str().unwrap()])?;
    cluster.wait_state(&job, "FINISHED", LIMIT)?;
    wait_for("the words in the taskmanager's log", LIMIT, || {
        let log = cluster.taskmanager(0)?.log();
        ensure!(log.contains("perennial") && log.contains("streams"), "{log}");
        Ok(())
    })
}

/// Two jobs of one artifact run side by side, and both are listed, as a table and as JSON.
#[test]
fn listings_show_running_and_ended_jobs() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 2).start()?;
    let running = cluster.submit("idle", 1, &[])?;
    let ended = cluster.submit("trivial", 1, &[])?;
    cluster.wait_state(&running, "RUNNING", LIMIT)?;
    cluster.wait_state(&ended, "FINISHED", LIMIT)?;
    let table = cluster.run_cli(&["list", "-a"])?;
    assert!(table.contains(&running.job) && table.contains(&ended.job), "{table}");
    let table = cluster.run_cli(&["list"])?;
    assert!(table.contains(&running.job) && !table.contains(&ended.job), "{table}");
    let json: Value = serde_json::from_str(&cluster.run_cli(&["list", "-a", "-o", "json"])?)?;
    assert_eq!(json.as_array().context("a list of jobs")?.len(), 2, "{json}");
    Ok(())
}
