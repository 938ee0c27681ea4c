//! The side that is called: checks who calls, then lets openraft answer.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, TransferLeaderRequest, VoteRequest,
};
use perennial_rpc::raft::{BoxFuture, PayloadStream, RaftCall, RaftGateway, RaftIdentity, RaftRpcError};
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admission::{Greeting, Seen, Welcome, judge};
use crate::contact::Contact;
use crate::detector::{DetectorHandle, GoneReport};
use crate::ground;
use crate::identity::Identity;
use crate::log::LogStore;
use crate::machine::Machine;
use crate::marker::{Floor, MarkerFile};
use crate::members::Members;
use crate::network::SnapshotHeader;
use crate::raft::TypeConfig;
use crate::snapshot::{SnapshotDir, SnapshotFile};
use crate::wire;

/// openraft with the types used here.
pub(crate) type Raft = openraft::Raft<TypeConfig, Machine>;

/// Whether this member takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Not before its peers have agreed.
    Closed,
    /// It does.
    Open,
}

/// What a call needs.
pub(crate) struct Service {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) marker: Arc<MarkerFile>,
    pub(crate) log: LogStore,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) gate: watch::Receiver<Gate>,
    pub(crate) contact: Arc<Contact>,
    pub(crate) detector: DetectorHandle,
    pub(crate) stop: CancellationToken,
    /// Held while a snapshot is received: one at a time.
    pub(crate) receiving: Arc<tokio::sync::Mutex<()>>,
}

/// The gateway's handle.
#[derive(Clone)]
pub(crate) struct Handle(pub(crate) Arc<Service>);

impl RaftGateway for Handle {
    fn call(&self, call: RaftCall, from: RaftIdentity, payload: Bytes) -> BoxFuture<Result<Bytes, RaftRpcError>> {
        let service = self.0.clone();
        Box::pin(async move { service.answer(call, from, payload).await })
    }

    fn append_stream(
        &self,
        from: RaftIdentity,
        requests: PayloadStream,
    ) -> BoxFuture<Result<PayloadStream, RaftRpcError>> {
        let service = self.0.clone();
        Box::pin(async move {
            service.admit(&from)?;
            let requests = decoded(from, requests).take_until(service.stop.clone().cancelled_owned());
            let answers = service.raft.stream_append(requests);
            let contact = service.contact.clone();
            let answers = answers.map(move |answer| {
                if answer.as_ref().is_ok_and(|appended| !matches!(appended, Err(StreamAppendError::HigherVote(_)))) {
                    contact.heard(from.from.0);
                }
                answer.map(|answer| encoded(&answer)).map_err(stopped)
            });
            // A pipeline without requests would outlive openraft, and hold up the end of the RPC server.
            Ok(Box::pin(answers.take_until(service.stop.clone().cancelled_owned())) as PayloadStream)
        })
    }

    fn install_snapshot(&self, from: RaftIdentity, payloads: PayloadStream) -> BoxFuture<Result<Bytes, RaftRpcError>> {
        let service = self.0.clone();
        Box::pin(async move { service.receive_snapshot(from, payloads).await })
    }

    /// Whoever belongs to the group may watch, whether or not this member takes part yet: it is the process that counts.
    fn watch(&self, from: RaftIdentity) -> BoxFuture<Result<PayloadStream, RaftRpcError>> {
        let service = self.0.clone();
        Box::pin(async move {
            service.identity.check(&from)?;
            let incarnation = Bytes::copy_from_slice(service.identity.incarnation().as_bytes());
            let words = stream::once(std::future::ready(Ok(incarnation))).chain(stream::pending());
            Ok(Box::pin(words.take_until(service.stop.clone().cancelled_owned())) as PayloadStream)
        })
    }
}

impl Service {
    /// Whether the caller may be answered now.
    fn admit(&self, from: &RaftIdentity) -> Result<(), RaftRpcError> {
        self.identity.check_current(from)?;
        match *self.gate.borrow() {
            Gate::Open => Ok(()),
            Gate::Closed => Err(RaftRpcError::NotReady(format!(
                "{} waits for its peers to agree that its data directory is complete",
                self.identity.this()
            ))),
        }
    }

