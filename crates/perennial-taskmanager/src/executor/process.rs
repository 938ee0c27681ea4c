//! The process of an executor: started by this TaskManager, or by an earlier one and adopted.
//!
//! It is the leader of a process group of its own, so that a signal to the TaskManager's terminal does not reach it and
//! everything it starts ends with it. It is not tied to the TaskManager's life.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

/// Variables of the TaskManager that executors see. Everything else might be a secret.
const ENVIRONMENT: [&str; 6] = ["PATH", "LANG", "LC_ALL", "TZ", "RUST_BACKTRACE", "TMPDIR"];

/// A file that some process is just writing cannot be executed. A fork elsewhere in this process may hold a freshly
/// fetched artifact open until its exec, which is over at once.
const BUSY_RETRIES: u32 = 50;
const BUSY_WAIT: Duration = Duration::from_millis(2);

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It exited by itself.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was adopted, and only its parent is told.
    Unknown,
}

/// Signals a process brings upon itself: number, name, and what it usually means of a job.
const OWN_SIGNALS: [(Signal, &str, &str); 7] = [
    (
        Signal::ABORT,
        "SIGABRT",
        "its code aborted: `std::process::abort`, a stack overflow, memory that could not be had, or a panic that cannot unwind",
    ),
    (
        Signal::SEGV,
        "SIGSEGV",
        "it touched memory that is not its own: mostly a stack overflow, else unsafe or foreign code",
    ),
    (
        Signal::BUS,
        "SIGBUS",
        "it touched memory that is not there: a mapped file was cut short, or its disk is full or broken",
    ),
    (Signal::ILL, "SIGILL", "it ran an instruction this machine does not have: it may be built for another processor"),
    (Signal::FPE, "SIGFPE", "foreign code divided by zero"),
    (Signal::TRAP, "SIGTRAP", "its code stopped itself"),
    (Signal::SYS, "SIGSYS", "it made a system call that is forbidden here"),
];

impl Ended {
    /// Whether its own code ended it, as opposed to somebody outside or nobody knows who.
    pub(crate) fn is_own_doing(self) -> bool {
        match self {
            Self::Code(_) => true,
            Self::Signal(number) => OWN_SIGNALS.iter().any(|(signal, ..)| signal.as_raw() == number),
            Self::Unknown => false,
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal(number) => {
                write!(f, "killed by signal {number}")?;
                match OWN_SIGNALS.iter().find(|(signal, ..)| signal.as_raw() == *number) {
                    Some((_, name, meaning)) => write!(f, " ({name}: {meaning})"),
                    None => Ok(()),
                }
            }
            Self::Unknown => f.write_str("gone; how it ended is known only to the TaskManager process that started it"),
        }
    }
}

/// A process. Dropping it leaves it running.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    start_ticks: u64,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Child(Child),
    Adopted(pipe::Receiver),
}

