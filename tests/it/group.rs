//! The JobManager group: bootstrap, forwarding, restart.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::{LIMIT, cluster};

/// Index of the JobManager that leads, as member `asked` sees it.
pub(crate) fn leader(cluster: &Cluster, asked: usize) -> Result<usize> {
    let (status, body) = cluster.rest_of(asked, "/v1/cluster/members")?;
    ensure!(status == 200, "{status}: {body}");
    let view: Value = serde_json::from_str(&body)?;
    let id = view.get("leader").and_then(Value::as_u64).with_context(|| format!("no leader in {body}"))?;
    Ok(usize::try_from(id)? - 1)
}

/// Three JobManagers started in any order bootstrap one cluster; each of them takes a job, whoever leads.
#[test]
fn any_member_accepts_a_job_whatever_the_start_order() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 2).prepare()?;
    cluster.start_taskmanager(0)?;
    for index in [2, 0, 1] {
        cluster.start_jobmanager(index)?;
    }
    cluster.wait_ready()?;
    for index in 0..3 {
        wait_for("every member to know a leader", LIMIT, || leader(&cluster, index))?;
        let endpoint = cluster.endpoints().split(',').nth(index).unwrap().to_owned();
        let binary = cluster.binary().display().to_string();
        let line = ["--endpoints", &endpoint, "run", "--job-classname", "trivial", &binary];
        let output = cluster.run_cli(&line)?;
        assert!(output.contains("Program execution finished"), "{output}");
    }
    Ok(())
}

/// The leader is killed while a job runs: the next leader adopts it, no executor is touched and it can be cancelled.
#[test]
fn a_job_outlives_its_leader() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 1).start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let executors = cluster.executors();
    assert_eq!(executors.len(), 2);

    let old = leader(&cluster, 0)?;
    cluster.jobmanager(old)?.kill()?;
    let asked = (old + 1) % 3;
    let new = wait_for("another leader", LIMIT, || {
        let new = leader(&cluster, asked)?;
        ensure!(new != old, "it still names the dead one");
        Ok(new)
    })?;
    assert_ne!(new, old);
    let state = wait_for("the job to be RUNNING under the new leader", LIMIT, || {
        let (status, body) = cluster.rest_of(asked, &format!("/v1/jobs/{}", job.job))?;
        ensure!(status == 200, "{status}: {body}");
        let seen: Value = serde_json::from_str(&body)?;
        ensure!(seen.get("state").and_then(Value::as_str) == Some("RUNNING"), "{body}");
        Ok(seen)
    })?;
    assert_eq!(cluster.executors(), executors, "executors were replaced: {state}");

    let endpoint = cluster.endpoints().split(',').nth(asked).unwrap().to_owned();
    cluster.run_cli(&["--endpoints", &endpoint, "cancel", &job.job])?;
    wait_for("executors to end", LIMIT, || {
        let left = cluster.executors();
        ensure!(left.is_empty(), "{left:?} run");
        Ok(())
    })?;
    Ok(())
}

/// A single JobManager killed with `-9` finds its jobs again in its own directory.
#[test]
fn a_restarted_group_of_one_knows_its_jobs() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 1).start()?;
    let job = cluster.submit("trivial", 1, &[])?;
    cluster.wait_state(&job, "FINISHED", LIMIT)?;
    cluster.jobmanager(0)?.kill()?;
    cluster.start_jobmanager(0)?;
    wait_for("the job to be listed again", LIMIT, || {
        ensure!(cluster.job_state(&job)? == "FINISHED");
        Ok(())
    })
}

/// SIGTERM ends both roles with exit code 0, quickly.
#[test]
fn sigterm_ends_processes_cleanly() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 1).start()?;
    let limit = Duration::from_secs(10);
    cluster.taskmanager(0)?.signal(Signal::TERM)?;
    let status = cluster.taskmanager(0)?.wait(limit)?;
    assert!(status.success(), "taskmanager: {status}");
    let status = cluster.jobmanager(0)?.terminate(limit)?;
    assert!(status.success(), "jobmanager: {status}");
    Ok(())
}

/// A member without its quorum refuses what it cannot know and says what to do; what it last heard of it still tells,
/// with its age. So does the command line.
#[test]
fn a_member_cut_off_from_the_quorum_answers_only_stale_reads() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 1).start()?;
    let job = cluster.submit("idle", 1, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let kept = leader(&cluster, 0)?;
    for index in (0..3).filter(|index| *index != kept) {
        cluster.jobmanager(index)?.kill()?;
    }
    let paths = ["/v1/jobs".to_owned(), "/v1/jobs/overview".to_owned(), format!("/v1/jobs/{}", job.job)];
    for path in &paths {
        wait_for("reads to be refused", LIMIT, || {
            let (status, body) = cluster.rest_of(kept, path)?;
            ensure!(status == 503, "{status}: {body}");
            ensure!(body.contains("no leader") && body.contains("--stale"), "{body}");
            Ok(())
        })?;
        let (status, body) = cluster.rest_of(kept, &format!("{path}?stale=true"))?;
        let seen: Value = serde_json::from_str(&body)?;
        assert!(status == 200 && body.contains(&job.job), "{status}: {body}");
        assert!(seen["stale"] == true && seen["applied-index"].as_u64() > Some(0) && seen["age-ms"].is_u64(), "{body}");
    }
    let (status, body) = cluster.rest_of(kept, "/v1/cluster/members?stale=true")?;
    assert!(status == 200 && body.contains("\"age-ms\":"), "{status}: {body}");

    let listed = cluster.run_cli(&["list", "--stale"])?;
    assert!(listed.contains("stale: as jm-") && listed.contains(&job.job), "{listed}");
    let refused = cluster.cli(&["-Dclient.timeout=3s", "list"]).output()?;
    let stderr = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("no leader: 1 of 3 JobManagers reached, quorum is 2"), "{stderr}");
    assert!(stderr.contains("connection refused") && stderr.contains("--stale"), "{stderr}");
    let status = cluster.cli(&["status", "--wait-healthy", "1s"]).output()?;
    assert_eq!(status.status.code(), Some(7), "{}", String::from_utf8_lossy(&status.stderr));

    let back = (kept + 1) % 3;
    cluster.start_jobmanager(back)?;
    let healthy = cluster.run_cli(&["status", "--wait-healthy", "60s"])?;
    assert!(healthy.contains("healthy: jm-") && healthy.contains("not reached: 127.0.0.1:"), "{healthy}");
    Ok(())
}
