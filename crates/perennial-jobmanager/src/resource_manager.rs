//! The ResourceManager: which TaskManagers are there, and which job holds which of their slots.
//!
//! Waits for nobody. Slots reach a job through a `watch` of its own, in which a newer word replaces an older one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_coordination::attendance::Silences;
use perennial_coordination::execution_graph::Assignment;
use perennial_coordination::job::Event;
use perennial_coordination::slot::Ledger;
use perennial_rpc::dispatcher::TaskManagerSummary;
use perennial_rpc::taskmanager::ToTaskManager;
use perennial_types::{AllocationId, ClusterId, Incarnation, JobId, TaskManagerId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::masters::Masters;
use crate::session::{Session, Sessions};

/// Requests waiting: one for each job and stream at a time, with room for a burst after an election.
const INBOX_CAPACITY: usize = 1024;

/// What the ResourceManager says to a job that asked for slots.
#[derive(Debug, Default)]
pub(crate) struct Offer {
    /// Slots the job has not taken out yet, each with the life and host of its TaskManager. At most as many as it needs.
    pub(crate) granted: Vec<GrantedSlot>,
    /// What is missing, for people, while it has to wait. The newest word holds.
    pub(crate) missing: Option<String>,
}

/// A slot and its TaskManager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GrantedSlot {
    pub(crate) assignment: Assignment,
    pub(crate) incarnation: Incarnation,
    pub(crate) host: String,
}

enum Request {
    Register { session: Arc<Session>, done: oneshot::Sender<()> },
    Detached { taskmanager: TaskManagerId, number: u64 },
    Slots { job: JobId, count: u32, offers: watch::Sender<Offer> },
    ReleaseSlot { job: JobId, slot: Assignment },
    ReleaseOn { job: JobId, taskmanager: TaskManagerId },
    Release { job: JobId },
    Describe { answer: oneshot::Sender<Vec<TaskManagerSummary>> },
    Silences { answer: oneshot::Sender<Silences> },
}

/// Reaches the ResourceManager. After the end of its leadership nothing said to it has an effect.
#[derive(Clone)]
pub(crate) struct ResourceManagerHandle {
    inbox: mpsc::Sender<Request>,
}

impl ResourceManagerHandle {
    /// Takes a TaskManager in, tells it so, and gives its free slots away. Returns false when this leadership is over.
    pub(crate) async fn register(&self, session: Arc<Session>) -> bool {
        let (done, is_done) = oneshot::channel();
        self.inbox.send(Request::Register { session, done }).await.is_ok() && is_done.await.is_ok()
    }

    /// The stream of a session has ended.
    pub(crate) async fn detached(&self, taskmanager: TaskManagerId, number: u64) {
        _ = self.inbox.send(Request::Detached { taskmanager, number }).await;
    }

    /// Asks for so many slots instead of those asked for before. What comes of it is told through `offers`.
    pub(crate) async fn request(&self, job: JobId, count: u32, offers: watch::Sender<Offer>) {
        _ = self.inbox.send(Request::Slots { job, count, offers }).await;
    }

    /// Gives back one slot.
    pub(crate) async fn release_slot(&self, job: JobId, slot: Assignment) {
        _ = self.inbox.send(Request::ReleaseSlot { job, slot }).await;
    }

    /// Gives back what a job holds on a TaskManager.
    pub(crate) async fn release_on(&self, job: JobId, taskmanager: TaskManagerId) {
        _ = self.inbox.send(Request::ReleaseOn { job, taskmanager }).await;
    }

    /// Gives back all a job holds; it wants no more.
    pub(crate) async fn release(&self, job: JobId) {
        _ = self.inbox.send(Request::Release { job }).await;
    }

    /// Every registered TaskManager, by name; none when this leadership is over.
    pub(crate) async fn describe(&self) -> Option<Vec<TaskManagerSummary>> {
        let (answer, described) = oneshot::channel();
        self.inbox.send(Request::Describe { answer }).await.ok()?;
        described.await.ok()
    }

