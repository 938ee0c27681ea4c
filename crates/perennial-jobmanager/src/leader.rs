//! The leader: owns Dispatcher, ResourceManager and JobMasters while its epoch lasts.
//!
//! It is made when this member may command and dropped, with all its tasks, when it may not any more. Whatever it knows
//! beyond the log comes back from the TaskManagers, so nothing has to be handed over.

mod attach;
mod history;
mod jobs;
mod recover;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use perennial_base::{OnError, TaskGroup};
use perennial_coordination::slot::Ledger;
use perennial_meta::{MetaStore, ReadError};
use perennial_rpc::taskmanager::Action;
use perennial_types::{ClusterId, JobId, LeaderEpoch, TaskManagerId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, error, info, info_span};

use crate::job_master::JobMaster;
use crate::masters::{JobMasterHandle, Masters};
use crate::resource_manager::{ResourceManager, ResourceManagerHandle};
use crate::retention;
use crate::session::Sessions;
use crate::settings::Settings;

pub(crate) use attach::NotRegistered;
pub(crate) use jobs::{recorded_details, recorded_summary, to_the_end, unreadable, unwritten};

/// Time the tasks of a deposed leader have to end. They await nothing that takes long, so this is not reached.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// One leadership. See the [module](self).
pub(crate) struct Leader {
    pub(crate) epoch: LeaderEpoch,
    pub(crate) cluster: ClusterId,
    pub(crate) meta: MetaStore,
    pub(crate) settings: Arc<Settings>,
    pub(crate) masters: Arc<Masters>,
    pub(crate) resources: ResourceManagerHandle,
    /// Woken when a job has ended.
    pub(crate) job_ended: Notify,
    sessions: Arc<Sessions>,
    tasks: TaskGroup,
    /// A committed entry of this epoch: the intent behind stopping what no job owns.
    index: u64,
    next_session: AtomicU64,
    /// When a write with an unknown outcome may last have been tried.
    unsure: std::sync::Mutex<Option<Instant>>,
}

impl Leader {
    /// Takes over: every job of the log that has not ended gets its JobMaster.
    pub(crate) async fn start(
        epoch: LeaderEpoch,
        meta: MetaStore,
        settings: Arc<Settings>,
    ) -> Result<Arc<Self>, ReadError> {
        let begun = Instant::now();
        let mut applied = meta.applied();
        let cluster = loop {
            if let Some(cluster) = meta.state().cluster_id()? {
                break cluster;
            }
            // The first leader names the cluster right after its election.
            if applied.changed().await.is_err() {
                return std::future::pending().await;
            }
        };
        let index = *applied.borrow();
        let (recovered, ledger) = recover::read(&meta)?;
        let jobs = recovered.len();
        let awaited = recover::awaited(&recovered);
        let expected = awaited.taskmanagers.clone();
        let this = Self::with_ledger(epoch, cluster, meta, settings, ledger, expected, index);
        for job in recovered {
            this.take_over(job);
        }
        this.record_take_over(awaited);
        info!(%epoch, jobs, elapsed_ms = begun.elapsed().as_millis() as u64, "leading");
        Ok(this)
    }

    fn with_ledger(
        epoch: LeaderEpoch,
        cluster: ClusterId,
        meta: MetaStore,
        settings: Arc<Settings>,
        ledger: Ledger,
        expected: BTreeSet<TaskManagerId>,
        index: u64,
    ) -> Arc<Self> {
        let tasks = TaskGroup::new();
        let masters = Arc::new(Masters::default());
        let sessions = Arc::new(Sessions::new(epoch, settings.command_deadline));
        let (manager, resources) = ResourceManager::new(
            cluster,
            settings.heartbeat_timeout,
            ledger,
            expected,
            Arc::clone(&sessions),
            Arc::clone(&masters),
            tasks.token().clone(),
        );
        tasks.spawn("resource-manager", OnError::Report, manager.run());
        let this = Arc::new(Self {
            epoch,
            cluster,
            meta,
            settings,
            masters,
            resources,
            job_ended: Notify::new(),
            sessions,
            tasks: tasks.clone(),
            index,
            next_session: AtomicU64::new(1),
            unsure: std::sync::Mutex::default(),
        });
        tasks.spawn("retention", OnError::Report, retention::run(Arc::clone(&this), tasks.token().clone()));
        this
    }

    /// Ends everything this leadership does here. TaskManagers are told nothing.
    pub(crate) async fn stop(&self) {
        info!(epoch = %self.epoch, "no longer leading");
        self.tasks.shutdown(STOP_GRACE).await;
    }

    /// Cancelled when this leadership is over.
    pub(crate) fn token(&self) -> &CancellationToken {
        self.tasks.token()
    }

    /// Runs a JobMaster until its job is over. Without effect when the job has one.
    fn run_master(self: &Arc<Self>, master: JobMaster, handle: JobMasterHandle) {
        let job = handle.about.job;
        if !self.masters.insert(handle) {
            return;
        }
        let this = Arc::clone(self);
        self.tasks.spawn("job-master", OnError::Report, async move {
            let span = info_span!(parent: None, "job", job_id = %job, epoch = %this.epoch);
            // A task of its own, so that a panic ends one job and not its supervision.
            let running = AbortOnDropHandle::new(tokio::spawn(master.run().instrument(span)));
            tokio::select! {
                () = this.token().cancelled() => return Ok::<(), std::convert::Infallible>(()),
                ended = running => if let Err(panic) = ended {
                    this.bury(job, &panic.to_string()).await;
                },
            }
            this.masters.retire(job);
            this.job_ended.notify_one();
            Ok(())
        });
    }

    /// Ends a job whose JobMaster has failed: a bug here costs one job.
    async fn bury(&self, job: JobId, reason: &str) {
        error!(job_id = %job, reason, "JobMaster failed");
        self.end_unstarted(job, &format!("its JobMaster failed: {reason}")).await;
        self.resources.release(job).await;
        for taskmanager in self.sessions.names() {
            self.stop_orphan(&taskmanager, job);
        }
    }

    /// Has an executor stopped that no job owns.
    fn stop_orphan(&self, taskmanager: &TaskManagerId, job: JobId) {
        self.sessions.command(taskmanager, self.index, job, None, Action::StopExecutor);
    }

    fn next_session(&self) -> u64 {
        self.next_session.fetch_add(1, Ordering::Relaxed)
    }
}
