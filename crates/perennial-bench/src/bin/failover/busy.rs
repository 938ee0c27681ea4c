//! Somebody else's work: one busy loop per core, at normal priority.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use perennial_tests::Process;

/// Busy loops, ended when dropped.
pub(crate) struct BusyLoops {
    _loops: Vec<Process>,
}

impl BusyLoops {
    /// Starts one process per core; their output, of which there is none, goes below `directory`.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let cores = std::thread::available_parallelism()?.get();
        let start = |number| {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("busy-loop");
            Process::start(&format!("busy-{number}"), command, &directory.join("busy.log"))
        };
        Ok(Self { _loops: (0..cores).map(start).collect::<Result<_>>()? })
    }
}

/// The loop itself. Ends with whoever started it.
pub(crate) fn run() -> Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .context("no signal at the end")?;
    loop {
        std::hint::spin_loop();
    }
}
