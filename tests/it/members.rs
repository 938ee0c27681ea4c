//! The group's members, changed by the command line while a job runs.

use std::fs;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, Submission, wait_for};
use serde_json::Value;

use crate::{LIMIT, cluster};

/// What `member list -o json` shows.
fn members(cluster: &Cluster) -> Result<Vec<Value>> {
    let listed: Value = serde_json::from_str(&cluster.run_cli(&["member", "list", "-o", "json"])?)?;
    Ok(listed.as_array().context("a list")?.clone())
}

fn name_of(member: &Value) -> &str {
    member.get("name").and_then(Value::as_str).unwrap_or("")
}

/// Name of the member that leads.
fn leader(cluster: &Cluster) -> Result<String> {
    let all = members(cluster)?;
    let leads = all.iter().find(|member| member.get("role").and_then(Value::as_str) == Some("leader"));
    Ok(name_of(leads.with_context(|| format!("nobody leads: {all:?}"))?).to_owned())
}

/// Index of a member whose name is `jm-N`.
fn index_of(name: &str) -> Result<usize> {
    Ok(name.strip_prefix("jm-").context("a name of the harness")?.parse::<usize>()? - 1)
}

/// What shows that nothing of a job was started anew: its executors' pids, its state and how often it was restarted.
fn life_of(cluster: &Cluster, job: &Submission) -> Result<(Vec<u32>, String, u64)> {
    let listed: Value = serde_json::from_str(&cluster.run_cli(&["list", "-a", "-o", "json"])?)?;
    let listed = listed.as_array().and_then(|jobs| jobs.first()).context("the job is listed")?;
    let restarts = listed.get("restarts").and_then(Value::as_u64).context("restarts are counted")?;
    Ok((cluster.executors(), cluster.job_state(job)?, restarts))
}

/// Adds a JobManager, starts it and gives it a vote.
fn take_in(cluster: &mut Cluster) -> Result<usize> {
    let index = cluster.newcomer()?;
    let name = format!("jm-{}", index + 1);
    cluster.start_joining(index)?;
    wait_for("the newcomer to say that it waits", LIMIT, || {
        cluster.check_alive()?;
        let log = cluster.jobmanager(index)?.log();
        ensure!(log.contains(&format!("perennial member add {name}=")), "{log}");
        Ok(())
    })?;
    let added = cluster.run_cli(&["member", "add", &format!("{name}={}", cluster.rpc_address(index)?)])?;
    assert!(added.contains("jobmanager.raft.join=true") && added.contains("added, without a vote"), "{added}");
    wait_for("the newcomer to be promoted", LIMIT, || {
        cluster.check_alive()?;
        cluster.run_cli(&["member", "promote", &name])
    })?;
    Ok(index)
}

/// A fourth JobManager joins and gets a vote, the leader is moved and then removed, and the job does not notice.
#[test]
fn members_come_and_go_while_a_job_runs() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 2).start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let before = life_of(&cluster, &job)?;

    let newcomer = take_in(&mut cluster)?;
    let name = format!("jm-{}", newcomer + 1);
    let all = members(&cluster)?;
    assert_eq!(all.len(), 4, "{all:?}");
    assert!(all.iter().all(|member| member.get("voter") == Some(&Value::Bool(true))), "{all:?}");
    wait_for("the taskmanager to dial the newcomer", LIMIT, || {
        let log = cluster.taskmanager(0)?.log();
        ensure!(log.contains(&cluster.rpc_address(newcomer)?), "{log}");
        Ok(())
    })?;

    let moved = wait_for("the leadership to move to the newcomer", LIMIT, || {
        cluster.run_cli(&["raft", "transfer-leader", &name])
    })?;
    assert!(moved.contains(&format!("-> {name} (4)")) && moved.contains("ms without a leader"), "{moved}");
    wait_for("everybody to follow it", LIMIT, || {
        ensure!(leader(&cluster)? == name);
        Ok(())
    })?;
    let again = cluster.cli(&["raft", "transfer-leader", &name]).output()?;
    assert_eq!(again.status.code(), Some(6), "{again:?}");

    cluster.run_cli(&["member", "remove", &name])?;
    let status = cluster.jobmanager(newcomer)?.wait(LIMIT)?;
    assert!(!status.success(), "a removed member ends");
    let log = cluster.jobmanager(newcomer)?.log();
    assert!(log.contains("was removed from the group"), "{log}");
    assert!(cluster.run_cli(&["member", "remove", &name])?.contains("was removed before"));
    let unknown = cluster.cli(&["member", "promote", "nobody"]).output()?;
    assert_eq!(unknown.status.code(), Some(5), "{unknown:?}");

    wait_for("the job to be as it was", LIMIT, || {
        let now = life_of(&cluster, &job)?;
        ensure!(now == before, "{now:?} is not {before:?}");
        Ok(())
    })?;
    // Its endpoint is a line with its reason, and does not hide the others.
    let status = cluster.cli(&["endpoint", "status"]).output()?;
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert_eq!(status.status.code(), Some(9), "{text}");
    assert!(text.contains("connection refused") && text.matches("follower").count() == 2, "{text}");
    Ok(())
}

