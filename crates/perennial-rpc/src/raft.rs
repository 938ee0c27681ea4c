//! JobManagers among themselves. What they say is encoded by the metadata store; here it is bytes with an identity.

mod client;
mod server;

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use perennial_types::{ClusterId, Incarnation, JobManagerId};
use tokio_stream::Stream;

use crate::WireError;
use crate::wire::{id, pb};

pub use client::{RaftClient, RaftClientConfig};
pub use server::{RaftService, raft_service};

/// Largest message in bytes: the largest command with room for others in one append.
pub(crate) const MESSAGE_BYTES_MAX: usize = 32 << 20;

/// Who speaks to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RaftIdentity {
    /// The sender's cluster, once it is known.
    pub cluster: Option<ClusterId>,
    /// Hash of the founding members' names, as the sender knows them.
    pub group: u64,
    /// The sender.
    pub from: JobManagerId,
    /// The member it means to reach.
    pub to: JobManagerId,
    /// This life of the sender's process.
    pub incarnation: Incarnation,
    /// Greater than that of every process of this member before; 0 when the sender does not count.
    pub start: u64,
}

/// A question with one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftCall {
    /// Who are you, and what do you know of me.
    Handshake,
    /// Raft's vote request.
    Vote,
    /// The same without consequences.
    PreVote,
    /// One append: a heartbeat.
    Append,
    /// Stand for election.
    TransferLeader,
    /// The leader's process is gone; do you see the same, and may I stand?
    LeaderGone,
    /// You are no member any more.
    Farewell,
}

/// Why a peer did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RaftRpcError {
    /// It was not reached, or its answer was lost.
    #[error("{peer} is not reached: {reason}")]
    Unreachable {
        /// The peer.
        peer: JobManagerId,
        /// What happened.
        reason: String,
    },
    /// It did not answer in time.
    #[error("{peer} did not answer in time")]
    Timeout {
        /// The peer.
        peer: JobManagerId,
    },
    /// It does not take part now; ask again later.
    #[error("not taking part yet: {0}")]
    NotReady(String),
    /// It will not talk to this sender until a person has changed something.
    #[error("refused: {0}")]
    Refused(String),
    /// The sender was removed from the group, for good.
    #[error("removed: {0}")]
    Removed(String),
    /// It could not read the request, or the answer could not be read.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// A boxed future of a gateway.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A boxed stream of payloads.
pub type PayloadStream = Pin<Box<dyn Stream<Item = Result<Bytes, RaftRpcError>> + Send>>;

/// What a member answers. Every method is given who asks, and decides whether it may.
pub trait RaftGateway: Send + Sync + 'static {
    /// Answers a question.
    fn call(&self, call: RaftCall, from: RaftIdentity, payload: Bytes) -> BoxFuture<Result<Bytes, RaftRpcError>>;

    /// Answers a pipeline of appends, in their order. The stream ends after an error.
    fn append_stream(
        &self,
        from: RaftIdentity,
        requests: PayloadStream,
    ) -> BoxFuture<Result<PayloadStream, RaftRpcError>>;

    /// Takes a snapshot: the first payload is its header, the others are its bytes.
    fn install_snapshot(&self, from: RaftIdentity, payloads: PayloadStream) -> BoxFuture<Result<Bytes, RaftRpcError>>;

    /// Lets itself be watched: says which process this is, and ends the stream when it stops.
    fn watch(&self, from: RaftIdentity) -> BoxFuture<Result<PayloadStream, RaftRpcError>>;
}

impl From<RaftIdentity> for pb::RaftIdentity {
    fn from(identity: RaftIdentity) -> Self {
        let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        Self {
            cluster: identity.cluster.map(|cluster| bytes(cluster.as_bytes())).unwrap_or_default(),
            group: identity.group,
            from: identity.from.0,
            to: identity.to.0,
            incarnation: bytes(identity.incarnation.as_bytes()),
            start: identity.start,
        }
    }
}

impl TryFrom<pb::RaftIdentity> for RaftIdentity {
    type Error = WireError;

    fn try_from(identity: pb::RaftIdentity) -> Result<Self, WireError> {
        let cluster = match identity.cluster.is_empty() {
            true => None,
            false => Some(id(&identity.cluster, "identity.cluster")?),
        };
        Ok(Self {
            cluster,
            group: identity.group,
            from: JobManagerId(identity.from),
            to: JobManagerId(identity.to),
            incarnation: id(&identity.incarnation, "identity.incarnation")?,
            start: identity.start,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_round_trip_and_name_the_field_that_is_wrong() {
        let identity = RaftIdentity {
            cluster: Some(ClusterId::random()),
            group: 7,
            from: JobManagerId(1),
            to: JobManagerId(2),
            incarnation: Incarnation::random(),
            start: 3,
        };
        assert_eq!(RaftIdentity::try_from(pb::RaftIdentity::from(identity)), Ok(identity));
        let unnamed = RaftIdentity { cluster: None, ..identity };
        assert_eq!(RaftIdentity::try_from(pb::RaftIdentity::from(unnamed)), Ok(unnamed));
        let mut wrong = pb::RaftIdentity::from(identity);
        wrong.incarnation = Bytes::from_static(b"short");
        assert_eq!(RaftIdentity::try_from(wrong).unwrap_err().field, "identity.incarnation");
    }
}
