//! The JobMaster: the task that owns the core of one job and performs what it decides.

mod crash_points;
mod probe;
mod view;
mod wire;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_base::Backoff;
use perennial_coordination::execution_graph::Placement;
use perennial_coordination::job::{Effect, Event, Intent, IntentKind, Job, Timer};
use perennial_meta::{ArtifactRecord, Command, ExecutionRecord, MetaStore, Outcome, WriteError};
use perennial_rpc::taskmanager::Action;
use perennial_types::{
    CheckpointId, CheckpointMetadata, Incarnation, JobGraph, JobId, JobStatus, PlanRequest, SnapshotKind, TaskManagerId,
};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::checkpoints;
use crate::masters::{JobMasterHandle, JobView, Mail};
use crate::resource_manager::{Offer, ResourceManagerHandle};
use crate::session::Sessions;
use crate::settings::Checkpointing;
use crate::unix_ms;

/// Mail waiting for a JobMaster: the reports of a large job's deployment; senders wait when it is full.
const INBOX_CAPACITY: usize = 1024;

/// Mail taken at once, before the job is shown anew: bounds how long a change stays unseen.
const BATCH_MAX: usize = 256;

/// First and longest wait between attempts to record something: the log is not there during an election.
const RECORD_RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What does not change about a job.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) job: JobId,
    pub(crate) graph: JobGraph,
    pub(crate) plan: PlanRequest,
    pub(crate) artifact: ArtifactRecord,
    pub(crate) submitted_ms: u64,
    /// Effective options of the job.
    pub(crate) config: BTreeMap<String, String>,
    /// How its checkpoints are taken and kept.
    pub(crate) checkpointing: Checkpointing,
    /// Failures of it that the log remembers.
    pub(crate) exceptions_kept: u32,
}

/// Where a TaskManager of the job is and which life of it got the tasks.
struct Place {
    host: String,
    incarnation: Incarnation,
}

/// The owner of one job. See the [module](self).
pub(crate) struct JobMaster {
    about: Arc<About>,
    job: Job,
    inbox: mpsc::Receiver<Mail>,
    /// Both ends: what is granted is taken out here, so that no grant replaces another.
    offers: watch::Receiver<Offer>,
    offered: watch::Sender<Offer>,
    /// Writes, timers and probes; each ends with what it has to tell the job.
    tasks: JoinSet<Event>,
    /// Intents behind the one that is being recorded, oldest first.
    intents: VecDeque<Intent>,
    recording: bool,
    /// Log index of what was recorded last.
    index: u64,
    /// Which revision of the exception history the log has, and which one is on its way there.
    exceptions_recorded: u64,
    exceptions_recording: u64,
    places: HashMap<TaskManagerId, Place>,
    ended_ms: Option<u64>,
    /// When the first checkpoint was completed under this leader.
    first_checkpoint: Option<Instant>,
    /// Deletes the files of checkpoints that do not count any more; ends with those that are gone. One at a time.
    cleaning: JoinSet<Vec<CheckpointId>>,
    /// Gone, and the log has not been told: it is with the next checkpoint.
    deleted: Vec<CheckpointId>,
    closed: bool,
    view: watch::Sender<Arc<JobView>>,
    meta: MetaStore,
    resources: ResourceManagerHandle,
    sessions: Arc<Sessions>,
}

impl JobMaster {
    /// A JobMaster that has not started, and its handle. `places` are lives of TaskManagers known from the log.
    pub(crate) fn new(
        about: About,
        job: Job,
        places: impl IntoIterator<Item = (TaskManagerId, Incarnation)>,
        meta: MetaStore,
        resources: ResourceManagerHandle,
        sessions: Arc<Sessions>,
    ) -> (Self, JobMasterHandle) {
        let about = Arc::new(about);
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let (offered, offers) = watch::channel(Offer::default());
        let places: HashMap<TaskManagerId, Place> =
            places.into_iter().map(|(id, incarnation)| (id, Place { host: String::new(), incarnation })).collect();
        let first = view::of(&about, &job, &places, None, None);
        let (view, shown) = watch::channel(Arc::new(first));
        let this = Self {
            about: Arc::clone(&about),
            job,
            inbox,
            offers,
            offered,
            tasks: JoinSet::new(),
            intents: VecDeque::new(),
            recording: false,
            index: 0,
            exceptions_recorded: 0,
            exceptions_recording: 0,
            places,
            ended_ms: None,
            first_checkpoint: None,
            cleaning: JoinSet::new(),
            deleted: Vec::new(),
            closed: false,
            view,
            meta,
            resources,
            sessions,
        };
        (this, JobMasterHandle { about, inbox: sender, view: shown })
    }

