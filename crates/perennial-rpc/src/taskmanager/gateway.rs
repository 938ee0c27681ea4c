//! The TaskManager conversation over gRPC: the gateway a JobManager implements, and both adapters.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::service::RoutesBuilder;
use tonic::{Request, Response, Status, Streaming};

use super::{FromTaskManager, ToTaskManager};
use crate::grpc;
use crate::wire::{WireError, pb};
use pb::task_manager_gateway_client::TaskManagerGatewayClient;
use pb::task_manager_gateway_server as server;

/// Messages a side may have under way on one stream before its sender waits.
///
/// A failover makes a burst of one message per execution; this holds that of a large TaskManager.
pub const STREAM_CAPACITY: usize = 1024;

/// Why an attachment could not be made, or ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Nobody answers there, or somebody who does not serve TaskManagers. Try again later.
    #[error("cannot reach the JobManager at {address}: {reason}")]
    Unreachable {
        /// What was dialled.
        address: String,
        /// Why it failed, with all causes.
        reason: String,
    },
    /// The connection broke. Dial again.
    #[error("connection lost: {reason}")]
    Lost {
        /// Why, with all causes.
        reason: String,
    },
    /// The peer sent what is not a message of this conversation. Its connection is not used any more.
    #[error(transparent)]
    Malformed(#[from] WireError),
}

/// The messages of the other side, in the order they were sent. Ends after the first error.
pub struct Incoming<T> {
    messages: Pin<Box<dyn Stream<Item = Result<T, AttachError>> + Send>>,
}

impl<T: Send + 'static> Incoming<T> {
    /// Messages from a channel: a peer in the same process.
    pub fn from_channel(messages: mpsc::Receiver<T>) -> Self {
        Self { messages: Box::pin(ReceiverStream::new(messages).map(Ok)) }
    }

    /// The next message; `None` after an orderly end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<T, AttachError>> {
        self.messages.next().await
    }
}

impl<T> Stream for Incoming<T> {
    type Item = Result<T, AttachError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.as_mut().poll_next(context)
    }
}

fn incoming<W, T>(stream: Streaming<W>) -> Incoming<T>
where
    W: Send + 'static,
    T: TryFrom<W, Error = WireError> + Send + 'static,
{
    let mut ended = false;
    let messages = stream.map(|message| match message {
        Ok(message) => T::try_from(message).map_err(AttachError::Malformed),
        Err(status) => Err(AttachError::Lost { reason: grpc::causes(&status) }),
    });
    Incoming {
        messages: Box::pin(messages.take_while(move |message| !std::mem::replace(&mut ended, message.is_err()))),
    }
}

/// What a JobManager does for TaskManagers.
pub trait TaskManagerGateway: Send + Sync + 'static {
    /// A TaskManager has opened its stream. The answer is what this JobManager tells it, first of all who leads.
    ///
    /// Must not block: the work belongs to a task of the implementor. The TaskManager is gone when `from` ends or
    /// the returned channel is closed; dropping the channel's sender ends the conversation.
    fn attach(&self, peer: Option<SocketAddr>, from: Incoming<FromTaskManager>) -> mpsc::Receiver<ToTaskManager>;
}

/// Offers a [`TaskManagerGateway`] as a gRPC service.
#[derive(Debug, Clone)]
pub struct TaskManagerServer<G> {
    gateway: G,
}

impl<G: TaskManagerGateway> TaskManagerServer<G> {
    /// Offers this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }

    /// Adds the service to a listener's routes.
    pub fn add_to(self, routes: &mut RoutesBuilder) {
        routes.add_service(
            server::TaskManagerGatewayServer::new(self)
                .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
                .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX),
        );
    }
}

#[tonic::async_trait]
impl<G: TaskManagerGateway> server::TaskManagerGateway for TaskManagerServer<G> {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<pb::JobManagerMessage, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<pb::TaskManagerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let peer = request.remote_addr();
        let to = self.gateway.attach(peer, incoming(request.into_inner()));
        Ok(Response::new(Box::pin(ReceiverStream::new(to).map(|message| Ok(message.into())))))
    }
}

/// Opens a TaskManager's stream to the JobManager at `address` (`host:port`).
///
/// Dropping the sender ends the conversation in an orderly way. A peer that vanishes without a word is noticed within
/// four seconds.
///
/// # Errors
/// [`AttachError::Unreachable`] with the exact cause, at the latest after a second for the connection and another for
/// the answer.
pub async fn attach(address: &str) -> Result<(mpsc::Sender<FromTaskManager>, Incoming<ToTaskManager>), AttachError> {
    let unreachable = |reason: String| AttachError::Unreachable { address: address.to_owned(), reason };
    let endpoint = grpc::endpoint(address).map_err(|error| unreachable(grpc::causes(&error)))?;
    let dial = async {
        let channel = endpoint.connect().await.map_err(|error| grpc::causes(&error))?;
        let mut client = TaskManagerGatewayClient::new(channel)
            .max_decoding_message_size(grpc::MESSAGE_BYTES_MAX)
            .max_encoding_message_size(grpc::MESSAGE_BYTES_MAX);
        let (sender, outgoing) = mpsc::channel::<FromTaskManager>(STREAM_CAPACITY);
        let outgoing = ReceiverStream::new(outgoing).map(pb::TaskManagerMessage::from);
        let answer = client.attach(outgoing).await.map_err(|status| grpc::causes(&status))?;
        Ok::<_, String>((sender, incoming(answer.into_inner())))
    };
    match tokio::time::timeout(2 * grpc::CONNECT_TIMEOUT, dial).await {
        Ok(attached) => attached.map_err(unreachable),
        Err(_) => Err(unreachable("no answer within 2 s".to_owned())),
    }
}
