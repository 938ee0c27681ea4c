//! The TaskManager: a process that offers slots and runs the executors of jobs in them.
//!
//! It keeps a stream to every JobManager, registers with the leader of the highest epoch, fetches artifacts, and starts
//! one executor process for each job that has tasks here. It never links user code and never looks at a record. Losing
//! the leader stops nothing: what happens meanwhile is told to the next one. Losing the TaskManager itself stops
//! nothing either: executors are processes of their own, and the next TaskManager in the same working directory adopts
//! them.
//!
//! ```text
//!  JobManagers        attachment tasks ──┐                         ┌── executor tasks ── executor processes
//!  (gRPC streams)     one per JobManager │  owner: registrar,      │   one per job       (Unix sockets)
//!                                        └─ slots, ledger, fence ──┘
//! ```
//! Start with [`TaskManager::start`]; inside, with `owner.rs`. What decides is pure: `slots.rs`, `ledger.rs`,
//! and [`Registrar`](perennial_rpc::taskmanager::Registrar), which says where to register.

mod artifacts;
mod attachment;
mod executor;
mod ledger;
mod owner;
mod settings;
mod slots;
mod working_dir;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use perennial_base::{OnError, TaskGroup};
use perennial_types::{Configuration, TaskManagerId};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use owner::{Event, Events, Owner};
use settings::Settings;
use working_dir::WorkingDir;

pub use owner::{Fatal, TaskManagerStatus};
pub use working_dir::WorkingDirError;

/// Time the tasks of a TaskManager have to end; none of them waits for a peer without watching for the end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// Time all executors have to be gone, when they are stopped with the TaskManager: their grace, and that after a kill.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a TaskManager did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its working directory cannot be had.
    #[error(transparent)]
    WorkingDir(#[from] WorkingDirError),
}

/// A TaskManager.
#[derive(Debug)]
pub struct TaskManager;

impl TaskManager {
    /// Starts a TaskManager inside the current tokio runtime: takes its working directory, adopts the executors an
    /// earlier process left there, and begins to dial the JobManagers. Does not wait for any of them.
    pub async fn start(config: &Configuration) -> Result<TaskManagerHandle, StartError> {
        let settings = Arc::new(Settings::read(config).await);
        let dir = WorkingDir::open(&settings)?;
        let id = dir.id().clone();
        let temporary = dir.is_temporary().then(|| dir.path().to_owned());
        info!(
            taskmanager = %id, slots = settings.slots, host = %settings.host, dir = %dir.path().display(),
            jobmanagers = settings.jobmanagers.join(","), "TaskManager starting"
        );
        let tasks = TaskGroup::new();
        let leave = CancellationToken::new();
        let (owner, events, status) = Owner::new(settings, dir, tasks.clone(), leave.clone());
        let (fatal, ended) = watch::channel(None);
        let stop = tasks.token().clone();
        tasks.spawn("taskmanager", OnError::Report, async move {
            let outcome = owner.run(stop).await;
            if let Err(error) = &outcome {
                fatal.send_replace(Some(error.clone()));
            }
            outcome
        });
        Ok(TaskManagerHandle { id, temporary, tasks, leave, events, status, ended })
    }
}

/// Reaches a running TaskManager. Dropping it leaves the TaskManager running.
#[derive(Debug)]
pub struct TaskManagerHandle {
    id: TaskManagerId,
    /// A directory to remove in the end.
    temporary: Option<PathBuf>,
    tasks: TaskGroup,
    leave: CancellationToken,
    events: Events,
    status: watch::Receiver<TaskManagerStatus>,
    ended: watch::Receiver<Option<Fatal>>,
}

impl TaskManagerHandle {
    /// Its name.
    pub fn id(&self) -> &TaskManagerId {
        &self.id
    }

    /// How it stands, now and whenever that changes.
    pub fn status(&self) -> watch::Receiver<TaskManagerStatus> {
        self.status.clone()
    }

    /// Resolves when the TaskManager cannot go on and the process should end; never otherwise. Cancel-safe.
    pub async fn failed(&self) -> Fatal {
        let mut ended = self.ended.clone();
        let fatal = ended.wait_for(Option::is_some).await.ok().and_then(|fatal| fatal.clone());
        match fatal {
            Some(fatal) => fatal,
            None => std::future::pending().await,
        }
    }

    /// Stops the executors, then the TaskManager: what a person means who ends the process. Takes at most half a
    /// minute; executors that do not end within five seconds are killed. A TaskManager that has
    /// [`failed`](Self::failed) is only detached: what it could not tell a leader goes on.
    pub async fn shutdown(mut self) {
        let (done, stopped) = oneshot::channel();
        self.events.tell(Event::StopExecutors(done)).await;
        let all_gone = match tokio::time::timeout(STOP_TIMEOUT, stopped).await {
            Ok(told) => told.is_ok(),
            Err(_) => {
                warn!("not all executors have ended");
                false
            }
        };
        let temporary = self.temporary.take().filter(|_| all_gone);
        self.detach().await;
        if let Some(dir) = temporary
            && let Err(error) = std::fs::remove_dir_all(&dir)
        {
            warn!(dir = %dir.display(), %error, "temporary working directory not removed");
        }
    }

    /// Stops the TaskManager and leaves its executors running, for the next TaskManager in the same working directory:
    /// an upgrade in place. Executors that nobody adopts stop after `executor.orphan-timeout`.
    pub async fn detach(self) {
        self.leave.cancel();
        self.tasks.shutdown(SHUTDOWN_GRACE).await;
        info!(taskmanager = %self.id, "TaskManager stopped");
    }
}