    /// Runs the job until it has ended and is cleaned up.
    pub(crate) async fn run(mut self) {
        let mut events = vec![Event::Start];
        while !self.closed {
            for event in events {
                crash_points::before(&event);
                let (before, checkpoints) = (self.job.status(), self.job.checkpoints().counts());
                let effects = self.job.apply(unix_ms(), event);
                self.log_change(before);
                if self.job.checkpoints().counts().completed > checkpoints.completed {
                    self.note_checkpoint();
                }
                for effect in effects {
                    self.perform(effect).await;
                }
            }
            self.show();
            if self.closed {
                self.stop_leftovers().await;
                return self.delete_checkpoints().await;
            }
            events = self.next_events().await;
        }
    }

    /// Reads what came too late: an executor of a TaskManager that was given up has nobody else to stop it.
    async fn stop_leftovers(&mut self) {
        self.inbox.close();
        while let Some(mail) = self.inbox.recv().await {
            if let Mail::Here { event: Event::TaskManagerHere { taskmanager, executor: Some(_) }, .. } = mail {
                self.sessions.command(&taskmanager, self.index, self.about.job, None, Action::StopExecutor);
            }
        }
    }

    /// Waits for something to happen, and takes what has happened besides.
    async fn next_events(&mut self) -> Vec<Event> {
        tokio::select! {
            Some(mail) = self.inbox.recv() => {
                // A TaskManager may be lost right after its slots were granted: the grant came first.
                let mut events = self.read_offer();
                events.extend(self.read(mail));
                events
            }
            Some(Ok(event)) = self.tasks.join_next(), if !self.tasks.is_empty() => {
                if let Event::Recorded { index, .. } = &event {
                    self.index = *index;
                    self.exceptions_recorded = self.exceptions_recording;
                }
                if matches!(event, Event::Recorded { .. } | Event::NotRecorded { .. }) {
                    self.recording = false;
                    self.record_next();
                }
                vec![event]
            }
            Some(cleaned) = self.cleaning.join_next(), if !self.cleaning.is_empty() => {
                crash_points::reach("discarded");
                self.deleted.extend(cleaned.unwrap_or_default());
                Vec::new()
            }
            () = news(self.offers.clone()) => self.read_offer(),
        }
    }

    fn read(&mut self, mail: Mail) -> Vec<Event> {
        let mut events = Vec::new();
        let mut next = Some(mail);
        while let Some(mail) = next {
            match mail {
                // Said by the ResourceManager, which waits for nobody: the TaskManager may have come since.
                Mail::Event(
                    Event::TaskManagerDetached { taskmanager } | Event::TaskManagerLost { taskmanager, .. },
                ) if self.sessions.get(&taskmanager).is_some() => {}
                Mail::Event(event) => events.push(event),
                Mail::Here { host, event } => {
                    if let Event::TaskManagerHere { taskmanager, .. } = &event
                        && let Some(place) = self.places.get_mut(taskmanager)
                    {
                        place.host = host;
                    }
                    events.push(event);
                }
                Mail::Progress(counters) => {
                    events
                        .extend(counters.into_iter().map(|(attempt, counters)| Event::Progress { attempt, counters }));
                }
            }
            next = if events.len() < BATCH_MAX { self.inbox.try_recv().ok() } else { None };
        }
        events
    }

