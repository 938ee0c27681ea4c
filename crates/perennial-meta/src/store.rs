//! The store's handle.

use perennial_rpc::raft::RaftService;
use perennial_types::{JobManagerId, LeaderEpoch};
use tokio::sync::watch;

use crate::command::{Command, Outcome};
use crate::config::MetaConfig;
use crate::error::{OpenError, WriteError};
use crate::leadership::LeadershipView;
use crate::reader::StateReader;

/// A command that is committed by a quorum and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Log index of its entry; with `epoch` the fence of what it orders.
    pub index: u64,
    /// Epoch in which it was written.
    pub epoch: LeaderEpoch,
    /// What became of it.
    pub outcome: Outcome,
}

/// A member of the group as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: JobManagerId,
    /// Its name in the peer list.
    pub name: String,
    /// RPC address, `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Entries it is behind the end of the log: known of all members on the leader, elsewhere only of this one.
    pub lag: Option<u64>,
}

/// The replicated metadata store: one member of the JobManager group. Cheap to clone.
#[derive(Clone)]
pub struct MetaStore {}

impl MetaStore {
    /// Opens the storage and starts the member. Returns at once, before any election and before any peer answers.
    ///
    /// [`MetaStore::raft_service`] has to be mounted on the RPC server of this JobManager for a group to form.
    pub async fn open(_config: MetaConfig) -> Result<MetaStore, OpenError> {
        unimplemented!()
    }

    /// The service peers call; mount it on the server of `jobmanager.rpc.port`.
    pub fn raft_service(&self) -> RaftService {
        unimplemented!()
    }

    /// Writes a command: resolves when it is committed by a quorum and applied here. Has a deadline of its own.
    pub async fn write(&self, _command: Command) -> Result<Written, WriteError> {
        unimplemented!()
    }

    /// Reads of the applied state.
    pub fn state(&self) -> StateReader {
        unimplemented!()
    }

    /// Resolves when [`MetaStore::state`] shows everything that was written anywhere before the call. Leader only.
    pub async fn read_barrier(&self) -> Result<(), WriteError> {
        unimplemented!()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<LeadershipView> {
        unimplemented!()
    }

    /// Log index of the last entry applied here.
    pub fn applied(&self) -> watch::Receiver<u64> {
        unimplemented!()
    }

    /// All members.
    pub fn members(&self) -> Vec<Member> {
        unimplemented!()
    }

    /// Resolves when this member can no longer take part, with the reason and what to do. The process has to exit.
    pub async fn fatal(&self) -> String {
        unimplemented!()
    }

    /// Stops the member. A leader hands over first, so that the group has the next one within milliseconds.
    pub async fn shutdown(&self) {
        unimplemented!()
    }
}
