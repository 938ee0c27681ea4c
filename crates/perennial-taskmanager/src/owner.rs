//! The owner task: everything a TaskManager knows is in one place, and one loop changes it.
//!
//! Events come from the attachments (what JobManagers say), from the executors' tasks and from the handle. The loop
//! never waits for any of them: what it tells a JobManager or an executor goes into a bounded queue, and one that is
//! full means that the other side is not well, which ends the stream or fails the command.

mod commands;
mod executors;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use perennial_base::{OnError, TaskGroup};
use perennial_rpc::taskmanager::{
    Decision, FromTaskManager, Registrar, Registration, STREAM_CAPACITY, StreamId, ToTaskManager,
};
use perennial_types::{ClusterId, Fence, Incarnation, JobId, JobManagerId, LeaderEpoch};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::artifacts::ArtifactCache;
use crate::attachment::{self, Stream};
use crate::executor::{ExecutorEvent, Sink};
use crate::ledger::Ledger;
use crate::settings::Settings;
use crate::slots::SlotTable;
use crate::working_dir::WorkingDir;
use executors::Executor;

/// Events under way to the owner. Attachments and executors wait while it is behind, so this only evens out bursts.
const EVENTS_MAX: usize = 1024;

/// JobManagers dialled at most. Groups have three to seven members; the bound keeps a confused peer from adding more.
const ATTACHMENTS_MAX: usize = 32;

/// Time after which a TaskManager that was refused asks again: a person has to mend something.
const REFUSED_RETRY: Duration = Duration::from_secs(5);

/// What the owner hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// A stream to a JobManager is open.
    Attached(StreamId, Stream),
    /// A JobManager has said something.
    Heard(StreamId, ToTaskManager),
    /// A stream has ended.
    Detached(StreamId),
    /// The task of a job's executor reports.
    Executor(JobId, ExecutorEvent),
    /// Stop every executor; told when all are gone.
    StopExecutors(oneshot::Sender<()>),
}

/// Where events for the owner go. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events(mpsc::Sender<Event>);

impl Events {
    /// Delivers an event; waits while the owner is behind. Without an owner the process is ending, and nobody cares.
    pub(crate) async fn tell(&self, event: Event) {
        _ = self.0.send(event).await;
    }
}

/// The events of one job's executor.
#[derive(Debug)]
struct ExecutorEvents {
    job: JobId,
    events: Events,
}

impl Sink for ExecutorEvents {
    async fn tell(&self, event: ExecutorEvent) {
        self.events.tell(Event::Executor(self.job, event)).await;
    }
}

/// How a TaskManager stands, for people and tests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskManagerStatus {
    /// The leader it is registered at.
    pub leader: Option<(JobManagerId, LeaderEpoch)>,
    /// The cluster it belongs to, once known.
    pub cluster: Option<ClusterId>,
    /// JobManagers it has a stream to.
    pub attached: usize,
    /// Executors, in whatever stage.
    pub executors: usize,
    /// Slots no job holds.
    pub free_slots: usize,
    /// Commands of deposed leaders that it and its executors have refused.
    pub stale_commands: u64,
}

/// Why a TaskManager ends by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// No JobManager has accepted it.
    #[error(
        "no JobManager has accepted this TaskManager within {} s (`taskmanager.registration.timeout`); tried {}",
        waited.as_secs(),
        tried.join(", ")
    )]
    NotRegistered {
        /// How long it has tried.
        waited: Duration,
        /// Where.
        tried: Vec<String>,
    },
}

/// A JobManager that is listening.
#[derive(Debug)]
struct Peer {
    stream: Stream,
    /// When it last said something.
    heard: Instant,
}

/// The owner's state.
pub(crate) struct Owner {
    settings: Arc<Settings>,
    dir: WorkingDir,
    incarnation: Incarnation,
    cache: ArtifactCache,
    tasks: TaskGroup,
    /// Ends executors' tasks and leaves their processes running.
    leave: CancellationToken,
    events: Events,
    inbox: mpsc::Receiver<Event>,
    status: watch::Sender<TaskManagerStatus>,

