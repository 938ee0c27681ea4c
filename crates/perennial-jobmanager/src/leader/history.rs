//! The timing history: measures how this leadership took over, and records it.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use perennial_base::OnError;
use perennial_meta::{Beginning, Command};
use perennial_types::{JobId, JobStatus, TakeOver, TaskManagerId};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::Leader;
use crate::unix_ms;

/// After so long the take-over is recorded with what is known of it.
const RECORDED_WITHIN: Duration = Duration::from_secs(60);

/// What a take-over is complete with.
#[derive(Default)]
pub(super) struct Awaited {
    /// TaskManagers that run something by the log.
    pub(super) taskmanagers: BTreeSet<TaskManagerId>,
    /// Jobs that have been deployed, and how often each had been restarted.
    pub(super) jobs: Vec<(JobId, u32)>,
}

impl Leader {
    /// Records the take-over once it is complete. A leader that ends before leaves its leadership without phases.
    pub(super) fn record_take_over(self: &Arc<Self>, awaited: Awaited) {
        let Some(beginning) = self.meta.beginning().filter(|beginning| beginning.epoch == self.epoch) else { return };
        let this = Arc::clone(self);
        self.tasks.spawn("take-over-history", OnError::Report, async move {
            let token = this.token().clone();
            token.run_until_cancelled(this.measure_take_over(beginning, awaited)).await;
            Ok::<(), Infallible>(())
        });
    }

    async fn measure_take_over(&self, beginning: Beginning, awaited: Awaited) {
        let Beginning { cause, lost, .. } = beginning;
        let since_lost = |at: Instant| at.saturating_duration_since(lost).as_micros() as u64;
        let (attached, adopted, checkpoint) = tokio::join!(
            tokio::time::timeout(RECORDED_WITHIN, self.all_attached(&awaited.taskmanagers)),
            tokio::time::timeout(RECORDED_WITHIN, self.all_reconciled(&awaited.jobs)),
            tokio::time::timeout(RECORDED_WITHIN, self.first_checkpoint(&awaited.jobs)),
        );
        let (jobs_adopted, jobs_restarted) = self.count_adopted(&awaited.jobs);
        let take_over = TakeOver {
            cause,
            lost_ms: unix_ms().saturating_sub(lost.elapsed().as_millis() as u64),
            elected_us: since_lost(beginning.elected),
            first_commit_us: since_lost(beginning.serving),
            attached_us: attached.ok().map(since_lost),
            adopted_us: adopted.ok().map(since_lost),
            first_checkpoint_us: checkpoint.ok().flatten().map(since_lost),
            taskmanagers: awaited.taskmanagers.len() as u32,
            jobs_adopted,
            jobs_restarted,
        };
        info!(epoch = %self.epoch, %cause, ?take_over, "took over");
        if let Err(error) = self.meta.write(Command::RecordTakeOver { epoch: self.epoch, take_over }).await {
            warn!(epoch = %self.epoch, %error, "how this leadership began was not recorded");
        }
    }

    /// Resolves when all these TaskManagers have registered.
    async fn all_attached(&self, taskmanagers: &BTreeSet<TaskManagerId>) -> Instant {
        let mut registered = self.sessions.registrations();
        loop {
            registered.borrow_and_update();
            if taskmanagers.iter().all(|taskmanager| self.sessions.get(taskmanager).is_some()) {
                return Instant::now();
            }
            if registered.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Resolves when none of these jobs waits for reports any more.
    async fn all_reconciled(&self, jobs: &[(JobId, u32)]) -> Instant {
        for (job, _) in jobs {
            let Some(handle) = self.masters.get(*job) else { continue };
            let mut view = handle.view;
            // A JobMaster that has ended waits for nothing.
            _ = view.wait_for(|view| view.summary.status != JobStatus::Reconciling).await;
        }
        Instant::now()
    }

    /// Resolves when one of these jobs has completed a checkpoint under this leader; to nothing when none takes any.
    async fn first_checkpoint(&self, jobs: &[(JobId, u32)]) -> Option<Instant> {
        let mut waiting = JoinSet::new();
        for (job, _) in jobs {
            let Some(handle) = self.masters.get(*job) else { continue };
            if handle.about.checkpointing.when.interval.is_some() {
                let mut view = handle.view;
                waiting.spawn(async move {
                    view.wait_for(|view| view.first_checkpoint.is_some()).await.ok()?.first_checkpoint
                });
            }
        }
        while let Some(first) = waiting.join_next().await {
            // A job that has ended completes none.
            if let Ok(Some(at)) = first {
                return Some(at);
            }
        }
        None
    }

    /// How many of these jobs were adopted as they were, and how many lost tasks.
    fn count_adopted(&self, jobs: &[(JobId, u32)]) -> (u32, u32) {
        let (mut adopted, mut restarted) = (0, 0);
        for (job, restarts) in jobs {
            let view = match self.masters.get(*job) {
                Some(handle) => Some(Arc::clone(&handle.view.borrow())),
                None => self.masters.ended(*job),
            };
            match view.map(|view| (view.summary.status, view.summary.restarts)) {
                Some((JobStatus::Reconciling, _)) | None => {}
                Some((JobStatus::Restarting | JobStatus::Failing | JobStatus::Failed, _)) => restarted += 1,
                Some((_, now)) if now > *restarts => restarted += 1,
                Some(_) => adopted += 1,
            }
        }
        (adopted, restarted)
    }
}
