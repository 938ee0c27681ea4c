//! The store's handle: starts a member, writes, reads, and stops.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError};
use openraft::raft::ReadPolicy;
use openraft::{Instant as _, ServerState, SnapshotPolicy};
use perennial_rpc::raft::{RaftService, raft_service};
use perennial_types::{JobManagerId, LeaderEpoch};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::admission::{Decision, greet_all};
use crate::command::{COMMAND_BYTES_MAX, Command, Outcome};
use crate::config::MetaConfig;
use crate::contact::{Contact, Gone};
use crate::detector::{Context, Detector};
use crate::error::{OpenError, WriteError};
use crate::follow::{Follow, unix_ms};
use crate::ground;
use crate::identity::{Identity, next_start};
use crate::join::find_place;
use crate::kv::{self, list};
use crate::leadership::{Beginning, LeadershipView};
use crate::log::LogStore;
use crate::machine::{Machine, Progress};
use crate::marker::MarkerFile;
use crate::members::{Members, stored_node};
use crate::network::{Networks, Peers};
use crate::raft::{Proposal, TypeConfig, term_of};
use crate::reader::StateReader;
use crate::service::{Gate, Handle, Raft, Service};
use crate::silence::{Patience, Silence};
use crate::snapshot::SnapshotDir;
use crate::state::StateDb;
use crate::storage::{Storage, position};

/// Time a write has: several elections, and less than a client waits.
pub(crate) const WRITE_DEADLINE: Duration = Duration::from_secs(5);

/// How often what is applied is written into the state's tree.
const SETTLE_PERIOD: Duration = Duration::from_millis(100);

/// Time a leader has to hand over before it stops anyway.
const HAND_OVER_DEADLINE: Duration = Duration::from_millis(500);

/// Time openraft has to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// Members with lower numbers have so long each to found the group before this one does. It spares the votes that
/// members cast for themselves when all found it at once; who founds it makes no difference.
const FOUNDING_STAGGER: Duration = Duration::from_millis(150);

/// Most entries in one append.
const APPEND_ENTRIES_MAX: u64 = 1024;

/// Entries purged at once.
const PURGE_BATCH: u64 = 128;

/// A command that is committed by a quorum and applied here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Log index of its entry; with `epoch` the fence of what it orders.
    pub index: u64,
    /// Epoch in which it was written.
    pub epoch: LeaderEpoch,
    /// What became of it.
    pub outcome: Outcome,
}

/// A member of the group as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: JobManagerId,
    /// Its name.
    pub name: String,
    /// RPC address, `host:port`.
    pub address: String,
    /// Whether it votes.
    pub voter: bool,
    /// Entries it is behind the end of the log: known of all members on the leader, elsewhere only of this one.
    pub lag: Option<u64>,
}

/// How this member stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// What it is in Raft.
    pub role: RaftRole,
    /// Index of the last entry of its log.
    pub last_log: u64,
    /// Index of the last entry it knows to be committed.
    pub committed: u64,
    /// Index of the last entry in its newest snapshot; 0 without one.
    pub snapshot: u64,
    /// A leader's: since a quorum last acknowledged it.
    pub quorum_ack: Option<Duration>,
}

/// What a member is in Raft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RaftRole {
    /// It leads.
    Leader,
    /// It votes and follows.
    Follower,
    /// It stands for election.
    Candidate,
    /// It follows without a vote.
    Learner,
}

/// Follows changes of the members.
#[derive(Clone)]
pub struct MembershipWatch(watch::Receiver<Arc<Members>>);

impl MembershipWatch {
    /// Resolves at the next change, or never when the store has stopped.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The replicated metadata store: one member of the JobManager group. Cheap to clone.
#[derive(Clone)]
pub struct MetaStore {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) raft: Raft,
    pub(crate) config: MetaConfig,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) marker: Arc<MarkerFile>,
    /// Held while the members or the leader are changed on demand: one change at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    service: Handle,
    log: LogStore,
    pub(crate) snapshots: SnapshotDir,
    pub(crate) state: StateDb,
    view: watch::Receiver<LeadershipView>,
    beginning: watch::Receiver<Option<Beginning>>,
    gone: watch::Receiver<Option<Gone>>,
    applied: watch::Receiver<u64>,
    fatal: watch::Receiver<Option<String>>,
    stop: CancellationToken,
    /// Threads of its own for Raft: work that blocks elsewhere must not look like a dead leader. Taken at the end.
    runtime: Mutex<Option<tokio::runtime::Runtime>>,
    /// Held as long as the directory is used.
    _lock: std::fs::File,
}