    registrar: Registrar,
    peers: HashMap<StreamId, Peer>,
    /// Every address that is dialled.
    dialled: Vec<String>,
    /// A registration that waits until all executors of an earlier process are adopted or given up.
    postponed: Option<(StreamId, LeaderEpoch)>,
    /// When to ask a leader again that has refused.
    retry: Option<(StreamId, Instant)>,
    /// Set until the first registration.
    register_by: Option<Instant>,

    fence: Fence,
    stale_commands: u64,
    slots: SlotTable,
    ledger: Ledger,
    /// Jobs whose executors have ended, of which the leader has not been told since the registration.
    untold: Vec<JobId>,
    executors: BTreeMap<JobId, Executor>,
    /// Orders that executors have not answered.
    tickets: HashMap<u64, commands::Ticket>,
    next_ticket: u64,
    /// Told when no executor is left; from then on none is started.
    stopping: Option<oneshot::Sender<()>>,
}

impl Owner {
    /// A TaskManager that has not dialled anybody.
    pub(crate) fn new(
        settings: Arc<Settings>,
        dir: WorkingDir,
        tasks: TaskGroup,
        leave: CancellationToken,
    ) -> (Self, Events, watch::Receiver<TaskManagerStatus>) {
        let (sender, inbox) = mpsc::channel(EVENTS_MAX);
        let events = Events(sender);
        let (status, statuses) = watch::channel(TaskManagerStatus::default());
        let owner = Self {
            cache: ArtifactCache::open(dir.artifacts(), settings.artifact_cache_bytes_max),
            incarnation: Incarnation::random(),
            tasks,
            leave,
            events: events.clone(),
            inbox,
            status,
            registrar: Registrar::new(None),
            peers: HashMap::new(),
            dialled: Vec::new(),
            postponed: None,
            retry: None,
            register_by: Some(Instant::now() + settings.registration_timeout),
            fence: Fence::default(),
            stale_commands: 0,
            slots: SlotTable::new(settings.slots),
            ledger: Ledger::default(),
            untold: Vec::new(),
            executors: BTreeMap::new(),
            tickets: HashMap::new(),
            next_ticket: commands::first_ticket(),
            stopping: None,
            settings,
            dir,
        };
        (owner, events, statuses)
    }

