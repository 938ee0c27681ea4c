//! What this crate stands on: a disk for the log, a map for the state, threads that wait for disks, connections, and the
//! runtime openraft asks for timers and random numbers.
//!
//! The deterministic simulation ([`crate::sim`], in tests only) puts models in their place. Everything above is the same in both.
//! Whatever else is simulated must not depend on anything that this module does not hand out: no other threads, no other
//! clock than tokio's, no order of a hash map, and a `biased` in each `select!`.

#[cfg(not(test))]
mod real {
    use std::path::Path;

    use crate::error::OpenError;
    use crate::log::{self, LogDisk};
    use crate::state::{self, Tree};

    pub(crate) use openraft::impls::TokioRuntime as Runtime;
    pub(crate) use perennial_rpc::raft::RaftClient;
    pub(crate) use tokio::task::spawn_blocking;

    /// Connects to a process, only to see whether it listens.
    pub(crate) async fn connect(address: &str) -> std::io::Result<()> {
        tokio::net::TcpStream::connect(address).await.map(drop)
    }

    /// Opens what the log is written to.
    pub(crate) fn open_log(dir: &Path) -> Result<Box<dyn LogDisk>, OpenError> {
        log::open_files(dir)
    }

    /// Opens what the state is kept in. The error is for people.
    pub(crate) fn open_tree(dir: &Path) -> Result<Box<dyn Tree>, String> {
        state::open_sled(dir)
    }
}

#[cfg(not(test))]
pub(crate) use real::*;

#[cfg(test)]
pub(crate) use crate::sim::ground::*;
