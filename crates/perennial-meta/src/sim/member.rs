//! One JobManager: a disk that stays, and processes that come and go. A process is a tokio runtime of its own with a clock
//! of its own; dropping the runtime is the crash.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use perennial_types::JobManagerId;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::runtime::Runtime;
use tokio::time::Instant;

use super::disk::{Disk, Lost};
use super::ground::Here;
use super::lock;
use super::network::{Net, Node};
use super::taskmanager::Conversations;
use crate::config::{MetaConfig, Peer};
use crate::error::OpenError;
use crate::leadership::LeadershipView;
use crate::marker::MarkerFile;
use crate::store::MetaStore;

/// Log entries between snapshots, and kept behind one: few, so that members fall out of the log.
const SNAPSHOT_ENTRIES: u64 = 120;
const ENTRIES_KEPT: u64 = 150;

/// A JobManager.
pub(super) struct Member {
    pub(super) node: Node,
    pub(super) disk: Disk,
    dir: PathBuf,
    members: usize,
    process: Option<Process>,
    /// Shortest and longest silence of a leader after which its next process elects, in milliseconds.
    pub(super) election_timeout_ms: (u64, u64),
    /// Its processes so far.
    pub(super) starts: u64,
    /// It is stopped like by SIGSTOP.
    pub(super) frozen: bool,
    /// It will say that it cannot go on, and that is as it should be.
    pub(super) may_fail: bool,
}

struct Process {
    here: Here,
    runtime: Runtime,
    /// Its clock when it began, and the simulation's.
    began: (Instant, u64),
    opened: Arc<Mutex<Option<Result<MetaStore, OpenError>>>>,
    store: Option<MetaStore>,
    fatal: Arc<Mutex<Option<String>>>,
    stopped: Arc<Mutex<bool>>,
    conversations: Conversations,
}

fn address(node: Node) -> String {
    format!("jm-{node}:1")
}

/// The member that an address belongs to.
pub(super) fn at(address: &str) -> Option<Node> {
    address.strip_prefix("jm-")?.strip_suffix(":1")?.parse().ok()
}

/// How a process stands after it ran for a moment.
pub(super) enum Standing {
    Runs,
    /// It was asked to stop, and has.
    Stopped,
    /// It cannot go on.
    Failed(String),
}

impl Member {
    pub(super) fn new(node: Node, members: usize, dir: PathBuf, disk: Disk) -> Self {
        let election_timeout_ms = (150, 300);
        Self { node, disk, dir, members, process: None, election_timeout_ms, starts: 0, frozen: false, may_fail: false }
    }

    /// Lets the marker forget terms that the log has forgotten.
    pub(super) fn forget_terms(&self) {
        let (path, term) = (self.dir.join("meta").join("marker"), self.disk.term());
        if let Ok(Some(marker)) = MarkerFile::open(&path) {
            marker.update(|marker| marker.floor.term = marker.floor.term.min(term)).expect("memory takes a file");
        }
    }

    /// Starts a process.
    pub(super) fn start(&mut self, now: u64, net: &Net, seed: u64) {
        self.starts += 1;
        let rng = SmallRng::seed_from_u64(seed ^ (self.node as u64 + 1) << 32 ^ self.starts);
        let here = Here { node: self.node, net: net.clone(), disk: self.disk.clone(), rng: Arc::new(Mutex::new(rng)) };
        let built = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let runtime = built.expect("a runtime without I/O needs nothing of the system");
        let opened = Arc::new(Mutex::new(None));
        let (config, result) = (self.config(), opened.clone());
        let began = here.run(|| {
            runtime.spawn(async move {
                let store = MetaStore::open_here(config).await;
                *lock(&result) = Some(store);
            });
            runtime.block_on(async { Instant::now() })
        });
        let (fatal, stopped) = (Arc::default(), Arc::default());
        let conversations = Conversations::new(self.node);
        let process =
            Process { here, runtime, began: (began, now), opened, store: None, fatal, stopped, conversations };
        self.process = Some(process);
    }