/// Two of three are lost for good. The third goes on alone, adopts the running job, and takes in two new members.
#[test]
fn a_lost_quorum_is_recovered_and_the_job_adopted() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 1).start()?;
    let job = cluster.submit("idle", 1, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let before = life_of(&cluster, &job)?;
    let left = (index_of(&leader(&cluster)?)? + 1) % 3;
    for index in (0..3).filter(|index| *index != left) {
        cluster.jobmanager(index)?.kill()?;
        fs::remove_dir_all(cluster.dir().join(format!("jm-{}", index + 1)))?;
    }
    let port = cluster.rpc_address(left)?.rsplit(':').next().context("a port")?.to_owned();
    let dir = cluster.dir().join(format!("jm-{}", left + 1)).join(format!("jobmanager-{port}")).display().to_string();
    let recover = ["recover", "quorum", "--data-dir", dir.as_str()];
    let used = cluster.cli(&recover).output()?;
    assert_eq!(used.status.code(), Some(6), "{used:?}");
    cluster.jobmanager(left)?.kill()?;

    let dry = cluster.run_cli(&recover)?;
    assert!(dry.contains("would become the only member") && dry.contains("nothing was changed"), "{dry}");
    let done = cluster.run_cli(&[recover.as_slice(), &["--i-accept-data-loss"]].concat())?;
    assert!(done.contains("is now the only member"), "{done}");
    cluster.start_jobmanager(left)?;
    wait_for("the job to be adopted", LIMIT, || {
        cluster.jobmanager(left)?.check_alive()?;
        let (status, body) = cluster.rest_of(left, &format!("/v1/jobs/{}", job.job))?;
        ensure!(status == 200 && body.contains("\"RUNNING\""), "{status}: {body}");
        let now = life_of(&cluster, &job)?;
        ensure!(now == before, "{now:?} is not {before:?}");
        Ok(())
    })?;
    for index in (0..3).filter(|index| *index != left) {
        cluster.forget_jobmanager(index)?;
    }
    take_in(&mut cluster)?;
    take_in(&mut cluster)?;
    assert_eq!(members(&cluster)?.len(), 3);
    assert_eq!(cluster.executors(), before.0);
    Ok(())
}

/// A snapshot of a cluster is looked into, and another cluster begins with it.
#[test]
fn a_snapshot_is_saved_inspected_and_restored_as_another_cluster() -> Result<()> {
    let mut cluster = cluster().taskmanagers(1, 1).start()?;
    let job = cluster.submit("trivial", 1, &[])?;
    cluster.wait_state(&job, "FINISHED", LIMIT)?;
    let file = cluster.dir().join("saved.snapshot").display().to_string();
    let saved = cluster.run_cli(&["snapshot", "save", &file])?;
    assert!(saved.contains("artifacts are not in it"), "{saved}");
    let seen: Value = serde_json::from_str(&cluster.run_cli(&["snapshot", "inspect", &file, "-o", "json"])?)?;
    assert_eq!(seen.pointer("/jobs/FINISHED"), Some(&Value::from(1)), "{seen}");
    assert!(saved.contains(seen.get("sha256").and_then(Value::as_str).context("a checksum")?), "{saved}");
    let cluster_before = seen.get("cluster").and_then(Value::as_str).context("a cluster")?.to_owned();

    let mut damaged = fs::read(&file)?;
    damaged[100] ^= 1;
    let damaged_file = cluster.dir().join("damaged.snapshot").display().to_string();
    fs::write(&damaged_file, damaged)?;
    let refused = cluster.cli(&["snapshot", "inspect", &damaged_file]).output()?;
    assert_eq!(refused.status.code(), Some(6), "{refused:?}");

    cluster.jobmanager(0)?.kill()?;
    let port = cluster.rpc_address(0)?.rsplit(':').next().context("a port")?.to_owned();
    let dir = cluster.dir().join("jm-1").join(format!("jobmanager-{port}"));
    let restore = ["snapshot", "restore", &file, "--data-dir", dir.to_str().unwrap(), "--name", "jm-1"];
    let refused = cluster.cli(&restore).output()?;
    assert_eq!(refused.status.code(), Some(6), "its directory is not empty: {refused:?}");
    fs::remove_dir_all(&dir)?;
    let restored = cluster.run_cli(&restore)?;
    assert!(restored.contains("new cluster") && restored.contains("artifacts are not restored"), "{restored}");
    cluster.start_jobmanager(0)?;
    wait_for("the job to be listed by the new cluster", LIMIT, || {
        cluster.jobmanager(0)?.check_alive()?;
        ensure!(cluster.job_state(&job)? == "FINISHED");
        Ok(())
    })?;
    let status: Value = serde_json::from_str(&cluster.rest_of(0, "/v1/cluster/members")?.1)?;
    assert_ne!(status.get("cluster").and_then(Value::as_str), Some(cluster_before.as_str()));
    Ok(())
}
