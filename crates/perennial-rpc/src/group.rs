//! The JobManager group as operators change it: who leads, who is a member, and its metadata as a file.
//!
//! Any JobManager answers; one that does not lead forwards to the leader.

mod convert;
mod grpc;

use std::pin::Pin;

use bytes::Bytes;
use perennial_types::{ClusterId, JobManagerId, LeaderEpoch};
use tokio_stream::Stream;

use crate::dispatcher::Unavailable;

pub use grpc::{GroupClient, GroupServer};

/// Bytes of a snapshot file in order. Ends after the last byte or an error.
pub type SnapshotBytes = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Reaches the group, wherever the leader is.
///
/// Members are named by number or name, as `perennial member list` shows them. Every call answers within the
/// implementation's deadline; a change that was not answered may still happen, and may be asked for again.
pub trait GroupGateway: Clone + Send + Sync + 'static {
    /// Hands the leadership to a member, or to the one that is furthest. Resolves once that member leads.
    fn transfer_leader(&self, to: Option<String>) -> impl Future<Output = Result<LeaderTransfer, GroupError>> + Send;

    /// Changes one member. Resolves once the change is committed.
    fn change_member(&self, change: MemberChange) -> impl Future<Output = Result<ChangedMember, GroupError>> + Send;

    /// What a process of this name has to know to join, as the asked member has it; `None` when it was not added yet.
    fn find_place(&self, name: String) -> impl Future<Output = Result<Option<Place>, GroupError>> + Send;

    /// The leader's metadata as of now.
    fn save_snapshot(&self) -> impl Future<Output = Result<SnapshotContent, GroupError>> + Send;
}

/// Why the group did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// There is no such member.
    #[error("{0}")]
    UnknownMember(String),
    /// It would be unsafe, or makes no sense; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
    /// The group cannot answer now; try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// A member of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMember {
    /// Its number.
    pub id: JobManagerId,
    /// Its name.
    pub name: String,
    /// RPC address, `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
}

/// A leadership that was handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderTransfer {
    /// Who led.
    pub from: GroupMember,
    /// Who leads.
    pub to: GroupMember,
    /// Epoch of the old leadership.
    pub old_epoch: LeaderEpoch,
    /// Epoch of the new one.
    pub new_epoch: LeaderEpoch,
    /// Milliseconds without a leader, as the old one saw it.
    pub gap_ms: u64,
}

/// What to do with a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// Take in a new member, without a vote.
    Add {
        /// Its name, not used before.
        name: String,
        /// Its RPC address, `host:port`.
        address: String,
    },
    /// Give a member a vote.
    Promote(String),
    /// Take a member out, for good.
    Remove(String),
}

/// A member after a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedMember {
    /// As it is now, or was when it was removed.
    pub member: GroupMember,
    /// Whether it was so before.
    pub was_so: bool,
}

/// What a process that joins has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The cluster.
    pub cluster: ClusterId,
    /// Hash of the founding members' names.
    pub group: u64,
    /// The number it was given.
    pub id: JobManagerId,
    /// Log index of the membership below.
    pub index: u64,
    /// Every member, this one included.
    pub members: Vec<GroupMember>,
}

/// A snapshot file.
pub struct SnapshotContent {
    /// Its size.
    pub size: u64,
    /// Its bytes.
    pub bytes: SnapshotBytes,
}