    fn config(&self) -> MetaConfig {
        let peer =
            |node: Node| Peer { id: JobManagerId(node as u64 + 1), name: format!("jm-{node}"), address: address(node) };
        MetaConfig {
            data_dir: self.dir.clone(),
            name: format!("jm-{}", self.node),
            address: address(self.node),
            join: false,
            peers: (0..self.members).map(peer).collect(),
            heartbeat_interval: Duration::from_millis(50),
            election_timeout_min: Duration::from_millis(self.election_timeout_ms.0),
            election_timeout_max: Duration::from_millis(self.election_timeout_ms.1),
            snapshot_entries: SNAPSHOT_ENTRIES,
            log_entries_kept: ENTRIES_KEPT,
        }
    }

    /// Ends the process as SIGKILL or a power cut does.
    pub(super) fn crash(&mut self, net: &Net) -> Option<Lost> {
        let Process { here, runtime, store, opened, .. } = self.process.take()?;
        net.listens(self.node, false);
        net.crashed(self.node);
        net.freeze(self.node, false);
        (self.frozen, self.may_fail) = (false, false);
        here.run(|| drop((runtime, store, opened)));
        Some(self.disk.crash())
    }

    pub(super) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// The store, once it is open.
    pub(super) fn store(&self) -> Option<&MetaStore> {
        self.process.as_ref()?.store.as_ref()
    }

    pub(super) fn conversations(&mut self) -> Option<&mut Conversations> {
        self.process.as_mut().filter(|process| process.store.is_some()).map(|process| &mut process.conversations)
    }

    /// The epoch in which it serves, as the rest of the process knows.
    pub(super) fn serving(&self) -> Option<u64> {
        self.process.as_ref()?.conversations.serving().map(|epoch| epoch.0)
    }

    /// The epoch in which it follows a leader, or leads.
    pub(super) fn follows(&self) -> Option<u64> {
        let view = self.store()?.leadership().borrow().clone();
        view.leader.map(|_| view.epoch.0)
    }

    /// Spawns a task in the process.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            process.here.run(|| drop(process.runtime.spawn(task)));
        }
    }

    /// Asks the process to stop as SIGTERM does.
    pub(super) fn stop(&self) {
        if let (Some(process), Some(store)) = (&self.process, self.store().cloned()) {
            let stopped = process.stopped.clone();
            self.spawn(async move {
                store.shutdown().await;
                *lock(&stopped) = true;
            });
        }
    }

    /// Lets the process run until the simulation's clock says `now`. After it was frozen its clock jumps.
    pub(super) fn run(&mut self, now: u64) -> Standing {
        let Some(process) = self.process.as_mut().filter(|_| !self.frozen) else { return Standing::Runs };
        let (began, then) = process.began;
        let until = began + Duration::from_millis(now - then);
        process.here.run(|| {
            process.runtime.block_on(async {
                let behind = until.saturating_duration_since(Instant::now());
                if behind > Duration::from_millis(1) {
                    tokio::time::advance(behind - Duration::from_millis(1)).await;
                }
                tokio::time::sleep_until(until).await;
            });
        });
        let opened = lock(&process.opened).take();
        match opened {
            Some(Ok(store)) => {
                let (fatal, watched) = (process.fatal.clone(), store.clone());
                process.here.run(|| {
                    process.runtime.spawn(async move {
                        let reason = watched.fatal().await;
                        *lock(&fatal) = Some(reason);
                    })
                });
                process.store = Some(store);
                process.here.net.listens(self.node, true);
            }
            Some(Err(error)) => return Standing::Failed(error.to_string()),
            None => {}
        }
        if *lock(&process.stopped) {
            return Standing::Stopped;
        }
        lock(&process.fatal).take().map_or(Standing::Runs, Standing::Failed)
    }

    /// Tells TaskManagers who leads, when that has changed. Returns the view when it is another than before.
    pub(super) fn follow(&mut self, net: &Net) -> Option<LeadershipView> {
        let process = self.process.as_mut().filter(|_| !self.frozen)?;
        let store = process.store.as_ref()?;
        let view = store.leadership().borrow().clone();
        if process.conversations.knows(&view) {
            return None;
        }
        let cluster = store.state().cluster_id().ok().flatten();
        process.conversations.turned(view.clone(), cluster, net).then_some(view)
    }

    /// The term in which openraft says that this member leads.
    pub(super) fn leads(&self) -> Option<u64> {
        let metrics = self.store()?.metrics();
        let now = metrics.borrow_watched();
        (now.state == ServerState::Leader).then_some(now.current_term)
    }
}
