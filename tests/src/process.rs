//! One process, watched from outside.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A child process whose output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    started: Instant,
}

/// What a process uses, read from `/proc`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Usage {
    /// Resident memory in KiB.
    pub rss_kib: u64,
    /// Highest resident memory so far in KiB.
    pub peak_rss_kib: u64,
    /// Seconds of processor time, user and system.
    pub cpu_seconds: f64,
    /// Open files and sockets.
    pub open_files: usize,
    /// Threads.
    pub threads: u64,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Process> {
        let output = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        Ok(Process { name: name.to_owned(), child, log: log.to_owned(), started })
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it uses now.
    pub fn usage(&self) -> Result<Usage> {
        usage_of(self.pid())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        send_signal(self.pid(), signal).with_context(|| format!("cannot send {signal:?} to {}", self.name))
    }

    /// Kills it with `SIGKILL` and waits until it is gone. Its executors live on.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::KILL)?;
        Ok(self.child.wait()?)
    }

    /// Asks it to end with `SIGTERM` and waits.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait(limit)
    }

    /// Waits until it ends by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let name = self.name.clone();
        let child = &mut self.child;
        crate::wait_for(&format!("{name} to end"), limit, || match child.try_wait()? {
            Some(status) => Ok(status),
            None => bail!("it runs"),
        })
    }

    /// Fails with the end of its log when it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            let how = match status.signal() {
                Some(signal) => format!("was killed by signal {signal}"),
                None => format!("ended with {status}"),
            };
            bail!("{} {how}; the end of its log:\n{}", self.name, tail.join("\n"));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Executors are not owned by their TaskManager's process: they are found before it is gone, and end after it.
        let below = descendants(self.pid());
        let _ = self.child.kill();
        let _ = self.child.wait();
        below.into_iter().for_each(crate::faults::end);
    }
}

/// Sends a signal to any process.
pub fn send_signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("no such process id")?;
    Ok(kill_process(pid, signal)?)
}

/// What a process uses now, by pid.
pub fn usage_of(pid: u32) -> Result<Usage> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let status = fs::read_to_string(proc.join("status")).with_context(|| format!("process {pid} is gone"))?;
    let number = |field: &str| -> u64 {
        status
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.trim_start_matches(':').split_whitespace().next())
            .and_then(|text| text.parse().ok())
            .unwrap_or(0)
    };
    let stat = fs::read_to_string(proc.join("stat"))?;
    // The second field is the name in parentheses, which may hold spaces.
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
    Ok(Usage {
        rss_kib: number("VmRSS"),
        peak_rss_kib: number("VmHWM"),
        cpu_seconds: (ticks(11) + ticks(12)) / rustix::param::clock_ticks_per_second() as f64,
        open_files: fs::read_dir(proc.join("fd"))?.count(),
        threads: number("Threads"),
    })
}

/// Every process below this one, by pid: the executors of a TaskManager.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut open = vec![pid];
    while let Some(parent) = open.pop() {
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            for child in children.split_whitespace().filter_map(|text| text.parse().ok()) {
                found.push(child);
                open.push(child);
            }
        }
    }
    found
}
