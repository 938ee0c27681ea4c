//! Keeps the file that holds what the job prints from growing without bound.
//!
//! Standard output and error are one file that the TaskManager opened for appending. When it is full it is renamed to
//! `….1`, over an older one, and both descriptors are turned to a new file: no line is lost and user code notices nothing.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::PathBuf;

use perennial_types::ByteSize;
use rustix::stdio::{dup2_stderr, dup2_stdout};

/// The output file of this process, if it has one.
pub(super) struct RollingOutput {
    path: Option<PathBuf>,
    bytes_max: u64,
}

impl RollingOutput {
    /// Whatever standard output is; a terminal or a pipe is left alone.
    pub(super) fn of_this_process(size_max: ByteSize) -> Self {
        let path = fs::read_link("/proc/self/fd/1").ok().filter(|path| path.is_file());
        Self { path, bytes_max: size_max.0 }
    }

    /// Rolls the file when it is full.
    pub(super) fn roll_if_full(&mut self) {
        let Some(path) = &self.path else { return };
        if fs::metadata(path).is_ok_and(|file| file.len() > self.bytes_max)
            && let Err(error) = roll(path)
        {
            eprintln!("the file {} cannot be rolled and grows on: {error}", path.display());
            self.path = None;
        }
    }
}

fn roll(path: &PathBuf) -> io::Result<()> {
    let mut older = path.clone().into_os_string();
    older.push(".1");
    fs::rename(path, older)?;
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    dup2_stdout(&file)?;
    dup2_stderr(&file)?;
    Ok(())
}
