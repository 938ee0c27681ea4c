//! What can be wrong with files.

use std::io;
use std::path::{Path, PathBuf};

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The system refused.
    #[error("cannot {action} {}{}", path.display(), hint(path))]
    Io {
        /// What was tried, such as `read`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A pattern that matches nothing.
    #[error("no file matches {}{}", path.display(), hint(path))]
    NoMatch {
        /// The pattern.
        path: PathBuf,
    },
    /// A line that is not what it should be.
    #[error("the line at byte {offset} of {} {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Where the line begins.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// An output file that would be written over, or mistaken for the job's.
    #[error("{} is already there; remove it or choose another directory", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl FileError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// A relative path is looked up where the task runs, which surprises on a cluster.
fn hint(path: &Path) -> String {
    match std::env::current_dir() {
        Ok(directory) if path.is_relative() => {
            format!(" (from {}, where the task runs; an absolute path is the same everywhere)", directory.display())
        }
        _ => String::new(),
    }
}
