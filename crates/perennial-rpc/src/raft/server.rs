//! The side that is asked.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::{MESSAGE_BYTES_MAX, PayloadStream, RaftCall, RaftGateway, RaftIdentity, RaftRpcError};
use crate::wire::pb;
use crate::wire::pb::raft_server::{Raft, RaftServer};

/// What a JobManager's RPC server mounts for its peers.
pub type RaftService = RaftServer<GatewayAdapter>;

/// Serves a gateway over gRPC.
pub fn raft_service(gateway: Arc<dyn RaftGateway>) -> RaftService {
    RaftServer::new(GatewayAdapter { gateway })
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

type MessageStream = Pin<Box<dyn Stream<Item = Result<pb::RaftMessage, Status>> + Send>>;

/// Turns messages into calls of the gateway.
#[derive(Clone)]
pub struct GatewayAdapter {
    gateway: Arc<dyn RaftGateway>,
}

impl GatewayAdapter {
    async fn answer(
        &self,
        call: RaftCall,
        request: Request<pb::RaftMessage>,
    ) -> Result<Response<pb::RaftMessage>, Status> {
        let message = request.into_inner();
        let from = identity(message.identity)?;
        let payload = self.gateway.call(call, from, message.payload).await.map_err(status)?;
        Ok(Response::new(pb::RaftMessage { identity: None, payload }))
    }

    /// The first message of a stream, and all payloads including its own.
    async fn open(mut messages: Streaming<pb::RaftMessage>) -> Result<(RaftIdentity, PayloadStream), Status> {
        let first =
            messages.next().await.ok_or_else(|| Status::invalid_argument("the stream has no first message"))??;
        let from = identity(first.identity)?;
        let rest = messages.map(move |message| match message {
            Ok(message) => Ok(message.payload),
            Err(status) => Err(RaftRpcError::Unreachable { peer: from.from, reason: status.message().to_owned() }),
        });
        Ok((from, Box::pin(tokio_stream::once(Ok(first.payload)).chain(rest))))
    }
}

fn identity(identity: Option<pb::RaftIdentity>) -> Result<RaftIdentity, Status> {
    let identity = identity.ok_or_else(|| Status::invalid_argument("malformed message: `identity` is missing"))?;
    identity.try_into().map_err(|error: crate::WireError| Status::invalid_argument(error.to_string()))
}

fn status(error: RaftRpcError) -> Status {
    match error {
        RaftRpcError::NotReady(reason) => Status::unavailable(reason),
        RaftRpcError::Refused(reason) => Status::failed_precondition(reason),
        RaftRpcError::Removed(reason) => Status::permission_denied(reason),
        RaftRpcError::Malformed(reason) => Status::invalid_argument(reason),
        RaftRpcError::Unreachable { .. } | RaftRpcError::Timeout { .. } => Status::aborted(error.to_string()),
    }
}

fn message(payload: Bytes) -> pb::RaftMessage {
    pb::RaftMessage { identity: None, payload }
}

#[tonic::async_trait]
impl Raft for GatewayAdapter {
    async fn handshake(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::Handshake, request).await
    }

    async fn vote(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::Vote, request).await
    }

    async fn pre_vote(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::PreVote, request).await
    }

    async fn append(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::Append, request).await
    }

    async fn transfer_leader(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::TransferLeader, request).await
    }

    async fn leader_gone(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::LeaderGone, request).await
    }

    async fn farewell(&self, request: Request<pb::RaftMessage>) -> Result<Response<pb::RaftMessage>, Status> {
        self.answer(RaftCall::Farewell, request).await
    }

    type AppendStreamStream = MessageStream;

    async fn append_stream(
        &self,
        request: Request<Streaming<pb::RaftMessage>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let (from, requests) = Self::open(request.into_inner()).await?;
        let answers = self.gateway.append_stream(from, requests).await.map_err(status)?;
        Ok(Response::new(Box::pin(answers.map(|answer| answer.map(message).map_err(status)))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<pb::RaftMessage>>,
    ) -> Result<Response<pb::RaftMessage>, Status> {
        let (from, payloads) = Self::open(request.into_inner()).await?;
        let payload = self.gateway.install_snapshot(from, payloads).await.map_err(status)?;
        Ok(Response::new(message(payload)))
    }

    type WatchStream = MessageStream;

    async fn watch(&self, request: Request<pb::RaftMessage>) -> Result<Response<Self::WatchStream>, Status> {
        let from = identity(request.into_inner().identity)?;
        let words = self.gateway.watch(from).await.map_err(status)?;
        Ok(Response::new(Box::pin(words.map(|word| word.map(message).map_err(status)))))
    }
}