impl MetaStore {
    /// Opens the storage and starts the member. Returns at once, before any election and before any peer answers; only a
    /// member that joins and has nothing yet waits until it was added, and says so in the log.
    ///
    /// [`MetaStore::raft_service`] has to be mounted on the RPC server of this JobManager for a group to form.
    pub async fn open(config: MetaConfig) -> Result<MetaStore, OpenError> {
        let mut place = match config.join && !Storage::is_claimed(&config) {
            true => Some(find_place(&config).await?),
            false => None,
        };
        let (opening, given) = (config.clone(), place.clone());
        let opened = tokio::task::spawn_blocking(move || Storage::open(&opening, given.as_ref())).await;
        let storage = opened.map_err(|error| OpenError::Start(error.to_string()))??;
        // It ended before it had heard who the members are.
        if config.join && place.is_none() && storage.log.last().is_ok_and(|last| last.is_none()) {
            place = Some(find_place(&config).await?);
        }
        let known = place.map(Members::from);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(4)
            .thread_name("meta-raft")
            .enable_all()
            .build()
            .map_err(|error| OpenError::Start(format!("no threads: {error}")))?;
        let started = runtime.spawn(start(config, storage, known)).await;
        let started = started.map_err(|error| OpenError::Start(error.to_string())).and_then(|started| started);
        match started {
            Ok(inner) => {
                *inner.runtime.lock().unwrap_or_else(PoisonError::into_inner) = Some(runtime);
                Ok(MetaStore { inner: Arc::new(inner) })
            }
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// The service peers call; mount it on the server of `jobmanager.rpc.port`, whose connections must not delay small
    /// messages (`TCP_NODELAY`), or every commit may wait 40 ms.
    pub fn raft_service(&self) -> RaftService {
        raft_service(Arc::new(self.inner.service.clone()))
    }

    /// Writes a command: resolves when it is committed by a quorum and applied here, after 5 s at the latest.
    ///
    /// Not cancel-safe in the sense that a dropped call may still write.
    pub async fn write(&self, command: Command) -> Result<Written, WriteError> {
        let bytes = command.encode();
        if bytes.len() > COMMAND_BYTES_MAX {
            return Err(WriteError::TooLarge { bytes: bytes.len() });
        }
        let written = self.inner.raft.client_write(Proposal(bytes.into()));
        match tokio::time::timeout(WRITE_DEADLINE, written).await {
            Ok(Ok(written)) => Ok(Written {
                index: written.log_id.index,
                epoch: LeaderEpoch(term_of(&written.log_id)),
                outcome: written.data,
            }),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => Err(self.not_leader(forward)),
            Ok(Err(RaftError::APIError(error))) => Err(WriteError::Unavailable(error.to_string())),
            Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Stopped),
            Err(_) => Err(no_quorum()),
        }
    }

    /// Reads of the applied state.
    pub fn state(&self) -> StateReader {
        StateReader { state: self.inner.state.clone(), applied: self.inner.applied.clone() }
    }

    /// Resolves when [`MetaStore::state`] shows everything that was written anywhere before the call. Leader only.
    pub async fn read_barrier(&self) -> Result<(), WriteError> {
        let ready = self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex);
        match tokio::time::timeout(WRITE_DEADLINE, ready).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(self.not_leader(forward))
            }
            Ok(Err(RaftError::APIError(error))) => Err(WriteError::Unavailable(error.to_string())),
            Ok(Err(RaftError::Fatal(_))) => Err(WriteError::Stopped),
            Err(_) => Err(no_quorum()),
        }
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<LeadershipView> {
        self.inner.view.clone()
    }

    /// How the newest leadership of this member began, which is known before it serves.
    pub fn beginning(&self) -> Option<Beginning> {
        *self.inner.beginning.borrow()
    }

    /// Log index of the last entry applied here.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// This member's number.
    pub fn this(&self) -> JobManagerId {
        self.inner.identity.this()
    }

    /// Where others reach this member, `host:port`.
    pub fn address(&self) -> String {
        self.inner.identity.address(self.this()).unwrap_or_else(|| self.inner.config.address.clone())
    }

    /// Follows changes of the members, as far as this member knows.
    pub fn membership(&self) -> MembershipWatch {
        MembershipWatch(self.inner.identity.watch_members())
    }

    /// How this member stands.
    pub fn standing(&self) -> Standing {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let role = match metrics.state {
            ServerState::Leader => RaftRole::Leader,
            ServerState::Candidate => RaftRole::Candidate,
            ServerState::Learner => RaftRole::Learner,
            ServerState::Follower | ServerState::Shutdown => RaftRole::Follower,
        };
        Standing {
            role,
            last_log: metrics.last_log_index.unwrap_or(0),
            committed: metrics.local_committed.map_or(0, |id| id.index),
            snapshot: metrics.snapshot.map_or(0, |id| id.index),
            quorum_ack: metrics.last_quorum_acked.filter(|_| role == RaftRole::Leader).map(|at| at.elapsed()),
        }
    }

    /// How long ago this member last heard from a leader, or as the leader was acknowledged by a quorum: all that was
    /// committed before is applied here or about to be. `None` before the first time.
    pub fn last_contact(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.state != ServerState::Leader {
            return self.inner.service.0.contact.age(self.this().0);
        }
        // Alone, it is the quorum.
        match self.inner.identity.members().is_sole_voter(self.this()) {
            true => Some(Duration::ZERO),
            false => metrics.last_quorum_acked.map(|at| at.elapsed()),
        }
    }

    /// Whether this member heard from a leader within the time after which members elect another.
    pub fn is_led(&self) -> bool {
        let patience = self.inner.config.election_timeout_max + self.inner.config.election_timeout_min;
        self.last_contact().is_some_and(|age| age < patience)
    }

    /// All members, as far as this one knows.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let applied = metrics.last_applied.map_or(0, |id| id.index);
        let identity = &self.inner.identity;
        let founded = !metrics.membership_config.get_joint_config().is_empty();
        let member = |(id, node): (&u64, &crate::members::Node)| {
            let matched = metrics.replication.as_ref().and_then(|replication| *replication.get(id)?);
            let reached = if *id == identity.this().0 { Some(applied) } else { matched.map(|id| id.index) };
            Member {
                id: JobManagerId(*id),
                name: node.name.clone(),
                address: identity.address_of(node),
                voter: node.voter && founded,
                lag: reached.map(|reached| last.saturating_sub(reached)),
            }
        };
        identity.members().nodes.iter().map(member).collect()
    }

    /// Resolves when this member can no longer take part, with the reason and what to do. The process has to exit.
    pub async fn fatal(&self) -> String {
        let mut fatal = self.inner.fatal.clone();
        match fatal.wait_for(Option::is_some).await.map(|reason| reason.clone()) {
            Ok(Some(reason)) => reason,
            // The sender is gone: the store was shut down in an orderly way.
            _ => std::future::pending().await,
        }
    }

    /// Stops the member. A leader hands over first, so that the group has the next one within milliseconds.
    pub async fn shutdown(&self) {
        let inner = &self.inner;
        if inner.stop.is_cancelled() {
            return;
        }
        self.hand_over().await;
        inner.stop.cancel();
        match tokio::time::timeout(STOP_DEADLINE, inner.raft.shutdown()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the Raft engine ended badly"),
            Err(_) => tracing::warn!("the Raft engine did not stop in time"),
        }
        let (log, state) = (inner.log.clone(), inner.state.clone());
        let closed = ground::spawn_blocking(move || {
            if let Err(error) = log.close() {
                tracing::warn!(%error, "how far the log has come was not noted");
            }
            state.flush()
        });
        if let Ok(Err(error)) = closed.await {
            tracing::warn!(%error, "the state was not flushed; the next start takes longer");
        }
        if let Some(runtime) = inner.runtime.lock().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }

    /// Hands over, if this member leads and another one can.
    async fn hand_over(&self) {
        if !self.inner.raft.is_leader() || self.inner.identity.members().is_sole_voter(self.this()) {
            return;
        }
        match tokio::time::timeout(HAND_OVER_DEADLINE, self.transfer_leader(None)).await {
            Ok(Ok(handed)) => tracing::info!(to = handed.to.name, gap_ms = handed.gap_ms, "leadership handed over"),
            Ok(Err(error)) => tracing::info!(%error, "the leadership could not be handed over; the others will elect"),
            Err(_) => tracing::info!("nobody took over the leadership in time; the others will elect"),
        }
    }

    fn not_leader(&self, forward: ForwardToLeader<TypeConfig>) -> WriteError {
        let gone = *self.inner.gone.borrow();
        let is_gone = |id: &JobManagerId| gone.is_some_and(|gone| gone.leader == id.0);
        let leader = forward.leader_id.map(JobManagerId).filter(|id| *id != self.this() && !is_gone(id));
        let leader = leader.and_then(|id| Some((id, self.inner.identity.address(id)?)));
        WriteError::NotLeader { leader }
    }
}

