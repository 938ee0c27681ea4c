//! The calling side of a connection between members.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use perennial_rpc::raft::{PayloadStream, RaftCall, RaftClientConfig, RaftIdentity, RaftRpcError};
use perennial_types::{Incarnation, JobManagerId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::super::ground::Here;
use super::{ConnId, Event, Frame, Net, Node, Request, Transfer, Way};

/// Has the methods of [`perennial_rpc::raft::RaftClient`].
#[derive(Clone)]
pub(crate) struct RaftClient {
    peer: JobManagerId,
    from: Node,
    net: Net,
}

impl RaftClient {
    /// A client of the simulated process that runs now.
    pub(crate) fn new(config: &RaftClientConfig) -> Result<Self, RaftRpcError> {
        let Some(Here { node, net, .. }) = Here::current() else {
            return Err(RaftRpcError::NotReady("no simulation runs".to_owned()));
        };
        Ok(Self { peer: config.peer, from: node, net })
    }

    pub(crate) async fn call(
        &self,
        call: RaftCall,
        identity: RaftIdentity,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RaftRpcError> {
        let answer = self.net.ask(self.from, self.node(), call, identity, payload);
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(self.gone()),
            Err(_) => Err(RaftRpcError::Timeout { peer: self.peer }),
        }
    }

    pub(crate) async fn append_stream(
        &self,
        identity: RaftIdentity,
        requests: impl Stream<Item = Bytes> + Send + 'static,
        deadline: Duration,
    ) -> Result<PayloadStream, RaftRpcError> {
        let mut answers = self.open(identity, Transfer::Appends, requests);
        match tokio::time::timeout(deadline, answers.frames.recv()).await {
            Ok(Some(Frame::Accepted)) => {}
            Ok(Some(Frame::Answer(Err(error)))) => return Err(error),
            Ok(_) => return Err(self.gone()),
            Err(_) => return Err(RaftRpcError::Timeout { peer: self.peer }),
        }
        Ok(answers.into_stream())
    }

    pub(crate) async fn install_snapshot(
        &self,
        identity: RaftIdentity,
        payloads: impl Stream<Item = Bytes> + Send + 'static,
        deadline: Duration,
    ) -> Result<Bytes, RaftRpcError> {
        let mut answers = self.open(identity, Transfer::Snapshot, payloads);
        match tokio::time::timeout(deadline, answers.frames.recv()).await {
            Ok(Some(Frame::Answer(answer))) => answer,
            Ok(_) => Err(self.gone()),
            Err(_) => Err(RaftRpcError::Timeout { peer: self.peer }),
        }
    }

    pub(crate) async fn watch(
        &self,
        identity: RaftIdentity,
        deadline: Duration,
    ) -> Result<(Incarnation, PayloadStream), RaftRpcError> {
        let mut answers = self.open(identity, Transfer::Watch, stream::empty());
        let first = match tokio::time::timeout(deadline, answers.frames.recv()).await {
            Ok(Some(Frame::Answer(answer))) => answer?,
            Ok(_) => return Err(self.gone()),
            Err(_) => return Err(RaftRpcError::Timeout { peer: self.peer }),
        };
        let incarnation = first.as_ref().try_into().map(Incarnation::from_bytes);
        let incarnation = incarnation.map_err(|_| RaftRpcError::Malformed("incarnation".to_owned()))?;
        Ok((incarnation, answers.into_stream()))
    }

    fn open(
        &self,
        identity: RaftIdentity,
        transfer: Transfer,
        payloads: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Answers {
        let (conn, frames, gone) = self.net.open(self.from, self.node(), identity, transfer);
        let net = self.net.clone();
        tokio::spawn(async move {
            let mut payloads = std::pin::pin!(payloads);
            while let Some(Some(payload)) = gone.run_until_cancelled(payloads.next()).await {
                net.push(conn, Way::Up, Frame::Payload(payload));
            }
            net.push(conn, Way::Up, Frame::End);
        });
        Answers { frames, conn, net: self.net.clone() }
    }

    fn node(&self) -> Node {
        self.peer.0 as Node - 1
    }

    fn gone(&self) -> RaftRpcError {
        RaftRpcError::Unreachable { peer: self.peer, reason: "the connection is gone".to_owned() }
    }
}

/// What comes back through a connection. Dropped, it ends the connection.
struct Answers {
    frames: mpsc::UnboundedReceiver<Frame>,
    conn: ConnId,
    net: Net,
}

impl Answers {
    fn into_stream(self) -> PayloadStream {
        Box::pin(stream::unfold(self, |mut answers| async move {
            match answers.frames.recv().await {
                Some(Frame::Answer(answer)) => Some((answer, answers)),
                _ => None,
            }
        }))
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.net.hang_up(self.conn);
    }
}

impl Net {
    fn ask(
        &self,
        from: Node,
        to: Node,
        call: RaftCall,
        identity: RaftIdentity,
        payload: Bytes,
    ) -> oneshot::Receiver<Result<Bytes, RaftRpcError>> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.lock();
        state.number += 1;
        let id = state.number;
        state.calls.insert(id, sender);
        let delay = state.delay(from, to);
        state.schedule(delay, Event::Request(Request { id, from, to, call, identity, payload }));
        answer
    }

    fn open(
        &self,
        from: Node,
        to: Node,
        identity: RaftIdentity,
        transfer: Transfer,
    ) -> (ConnId, mpsc::UnboundedReceiver<Frame>, CancellationToken) {
        let (sender, frames) = mpsc::unbounded_channel();
        let mut state = self.lock();
        let conn = state.open((from, to), Some(sender));
        state.push(conn, Way::Up, Frame::Open(identity, transfer));
        let gone = state.conns.get(&conn).map(|conn| conn.gone.clone());
        (conn, frames, gone.unwrap_or_default())
    }

    /// The calling side has dropped a connection.
    fn hang_up(&self, conn: ConnId) {
        let mut state = self.lock();
        if let Some(open) = state.conns.get(&conn) {
            open.gone.cancel();
        }
        state.push(conn, Way::Up, Frame::HangUp);
    }
}