    async fn answer(&self, call: RaftCall, from: RaftIdentity, payload: Bytes) -> Result<Bytes, RaftRpcError> {
        if !matches!(call, RaftCall::Handshake | RaftCall::Farewell) {
            self.admit(&from)?;
        }
        match call {
            RaftCall::Handshake => self.welcome(from, &payload).await,
            RaftCall::Farewell => {
                self.identity.check(&from)?;
                // Only one who belongs to this cluster and says so is believed.
                if from.cluster.is_none() || from.cluster != self.marker.cluster() {
                    return Err(RaftRpcError::Refused("the cluster is not the same".to_owned()));
                }
                let reason: String = wire::decode(&payload)?;
                self.identity.farewell(&reason);
                Ok(Bytes::new())
            }
            RaftCall::Vote => {
                let request: VoteRequest<TypeConfig> = wire::decode(&payload)?;
                self.raft.vote(request).await.map(|answer| encoded(&answer)).map_err(stopped)
            }
            RaftCall::PreVote => {
                let request: VoteRequest<TypeConfig> = wire::decode(&payload)?;
                self.raft.pre_vote(request).await.map(|answer| encoded(&answer)).map_err(stopped)
            }
            RaftCall::Append => {
                let request: AppendEntriesRequest<TypeConfig> = wire::decode(&payload)?;
                check_entries(&request)?;
                let answer = self.raft.append_entries(request).await.map_err(stopped)?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.contact.heard(from.from.0);
                }
                Ok(encoded(&answer))
            }
            RaftCall::TransferLeader => {
                let request: TransferLeaderRequest<TypeConfig> = wire::decode(&payload)?;
                if *request.to_node_id() == self.identity.this().0 {
                    self.contact.asked_to_lead(request.from_leader().leader_id().term);
                }
                self.raft.handle_transfer_leader(request).await.map(|answer| encoded(&answer)).map_err(stopped)
            }
            RaftCall::LeaderGone => {
                let report: GoneReport = wire::decode(&payload)?;
                Ok(encoded(&self.detector.told(from.from, report).await))
            }
        }
    }

    /// Answers a greeting: remembers the caller's directory, or refuses one that has forgotten something.
    async fn welcome(&self, from: RaftIdentity, payload: &[u8]) -> Result<Bytes, RaftRpcError> {
        self.identity.check(&from)?;
        let greeting: Greeting = wire::decode(payload)?;
        let known = self.marker.get().members.get(&from.from.0).copied();
        let remember = judge(known, &greeting).map_err(|reason| {
            self.identity.complain(from.from, &format!("{} may not take part: {reason}", from.from));
            RaftRpcError::Refused(reason)
        })?;
        self.identity.greet(&from);
        let marker = self.marker.clone();
        let remembered = ground::spawn_blocking(move || {
            marker.update(|marker| {
                marker.members.insert(from.from.0, remember);
            })
        });
        let io =
            |error: &dyn std::fmt::Display| RaftRpcError::NotReady(format!("could not remember the caller: {error}"));
        remembered.await.map_err(|error| io(&error))?.map_err(|error| io(&error))?;
        let members = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            Members::read(&metrics.committed_membership_config, self.identity.founders())
        };
        let seen = Seen { floor: remember.floor, acknowledged: self.acknowledged_by(from.from.0) };
        let directory = self.marker.get().directory;
        Ok(encoded(&Welcome { empty: self.is_empty(), seen, directory, members }))
    }

    /// What a member has acknowledged to this one, while it leads.
    fn acknowledged_by(&self, member: u64) -> Option<Floor> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&member)?.as_ref()?;
        Some(Floor { term: metrics.current_term, index: matched.index })
    }

    /// Whether nothing is known here that could have been committed: no entry but the founding membership.
    fn is_empty(&self) -> bool {
        self.log.last().is_ok_and(|last| last.is_none_or(|last| last.index == 0))
    }

    async fn receive_snapshot(&self, from: RaftIdentity, mut payloads: PayloadStream) -> Result<Bytes, RaftRpcError> {
        self.admit(&from)?;
        let Ok(_alone) = self.receiving.try_lock() else {
            return Err(RaftRpcError::NotReady("a snapshot is being received".to_owned()));
        };
        let first = payloads.next().await;
        let first = first.ok_or_else(|| RaftRpcError::Malformed("a snapshot without a header".to_owned()))??;
        let header: SnapshotHeader = wire::decode(&first)?;
        let io = |error: std::io::Error| RaftRpcError::NotReady(format!("could not store a snapshot: {error}"));
        let (path, file) = self.snapshots.incoming().map_err(io)?;
        let incoming = Incoming(path);
        let mut file = Some(file);
        let mut received = 0;
        while let Some(chunk) = payloads.next().await {
            let chunk = chunk?;
            received += chunk.len() as u64;
            let Some(mut out) = file.take() else { break };
            let written = ground::spawn_blocking(move || out.write_all(&chunk).map(|()| out)).await;
            file = Some(written.map_err(|error| io(std::io::Error::other(error)))?.map_err(io)?);
        }
        if received != header.bytes {
            return Err(RaftRpcError::Malformed(format!("a snapshot of {} bytes has {received}", header.bytes)));
        }
        let path = incoming.0.clone();
        let checked = ground::spawn_blocking(move || {
            file.map_or(Ok(()), |file| file.sync_all())?;
            SnapshotFile::open(path)
        });
        let checked = checked.await.map_err(|error| io(std::io::Error::other(error)))?;
        let snapshot = checked.map_err(|error| RaftRpcError::Malformed(format!("a snapshot is damaged: {error}")))?;
        if snapshot.meta != header.meta {
            return Err(RaftRpcError::Malformed("a snapshot is not the one its header announces".to_owned()));
        }
        let snapshot = openraft::Snapshot { meta: header.meta, snapshot };
        let installed = self.raft.install_full_snapshot(header.vote, snapshot).await;
        drop(incoming);
        if installed.is_ok() {
            self.contact.heard(from.from.0);
        }
        installed.map(|answer| encoded(&answer)).map_err(stopped)
    }
}

