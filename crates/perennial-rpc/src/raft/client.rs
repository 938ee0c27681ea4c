//! The side that asks.

use std::time::Duration;

use bytes::Bytes;
use perennial_types::{Incarnation, JobManagerId};
use tokio_stream::{Stream, StreamExt};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};

use super::{MESSAGE_BYTES_MAX, PayloadStream, RaftCall, RaftIdentity, RaftRpcError};
use crate::wire::pb::raft_client::RaftClient as Stub;
use crate::wire::{id, pb};

/// How a peer is reached.
#[derive(Debug, Clone)]
pub struct RaftClientConfig {
    /// The peer.
    pub peer: JobManagerId,
    /// Its RPC address, `host:port`.
    pub address: String,
    /// Time it has to accept a connection.
    pub connect_timeout: Duration,
    /// Silence after which a ping is sent, and time the answer has.
    pub keep_alive: Duration,
}

/// Speaks to one peer over one long-lived connection, made when it is first needed and made again when it breaks.
/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct RaftClient {
    peer: JobManagerId,
    stub: Stub<Channel>,
}

impl RaftClient {
    /// Prepares the connection. Has to be called within a tokio runtime.
    ///
    /// Fails when the address is none.
    pub fn new(config: &RaftClientConfig) -> Result<Self, RaftRpcError> {
        let peer = config.peer;
        let endpoint = Endpoint::from_shared(format!("http://{}", config.address))
            .map_err(|error| RaftRpcError::Unreachable { peer, reason: format!("`{}`: {error}", config.address) })?
            .connect_timeout(config.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(config.keep_alive)
            .keep_alive_timeout(config.keep_alive)
            .keep_alive_while_idle(true);
        let stub = Stub::new(endpoint.connect_lazy())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { peer, stub })
    }

    /// Asks a question that has to be answered within `deadline`.
    pub async fn call(
        &self,
        call: RaftCall,
        identity: RaftIdentity,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RaftRpcError> {
        let request = Request::new(pb::RaftMessage { identity: Some(identity.into()), payload });
        let mut stub = self.stub.clone();
        let answer = async move {
            match call {
                RaftCall::Handshake => stub.handshake(request).await,
                RaftCall::Vote => stub.vote(request).await,
                RaftCall::PreVote => stub.pre_vote(request).await,
                RaftCall::Append => stub.append(request).await,
                RaftCall::TransferLeader => stub.transfer_leader(request).await,
                RaftCall::LeaderGone => stub.leader_gone(request).await,
                RaftCall::Farewell => stub.farewell(request).await,
            }
        };
        self.payload_within(deadline, answer).await
    }

    /// Opens a pipeline of appends. The peer has `deadline` to accept it; it then lasts until either side ends it.
    pub async fn append_stream(
        &self,
        identity: RaftIdentity,
        requests: impl Stream<Item = Bytes> + Send + 'static,
        deadline: Duration,
    ) -> Result<PayloadStream, RaftRpcError> {
        let mut stub = self.stub.clone();
        let messages = identified(identity, requests);
        let opened = tokio::time::timeout(deadline, async move { stub.append_stream(messages).await });
        let answers = opened.await.map_err(|_| RaftRpcError::Timeout { peer: self.peer })?;
        let peer = self.peer;
        let answers = answers.map_err(|status| refusal(peer, &status))?.into_inner();
        Ok(Box::pin(answers.map(move |answer| match answer {
            Ok(message) => Ok(message.payload),
            Err(status) => Err(refusal(peer, &status)),
        })))
    }

    /// Sends a snapshot: its header, then its bytes. The peer has `deadline` for all of it.
    pub async fn install_snapshot(
        &self,
        identity: RaftIdentity,
        payloads: impl Stream<Item = Bytes> + Send + 'static,
        deadline: Duration,
    ) -> Result<Bytes, RaftRpcError> {
        let mut stub = self.stub.clone();
        let messages = identified(identity, payloads);
        self.payload_within(deadline, async move { stub.install_snapshot(messages).await }).await
    }

    /// Watches the peer's process. The peer has `deadline` to say which process it is; the stream then ends with that
    /// process or with the connection.
    pub async fn watch(
        &self,
        identity: RaftIdentity,
        deadline: Duration,
    ) -> Result<(Incarnation, PayloadStream), RaftRpcError> {
        let request = Request::new(pb::RaftMessage { identity: Some(identity.into()), payload: Bytes::new() });
        let (mut stub, peer) = (self.stub.clone(), self.peer);
        let opened = async move {
            let mut words = stub.watch(request).await?.into_inner();
            let first = words.next().await.unwrap_or_else(|| Err(Status::unavailable("it has just stopped")))?;
            Ok((first, words))
        };
        let opened = tokio::time::timeout(deadline, opened).await.map_err(|_| RaftRpcError::Timeout { peer })?;
        let (first, words) = opened.map_err(|status| refusal(peer, &status))?;
        let incarnation = id(&first.payload, "incarnation");
        let incarnation = incarnation.map_err(|error| RaftRpcError::Malformed(error.to_string()))?;
        let words = words.map(move |word| match word {
            Ok(message) => Ok(message.payload),
            Err(status) => Err(refusal(peer, &status)),
        });
        Ok((incarnation, Box::pin(words)))
    }

    async fn payload_within(
        &self,
        deadline: Duration,
        answer: impl Future<Output = Result<Response<pb::RaftMessage>, Status>>,
    ) -> Result<Bytes, RaftRpcError> {
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_inner().payload),
            Ok(Err(status)) => Err(refusal(self.peer, &status)),
            Err(_) => Err(RaftRpcError::Timeout { peer: self.peer }),
        }
    }
}

/// Messages of a stream: the identity goes with the first.
fn identified(
    identity: RaftIdentity,
    payloads: impl Stream<Item = Bytes> + Send + 'static,
) -> impl Stream<Item = pb::RaftMessage> + Send + 'static {
    let mut identity = Some(pb::RaftIdentity::from(identity));
    payloads.map(move |payload| pb::RaftMessage { identity: identity.take(), payload })
}

/// What a status means. A failure of the transport has the code `Unavailable` too, but a cause.
fn refusal(peer: JobManagerId, status: &Status) -> RaftRpcError {
    let text = status.message().to_owned();
    match status.code() {
        Code::Unavailable if std::error::Error::source(status).is_none() => RaftRpcError::NotReady(text),
        Code::FailedPrecondition => RaftRpcError::Refused(text),
        Code::PermissionDenied => RaftRpcError::Removed(text),
        Code::InvalidArgument => RaftRpcError::Malformed(text),
        _ => RaftRpcError::Unreachable { peer, reason: crate::grpc::causes(status) },
    }
}