    /// How long every TaskManager that has registered here, or is to, has been silent; none when this leadership is over.
    pub(crate) async fn silences(&self) -> Option<Silences> {
        let (answer, silences) = oneshot::channel();
        self.inbox.send(Request::Silences { answer }).await.ok()?;
        silences.await.ok()
    }
}

/// A registered TaskManager.
struct Known {
    session: Arc<Session>,
    /// Whether its connection is broken.
    is_detached: bool,
}

/// The owner of the slot ledger. See the [module](self).
pub(crate) struct ResourceManager {
    cluster: ClusterId,
    heartbeat_timeout: Duration,
    ledger: Ledger,
    known: BTreeMap<TaskManagerId, Known>,
    /// TaskManagers that run something by the log and have not come to this leader.
    expected: BTreeSet<TaskManagerId>,
    started: Instant,
    offers: HashMap<JobId, watch::Sender<Offer>>,
    /// Shared with JobMasters, which send commands through it.
    sessions: Arc<Sessions>,
    masters: Arc<Masters>,
    inbox: mpsc::Receiver<Request>,
    token: CancellationToken,
}

impl ResourceManager {
    /// A ResourceManager whose jobs hold slots already, on the TaskManagers that are `expected`; `token` ends it.
    pub(crate) fn new(
        cluster: ClusterId,
        heartbeat_timeout: Duration,
        ledger: Ledger,
        expected: BTreeSet<TaskManagerId>,
        sessions: Arc<Sessions>,
        masters: Arc<Masters>,
        token: CancellationToken,
    ) -> (Self, ResourceManagerHandle) {
        let (sender, inbox) = mpsc::channel(INBOX_CAPACITY);
        let (known, offers) = (BTreeMap::new(), HashMap::new());
        let this = Self {
            cluster,
            heartbeat_timeout,
            ledger,
            known,
            expected,
            started: Instant::now(),
            offers,
            sessions,
            masters,
            inbox,
            token,
        };
        (this, ResourceManagerHandle { inbox: sender })
    }