/// A file that is removed unless it was moved to its place.
struct Incoming(std::path::PathBuf);

impl Drop for Incoming {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(%error, path = %self.0.display(), "could not remove a received snapshot");
            }
            _ => {}
        }
    }
}

fn encoded<T: Serialize>(answer: &T) -> Bytes {
    Bytes::from(wire::encode(answer))
}

fn stopped(error: impl std::fmt::Display) -> RaftRpcError {
    RaftRpcError::NotReady(format!("the metadata store has stopped: {error}"))
}

/// The requests of a pipeline. It ends at the first that cannot be read, which is logged.
fn decoded(
    from: RaftIdentity,
    requests: PayloadStream,
) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
    requests.scan((), move |(), payload| {
        let request = payload.and_then(|payload| {
            let request: AppendEntriesRequest<TypeConfig> = wire::decode(&payload)?;
            check_entries(&request).map(|()| request)
        });
        let request = match request {
            Ok(request) => Some(request),
            Err(error @ RaftRpcError::Malformed(_)) => {
                tracing::error!(peer = %from.from, %error, "an append was refused");
                None
            }
            // The connection broke, which openraft notices by itself.
            Err(_) => None,
        };
        std::future::ready(request)
    })
}

/// openraft asserts that entries follow each other; a caller is not believed.
pub(crate) fn check_entries(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), RaftRpcError> {
    let mut next = request.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
    for entry in &request.entries {
        if entry.log_id.index != next {
            let text = format!("an append has entry {} where {next} is due", entry.log_id.index);
            return Err(RaftRpcError::Malformed(text));
        }
        next = next.saturating_add(1);
    }
    Ok(())
}
