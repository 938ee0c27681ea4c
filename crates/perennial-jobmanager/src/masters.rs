//! The JobMasters of one leadership by job, and what is remembered of those that ended.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use perennial_coordination::execution_graph::Counters;
use perennial_coordination::job::Event;
use perennial_rpc::dispatcher::{ExecutionSummary, JobDetails, JobSummary};
use perennial_types::{ExceptionEntry, ExecutionAttemptId, JobId};
use tokio::sync::{mpsc, watch};

use crate::job_master::About;

/// What a JobMaster is told.
#[derive(Debug)]
pub(crate) enum Mail {
    /// Something happened.
    Event(Event),
    /// A TaskManager registered: its host, for people, comes with the event about what it runs.
    Here { host: String, event: Event },
    /// Counters of running executions.
    Progress(Vec<(ExecutionAttemptId, Counters)>),
}

/// A job as it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct JobView {
    pub(crate) summary: JobSummary,
    pub(crate) executions: Vec<ExecutionSummary>,
    /// What has failed, oldest first.
    pub(crate) exceptions: Arc<Vec<ExceptionEntry>>,
    /// When the first checkpoint was completed under this leader.
    pub(crate) first_checkpoint: Option<Instant>,
}

/// Reaches a JobMaster and what it shows.
#[derive(Clone)]
pub(crate) struct JobMasterHandle {
    pub(crate) about: Arc<About>,
    pub(crate) inbox: mpsc::Sender<Mail>,
    pub(crate) view: watch::Receiver<Arc<JobView>>,
}

impl JobMasterHandle {
    /// The job with its vertices, as it is shown now.
    pub(crate) fn details(&self) -> JobDetails {
        let view = Arc::clone(&self.view.borrow());
        JobDetails {
            summary: view.summary.clone(),
            graph: self.about.graph.clone(),
            artifact: self.about.artifact.digest,
            plan: self.about.plan.clone(),
            executions: view.executions.clone(),
        }
    }
}

/// The JobMasters of one leadership.
#[derive(Default)]
pub(crate) struct Masters {
    live: RwLock<HashMap<JobId, JobMasterHandle>>,
    /// Last views of jobs that ended under this leader: the log keeps no tasks of ended jobs.
    ended: RwLock<HashMap<JobId, Arc<JobView>>>,
}

impl Masters {
    /// Adds a JobMaster, unless the job has one.
    pub(crate) fn insert(&self, handle: JobMasterHandle) -> bool {
        let mut live = self.live.write().unwrap_or_else(PoisonError::into_inner);
        match live.entry(handle.about.job) {
            std::collections::hash_map::Entry::Occupied(_) => false,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(handle);
                true
            }
        }
    }

    /// The JobMaster of a job.
    pub(crate) fn get(&self, job: JobId) -> Option<JobMasterHandle> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    /// Every JobMaster.
    pub(crate) fn all(&self) -> Vec<JobMasterHandle> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// A JobMaster is done; its last view is kept until the job is forgotten.
    pub(crate) fn retire(&self, job: JobId) {
        let retired = self.live.write().unwrap_or_else(PoisonError::into_inner).remove(&job);
        if let Some(handle) = retired {
            let view = Arc::clone(&handle.view.borrow());
            self.ended.write().unwrap_or_else(PoisonError::into_inner).insert(job, view);
        }
    }

    /// The last view of a job that ended under this leader.
    pub(crate) fn ended(&self, job: JobId) -> Option<Arc<JobView>> {
        self.ended.read().unwrap_or_else(PoisonError::into_inner).get(&job).cloned()
    }

    /// Forgets ended jobs.
    pub(crate) fn forget(&self, jobs: &[JobId]) {
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        for job in jobs {
            ended.remove(job);
        }
        if ended.len() * 4 < ended.capacity() {
            ended.shrink_to_fit();
        }
    }

    /// Tells one job. Nothing happens when it has no JobMaster.
    pub(crate) async fn tell(&self, job: JobId, mail: Mail) {
        if let Some(handle) = self.get(job) {
            _ = handle.inbox.send(mail).await;
        }
    }

    /// Tells one job, unless it has more to read than it can: for what will be said again anyway.
    pub(crate) fn mention(&self, job: JobId, mail: Mail) {
        if let Some(handle) = self.get(job) {
            _ = handle.inbox.try_send(mail);
        }
    }

    /// Tells every job.
    pub(crate) async fn tell_all(&self, mut event: impl FnMut() -> Event) {
        for handle in self.all() {
            _ = handle.inbox.send(Mail::Event(event())).await;
        }
    }
}
