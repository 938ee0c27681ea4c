//! The network between JobManagers and TaskManagers is broken in parts.

use anyhow::{Result, ensure};
use perennial_tests::{Cluster, Flow, wait_for};
use serde_json::Value;

use crate::{LIMIT, cluster};

/// Fails unless both TaskManagers are registered.
fn check_knows_both(cluster: &Cluster) -> Result<()> {
    let known = cluster.rest("/v1/taskmanagers")?;
    let known = known.get("taskmanagers").and_then(Value::as_array).map_or(0, Vec::len);
    ensure!(known == 2, "it knows {known}");
    Ok(())
}

/// The leader does not hear these TaskManagers, while the other JobManagers do: another one leads before the TaskManagers are
/// given up, and the job's tasks hear nothing of it.
fn check_leader_cut_from(taskmanagers: &[&str]) -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 2).proxied().start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let (before, executors) = (cluster.placed(&job)?, cluster.executors_of(&job));
    let (old, epoch) = cluster.leader(LIMIT)?;

    for taskmanager in taskmanagers {
        cluster.proxy()?.between(&format!("jm-{}", old + 1), taskmanager, Flow::Hold);
    }
    wait_for("another jobmanager to lead with both taskmanagers", LIMIT, || {
        let (leader, newer) = cluster.leader(LIMIT)?;
        ensure!(leader != old && newer > epoch, "jm-{} leads in epoch {newer}", leader + 1);
        check_knows_both(&cluster)
    })?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    assert_eq!((cluster.placed(&job)?, cluster.restarts(&job)?), (before, 0));
    assert_eq!(cluster.executors_of(&job), executors);
    Ok(())
}

/// The group elects a JobManager that the TaskManagers cannot reach. They never come to it, and it does not count them as
/// lost: it hands over to one that hears them.
#[test]
fn a_new_leader_that_no_taskmanager_reaches_hands_over() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(2, 2).proxied().start()?;
    let job = cluster.submit("idle", 2, &[])?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let before = cluster.placed(&job)?;
    let (first, epoch) = cluster.leader(LIMIT)?;

    let deaf = format!("jm-{}", (first + 1) % 3 + 1);
    for taskmanager in ["tm-1", "tm-2"] {
        cluster.proxy()?.between(&deaf, taskmanager, Flow::Hold);
    }
    cluster.run_cli(&["raft", "transfer-leader", &deaf])?;
    wait_for("a third leadership with both taskmanagers", LIMIT, || {
        let (leader, newer) = cluster.leader(LIMIT)?;
        ensure!(format!("jm-{}", leader + 1) != deaf && newer > epoch + 1, "jm-{} in epoch {newer}", leader + 1);
        check_knows_both(&cluster)
    })?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    assert_eq!((cluster.placed(&job)?, cluster.restarts(&job)?), (before, 0));
    Ok(())
}

#[test]
fn a_leader_that_hears_no_taskmanager_hands_over_to_one_that_does() -> Result<()> {
    check_leader_cut_from(&["tm-1", "tm-2"])
}

#[test]
fn a_leader_that_does_not_hear_one_taskmanager_hands_over_to_one_that_hears_all() -> Result<()> {
    check_leader_cut_from(&["tm-1"])
}
