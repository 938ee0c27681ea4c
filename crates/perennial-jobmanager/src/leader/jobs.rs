//! The Dispatcher on the leader: accepts, cancels and shows jobs.
//!
//! Every change is one entry of the log, and is answered after its commit. A request is carried out by a task of its own,
//! so a client that goes away leaves nothing half done.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use perennial_coordination::job::Event;
use perennial_coordination::validate;
use perennial_meta::{
    Command, CompletedCheckpoint, JobHead, Outcome, PlacedExecution, ReadError, StateReader, WriteError,
};
use perennial_rpc::dispatcher::{
    CancelJobError, ExecutionSummary, JobDetails, JobSummaries, JobSummary, SubmitJob, SubmitJobError,
    TaskManagerSummary, Unavailable,
};
use perennial_types::{ExceptionEntry, ExecutionState, JobGraph, JobId, JobStatus, RequestId, RestoreSettings};
use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;

use super::Leader;
use crate::checkpoints;
use crate::masters::{JobView, Mail};
use crate::unix_ms;

/// For so long after a write with an unknown outcome the log is searched for what came of it. The metadata store gives up
/// a write well before.
const UNSURE: Duration = Duration::from_secs(30);

pub(crate) fn unreadable(error: ReadError) -> Unavailable {
    Unavailable::Store { reason: error.to_string() }
}

pub(crate) fn unwritten(error: WriteError) -> Unavailable {
    match error {
        WriteError::NotLeader { .. } => Unavailable::NoLeader { reason: error.to_string() },
        _ => Unavailable::Store { reason: error.to_string() },
    }
}

/// Runs a request to its end, whether or not somebody still waits for it.
pub(crate) async fn to_the_end<T, E>(work: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Unavailable> + Send + 'static,
{
    match tokio::spawn(work).await {
        Ok(result) => result,
        Err(error) => Err(Unavailable::Store { reason: format!("the request failed: {error}") }.into()),
    }
}

impl Leader {
    /// Accepts a job.
    pub(crate) async fn submit(self: &Arc<Self>, submit: SubmitJob) -> Result<JobId, SubmitJobError> {
        validate(&submit.graph).map_err(|error| SubmitJobError::InvalidGraph { reason: error.to_string() })?;
        let this = Arc::clone(self);
        to_the_end(async move { this.write_submission(submit).await }).await
    }

    async fn write_submission(self: Arc<Self>, mut submit: SubmitJob) -> Result<JobId, SubmitJobError> {
        let restored = match submit.restore.take() {
            // Said again, it finds its job, whatever has become of the files since.
            Some(_) if self.meta.state().request(submit.request).map_err(unreadable)?.is_some() => None,
            Some(restore) => Some(open_restored(restore, &mut submit.graph).await?),
            None => None,
        };
        let command = Command::SubmitJob {
            request: submit.request,
            job: submit.job.unwrap_or_else(JobId::random),
            artifact: submit.artifact,
            plan: submit.plan,
            graph: submit.graph,
            restored: restored.map(Box::new),
            at_ms: unix_ms(),
        };
        let job = match self.write(command).await?.outcome {
            Outcome::Accepted(job) | Outcome::SameRequest(job) => job,
            Outcome::DuplicateJob(job) => return Err(SubmitJobError::Duplicate { job }),
            Outcome::UnknownArtifact(digest) => return Err(SubmitJobError::UnknownArtifact { digest }),
            outcome => return Err(unexpected(&outcome).into()),
        };
        self.catch_up(job).await.map_err(unreadable)?;
        Ok(job)
    }

    /// Records the wish to cancel a job.
    pub(crate) async fn cancel(self: &Arc<Self>, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        let this = Arc::clone(self);
        to_the_end(async move {
            let written = this.write(Command::CancelJob { job, request, at_ms: unix_ms() }).await?;
            match written.outcome {
                Outcome::Done | Outcome::Ignored => {
                    this.tell_cancelled(job, written.index).await;
                    Ok(())
                }
                Outcome::UnknownJob(job) => Err(CancelJobError::UnknownJob { job }),
                Outcome::AlreadyEnded(job, status) => Err(CancelJobError::AlreadyEnded { job, status }),
                outcome => Err(unexpected(&outcome).into()),
            }
        })
        .await
    }

    pub(super) async fn tell_cancelled(&self, job: JobId, index: u64) {
        self.masters.tell(job, Mail::Event(Event::CancelRequested { index })).await;
    }

    async fn write(&self, command: Command) -> Result<perennial_meta::Written, Unavailable> {
        self.meta.write(command).await.map_err(|error| {
            if matches!(error, WriteError::Unavailable(_)) {
                *self.unsure.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
            unwritten(error)
        })
    }

    /// Whether a write may have been committed that nobody here knows of.
    pub(crate) fn is_unsure(&self) -> bool {
        let unsure = self.unsure.lock().unwrap_or_else(PoisonError::into_inner);
        unsure.is_some_and(|since| since.elapsed() < UNSURE)
    }

    /// Running and ended jobs.
    pub(crate) async fn list(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.meta.read_barrier().await.map_err(unwritten)?;
        let heads = self.meta.state().job_heads().map_err(unreadable)?;
        Ok(heads.into_iter().map(|head| self.summary(head)).collect())
    }

    /// One job.
    pub(crate) async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.meta.read_barrier().await.map_err(unwritten)?;
        if let Some(handle) = self.masters.get(job) {
            return Ok(Some(handle.details()));
        }
        let recorded = recorded_details(&self.meta.state(), job).map_err(unreadable)?;
        Ok(recorded.map(|details| match self.masters.ended(job) {
            Some(view) => JobDetails { summary: view.summary.clone(), executions: view.executions.clone(), ..details },
            None => details,
        }))
    }

    /// What has failed of one job, newest first.
    pub(crate) async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        self.meta.read_barrier().await.map_err(unwritten)?;
        let live = self.masters.get(job).map(|handle| Arc::clone(&handle.view.borrow()));
        let mut entries = match live.or_else(|| self.masters.ended(job)) {
            Some(view) => view.exceptions.to_vec(),
            None => {
                let state = self.meta.state();
                if state.job_head(job).map_err(unreadable)?.is_none() {
                    return Ok(None);
                }
                state.exceptions(job).map_err(unreadable)?.unwrap_or_default().entries
            }
        };
        entries.reverse();
        Ok(Some(entries))
    }

    /// Follows one job until it ends.
    pub(crate) async fn watch(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        if let Some(handle) = self.masters.get(job) {
            return Ok(Some(follow(handle.view)));
        }
        self.meta.read_barrier().await.map_err(unwritten)?;
        let head = self.meta.state().job_head(job).map_err(unreadable)?;
        Ok(head.map(|head| Box::pin(tokio_stream::once(Ok(self.summary(head)))) as JobSummaries))
    }

    /// Registered TaskManagers.
    pub(crate) async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        let over = || Unavailable::NoLeader { reason: "the leader has just changed".to_owned() };
        self.resources.describe().await.ok_or_else(over)
    }

    /// What is known of a job: live, else remembered, else recorded.
    fn summary(&self, head: JobHead) -> JobSummary {
        if let Some(handle) = self.masters.get(head.job) {
            return handle.view.borrow().summary.clone();
        }
        match self.masters.ended(head.job) {
            Some(view) => view.summary.clone(),
            None => recorded_summary(head),
        }
    }
}