#[cfg(test)]
impl MetaStore {
    /// Opens a member on the runtime it is called on, as the simulation does.
    pub(crate) async fn open_here(config: MetaConfig) -> Result<MetaStore, OpenError> {
        let storage = Storage::open(&config, None)?;
        Ok(MetaStore { inner: Arc::new(start(config, storage, None).await?) })
    }

    /// What peers call.
    pub(crate) fn gateway(&self) -> Handle {
        self.inner.service.clone()
    }

    /// openraft's view of itself.
    pub(crate) fn metrics(
        &self,
    ) -> openraft::type_config::alias::WatchReceiverOf<TypeConfig, openraft::RaftMetrics<TypeConfig>> {
        self.inner.raft.metrics()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
        // A runtime must not be waited for in a task.
        if let Some(runtime) = self.runtime.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            runtime.shutdown_background();
        }
    }
}

fn no_quorum() -> WriteError {
    WriteError::Unavailable(format!("no quorum answered within {} s", WRITE_DEADLINE.as_secs()))
}

/// Starts openraft and the tasks beside it, on the runtime it is called on. `known` are the members as a member that joins
/// was told.
async fn start(config: MetaConfig, storage: Storage, known: Option<Members>) -> Result<Inner, OpenError> {
    let Storage { marker, log, snapshots, state, directory, lock } = storage;
    let failed = |error: &dyn std::fmt::Display| OpenError::Start(error.to_string());
    let (fatal_sender, fatal) = watch::channel(None);
    let counting = marker.clone();
    let counted =
        ground::spawn_blocking(move || counting.update(|marker| marker.start = next_start(marker.start, unix_ms())));
    counted.await.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
    let identity = Arc::new(Identity::new(&config, marker.clone(), fatal_sender.clone()));
    let peers = Arc::new(Peers::new(identity.clone()));
    let (progress_sender, progress) = watch::channel(Progress::default());
    let (applied_sender, applied) = watch::channel(0);
    let machine = Machine::new(state.clone(), snapshots.clone(), marker.clone(), progress_sender, applied_sender)
        .map_err(|error| failed(&error))?;
    let engine = engine_config(&config).map_err(|error| failed(&error))?;
    let raft = Raft::new(identity.this().0, Arc::new(engine), Networks(peers.clone()), log.clone(), machine)
        .await
        .map_err(|error| failed(&error))?;
    // What the log says, committed or not, is the newest this member knows.
    let logged = raft.with_raft_state(|state| state.membership_state.effective().clone()).await;
    let logged = Members::read(&*logged.map_err(|error| failed(&error))?, &config.peers);
    let removed = list::<kv::removed_member::RemovedMember>(&state, &[]).map_err(|error| failed(&error))?;
    identity.set_logged(logged, removed);
    if let Some(known) = known {
        identity.hear_of(known);
    }
    let (gate_sender, gate) = watch::channel(Gate::Closed);
    let (view_sender, view) = watch::channel(LeadershipView::default());
    let (beginning_sender, beginning) = watch::channel(None);
    let (gone_sender, gone) = watch::channel(None);
    let contact = Arc::new(Contact::new());
    let stop = CancellationToken::new();
    let (detector, detector_handle) = Detector::new(Context {
        raft: raft.clone(),
        identity: identity.clone(),
        peers: peers.clone(),
        log: log.clone(),
        contact: contact.clone(),
        gone: gone_sender,
        stop: stop.clone(),
    });
    tokio::spawn(detector.run());
    // A follower stands for election after the longest timeout without the leader and then at least the shortest:
    // before that nobody else can have been elected.
    let lease = config.election_timeout_max + config.election_timeout_min;
    let follow = Follow {
        raft: raft.clone(),
        log: log.clone(),
        identity: identity.clone(),
        marker: marker.clone(),
        progress,
        contact: contact.clone(),
        peers: peers.clone(),
        silence: Silence::new(Patience {
            speaks: lease * 2,
            // A follower's lease, its longest timeout, and as long for the votes.
            silent: config.election_timeout_max * 3,
            look: config.heartbeat_interval * 2,
        }),
        gone: gone.clone(),
        state: state.clone(),
        view: view_sender,
        beginning: beginning_sender,
        fatal: fatal_sender.clone(),
        lease,
        tick: config.heartbeat_interval,
        stop: stop.clone(),
    };
    tokio::spawn(follow.run());
    tokio::spawn(settle(state.clone(), fatal_sender.clone(), stop.clone()));
    tokio::spawn(note(log.clone(), fatal_sender.clone(), stop.clone()));
    let joining = Joining {
        raft: raft.clone(),
        config: config.clone(),
        identity: identity.clone(),
        marker: marker.clone(),
        gate: gate_sender,
        fatal: fatal_sender,
    };
    let position = {
        let (log, snapshots) = (log.clone(), snapshots.clone());
        move || position(&log, &snapshots).ok()
    };
    // One decision at a time: the next round of greetings waits until the last one was acted upon.
    let (decided, mut decisions) = mpsc::channel(1);
    tokio::spawn(greet_all(identity.clone(), peers.clone(), marker.clone(), directory, position, decided));
    let stopped = stop.clone();
    tokio::spawn(async move {
        while let Some(Some(decision)) = stopped.run_until_cancelled(decisions.recv()).await {
            joining.decided(decision).await;
        }
    });
    let receiving = Arc::default();
    let service = Service {
        raft: raft.clone(),
        identity: identity.clone(),
        marker: marker.clone(),
        log: log.clone(),
        snapshots: snapshots.clone(),
        gate,
        contact,
        detector: detector_handle,
        stop: stop.clone(),
        receiving,
    };
    let service = Handle(Arc::new(service));
    let runtime = Mutex::new(None);
    let changing = tokio::sync::Mutex::new(());
    Ok(Inner {
        raft,
        config,
        identity,
        peers,
        marker,
        changing,
        service,
        log,
        snapshots,
        state,
        view,
        beginning,
        gone,
        applied,
        fatal,
        stop,
        runtime,
        _lock: lock,
    })
}

