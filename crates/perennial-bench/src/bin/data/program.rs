//! Programs under measurement that this binary starts itself: the limits, and the local mini-cluster.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use perennial_tests::{Process, descendants};
use tempfile::TempDir;

use crate::limit::Limit;
use crate::measure::Subject;

/// This binary in another role, and what that starts.
pub(crate) struct Program {
    process: Process,
    // After the process, which writes there until it is gone.
    directory: Directory,
}

impl Program {
    /// A limit over so many keys.
    pub(crate) fn limit(limit: Limit, keys: u64) -> Result<Self> {
        Self::start(|command, counters| {
            command.args(["limit", &limit.to_string(), "--keys", &keys.to_string(), "--counters"]).arg(counters);
        })
    }

    /// This binary with the arguments that `arguments` adds; its counters go to the directory that is given.
    pub(crate) fn start(arguments: impl FnOnce(&mut Command, &Path)) -> Result<Self> {
        let directory = Directory::new()?;
        let mut command = Command::new(std::env::current_exe()?);
        arguments(&mut command, &directory.counters);
        let process = Process::start("program", command, &directory.root.path().join("log"))?;
        Ok(Self { process, directory })
    }
}

/// What a program under measurement does first: it becomes a session of its own, and ends with whoever measures it.
///
/// Executors of a cluster have sessions of their own, and Linux shares the processors out by session: on a machine that is not
/// quiet, limits within the session of a shell or a build would get less.
pub(crate) fn settle() -> Result<()> {
    match rustix::process::setsid() {
        // Started by hand it leads a process group, and stays where it is.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(error) => return Err(error).context("no session of its own"),
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("no signal at the end")
}

/// A temporary directory with one below it for the counters of a program.
pub(crate) struct Directory {
    root: TempDir,
    counters: PathBuf,
}

impl Directory {
    /// An empty one.
    pub(crate) fn new() -> Result<Self> {
        let root = tempfile::Builder::new().prefix("perennial-bench-").tempdir().context("no temporary directory")?;
        let counters = root.path().join("counters");
        std::fs::create_dir(&counters)?;
        Ok(Self { root, counters })
    }

    /// Where the program's threads keep their totals.
    pub(crate) fn counters(&self) -> &Path {
        &self.counters
    }
}

impl Subject for Program {
    fn pids(&self) -> Vec<u32> {
        let mut pids = descendants(self.process.pid());
        pids.push(self.process.pid());
        pids
    }

    fn counters(&self) -> &Path {
        self.directory.counters()
    }

    fn check_alive(&mut self) -> Result<()> {
        self.process.check_alive()
    }
}
