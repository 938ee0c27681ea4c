//! The demonstration: it tells the truth and leaves nothing behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_tests::{Process, descendants, wait_for};

use crate::LIMIT;

/// Longest demonstration: it kills a leader and lets its job run to the end.
const DEMO_LIMIT: Duration = Duration::from_secs(180);

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    command.arg("demo").args(args);
    command
}

/// A directory that is removed when the test is done.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("perennial-test-demo-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// The leader dies, no task notices, every record is counted once, and the exit code says so.
#[test]
fn the_demonstration_ends_well_by_itself() -> Result<()> {
    let dir = Directory::new("once")?;
    let log = dir.path().join("output");
    let mut process = Process::start("demo", demo(&["--once"]), &log)?;
    let status = process.wait(DEMO_LIMIT)?;
    let output = process.log();
    ensure!(status.success(), "{status}\n{output}");
    for line in [
        "killing jm-",
        "first write accepted",
        "What the job noticed: nothing",
        "0 task restarts, 0 attempts changed, 0 executors restarted, 0 records lost, 0 doubled",
        "every count is right; 0 lost, 0 doubled",
    ] {
        assert!(output.contains(line), "`{line}` is missing in\n{output}");
    }
    Ok(())
}

/// Killed again and again: a line each time, and a table at the end.
#[test]
fn failover_shows_what_every_kill_cost() -> Result<()> {
    let dir = Directory::new("failover")?;
    let log = dir.path().join("output");
    let mut process = Process::start("demo", demo(&["failover", "--times", "2"]), &log)?;
    let status = process.wait(DEMO_LIMIT)?;
    let output = process.log();
    ensure!(status.success(), "{status}\n{output}");
    assert_eq!(output.matches("nobody noticed").count(), 2, "{output}");
    let table = output.split_once("MIN").with_context(|| output.clone())?.1;
    assert!(table.contains("P50") && table.contains("first write accepted"), "{output}");
    Ok(())
}

/// The words of a text are still counted, and the counts compared.
#[test]
fn words_of_a_text_are_counted() -> Result<()> {
    let dir = Directory::new("words")?;
    let (log, text) = (dir.path().join("output"), dir.path().join("text"));
    fs::write(&text, "to be or not to be\n")?;
    let text = text.display().to_string();
    let mut process = Process::start("demo", demo(&["--once", "--jobmanagers", "1", "--input", &text]), &log)?;
    let status = process.wait(DEMO_LIMIT)?;
    let output = process.log();
    ensure!(status.success(), "{status}\n{output}");
    assert!(output.contains("4 different, every count is right"), "{output}");
    Ok(())
}

/// Killed with `-9` it cannot end its processes; they end by themselves, executors included.
#[test]
fn a_killed_demonstration_leaves_no_process_behind() -> Result<()> {
    let dir = Directory::new("killed")?;
    let log = fs::File::create(dir.path().join("output"))?;
    let keep = dir.path().join("keep");
    let mut command = demo(&["--jobmanagers", "1", "--taskmanagers", "1", "--keep"]);
    let mut child: Child = command.arg(&keep).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
    let mut started = Vec::new();
    let up = wait_for("an executor to run", LIMIT, || {
        started = descendants(child.id());
        ensure!(started.len() >= 3, "{} processes run", started.len());
        Ok(())
    });
    child.kill()?;
    child.wait()?;
    up?;
    wait_for("all its processes to end", LIMIT, || {
        let left: Vec<&u32> = started.iter().filter(|pid| is_of_demo(**pid, &keep)).collect();
        ensure!(left.is_empty(), "{left:?} run");
        Ok(())
    })
}

/// Whether a pid is still that of a process below the demonstration's directory.
fn is_of_demo(pid: u32, dir: &Path) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = stat.rsplit_once(')').is_none_or(|(_, fields)| fields.trim_start().starts_with(['Z', 'X']));
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    !is_zombie && String::from_utf8_lossy(&line).contains(&*dir.to_string_lossy())
}
