//! Application mode: a group of JobManagers that is there for one job.

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, verify_exactly_once, wait_for};
use serde_json::Value;

use crate::{LIMIT, cluster};

/// What REST says of the application's only job, when it is there.
fn only_job(cluster: &Cluster) -> Result<(String, String)> {
    let overview = cluster.rest("/v1/jobs/overview")?;
    let jobs = overview.get("jobs").and_then(Value::as_array).context("no jobs")?;
    ensure!(jobs.len() == 1, "{} jobs", jobs.len());
    let text = |key: &str| overview.pointer(&format!("/jobs/0/{key}")).and_then(Value::as_str).map(str::to_owned);
    Ok((text("jid").context("no jid")?, text("state").context("no state")?))
}

/// The leader dies in the middle, the job is not planned again and its output is exact; every member ends with the job and says
/// how. A member that is started again finds the end in its log and runs nothing, alone or with all others.
#[test]
fn an_application_runs_once_whoever_leads_and_its_cluster_ends_with_it() -> Result<()> {
    let out = std::env::temp_dir().join(format!("perennial-application-{}", std::process::id()));
    let out_text = out.display().to_string();
    let words = [
        "--job-classname=exactly_once",
        "--jars",
        env!("CARGO_BIN_EXE_perennial"),
        "--keys",
        "10",
        "--rate",
        "20000",
        "--count",
        "60000",
        "--out",
        &out_text,
    ];
    let builder = cluster().jobmanagers(3).taskmanagers(1, 1).config("execution.checkpointing.interval", "200ms");
    let mut cluster = builder.application(&words).start()?;
    let job = wait_for("the application's job to run", LIMIT, || {
        let (job, state) = only_job(&cluster)?;
        ensure!(state == "RUNNING", "it is {state}");
        Ok(job)
    })?;
    let (leader, _) = cluster.leader(LIMIT)?;
    let mut killed = cluster.take_jobmanager(leader)?;
    killed.kill()?;
    let members: Vec<usize> = (0..3).filter(|member| *member != leader).collect();
    for member in &members {
        let ended = cluster.jobmanager(*member)?.wait(LIMIT)?;
        let log = cluster.jobmanager(*member)?.log();
        ensure!(ended.code() == Some(0), "member {member} ended with {ended}:\n{log}");
        ensure!(log.contains(&format!("Job with JobID {job} ended FINISHED.")), "{log}");
    }
    let counted = verify_exactly_once(&out)?;
    ensure!(counted.indices.len() == 60_000, "{} records", counted.indices.len());
    let planned = |cluster: &mut Cluster, member: usize| -> Result<usize> {
        Ok(cluster.jobmanager(member)?.log().matches("the application's job is submitted").count())
    };
    let before = members.iter().map(|member| planned(&mut cluster, *member)).sum::<Result<usize>>()?;
    ensure!(before + killed.log().matches("the application's job is submitted").count() == 1, "it was planned twice");

    let alone = *members.first().context("two are left")?;
    cluster.start_jobmanager(alone)?;
    ensure!(cluster.jobmanager(alone)?.wait(LIMIT)?.code() == Some(0), "{}", cluster.jobmanager(alone)?.log());
    for member in 0..3 {
        cluster.start_jobmanager(member)?;
    }
    for member in 0..3 {
        let ended = cluster.jobmanager(member)?.wait(LIMIT)?;
        ensure!(ended.code() == Some(0), "member {member} ended with {ended}");
    }
    ensure!(verify_exactly_once(&out)?.indices.len() == 60_000, "nothing ran again");
    std::fs::remove_dir_all(&out)?;
    Ok(())
}

/// An application that cannot be planned ends its JobManager, with the builder's words.
#[test]
fn an_application_that_cannot_be_planned_ends_with_the_reason() -> Result<()> {
    let words = ["--job-classname", "no_such_job", "--jars", env!("CARGO_BIN_EXE_perennial")];
    let mut cluster = cluster().application(&words).prepare()?;
    cluster.start_jobmanager(0)?;
    let ended = cluster.jobmanager(0)?.wait(LIMIT)?;
    let log = cluster.jobmanager(0)?.log();
    ensure!(ended.code() == Some(1) && log.contains("has no job `no_such_job`"), "{ended}:\n{log}");
    Ok(())
}