/// A job as the log has it: without what only its JobMaster knows.
pub(crate) fn recorded_summary(head: JobHead) -> JobSummary {
    JobSummary {
        job: head.job,
        name: head.name,
        status: head.status,
        start_ms: head.submitted_ms,
        end_ms: head.ended_ms,
        tasks: Default::default(),
        slots_needed: 0,
        waiting_for: String::new(),
        failure: head.failure.filter(|_| head.status == JobStatus::Failed).unwrap_or_default(),
        restarts: head.restarts,
    }
}

/// The same with its graph and where its tasks were placed. That they run is as much as is recorded of them.
pub(crate) fn recorded_details(state: &StateReader, job: JobId) -> Result<Option<JobDetails>, ReadError> {
    let (Some(record), Some(head)) = (state.job(job)?, state.job_head(job)?) else { return Ok(None) };
    let execution = |placed: PlacedExecution| ExecutionSummary {
        vertex: placed.record.attempt.vertex,
        subtask: placed.record.attempt.subtask,
        attempt: placed.record.attempt.attempt,
        state: if placed.finished { ExecutionState::Finished } else { ExecutionState::Reconciling },
        taskmanager: Some(placed.record.taskmanager),
        host: String::new(),
        start_ms: None,
        end_ms: None,
        records_in: 0,
        records_out: 0,
        failure: String::new(),
    };
    Ok(Some(JobDetails {
        summary: recorded_summary(head),
        graph: record.graph,
        artifact: record.artifact,
        plan: record.plan,
        executions: state.executions(job)?.into_iter().map(execution).collect(),
    }))
}

/// Looks at what a job is to be started from, and makes the job fit.
async fn open_restored(restore: RestoreSettings, graph: &mut JobGraph) -> Result<CompletedCheckpoint, SubmitJobError> {
    let mut adapted = graph.clone();
    let opening = tokio::task::spawn_blocking(move || {
        let restored = checkpoints::open_restored(&restore, &mut adapted);
        restored.map(|restored| (restored, adapted))
    });
    let refused = |reason: String| SubmitJobError::CannotRestore { reason };
    let opened = opening.await.map_err(|panic| refused(panic.to_string()))?;
    let (restored, adapted) = opened.map_err(|error| refused(error.to_string()))?;
    *graph = adapted;
    Ok(restored)
}

fn unexpected(outcome: &Outcome) -> Unavailable {
    Unavailable::Store { reason: format!("the metadata store answered {outcome:?}") }
}

/// Every change of a job's summary until a terminal one. Changes that come faster than they are read are skipped.
fn follow(mut view: watch::Receiver<Arc<JobView>>) -> JobSummaries {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut last = None;
        loop {
            let summary = view.borrow_and_update().summary.clone();
            let ended = summary.status.is_globally_terminal();
            if last.as_ref() != Some(&summary) {
                if sender.send(Ok(summary.clone())).await.is_err() {
                    return;
                }
                last = Some(summary);
            }
            if ended {
                return;
            }
            tokio::select! {
                () = sender.closed() => return,
                changed = view.changed() => if changed.is_err() {
                    let reason = "the leader has changed; watch again".to_owned();
                    _ = sender.send(Err(Unavailable::NoLeader { reason })).await;
                    return;
                },
            }
        }
    });
    let summaries: Pin<Box<dyn Stream<Item = _> + Send>> = Box::pin(ReceiverStream::new(receiver));
    summaries
}
