//! Sessions: registered TaskManagers of one leadership, and the commands they have not answered.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use perennial_coordination::job::CommandKind;
use perennial_rpc::taskmanager::{Action, Command, ToTaskManager};
use perennial_types::{Fence, Incarnation, JobId, LeaderEpoch, TaskManagerId};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// One registration of a TaskManager over one stream.
pub(crate) struct Session {
    /// Tells sessions of one TaskManager apart.
    pub(crate) number: u64,
    pub(crate) taskmanager: TaskManagerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) host: String,
    pub(crate) slots: u32,
    pub(crate) pid: u32,
    /// Cancelled when the stream must not be used any more.
    pub(crate) broken: CancellationToken,
    to: mpsc::Sender<ToTaskManager>,
    /// Commands without an answer, by their number.
    pending: Mutex<BTreeMap<u64, Pending>>,
    next_command: AtomicU64,
    started: Instant,
    /// Milliseconds since `started` at which it was last heard of.
    heard_ms: AtomicU64,
    /// Commands of deposed leaders it has refused, as it says.
    stale_commands: AtomicU64,
    /// It has said that it follows a newer leader.
    superseded: AtomicBool,
}

/// A command without an answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pending {
    pub(crate) job: JobId,
    pub(crate) kind: Option<CommandKind>,
    due: Instant,
}

impl Session {
    /// A session over `to`.
    pub(crate) fn new(
        number: u64,
        registration: &perennial_rpc::taskmanager::Registration,
        to: mpsc::Sender<ToTaskManager>,
    ) -> Self {
        Self {
            number,
            taskmanager: registration.id.clone(),
            incarnation: registration.incarnation,
            host: registration.host.clone(),
            slots: registration.slots,
            pid: registration.pid,
            broken: CancellationToken::new(),
            to,
            pending: Mutex::default(),
            next_command: AtomicU64::new(1),
            started: Instant::now(),
            heard_ms: AtomicU64::new(0),
            stale_commands: AtomicU64::new(0),
            superseded: AtomicBool::new(false),
        }
    }

    /// Sends without waiting. A TaskManager that does not read loses its stream, and everything is compared anew when
    /// it comes back.
    pub(crate) fn send(&self, message: ToTaskManager) {
        if self.to.try_send(message).is_err() && !self.broken.is_cancelled() {
            warn!(taskmanager = %self.taskmanager, "TaskManager does not read its stream, which is closed");
            self.broken.cancel();
        }
    }

    /// Notes that the TaskManager lives.
    pub(crate) fn heard(&self) {
        self.heard_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long it has been silent.
    pub(crate) fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard)
    }

    /// Notes how many commands of deposed leaders it has refused.
    pub(crate) fn count_stale(&self, total: u64) {
        if self.stale_commands.swap(total, Ordering::Relaxed) < total {
            warn!(taskmanager = %self.taskmanager, total, "TaskManager has refused commands of a deposed leader");
        }
    }

    /// Commands of deposed leaders it has refused.
    pub(crate) fn stale_commands(&self) -> u64 {
        self.stale_commands.load(Ordering::Relaxed)
    }

    /// It follows a newer leader: nothing is ordered here any more, and nothing is missed from it.
    pub(crate) fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Whether it follows a newer leader.
    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Relaxed)
    }

    /// Takes the answered command off the list.
    pub(crate) fn answered(&self, command: u64) -> Option<Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&command)
    }

    /// Takes commands off the list that were not answered in time.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Pending> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let overdue: Vec<u64> =
            pending.iter().filter(|(_, command)| command.due <= now).map(|(number, _)| *number).collect();
        overdue.into_iter().filter_map(|number| pending.remove(&number)).collect()
    }
}

/// The sessions of one leadership by TaskManager. Every command goes through here and gets the leader's epoch.
pub(crate) struct Sessions {
    epoch: LeaderEpoch,
    command_deadline: Duration,
    by_name: RwLock<HashMap<TaskManagerId, Arc<Session>>>,
    /// Counts registrations.
    registrations: watch::Sender<u64>,
}

impl Sessions {
    pub(crate) fn new(epoch: LeaderEpoch, command_deadline: Duration) -> Self {
        Self { epoch, command_deadline, by_name: RwLock::default(), registrations: watch::Sender::new(0) }
    }

    /// The session of a TaskManager.
    pub(crate) fn get(&self, taskmanager: &TaskManagerId) -> Option<Arc<Session>> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).get(taskmanager).cloned()
    }

    /// Every TaskManager with a session.
    pub(crate) fn names(&self) -> Vec<TaskManagerId> {
        self.by_name.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Replaces the session of a TaskManager.
    pub(crate) fn insert(&self, session: Arc<Session>) -> Option<Arc<Session>> {
        let older = {
            let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
            by_name.insert(session.taskmanager.clone(), session)
        };
        self.registrations.send_modify(|count| *count += 1);
        older
    }

    /// Changes whenever a TaskManager has registered.
    pub(crate) fn registrations(&self) -> watch::Receiver<u64> {
        self.registrations.subscribe()
    }

    /// Forgets a session, unless a newer one has taken its place.
    pub(crate) fn remove(&self, taskmanager: &TaskManagerId, number: u64) {
        let mut by_name = self.by_name.write().unwrap_or_else(PoisonError::into_inner);
        if by_name.get(taskmanager).is_some_and(|session| session.number == number) {
            by_name.remove(taskmanager);
        }
    }

    /// Sends a command ordered by the committed entry at `index`.
    ///
    /// Without a session nothing is sent: when the TaskManager comes, what it runs is compared with what it should. Nor to
    /// one that follows a newer leader.
    /// `kind` is what the job's JobMaster waits for; none when nobody does.
    pub(crate) fn command(
        &self,
        taskmanager: &TaskManagerId,
        index: u64,
        job: JobId,
        kind: Option<CommandKind>,
        action: Action,
    ) {
        let Some(session) = self.get(taskmanager).filter(|session| !session.is_superseded()) else { return };
        let id = session.next_command.fetch_add(1, Ordering::Relaxed);
        let pending = Pending { job, kind, due: Instant::now() + self.command_deadline };
        session.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(id, pending);
        let fence = Fence { epoch: self.epoch, index };
        session.send(ToTaskManager::Command(Command { fence, id, job, action }));
    }
}
