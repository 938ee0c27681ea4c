//! Why the store could not be opened or could not write.

use std::path::PathBuf;

use perennial_types::JobManagerId;

/// Why the store could not be opened. None of these goes away by trying again.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses the directory.
    #[error("{} is in use by another process; stop it, or give this JobManager another `jobmanager.data-dir`", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The directory belongs to another member, another peer list or another cluster.
    #[error("{} belongs to {found}, this JobManager is {this}; correct `jobmanager.raft.peers`, or give it another `jobmanager.data-dir`", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who we are.
        this: String,
    },
    /// The directory lacks what this member has acknowledged before.
    #[error(
        "{} has lost data this JobManager has acknowledged: {what}; restore the newest copy, or replace this JobManager: \
         perennial member remove its name, remove the directory, and add it to the group as a new member with another name: \
         perennial member add NEWNAME=HOST:PORT", path.display()
    )]
    Behind {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// A file cannot be read.
    #[error(
        "{} is damaged: {what}; restore the directory from a copy made while the process was stopped, or \
         replace this JobManager: perennial member remove its name, remove the directory, and add it to the group as a new \
         member with another name: perennial member add NEWNAME=HOST:PORT", path.display()
    )]
    Damaged {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// It neither founds the group nor was it told to join.
    #[error(
        "this JobManager, {name}, is none of the members that found the group ({peers}), and its data directory is of no group; \
         to join: perennial member add {name}=HOST:PORT, then start this process with `jobmanager.raft.join: true`"
    )]
    NotAMember {
        /// Its name.
        name: String,
        /// `jobmanager.raft.peers`.
        peers: String,
    },
    /// The group it was to join does not want it.
    #[error("{0}")]
    Refused(String),
    /// The operating system refused.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The Raft engine did not start.
    #[error("the metadata store did not start: {0}")]
    Start(String),
}

/// Why a command was not written, or a read point not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This member does not lead. Nothing was written; ask the leader.
    #[error("this JobManager is not the leader{}", leader.as_ref().map(|(id, address)| format!("; {id} at {address} is")).unwrap_or_default())]
    NotLeader {
        /// Who leads, if that is known: number and RPC address.
        leader: Option<(JobManagerId, String)>,
    },
    /// There was no quorum in time. The command may still be written: say it again only if it is idempotent.
    #[error("the metadata store is not available: {0}")]
    Unavailable(String),
    /// The command is larger than [`COMMAND_BYTES_MAX`](crate::COMMAND_BYTES_MAX). Nothing was written.
    #[error("the entry has {bytes} bytes, at most {} can be written", crate::COMMAND_BYTES_MAX)]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// The store was shut down or has failed.
    #[error("the metadata store has stopped")]
    Stopped,
}

impl OpenError {
    /// The operating system refused to do something with a path.
    pub(crate) fn io(action: &'static str, path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }
}