    fn read_offer(&mut self) -> Vec<Event> {
        if !self.offers.has_changed().unwrap_or(false) {
            return Vec::new();
        }
        self.offers.mark_unchanged();
        let (mut slots, mut missing) = (Vec::new(), None);
        self.offered.send_if_modified(|offer| {
            (slots, missing) = (std::mem::take(&mut offer.granted), offer.missing.clone());
            false
        });
        let mut events = Vec::new();
        if !slots.is_empty() {
            let mut assignments = Vec::with_capacity(slots.len());
            for slot in slots {
                let place = Place { host: slot.host, incarnation: slot.incarnation };
                self.places.insert(slot.assignment.taskmanager.clone(), place);
                assignments.push(slot.assignment);
            }
            events.push(Event::SlotsGranted(assignments));
        }
        if let Some(text) = missing {
            debug!(reason = text, "job waits for slots");
            events.push(Event::SlotsMissing(text));
        }
        events
    }

    async fn perform(&mut self, effect: Effect) {
        let job = self.about.job;
        match effect {
            Effect::Record(intent) => {
                if matches!(intent, Intent::End { .. }) {
                    // What has not begun to be recorded is no news any more.
                    self.intents.clear();
                }
                self.intents.push_back(intent);
                self.record_next();
            }
            Effect::RequestSlots(count) => self.resources.request(job, count, self.offered.clone()).await,
            Effect::ReleaseSlot(slot) => self.resources.release_slot(job, slot).await,
            Effect::ReleaseSlotsOn(taskmanager) => self.resources.release_on(job, taskmanager).await,
            Effect::ReleaseSlots => self.resources.release(job).await,
            Effect::Send { taskmanager, index, command } => {
                let command_kind = command.kind();
                match wire::action(&self.about, command) {
                    Ok(action) => self.sessions.command(&taskmanager, index, job, Some(command_kind), action),
                    Err(reason) => {
                        // Nobody is told, and the job takes it as if the TaskManager had refused.
                        warn!(%taskmanager, command = ?command_kind, reason, "command cannot be given");
                        let failed = Event::CommandFailed { taskmanager, command: command_kind, reason };
                        self.tasks.spawn(async move { failed });
                    }
                }
            }
            Effect::WriteMetadata { checkpoint, started_ms, vertices } => {
                crash_points::reach("all-acknowledged");
                let (kind, at_ms) = (SnapshotKind::Checkpoint, unix_ms());
                let metadata = CheckpointMetadata { job, checkpoint, kind, at_ms, vertices };
                self.write_metadata(metadata, started_ms);
            }
            Effect::Probe { taskmanager, data_address } => {
                self.tasks.spawn(async move {
                    let liveness = probe::liveness(&data_address).await;
                    Event::Probed { taskmanager, data_address, liveness }
                });
            }
            Effect::SetTimer(timer, after) => self.set_timer(timer, after),
            Effect::Close => self.closed = true,
        }
    }

    /// Makes the metadata of a checkpoint durable, beside what else there is to do.
    fn write_metadata(&mut self, metadata: CheckpointMetadata, started_ms: u64) {
        let checkpoint = metadata.checkpoint;
        let location = checkpoints::location(&self.about.checkpointing.directory, self.about.job, checkpoint);
        let writing = tokio::task::spawn_blocking(move || checkpoints::store(location, metadata, started_ms));
        self.tasks.spawn(async move {
            let result = match writing.await {
                Ok(stored) => stored.map_err(|error| error.to_string()),
                Err(panic) => Err(panic.to_string()),
            };
            Event::MetadataWritten { checkpoint, result }
        });
    }