    /// Serves until the leadership ends.
    pub(crate) async fn run(mut self) -> Result<(), Infallible> {
        loop {
            let check = tokio::time::Instant::from_std(self.next_check());
            tokio::select! {
                () = self.token.cancelled() => return Ok(()),
                request = self.inbox.recv() => match request {
                    Some(request) => self.take(request),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(check) => self.lose_silent(),
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Register { session, done } => {
                self.register(session);
                _ = done.send(());
            }
            Request::Detached { taskmanager, number } => {
                self.sessions.remove(&taskmanager, number);
                if let Some(known) = self.known.get_mut(&taskmanager).filter(|known| known.session.number == number) {
                    info!(%taskmanager, "connection of a TaskManager broke");
                    known.is_detached = true;
                    // It may come back with all it runs, but nothing new goes there.
                    self.ledger.lose(&taskmanager);
                    self.tell_all(Event::TaskManagerDetached { taskmanager });
                    self.grant();
                }
            }
            Request::Slots { job, count, offers } => {
                self.offers.insert(job, offers);
                self.ledger.request(job, count);
                self.grant();
            }
            Request::ReleaseSlot { job, slot } => {
                self.ledger.release_slot(job, &slot);
                self.grant();
            }
            Request::ReleaseOn { job, taskmanager } => {
                self.ledger.release_on(job, &taskmanager);
                self.grant();
            }
            Request::Release { job } => {
                self.ledger.release(job);
                self.offers.remove(&job);
                self.grant();
            }
            Request::Describe { answer } => _ = answer.send(self.describe()),
            Request::Silences { answer } => _ = answer.send(self.silences()),
        }
    }

    fn register(&mut self, session: Arc<Session>) {
        let id = session.taskmanager.clone();
        info!(taskmanager = %id, host = session.host, slots = session.slots, pid = session.pid, "TaskManager registered");
        if let Some(old) = self.sessions.insert(Arc::clone(&session)) {
            if old.incarnation != session.incarnation {
                warn!(taskmanager = %id, old_pid = old.pid, new_pid = session.pid, "TaskManager has a new process");
            }
            old.broken.cancel();
        }
        session.send(ToTaskManager::Registered { cluster: self.cluster });
        self.ledger.register(id.clone(), session.slots);
        self.expected.remove(&id);
        self.known.insert(id, Known { session, is_detached: false });
        self.grant();
    }

    /// Serves who can be served and tells the others what they wait for.
    fn grant(&mut self) {
        for grant in self.ledger.grant(AllocationId::random) {
            let slots = grant.slots.into_iter().filter_map(|assignment| {
                let session = &self.known.get(&assignment.taskmanager)?.session;
                Some(GrantedSlot { assignment, incarnation: session.incarnation, host: session.host.clone() })
            });
            if let Some(offers) = self.offers.remove(&grant.job) {
                offers.send_modify(|offer| {
                    offer.granted.extend(slots);
                    offer.missing = None;
                });
            }
        }
        for (job, shortage) in self.ledger.waiting() {
            if let Some(offers) = self.offers.get(&job) {
                let missing = Some(shortage.to_string());
                offers.send_if_modified(|offer| {
                    let changed = offer.missing != missing;
                    offer.missing = missing;
                    changed
                });
            }
        }
    }

    /// TaskManagers that have not said that they follow a newer leader. What becomes of the others is its business.
    fn followers(&self) -> impl Iterator<Item = (&TaskManagerId, &Known)> {
        self.known.iter().filter(|(_, known)| !known.session.is_superseded())
    }

    /// When the next TaskManager may have to be given up.
    fn next_check(&self) -> Instant {
        let now = Instant::now();
        let deadlines =
            self.followers().map(|(_, known)| now + self.heartbeat_timeout.saturating_sub(known.session.silence()));
        deadlines.min().unwrap_or(now + self.heartbeat_timeout)
    }

    /// Gives up TaskManagers that were silent for too long. A broken connection does not begin the wait anew: a peer that has
    /// vanished is silent from the start, and its connection breaks for the lack of an answer well after.
    fn lose_silent(&mut self) {
        let mut lost = Vec::new();
        for (id, known) in self.followers() {
            let timeout = perennial_types::format_duration(self.heartbeat_timeout);
            let reason = match known.is_detached {
                true => format!("its connection broke, and no heartbeat for {timeout}"),
                false => format!("no heartbeat for {timeout}"),
            };
            if known.session.silence() >= self.heartbeat_timeout {
                lost.push((id.clone(), format!("{reason} (heartbeat.timeout)")));
            }
        }
        for (taskmanager, reason) in lost {
            warn!(%taskmanager, reason, "TaskManager lost");
            if let Some(known) = self.known.remove(&taskmanager) {
                known.session.broken.cancel();
                self.sessions.remove(&taskmanager, known.session.number);
            }
            self.ledger.lose(&taskmanager);
            self.tell_all(Event::TaskManagerLost { taskmanager, reason });
        }
        self.grant();
    }

    /// Tells every JobMaster, in a task of its own: that may wait for them, which this one never does. A JobMaster compares
    /// what it hears so with the sessions there are.
    fn tell_all(&self, event: Event) {
        let (masters, token) = (Arc::clone(&self.masters), self.token.clone());
        tokio::spawn(token.run_until_cancelled_owned(async move { masters.tell_all(|| event.clone()).await }));
    }

    fn silences(&mut self) -> Silences {
        let since_start = self.started.elapsed();
        if since_start >= self.heartbeat_timeout {
            // Their jobs have waited as long and go on without them.
            self.expected.clear();
        }
        let known = self.followers().map(|(id, known)| (id.clone(), known.session.silence()));
        known.chain(self.expected.iter().map(|id| (id.clone(), since_start))).collect()
    }

    fn describe(&self) -> Vec<TaskManagerSummary> {
        let known = self.known.iter().map(|(id, known)| TaskManagerSummary {
            id: id.clone(),
            host: known.session.host.clone(),
            pid: known.session.pid,
            slots: known.session.slots,
            free_slots: self.ledger.free_on(id),
            heartbeat_age_ms: known.session.silence().as_millis() as u64,
            stale_commands: known.session.stale_commands(),
        });
        known.collect()
    }
}
