//! Who leads, as one member sees it.

use std::time::Instant;

use perennial_types::{ElectionCause, JobManagerId, LeaderEpoch};

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
    /// Who leads in it, once that is known and as long as its process is not known to have ended.
    pub leader: Option<Leader>,
    /// The epoch in which this member leads and may command: it is the leader and its own `Lead` entry of this epoch
    /// is applied here. `None` on every other member.
    pub serving: Option<LeaderEpoch>,
}

/// How a leadership began, as its leader saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The leadership.
    pub epoch: LeaderEpoch,
    /// Why there was an election.
    pub cause: ElectionCause,
    /// The last word of the leader before, or when its end was seen.
    pub lost: Instant,
    /// When this member was elected.
    pub elected: Instant,
    /// When the first entry of the leadership was committed and applied: from then on it serves.
    pub serving: Instant,
}