/// Writes what is applied into the state's tree, for many entries together.
async fn settle(state: StateDb, fatal: watch::Sender<Option<String>>, stop: CancellationToken) {
    let mut tick = settling();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if !state.is_unsettled() {
            continue;
        }
        let settling = state.clone();
        if let Ok(Err(error)) = ground::spawn_blocking(move || settling.settle()).await {
            state.mark_for_rebuild();
            fatal.send_replace(Some(format!("the metadata store has failed: {error}")));
            return;
        }
    }
}

/// Notes in the marker how far the log has come. A task beside [`settle`]: they wait for different files.
async fn note(log: LogStore, fatal: watch::Sender<Option<String>>, stop: CancellationToken) {
    let mut tick = settling();
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        if !log.is_unnoted() {
            continue;
        }
        let noting = log.clone();
        if let Ok(Err(error)) = ground::spawn_blocking(move || noting.note()).await {
            fatal.send_replace(Some(format!("the metadata store has failed: the marker was not written: {error}")));
            return;
        }
    }
}

fn settling() -> tokio::time::Interval {
    let mut tick = tokio::time::interval(SETTLE_PERIOD);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick
}

fn engine_config(config: &MetaConfig) -> Result<openraft::Config, openraft::ConfigError> {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    openraft::Config {
        cluster_name: "perennial".to_owned(),
        heartbeat_interval: ms(config.heartbeat_interval),
        election_timeout_min: ms(config.election_timeout_min),
        election_timeout_max: ms(config.election_timeout_max),
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(config.snapshot_entries),
        max_in_snapshot_log_to_keep: config.log_entries_kept,
        purge_batch_size: PURGE_BATCH,
        // Not before this member is admitted.
        enable_elect: false,
        enable_pre_vote: Some(true),
        // A leader that restarts has to be elected: its state may be behind what it had committed.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..openraft::Config::default()
    }
    .validate()
}

