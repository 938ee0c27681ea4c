//! The timing history of elections and take-overs.

use anyhow::{Context, Result, ensure};
use perennial_tests::{Cluster, wait_for};
use serde_json::Value;

use crate::{LIMIT, cluster};

/// What member `asked` says of past leaderships, newest first.
fn history(cluster: &Cluster, asked: usize) -> Result<Vec<Value>> {
    let (status, body) = cluster.rest_of(asked, "/v1/cluster/leaderships")?;
    ensure!(status == 200, "{status}: {body}");
    let answer: Value = serde_json::from_str(&body)?;
    answer.get("leaderships").and_then(Value::as_array).cloned().with_context(|| format!("no list in {body}"))
}

/// The leader is killed while a job runs: the next one's take-over is on record with its cause and its phases in order,
/// and any member and the command line show it.
#[test]
fn a_take_over_is_on_record_with_its_cause_and_phases() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 1).start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let first = history(&cluster, 0)?.first().cloned().context("a first leadership")?;
    let old = usize::try_from(first["leader"].as_u64().context("its leader")?)? - 1;

    cluster.jobmanager(old)?.kill()?;
    let asked = (old + 1) % 3;
    let newest = wait_for("the take-over to be recorded", LIMIT, || {
        let newest = history(&cluster, asked)?.into_iter().next().context("a leadership")?;
        ensure!(newest["epoch"].as_u64() > first["epoch"].as_u64(), "the old one: {newest}");
        ensure!(newest.get("cause").is_some(), "not recorded yet: {newest}");
        Ok(newest)
    })?;
    assert_eq!(newest["cause"], "process-gone", "{newest}");
    assert_eq!(newest["jobs-adopted"], 1, "{newest}");
    assert_eq!(newest["jobs-restarted"], 0, "{newest}");
    assert_eq!(newest["taskmanagers"], 2, "{newest}");
    let phase = |name: &str| newest["phases-ms"][name].as_f64().with_context(|| format!("no phase {name}: {newest}"));
    let phases = [phase("elected")?, phase("first-commit")?, phase("taskmanagers-attached")?, phase("jobs-adopted")?];
    assert!(phases[..3].is_sorted() && phases[1] <= phases[3], "{newest}");
    assert!(newest["phases-ms"]["first-checkpoint"].is_null(), "{newest}");

    let other = (old + 2) % 3;
    wait_for("the other member to show the same", LIMIT, || {
        ensure!(history(&cluster, other)?.first() == Some(&newest));
        Ok(())
    })?;
    let endpoint = cluster.endpoints().split(',').nth(asked).unwrap().to_owned();
    let printed = cluster.run_cli(&["--endpoints", &endpoint, "raft", "history", "-o", "json"])?;
    let printed: Vec<Value> = serde_json::from_str(&printed)?;
    assert_eq!(printed.first(), Some(&newest), "the command line");
    Ok(())
}
