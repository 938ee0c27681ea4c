//! A TaskManager's process dies, its machine dies, or it is paused for too long.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use perennial_tests::{Placed, Report, wait_for};
use rustix::process::Signal;
use serde_json::Value;

use crate::pauses::now_us;
use crate::scene::{ALL, LIMIT, Scene, ms};

/// Time after which nothing follows any more.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// Time from the loss of a machine to its tasks running elsewhere: `heartbeat.timeout`, and a second.
const REPLACED_WITHIN: Duration = Duration::from_secs(6);

#[derive(Args)]
pub(crate) struct Options {
    /// Only these; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Fault>,
    /// How long the process is away before it is started again, in milliseconds.
    #[arg(long, default_value_t = 200)]
    away_ms: u64,
    /// How long it is paused; more than `heartbeat.timeout`.
    #[arg(long, default_value_t = 10)]
    pause_seconds: u64,
}

/// What happens to the first TaskManager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fault {
    /// Its process is killed and started again; its executors live on.
    Process,
    /// Its process and its executors are killed at once.
    Machine,
    /// Its process is paused until its tasks were replaced; its executors live on.
    Pause,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let faults = if options.only.is_empty() { Fault::value_variants() } else { &options.only };
    for fault in faults {
        let mut scene = Scene::plain(binary, 2)?;
        let (name, done) = match fault {
            Fault::Process => ("process", process(&mut scene, Duration::from_millis(options.away_ms), &mut report)),
            Fault::Machine => ("machine", machine(&mut scene, &mut report)),
            Fault::Pause => ("pause", pause(&mut scene, Duration::from_secs(options.pause_seconds), &mut report)),
        };
        if let Err(error) = done {
            report.row(format!("{name}: carried out"), "yes", format!("{error:#}"), false);
        }
    }
    Ok(report)
}

fn process(scene: &mut Scene, away: Duration, report: &mut Report) -> Result<()> {
    let (start, start_us) = (Instant::now(), now_us());
    scene.cluster.take_taskmanager(0)?.kill()?;
    std::thread::sleep(away);
    scene.cluster.start_taskmanager(0)?;
    let pid = scene.cluster.taskmanager(0)?.pid();
    let back = wait_for("the new process to be registered", LIMIT, || {
        let known = pid_of(scene, "tm-1")?;
        ensure!(known == u64::from(pid), "process {known} is");
        Ok(start.elapsed())
    })?;
    report.information("process: killed to registered again", format!("{}, of which {} away", ms(back), ms(away)));
    let whole = scene.wait_whole(&ALL);
    let seen = whole.as_ref().map_or_else(|error| format!("{error:#}"), |_| "RUNNING".to_owned());
    report.row("process: state of the job", "RUNNING", seen, whole.is_ok());
    std::thread::sleep(AFTERWARDS);
    scene.check_gap(report, "process", start_us)?;
    scene.check_untouched(report, "process", &ALL);
    Ok(())
}

fn machine(scene: &mut Scene, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    scene.cluster.kill_whole_taskmanager(0)?;
    check_replaced(scene, "machine", start, report)?;
    scene.cluster.start_taskmanager(0)?;
    let whole = scene.wait_whole(&ALL);
    let seen = whole.as_ref().map_or_else(|error| format!("{error:#}"), |_| "both registered, RUNNING".to_owned());
    report.row("machine: started again", "both registered, RUNNING", seen, whole.is_ok());
    Ok(())
}

fn pause(scene: &mut Scene, length: Duration, report: &mut Report) -> Result<()> {
    let old = scene.cluster.executors_on(0);
    let start = Instant::now();
    scene.cluster.taskmanager(0)?.signal(Signal::STOP)?;
    check_replaced(scene, "pause", start, report)?;
    std::thread::sleep(length.saturating_sub(start.elapsed()));
    scene.cluster.taskmanager(0)?.signal(Signal::CONT)?;
    let whole = scene.wait_whole(&ALL);
    let seen = whole.as_ref().map_or_else(|error| format!("{error:#}"), |_| "both registered, RUNNING".to_owned());
    report.row("pause: resumed", "both registered, RUNNING", seen, whole.is_ok());
    // Its tasks belong to an attempt that was replaced.
    let ended = wait_for("the replaced tasks to end", LIMIT, || {
        let pauses = scene.pauses()?;
        let writing: Vec<&u32> = old.iter().filter(|pid| pauses.writes(**pid, AFTERWARDS)).collect();
        ensure!(writing.is_empty(), "executors {writing:?} still run some");
        Ok(())
    });
    let seen = ended.as_ref().map_or_else(|error| format!("{error:#}"), |()| "0".to_owned());
    report.row("pause: replaced tasks that go on", "0", seen, ended.is_ok());
    Ok(())
}

/// Adds rows: the job runs again, all of it on the other TaskManager, with one attempt more.
fn check_replaced(scene: &Scene, name: &str, start: Instant, report: &mut Report) -> Result<()> {
    let bar = format!("RUNNING on tm-2, attempt 1, within {}", ms(REPLACED_WITHIN));
    let replaced = wait_for("the job to run on the other taskmanager", REPLACED_WITHIN + LIMIT, || {
        let state = scene.state(&ALL, &scene.job)?;
        if state == "FAILED" {
            return Ok(Err(state));
        }
        let placed = scene.cluster.placed(&scene.job)?;
        let is_new = |placed: &Placed| placed.taskmanager == "tm-2" && placed.attempt == 1;
        ensure!(state == "RUNNING" && placed.iter().all(is_new), "it is {state} at {placed:?}");
        Ok(Ok(start.elapsed()))
    });
    let (seen, holds) = match replaced {
        Ok(Ok(after)) => (format!("after {}", ms(after)), after <= REPLACED_WITHIN),
        Ok(Err(state)) => (format!("the job is {state}"), false),
        Err(error) => (format!("{error:#}"), false),
    };
    report.row(format!("{name}: tasks replaced"), bar, seen, holds);
    ensure!(holds, "there is nothing more to see");
    Ok(())
}

/// Process id of a TaskManager as the leader knows it.
fn pid_of(scene: &Scene, name: &str) -> Result<u64> {
    let taskmanager = scene.ask(&ALL, &format!("/v1/taskmanagers/{name}"))?;
    taskmanager.get("pid").and_then(Value::as_u64).ok_or_else(|| anyhow::anyhow!("no pid in {taskmanager}"))
}