    /// The newest checkpoint counts from now on.
    fn note_checkpoint(&mut self) {
        self.first_checkpoint.get_or_insert_with(Instant::now);
        if let Some(stored) = self.job.checkpoints().completed() {
            let duration_ms = stored.metadata.at_ms.saturating_sub(stored.started_ms);
            let (checkpoint, bytes) = (stored.checkpoint().0, stored.bytes());
            info!(checkpoint, duration_ms, bytes, location = stored.location, "checkpoint completed");
        }
        if !self.cleaning.is_empty() {
            return;
        }
        match self.meta.state().discarded(self.about.job) {
            Ok(discarded) => {
                let waiting = discarded.into_iter().filter(|discarded| !self.deleted.contains(&discarded.id)).collect();
                let (state, job) = (self.meta.state(), self.about.job);
                let directory = checkpoints::directory(&self.about.checkpointing.directory, job);
                self.cleaning.spawn_blocking(move || {
                    let deleted = checkpoints::delete(waiting);
                    match checkpoints::kept(&state, job) {
                        Ok(Some(kept)) => checkpoints::delete_orphans(&directory, &kept),
                        Ok(None) => {}
                        Err(error) => warn!(%error, "what is kept of checkpoints cannot be read"),
                    }
                    deleted
                });
            }
            Err(error) => warn!(%error, "the discarded checkpoints cannot be read"),
        }
    }

    /// Deletes the files of all checkpoints of a job that has ended.
    async fn delete_checkpoints(&mut self) {
        if self.about.checkpointing.when.interval.is_none() {
            return;
        }
        self.cleaning.shutdown().await;
        let directory = checkpoints::directory(&self.about.checkpointing.directory, self.about.job);
        // What it was started from may lie elsewhere, and be its own.
        let discarded = self.meta.state().discarded(self.about.job).unwrap_or_default();
        let deleting = tokio::task::spawn_blocking(move || {
            checkpoints::delete(discarded);
            checkpoints::delete_all(&directory)
        });
        if let Err(error) = deleting.await {
            warn!(%error, "the checkpoints of a job that has ended were not deleted");
        }
    }

