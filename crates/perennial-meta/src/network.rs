//! The side that calls: openraft's network traits over one long-lived connection per peer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::impls::BasicNode;
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::alias::SnapshotOf;
use perennial_rpc::raft::{PayloadStream, RaftCall, RaftClientConfig, RaftRpcError};
use perennial_types::{Incarnation, JobManagerId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::ground::{self, RaftClient};
use crate::identity::Identity;
use crate::raft::{SnapshotMeta, TypeConfig, Vote};
use crate::snapshot::SnapshotFile;
use crate::wire;

/// Time a peer has to accept a connection. Peers are near each other; a dead one must not hold up an election.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Silence after which a connection is probed, and time the answer has.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// Time a peer has to accept a pipeline of appends: a connection attempt and an answer.
const STREAM_DEADLINE: Duration = Duration::from_millis(400);

/// Time a peer has at least to answer a vote. openraft gives it the shortest election timeout; on a busy machine with a busy disk
/// that is over before the vote is durable, and an answer that comes later still counts.
const VOTE_DEADLINE: Duration = Duration::from_secs(1);

/// Pause before a peer that was not reached is tried again. openraft's default of 200 ms delays a peer that comes back.
const BACKOFF: Duration = Duration::from_millis(20);

/// Bytes of a snapshot sent in one message.
const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;

/// Time for a whole snapshot: 100 MB over a slow disk.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(60);

/// Connections to all other members.
pub(crate) struct Peers {
    identity: Arc<Identity>,
    /// By number, each with the address it was made for.
    clients: Mutex<BTreeMap<u64, (String, RaftClient)>>,
    /// Whether a leadership of this member is kept from the others.
    silent: AtomicBool,
}

/// First payload of a snapshot.
#[derive(Serialize, Deserialize)]
pub(crate) struct SnapshotHeader {
    pub(crate) vote: Vote,
    pub(crate) meta: SnapshotMeta,
    pub(crate) bytes: u64,
}

impl Peers {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self { identity, clients: Mutex::default(), silent: AtomicBool::new(false) }
    }

    /// Says nothing more as a leader, neither heartbeats nor entries, or speaks again.
    pub(crate) fn set_silent(&self, silent: bool) {
        if self.silent.swap(silent, Ordering::Relaxed) != silent {
            tracing::info!(silent, "no quorum answers this leader, or one does again");
        }
    }

    fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Asks a member something. Has to be called within a tokio runtime, which then drives the connection.
    pub(crate) async fn call(
        &self,
        to: JobManagerId,
        call: RaftCall,
        payload: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, RaftRpcError> {
        let answer = self.client(to)?.call(call, self.identity.toward(to), payload, deadline).await;
        self.note(to, answer)
    }

    /// Watches a member's process: which one it is, and a stream that ends with it.
    pub(crate) async fn watch(
        &self,
        to: JobManagerId,
        deadline: Duration,
    ) -> Result<(Incarnation, PayloadStream), RaftRpcError> {
        let watched = self.client(to)?.watch(self.identity.toward(to), deadline).await;
        self.note(to, watched)
    }

    /// The connection to a member, made when it is first needed and when its address has changed.
    pub(crate) fn client(&self, to: JobManagerId) -> Result<RaftClient, RaftRpcError> {
        let unknown = || RaftRpcError::NotReady(format!("{to} is no member this JobManager knows of"));
        let address = self.identity.address(to).ok_or_else(unknown)?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, client)) = clients.get(&to.0)
            && *at == address
        {
            return Ok(client.clone());
        }
        let config = RaftClientConfig {
            peer: to,
            address: address.clone(),
            connect_timeout: CONNECT_TIMEOUT,
            keep_alive: KEEP_ALIVE,
        };
        let client = RaftClient::new(&config)?;
        let members = self.identity.members();
        clients.retain(|id, _| members.nodes.contains_key(id));
        clients.insert(to.0, (address, client.clone()));
        Ok(client)
    }

    /// Logs a refusal, once: it lasts until a person acts.
    fn note<T>(&self, to: JobManagerId, answer: Result<T, RaftRpcError>) -> Result<T, RaftRpcError> {
        match &answer {
            Err(RaftRpcError::Refused(reason)) => {
                self.identity.complain(to, &format!("{to} refused a call: {reason}"));
            }
            Err(RaftRpcError::Removed(reason)) => self.identity.farewell(reason),
            _ => {}
        }
        answer
    }
}

/// Makes [`Network`]s.
pub(crate) struct Networks(pub(crate) Arc<Peers>);