impl Process {
    /// Starts `<program> exec --spec <spec>` with its output appended to `stdout`.
    pub(crate) async fn spawn(program: &Path, spec: &Path, stdout: &Path) -> io::Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(stdout)?;
        let mut command = Command::new(program);
        command.arg("exec").arg("--spec").arg(spec).env_clear().process_group(0);
        command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut busy = 0;
        let mut child = loop {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && busy < BUSY_RETRIES => {
                    busy += 1;
                    tokio::time::sleep(BUSY_WAIT).await;
                }
                spawned => break spawned?,
            }
        };
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::other("a process that was not waited for has no id"))?;
        // An exit meanwhile leaves the entry in /proc until the child is waited for.
        let start_ticks = match start_ticks(pid) {
            Ok(ticks) => ticks,
            Err(error) => {
                child.kill().await?;
                return Err(error);
            }
        };
        Ok(Self { pid, start_ticks, kind: Kind::Child(child) })
    }

    /// The process with this id and start time, if it is alive.
    pub(crate) fn adopt(pid: i32, start_ticks: u64) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        let handle = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // Compared after opening: from here on the handle cannot come to mean another process.
        if self::start_ticks(pid).ok()? != start_ticks || !is_running(pid) {
            return None;
        }
        // A process handle becomes readable when the process ends. tokio's pipe waits for that on any descriptor, and
        // unlike its `AsyncFd` without unsafe code.
        let handle = pipe::Receiver::from_owned_fd_unchecked(handle).ok()?;
        Some(Self { pid, start_ticks, kind: Kind::Adopted(handle) })
    }

    /// Process id.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// When it started, in clock ticks since boot.
    pub(crate) fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Resolves when it has ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> Ended {
        match &mut self.kind {
            Kind::Child(child) => match child.wait().await {
                Ok(status) => match (status.code(), status.signal()) {
                    (Some(code), _) => Ended::Code(code),
                    (None, Some(signal)) => Ended::Signal(signal),
                    (None, None) => Ended::Unknown,
                },
                Err(_) => Ended::Unknown,
            },
            Kind::Adopted(handle) => {
                // Readable means ended; an error can only mean that it cannot be watched any more.
                _ = handle.readable().await;
                Ended::Unknown
            }
        }
    }

    /// Ends it and all it has started, at once.
    pub(crate) fn kill(&self) {
        // The only error is that nobody of the group is left.
        _ = kill_process_group(self.pid, Signal::KILL);
    }
}

/// Field 22 of `/proc/<pid>/stat`. Fields are counted after the name, which may itself hold spaces and brackets.
fn start_ticks(pid: Pid) -> io::Result<u64> {
    stat_field(pid, 22)?.parse().map_err(io::Error::other)
}

/// Neither ended nor waiting to be collected by its parent.
fn is_running(pid: Pid) -> bool {
    stat_field(pid, 3).is_ok_and(|state| state != "Z" && state != "X")
}

fn stat_field(pid: Pid, number: usize) -> io::Result<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let field = fields.split_ascii_whitespace().nth(number - 3);
    field.map(str::to_owned).ok_or_else(|| io::Error::other(format!("field {number} of /proc/<pid>/stat is missing")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(dir: &Path, text: &str) -> std::path::PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn spawn(dir: &Path, text: &str) -> Process {
        Process::spawn(&script(dir, text), Path::new("spec"), &dir.join("stdout")).await.unwrap()
    }

    #[tokio::test]
    async fn output_is_appended_and_the_environment_is_clean() {
        let tmp = tempfile::tempdir().unwrap();
        let mut process = spawn(tmp.path(), "echo \"$@\" \"$CARGO_MANIFEST_DIR\"; echo oops >&2; exit 3").await;
        assert_eq!(process.ended().await, Ended::Code(3));
        assert_eq!(fs::read_to_string(tmp.path().join("stdout")).unwrap(), "exec --spec spec \noops\n");
    }

    #[tokio::test]
    async fn killing_ends_what_it_has_started_too() {
        let tmp = tempfile::tempdir().unwrap();
        let mut process = spawn(tmp.path(), "sleep 600 & echo $!; wait").await;
        let grandchild = loop {
            if let Ok(pid) = fs::read_to_string(tmp.path().join("stdout")).unwrap_or_default().trim().parse::<i32>() {
                break Pid::from_raw(pid).unwrap();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        process.kill();
        assert_eq!(process.ended().await, Ended::Signal(9));
        while is_running(grandchild) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn only_the_very_same_process_is_adopted() {
        let tmp = tempfile::tempdir().unwrap();
        let mut child = spawn(tmp.path(), "exec sleep 600").await;
        assert!(Process::adopt(child.pid(), child.start_ticks() + 1).is_none());
        let mut adopted = Process::adopt(child.pid(), child.start_ticks()).unwrap();
        adopted.kill();
        assert_eq!(adopted.ended().await, Ended::Unknown);
        child.ended().await;
        assert!(Process::adopt(child.pid(), child.start_ticks()).is_none());
    }
}
