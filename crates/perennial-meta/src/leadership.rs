//! Who leads, as one member sees it.

use perennial_types::{JobManagerId, LeaderEpoch};

/// A leader and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Which JobManager.
    pub id: JobManagerId,
    /// Its RPC address, `host:port`.
    pub address: String,
}

/// Who leads, as far as this member knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeadershipView {
    /// The newest epoch this member has heard of.
    pub epoch: LeaderEpoch,
    /// Who leads in it, once that is known.
    pub leader: Option<Leader>,
    /// The epoch in which this member leads and may command: it is the leader and its own `Lead` entry of this epoch
    /// is applied here. `None` on every other member.
    pub serving: Option<LeaderEpoch>,
}