/// Calls one member on behalf of openraft.
pub(crate) struct Network {
    peers: Arc<Peers>,
    to: JobManagerId,
    /// Whether appends go in a pipeline. Heartbeats come one by one and are not worth a stream each.
    pipelined: bool,
}

impl RaftNetworkFactory<TypeConfig> for Networks {
    type Network = Network;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Network {
        Network { peers: self.0.clone(), to: JobManagerId(target), pipelined: true }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &BasicNode) -> Network {
        Network { pipelined: false, ..self.new_client(target, node).await }
    }
}

impl Network {
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: RaftCall,
        question: &Q,
        deadline: Duration,
    ) -> Result<A, RPCError<TypeConfig>> {
        let payload = Bytes::from(wire::encode(question));
        let answer = self.peers.call(self.to, call, payload, deadline).await;
        answer.and_then(|bytes| wire::decode(&bytes)).map_err(rpc_error)
    }

    async fn open_pipeline<S>(
        &self,
        mut input: S,
    ) -> Result<BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // openraft waits between attempts inside this stream. Opening the call before taking the first request would
        // skip that wait, and a dead peer would make the leader spin.
        let Some(first) = input.next().await else { return Ok(Box::pin(stream::empty())) };
        if self.peers.is_silent() {
            return Err(silent());
        }
        let peers = self.peers.clone();
        let requests = stream::iter([first]).chain(input.take_while(move |_| std::future::ready(!peers.is_silent())));
        let requests = requests.map(|request| Bytes::from(wire::encode(&request)));
        let client = self.peers.client(self.to).map_err(rpc_error)?;
        let opened = client.append_stream(self.peers.identity.toward(self.to), requests, STREAM_DEADLINE).await;
        let answers = self.peers.note(self.to, opened).map_err(rpc_error)?;
        Ok(Box::pin(answers.map(|answer| answer.and_then(|bytes| wire::decode(&bytes)).map_err(rpc_error))))
    }
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        if self.peers.is_silent() {
            return Err(silent());
        }
        self.ask(RaftCall::Append, &request, option.hard_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>, RPCError<TypeConfig>>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        match self.pipelined {
            true => Box::pin(async move { self.open_pipeline(input).await.map(|answers| answers as BoxStream<'s, _>) }),
            false => stream_append_sequential(self, input, option),
        }
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RaftCall::Vote, &request, option.hard_ttl().max(VOTE_DEADLINE)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RaftCall::PreVote, &request, option.hard_ttl().max(VOTE_DEADLINE)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, SnapshotFile>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let file = snapshot.snapshot.file.try_clone().map_err(|error| NetworkError::new(&error))?;
        let bytes = file.metadata().map_err(|error| NetworkError::new(&error))?.len();
        let header = wire::encode(&SnapshotHeader { vote, meta: snapshot.meta, bytes });
        let payloads = stream::iter([Bytes::from(header)]).chain(file_chunks(file));
        let client = self.peers.client(self.to).map_err(|error| StreamingError::from(rpc_error(error)))?;
        let sent = client.install_snapshot(self.peers.identity.toward(self.to), payloads, SNAPSHOT_DEADLINE);
        tokio::select! {
            // In this order because a simulation needs one; the two have nothing to do with each other.
            biased;
            answer = sent => {
                let answer = self.peers.note(self.to, answer).and_then(|bytes| wire::decode(&bytes));
                answer.map_err(|error| StreamingError::from(rpc_error(error)))
            }
            closed = cancel => Err(StreamingError::Closed(closed)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask(RaftCall::TransferLeader, &request, option.hard_ttl()).await
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(BACKOFF)))
    }
}

/// The bytes of a file from its beginning. Ends early when it cannot be read: the receiver counts.
fn file_chunks(file: std::fs::File) -> impl Stream<Item = Bytes> + Send + 'static {
    stream::unfold((file, 0), |(file, offset)| async move {
        let read = ground::spawn_blocking(move || {
            let mut chunk = vec![0; SNAPSHOT_CHUNK_BYTES];
            let read = std::os::unix::fs::FileExt::read_at(&file, &mut chunk, offset);
            read.map(|read| {
                chunk.truncate(read);
                (file, chunk)
            })
        });
        match read.await {
            Ok(Ok((file, chunk))) if !chunk.is_empty() => {
                let next = offset + chunk.len() as u64;
                Some((Bytes::from(chunk), (file, next)))
            }
            _ => None,
        }
    })
}

fn silent() -> RPCError<TypeConfig> {
    rpc_error(RaftRpcError::NotReady("no quorum answers, so that the others may elect".to_owned()))
}

fn rpc_error(error: RaftRpcError) -> RPCError<TypeConfig> {
    RPCError::Unreachable(Unreachable::new(&error))
}