    fn set_timer(&mut self, timer: Timer, after: Duration) {
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            Event::TimerFired(timer)
        });
    }

    /// Records intents one after the other: their order in the log is the order they were decided in.
    fn record_next(&mut self) {
        if self.recording {
            return;
        }
        let Some(intent) = self.intents.pop_front() else { return };
        self.recording = true;
        let kind = intent.kind();
        if matches!(intent, Intent::End { .. }) {
            self.ended_ms = Some(unix_ms());
        }
        if let Intent::AbortCheckpoint { checkpoint, reason } = &intent {
            warn!(checkpoint = checkpoint.0, reason, "checkpoint aborted");
        }
        let command = self.command_of(intent).map(|command| self.with_exceptions(command));
        let (meta, job) = (self.meta.clone(), self.about.job);
        self.tasks.spawn(async move {
            let recorded = match command {
                Ok(command) => record(&meta, job, command).await,
                Err(reason) => Err(reason),
            };
            match recorded {
                Ok(index) => Event::Recorded { kind, index },
                Err(reason) => Event::NotRecorded { kind, reason },
            }
        });
        if matches!(kind, IntentKind::CompleteCheckpoint(_)) {
            crash_points::reach("completing");
        }
    }

    /// The entry that says it, or why the log has none for it.
    fn command_of(&mut self, intent: Intent) -> Result<Command, String> {
        let (job, at_ms) = (self.about.job, unix_ms());
        Ok(match intent {
            Intent::Placement(placements) => {
                let executions = placements.into_iter().map(|placement| self.execution_record(placement)).collect();
                Command::PlaceExecutions { job, executions, at_ms }
            }
            Intent::Deployment => Command::SetStatus { job, status: JobStatus::Created, at_ms, failure: None },
            Intent::Running => Command::SetStatus { job, status: JobStatus::Running, at_ms, failure: None },
            Intent::Restarting { cause } => {
                Command::SetStatus { job, status: JobStatus::Restarting, at_ms, failure: Some(cause) }
            }
            Intent::Failing { cause } => {
                Command::SetStatus { job, status: JobStatus::Failing, at_ms, failure: Some(cause) }
            }
            Intent::FinishExecutions { attempts } => Command::FinishExecutions { job, attempts },
            Intent::End { status, failure } => {
                Command::EndJob { job, status, at_ms: self.ended_ms.unwrap_or(at_ms), failure }
            }
            Intent::ReserveCheckpoint(checkpoint) => Command::ReserveCheckpoint {
                job,
                checkpoint,
                kind: SnapshotKind::Checkpoint,
                directory: checkpoints::directory(&self.about.checkpointing.directory, job),
                request: None,
                deleted: std::mem::take(&mut self.deleted),
                at_ms,
            },
            Intent::CompleteCheckpoint(stored) => Command::CompleteCheckpoint {
                job,
                completed: checkpoints::completed(&stored),
                retained: self.about.checkpointing.retained,
            },
            Intent::AbortCheckpoint { checkpoint, reason } => {
                Command::AbortCheckpoint { job, checkpoints: vec![checkpoint], reason }
            }
            Intent::Exceptions => {
                let (news, kept) = (self.job.exceptions_since(self.exceptions_recorded), self.about.exceptions_kept);
                Command::RecordExceptions { job, news, kept, then: None }
            }
        })
    }

    /// What has failed since the last entry goes with the next one.
    fn with_exceptions(&mut self, command: Command) -> Command {
        self.exceptions_recording = self.job.exceptions_revision();
        let (job, kept) = (self.about.job, self.about.exceptions_kept);
        match (command, self.job.exceptions_since(self.exceptions_recorded)) {
            (command @ Command::RecordExceptions { .. }, _) => command,
            (command, news) if news.entries.is_empty() => command,
            (command, news) => Command::RecordExceptions { job, news, kept, then: Some(Box::new(command)) },
        }
    }

    fn execution_record(&self, Placement { attempt, assignment }: Placement) -> ExecutionRecord {
        let place = self.places.get(&assignment.taskmanager);
        ExecutionRecord {
            attempt,
            incarnation: place.map_or(Incarnation::from_bytes([0; 16]), |place| place.incarnation),
            taskmanager: assignment.taskmanager,
            slot: assignment.slot,
            allocation: assignment.allocation,
        }
    }

    fn log_change(&self, before: JobStatus) {
        let status = self.job.status();
        match status {
            _ if status == before => {}
            JobStatus::Restarting => {
                warn!(from = %before, to = %status, restarts = self.job.restarts(), "job changed its status");
            }
            JobStatus::Failing | JobStatus::Failed => {
                warn!(from = %before, to = %status, failure = self.job.failure(), "job changed its status");
            }
            _ => info!(from = %before, to = %status, "job changed its status"),
        }
    }

    fn show(&mut self) {
        let view = view::of(&self.about, &self.job, &self.places, self.ended_ms, self.first_checkpoint);
        self.view.send_if_modified(|shown| {
            let changed = **shown != view;
            if changed {
                *shown = Arc::new(view);
            }
            changed
        });
    }
}

/// Resolves when there is something in the offer that was not read.
async fn news(mut offers: watch::Receiver<Offer>) {
    // The JobMaster has a sender itself, so the channel stays open.
    _ = offers.changed().await;
}

/// Writes a command until it is committed, and returns where; or why it never will be.
///
/// Ends only with the task it runs in while the metadata store cannot write: a leader that has lost its quorum keeps what
/// it wants to record until it is deposed.
pub(crate) async fn record(meta: &MetaStore, job: JobId, command: Command) -> Result<u64, String> {
    let mut backoff = Backoff::new(RECORD_RETRY.0, RECORD_RETRY.1);
    loop {
        match meta.write(command.clone()).await {
            Ok(written) => {
                return match written.outcome {
                    Outcome::Done | Outcome::Ignored => Ok(written.index),
                    Outcome::UnknownJob(_) => Err("the job is not known any more".to_owned()),
                    Outcome::AlreadyEnded(_, status) => Err(format!("the job has ended already: {status}")),
                    outcome => Err(format!("{outcome:?}")),
                };
            }
            Err(error @ WriteError::TooLarge { .. }) => return Err(error.to_string()),
            Err(error) => {
                warn!(job_id = %job, command = command.name(), %error, "not recorded yet, trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
        }
    }
}