/// What admission does.
struct Joining {
    raft: Raft,
    config: MetaConfig,
    identity: Arc<Identity>,
    marker: Arc<MarkerFile>,
    gate: watch::Sender<Gate>,
    fatal: watch::Sender<Option<String>>,
}

impl Joining {
    async fn decided(&self, decision: Decision) {
        match decision {
            Decision::Admit if *self.gate.borrow() == Gate::Open => {}
            Decision::Admit => {
                if let Err(reason) = self.join().await {
                    self.fatal.send_replace(Some(reason));
                }
            }
            Decision::Wait(missing) => tracing::debug!(missing, "waiting for peers to agree"),
            Decision::Refuse(reason) => {
                self.gate.send_replace(Gate::Closed);
                self.raft.runtime_config().elect(false);
                let reason = format!(
                    "{reason}; this JobManager must not take part with the data directory {}: restore the newest copy of it, \
                     or replace this JobManager: perennial member remove {}, remove the directory, and add it to the group as a \
                     new member with another name: perennial member add NEWNAME=HOST:PORT",
                    self.config.data_dir.display(),
                    self.config.name
                );
                self.fatal.send_replace(Some(reason));
            }
        }
    }

    async fn join(&self) -> Result<(), String> {
        let marker = self.marker.clone();
        let noted = ground::spawn_blocking(move || marker.update(|marker| marker.admitted = true));
        let noted = noted.await.map_err(|error| error.to_string())?;
        noted.map_err(|error| format!("could not write the marker: {error}"))?;
        self.gate.send_replace(Gate::Open);
        self.raft.runtime_config().elect(true);
        let founded = self.raft.is_initialized().await.map_err(|error| error.to_string())?;
        if founded {
            // Alone, there is no leader to wait for.
            if self.identity.members().is_sole_voter(self.identity.this()) {
                self.raft.trigger().elect(false).await.map_err(|error| error.to_string())?;
            }
            return Ok(());
        }
        // A member that joins is told by the leader who the members are.
        let Some(founder) = self.config.founder().filter(|founder| founder.id == self.identity.this()) else {
            return Ok(());
        };
        if self.marker.cluster().is_some() {
            return Ok(());
        }
        let rank = self.config.peers.iter().take_while(|peer| peer.id != founder.id).count();
        tokio::time::sleep(FOUNDING_STAGGER * u32::try_from(rank).unwrap_or(u32::MAX)).await;
        let members = self.config.peers.iter().map(|peer| (peer.id.0, stored_node(&peer.name, &peer.address)));
        let members: std::collections::BTreeMap<u64, _> = members.collect();
        match self.raft.initialize(members).await {
            // Founded by another member meanwhile, with the same list.
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(format!("the group could not be founded: {error}")),
        }
    }
}