    /// Adopts what an earlier process left, dials every JobManager and serves until asked to stop.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), Fatal> {
        self.adopt_all();
        for address in self.settings.jobmanagers.clone() {
            self.dial(address);
        }
        let mut tick = tokio::time::interval(self.settings.heartbeat_interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = self.inbox.recv() => match event {
                    Some(event) => self.apply(event),
                    None => return Ok(()),
                },
                now = tick.tick() => self.tick(now)?,
                () = stop.cancelled() => return Ok(()),
            }
            self.publish();
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Attached(id, stream) => {
                self.peers.insert(id, Peer { stream, heard: Instant::now() });
            }
            Event::Heard(id, message) => self.heard(id, message),
            Event::Detached(id) => self.detached(id),
            Event::Executor(job, event) => self.executor(job, event),
            Event::StopExecutors(done) => self.stop_executors(done),
        }
    }

    fn heard(&mut self, id: StreamId, message: ToTaskManager) {
        // A stream that was given up may still have something in the queue.
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.heard = Instant::now();
        match message {
            ToTaskManager::Heartbeat => {}
            ToTaskManager::Leadership(leadership) => {
                debug!(from = %leadership.from, epoch = %leadership.epoch, leader = ?leadership.leader, "leadership heard");
                let jobmanagers = leadership.jobmanagers.clone();
                let decision = self.registrar.heard(id, leadership);
                // Members added since this process was configured; only a JobManager of this cluster is believed.
                if self.registrar.cluster().is_some() && !matches!(decision, Decision::Foreign(..)) {
                    jobmanagers.into_iter().for_each(|address| self.dial(address));
                }
                self.decided(decision);
            }
            ToTaskManager::Registered { cluster } => self.registered(id, cluster),
            ToTaskManager::Refused { reason } => {
                let jobmanager = &peer.stream.address;
                error!(%jobmanager, reason, "registration refused, asking again later");
                self.retry = Some((id, Instant::now() + REFUSED_RETRY));
            }
            ToTaskManager::Command(command) => self.command(id, command),
        }
    }

    fn detached(&mut self, id: StreamId) {
        self.peers.remove(&id);
        self.postponed.take_if(|(stream, _)| *stream == id);
        self.retry.take_if(|(stream, _)| *stream == id);
        let decision = self.registrar.lost(id);
        self.decided(decision);
    }

    fn decided(&mut self, decision: Decision) {
        match decision {
            Decision::Stay => {}
            Decision::Register(stream, epoch) => {
                if self.is_adopting() {
                    self.postponed = Some((stream, epoch));
                } else {
                    self.register(stream, epoch);
                }
            }
            Decision::Dial(address) => self.dial(address),
            Decision::Foreign(stream, theirs) => {
                let (ours, jobmanager) = (self.registrar.cluster(), self.address(stream));
                error!(
                    jobmanager, cluster = %theirs, ?ours,
                    "JobManager belongs to another cluster; restart this TaskManager to move it there"
                );
            }
        }
    }

    /// Sends the registration that waited for adoptions.
    fn register_postponed(&mut self) {
        if !self.is_adopting()
            && let Some((stream, epoch)) = self.postponed.take()
        {
            self.register(stream, epoch);
        }
    }

    /// Tells a leader all that is here. From now on the leaders before it are refused.
    fn register(&mut self, stream: StreamId, epoch: LeaderEpoch) {
        self.fence.admit(Fence { epoch, index: 0 });
        let registration = Registration {
            cluster: self.registrar.cluster(),
            id: self.dir.id().clone(),
            incarnation: self.incarnation,
            host: self.settings.host.clone(),
            slots: self.settings.slots,
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            pid: std::process::id(),
            executors: self.ledger.live(),
        };
        if let Some(peer) = self.peers.get_mut(&stream) {
            peer.heard = Instant::now();
        }
        let (jobmanager, executors) = (self.address(stream), registration.executors.len());
        info!(jobmanager, %epoch, executors, "registering at the leader");
        self.send(stream, FromTaskManager::Register(registration));
    }

    fn registered(&mut self, stream: StreamId, cluster: ClusterId) {
        let jobmanager = self.address(stream);
        if !self.registrar.accepted(stream, cluster) {
            warn!(jobmanager, %cluster, "registration accepted by somebody who was not asked, or is of another cluster");
            return;
        }
        info!(jobmanager, %cluster, epoch = %self.fence.epoch, "registered");
        if let Err(error) = self.dir.follow(cluster, self.fence.epoch) {
            warn!(%error, "the leader that is followed cannot be remembered for the next process");
        }
        self.register_by = None;
        self.retry = None;
        // So that this leader knows what it counts without waiting for the next one.
        self.send(stream, self.heartbeat());
        self.untold = self.ledger.lost_jobs();
        self.tell_lost();
    }

    /// Tells the leader of executors that have ended, as many as its queue has room for; the others at the next tick.
    fn tell_lost(&mut self) {
        let Some((leader, _)) = self.registrar.leader() else { return };
        while let Some(peer) = self.peers.get(&leader)
            && let Some(job) = self.untold.last()
        {
            let messages = self.ledger.ended(*job);
            if messages.len() > peer.stream.to.capacity() / 2 && peer.stream.to.capacity() < STREAM_CAPACITY {
                return;
            }
            self.untold.pop();
            // The last says that the executor was lost, which is the least the leader has to know.
            let skipped = messages.len().saturating_sub(STREAM_CAPACITY / 2);
            for message in messages.into_iter().skip(skipped) {
                self.send(leader, message);
            }
        }
    }

    fn tick(&mut self, now: Instant) -> Result<(), Fatal> {
        if self.register_by.is_some_and(|by| now >= by) {
            let (waited, tried) = (self.settings.registration_timeout, self.dialled.clone());
            return Err(Fatal::NotRegistered { waited, tried });
        }
        let streams: Vec<StreamId> = self.peers.keys().copied().collect();
        for stream in streams {
            self.send(stream, self.heartbeat());
        }
        if let Some(leader) = self.registrar.expecting()
            && let Some(peer) = self.peers.get(&leader)
            && now.saturating_duration_since(peer.heard) > self.settings.heartbeat_timeout
        {
            let silent_ms = peer.heard.elapsed().as_millis() as u64;
            warn!(jobmanager = %peer.stream.address, silent_ms, "leader is silent, dialling again");
            self.give_up(leader);
        }
        if let Some((stream, _)) = self.retry.take_if(|(_, at)| now >= *at) {
            self.give_up(stream);
        }
        self.expire_tickets(now);
        self.tell_lost();
        Ok(())
    }

    fn heartbeat(&self) -> FromTaskManager {
        FromTaskManager::Heartbeat { from: Some(self.dir.id().clone()), stale_commands: self.stale_commands }
    }

    /// Puts a message into a stream's queue.
    fn send(&mut self, stream: StreamId, message: FromTaskManager) {
        let Some(peer) = self.peers.get(&stream) else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = peer.stream.to.try_send(message) {
            warn!(jobmanager = %peer.stream.address, "JobManager takes no messages, dialling again");
            self.give_up(stream);
        }
    }

    /// Tells the leader something, also one that has not accepted the registration yet: it hears this after that, which said
    /// how things were before. Without one the ledger has it for the next.
    fn report(&mut self, message: FromTaskManager) {
        if let Some(leader) = self.registrar.expecting() {
            self.send(leader, message);
        }
    }

    /// Tells the leader that an executor has ended. One that has not accepted the registration yet is told by [`Self::tell_lost`].
    fn report_lost(&mut self, job: JobId, cause: String, own_doing: bool) {
        if let Some((leader, _)) = self.registrar.leader() {
            self.send(leader, FromTaskManager::ExecutorLost { job, cause, own_doing });
        }
    }

    /// Ends a stream; its attachment dials again.
    fn give_up(&mut self, stream: StreamId) {
        if let Some(peer) = self.peers.remove(&stream) {
            peer.stream.close.cancel();
        }
        self.detached(stream);
    }

    fn dial(&mut self, address: String) {
        if self.dialled.contains(&address) || self.dialled.len() >= ATTACHMENTS_MAX {
            return;
        }
        self.dialled.push(address.clone());
        let (number, events, stop) = (self.dialled.len() as u64, self.events.clone(), self.tasks.token().clone());
        self.tasks.spawn("attachment", OnError::Report, async move {
            attachment::keep(address, number, events, stop).await;
            Ok::<(), std::convert::Infallible>(())
        });
    }

    fn address(&self, stream: StreamId) -> String {
        self.peers.get(&stream).map_or_else(|| "(gone)".to_owned(), |peer| peer.stream.address.clone())
    }

    fn publish(&self) {
        let leader = self.registrar.leader();
        let status = TaskManagerStatus {
            leader: leader.and_then(|(stream, epoch)| Some((self.registrar.jobmanager(stream)?, epoch))),
            cluster: self.registrar.cluster(),
            attached: self.peers.len(),
            executors: self.executors.len(),
            free_slots: self.slots.free(),
            stale_commands: self.stale_commands,
        };
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            *current = status;
            changed
        });
    }
}
