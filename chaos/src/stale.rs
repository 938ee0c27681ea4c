//! A command of a leader that was deposed while the command was under way.
//!
//! ```text
//! leader ──cancel──▶ (held) ─────────────────────────────▶ TaskManager: refuses, and counts
//!   │ isolated                                              ▲
//!   └ another is elected, takes over ──commands──▶ TaskManager
//! ```

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use perennial_tests::{ClusterBuilder, Flow, Held, Report, wait_for};
use serde_json::Value;

use crate::pauses::now_us;
use crate::scene::{ALL, LIMIT, Scene, ms};

/// A stream on which a JobManager says nothing is given up by its TaskManager after four seconds, and what was held on it is
/// lost. The command has to be let go before.
const STREAM_SILENCE_MAX: Duration = Duration::from_millis(3500);

const TASKMANAGERS: [&str; 2] = ["tm-1", "tm-2"];

/// What the TaskManagers' logs say about commands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Commands {
    refused: usize,
    /// Commands of an epoch below one that was followed already, and obeyed all the same.
    obeyed: usize,
}

pub(crate) fn run(binary: &Path, report: &mut Report) -> Result<()> {
    let builder = ClusterBuilder::new(binary).proxied().config("log.level", "info,perennial_taskmanager=debug");
    let mut scene = Scene::start(builder, 2)?;
    let small = scene.submit(&ALL, "idle", 2, &[])?;
    scene.wait_state(&ALL, &small, "RUNNING", LIMIT)?;
    let (leader, _) = scene.cluster.leader(LIMIT)?;
    let others = scene.others(leader);
    let jm = |member: usize| format!("jm-{}", member + 1);
    let start_us = now_us();

    let held = Instant::now();
    for taskmanager in TASKMANAGERS {
        scene.cluster.proxy()?.set(&jm(leader), taskmanager, Flow::Hold);
    }
    let path = format!("/v1/jobs/{}", small.job);
    let (status, body) = scene.cluster.request("PATCH", leader, &path, LIMIT)?;
    ensure!(status == 202, "the job was not cancelled: {status} {body}");
    // The leader shows it once it has told the TaskManagers, as it thinks.
    wait_for("the leader to cancel the job", LIMIT, || {
        let state = scene.state(&[leader], &small)?;
        ensure!(state == "CANCELLING", "it is {state}");
        Ok(())
    })?;
    for other in &others {
        scene.cluster.proxy()?.between(&jm(leader), &jm(*other), Flow::Hold);
    }
    let (next, epoch) = scene.cluster.leader_among(&others, LIMIT)?;
    scene.wait_state(&others, &small, "CANCELED", LIMIT).context("under the next leader")?;
    let let_go = held.elapsed();
    for taskmanager in TASKMANAGERS {
        scene.cluster.proxy()?.set(&jm(leader), taskmanager, Flow::Pass);
    }
    let in_time = let_go < STREAM_SILENCE_MAX;
    let what = "stale command: let go after the next leader has commanded";
    let bar = format!("within {}", ms(STREAM_SILENCE_MAX));
    report.row(what, bar, format!("after {}, jm-{} leads in epoch {epoch}", ms(let_go), next + 1), in_time);

    let refused = wait_for("a stale command to be refused", Duration::from_secs(10), || {
        let commands = commands(&mut scene)?;
        ensure!(commands.refused > 0, "none was");
        Ok(())
    });
    let commands = commands(&mut scene)?;
    let seen = refused.map_or_else(|error| format!("{error:#}"), |()| commands.refused.to_string());
    report.row("stale command: commands of the deposed leader refused", "> 0", seen, commands.refused > 0);
    report.row("stale command: obeyed", "0", commands.obeyed.to_string(), commands.obeyed == 0);
    check_counted(&scene, &others, commands.refused as u64, report)?;
    scene.cluster.proxy()?.heal(Held::IsReset);
    scene.wait_whole(&ALL)?;
    scene.check_gap(report, "stale command", start_us)?;
    scene.check_untouched(report, "stale command", &ALL);
    scene.check_one_leader(report, "stale command");
    Ok(())
}

/// Adds a row: the leader shows what was refused, which it is told with the next heartbeats.
fn check_counted(scene: &Scene, members: &[usize], refused: u64, report: &mut Report) -> Result<()> {
    let what = "stale command: counted in /v1/taskmanagers";
    if counted(scene, members)?.is_none() {
        report.unmeasured(what, refused.to_string(), "there is no such field");
        return Ok(());
    }
    let told = wait_for("the count to be told", LIMIT, || {
        let counted = counted(scene, members)?;
        ensure!(counted == Some(refused), "{counted:?} are counted");
        Ok(refused)
    });
    let seen = told.as_ref().map_or_else(|error| format!("{error:#}"), u64::to_string);
    report.row(what, refused.to_string(), seen, told.is_ok());
    Ok(())
}

/// What the TaskManagers have done with commands so far.
fn commands(scene: &mut Scene) -> Result<Commands> {
    let mut sum = Commands::default();
    for index in 0..TASKMANAGERS.len() {
        let commands = read(&scene.cluster.taskmanager(index)?.log());
        sum.refused += commands.refused;
        sum.obeyed += commands.obeyed;
    }
    Ok(sum)
}

/// Reads the log of a TaskManager at level `debug`.
fn read(log: &str) -> Commands {
    let field = |line: &str, name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    let (mut commands, mut followed) = (Commands::default(), 0);
    for line in log.lines() {
        if line.contains("command of a deposed leader refused") {
            commands.refused += 1;
        } else if line.contains("registering at the leader") {
            followed = followed.max(field(line, "epoch").unwrap_or_default());
        } else if line.contains(" command ")
            && let Some(epoch) = field(line, "fence")
        {
            commands.obeyed += usize::from(epoch < followed);
            followed = followed.max(epoch);
        }
    }
    commands
}

/// Refused commands as the leader shows them; none when it does not.
fn counted(scene: &Scene, members: &[usize]) -> Result<Option<u64>> {
    let all = scene.ask(members, "/v1/taskmanagers")?;
    let all = all.get("taskmanagers").and_then(Value::as_array).context("a list of TaskManagers")?;
    let counts: Vec<u64> =
        all.iter().filter_map(|taskmanager| taskmanager.get("staleCommandsRejected").and_then(Value::as_u64)).collect();
    Ok((counts.len() == all.len()).then(|| counts.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_below_the_epoch_followed_are_found_in_a_log() {
        let log = "\
INFO perennial_taskmanager::owner: registering at the leader jobmanager=\"127.0.0.1:1\" epoch=3 executors=0
DEBUG perennial_taskmanager::owner::commands: command job=1 fence=3/10 id=1
INFO perennial_taskmanager::owner: registering at the leader jobmanager=\"127.0.0.1:2\" epoch=4 executors=1
WARN perennial_taskmanager::owner::commands: command of a deposed leader refused job=1 fence=3/11 seen=4/0 total=1
DEBUG perennial_taskmanager::owner::commands: command job=1 fence=3/12 id=2
DEBUG perennial_taskmanager::owner::commands: command job=1 fence=4/13 id=3
";
        assert_eq!(read(log), Commands { refused: 1, obeyed: 1 });
    }
}
