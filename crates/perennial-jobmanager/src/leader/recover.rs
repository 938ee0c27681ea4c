//! From the log to JobMasters: every job that has not ended is taken over; one that cannot be does not hold up the others.

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_coordination::checkpoint::CheckpointRecord;
use perennial_coordination::execution_graph::{Assignment, Recovered};
use perennial_coordination::job::{Job, Record};
use perennial_coordination::restart_strategy::RestartStrategy;
use perennial_coordination::slot::Ledger;
use perennial_coordination::validate;
use perennial_meta::{ArtifactRecord, Command, DesiredState, JobRecord, MetaStore, PlacedExecution, ReadError};
use perennial_types::config::options;
use perennial_types::{
    ExceptionEntry, ExceptionKind, JobException, JobExceptions, JobGraph, JobId, JobStatus, PlanRequest,
};
use tracing::{error, warn};

use super::Leader;
use super::history::Awaited;
use crate::checkpoints::{self, CannotRecover};
use crate::job_master::{About, JobMaster};
use crate::settings::{checkpointing, restart_policy};
use crate::unix_ms;

/// A job as a new leader finds it.
pub(super) struct Found {
    record: JobRecord,
    executions: Vec<PlacedExecution>,
    artifact: Option<ArtifactRecord>,
    /// Its checkpoints, with the directory they are below, or why they are not known.
    checkpoints: Result<(CheckpointRecord, Option<String>), CannotRecover>,
    exceptions: JobExceptions,
    index: u64,
}

/// Reads every job that has not ended, and which slots they hold.
pub(super) fn read(meta: &MetaStore) -> Result<(Vec<Found>, Ledger), ReadError> {
    let state = meta.state();
    let mut ledger = Ledger::default();
    let mut jobs = Vec::new();
    for head in state.job_heads()?.into_iter().filter(|head| !head.status.is_globally_terminal()) {
        let Some(found) = find(meta, head.job)? else { continue };
        for placed in &found.executions {
            if !ledger.hold(head.job, &assignment(placed)) {
                error!(job_id = %head.job, at = ?placed.record, "two jobs hold one slot");
            }
        }
        jobs.push(found);
    }
    Ok((jobs, ledger))
}

/// What the take-over of these jobs is complete with.
pub(super) fn awaited(jobs: &[Found]) -> Awaited {
    let mut awaited = Awaited::default();
    for found in jobs {
        let running = found.executions.iter().filter(|placed| !placed.finished);
        awaited.taskmanagers.extend(running.map(|placed| placed.record.taskmanager.clone()));
        if !found.executions.is_empty() {
            awaited.jobs.push((found.record.job, found.record.restarts));
        }
    }
    awaited
}

fn find(meta: &MetaStore, job: JobId) -> Result<Option<Found>, ReadError> {
    let state = meta.state();
    let Some(record) = state.job(job)? else { return Ok(None) };
    let artifact = state.artifact(record.artifact)?;
    let checkpoints = match checkpoints::recovered(&state, job) {
        Err(CannotRecover::Read(error)) => return Err(error),
        checkpoints => checkpoints,
    };
    let (executions, exceptions) = (state.executions(job)?, state.exceptions(job)?.unwrap_or_default());
    Ok(Some(Found { executions, artifact, checkpoints, exceptions, record, index: state.applied() }))
}

fn assignment(placed: &PlacedExecution) -> Assignment {
    Assignment {
        taskmanager: placed.record.taskmanager.clone(),
        slot: placed.record.slot,
        allocation: placed.record.allocation,
    }
}

/// When a job has last entered a state.
fn time_of(record: &JobRecord, entered: JobStatus) -> Option<u64> {
    record.status_times.iter().find_map(|(status, at_ms)| (*status == entered).then_some(*at_ms))
}

/// Options of a job: the cluster's, over them those given at submission, over them those the job set itself.
fn effective_config(
    cluster: &BTreeMap<String, String>,
    plan: &PlanRequest,
    graph: &JobGraph,
) -> BTreeMap<String, String> {
    let mut config = cluster.clone();
    config.extend(plan.config.clone());
    config.extend(graph.config.clone());
    config
}

impl Leader {
    /// Gives a job of the log its JobMaster, or ends it with the reason why it cannot have one.
    pub(super) fn take_over(self: &Arc<Self>, found: Found) {
        let Found { record, executions, artifact, checkpoints, exceptions, index } = found;
        let job_id = record.job;
        let problem = match (validate(&record.graph), &artifact, &checkpoints) {
            (Err(error), ..) => Some(format!("it cannot be recovered: {error}")),
            (_, None, _) => Some(format!("it cannot be recovered: artifact {} is not recorded", record.artifact)),
            (.., Err(error)) => Some(format!("it cannot be recovered: {error}")),
            _ => None,
        };
        let (None, Some(artifact), Ok((checkpoints, recorded))) = (&problem, artifact, checkpoints) else {
            let problem = problem.unwrap_or_default();
            error!(%job_id, problem, "job cannot be taken over");
            let this = Arc::clone(self);
            self.tasks.spawn("end-job", perennial_base::OnError::Report, async move {
                this.end_unstarted(job_id, &problem).await;
                Ok::<(), std::convert::Infallible>(())
            });
            return;
        };
        let places: Vec<_> =
            executions.iter().map(|placed| (placed.record.taskmanager.clone(), placed.record.incarnation)).collect();
        let recovered = executions
            .iter()
            .map(|placed| Recovered {
                attempt: placed.record.attempt,
                assignment: assignment(placed),
                finished: placed.finished,
            })
            .collect();
        let known = Record {
            status: record.status,
            failure: record.failure.clone(),
            cancel_requested: record.desired == DesiredState::Canceled,
            executions: recovered,
            // CREATED is recorded right before tasks are deployed, RESTARTING before they are again.
            deployed_ms: time_of(&record, JobStatus::Created),
            restarted_ms: time_of(&record, JobStatus::Restarting),
            restarts: record.restarts,
            checkpoints,
            index,
        };
        let mut config = effective_config(&self.settings.cluster_options, &record.plan, &record.graph);
        let mut checkpointing = checkpointing(&config, &self.settings.checkpoint_dir);
        if let Some(recorded) = recorded {
            // Every leader uses the directory that the first one has chosen.
            checkpointing.directory = recorded;
        }
        // Executors write below it and have a directory of their own by default.
        config.insert(options::CHECKPOINTING_DIR.key.to_owned(), checkpointing.directory.clone());
        let seed = u64::from_le_bytes(*job_id.as_bytes().first_chunk().unwrap_or(&[0; 8]));
        let policy = restart_policy(&config, checkpointing.when.interval.is_some());
        let strategy = RestartStrategy::new(policy, exceptions.memory, seed);
        let job = Job::recover(record.graph.clone(), self.settings.patience, strategy, checkpointing.when, known);
        let exceptions_kept = self.settings.exceptions_kept;
        let job = job.with_exceptions(exceptions.entries, exceptions_kept as usize);
        let about = About {
            job: job_id,
            config,
            graph: record.graph,
            plan: record.plan,
            artifact,
            submitted_ms: record.submitted_ms,
            checkpointing,
            exceptions_kept,
        };
        let (meta, resources, sessions) = (self.meta.clone(), self.resources.clone(), Arc::clone(&self.sessions));
        let (master, handle) = JobMaster::new(about, job, places, meta, resources, sessions);
        self.run_master(master, handle);
    }

    /// Makes sure that a job of the log has its JobMaster and that the JobMaster knows what the user wants.
    pub(super) async fn catch_up(self: &Arc<Self>, job: JobId) -> Result<(), ReadError> {
        if self.masters.get(job).is_none() {
            match find(&self.meta, job)? {
                Some(found) if !found.record.status.is_globally_terminal() => self.take_over(found),
                _ => return Ok(()),
            }
        }
        // Between the read and the JobMaster's start somebody may have cancelled, and found nobody to tell.
        let state = self.meta.state();
        if state.job_head(job)?.is_some_and(|head| head.desired == DesiredState::Canceled) {
            self.tell_cancelled(job, state.applied()).await;
        }
        Ok(())
    }

    /// Looks for jobs of the log without a JobMaster, after a write whose outcome was not known.
    pub(crate) async fn catch_up_all(self: &Arc<Self>) {
        let heads = match self.meta.state().job_heads() {
            Ok(heads) => heads,
            Err(error) => return warn!(%error, "jobs cannot be read"),
        };
        for head in heads.into_iter().filter(|head| !head.status.is_globally_terminal()) {
            if let Err(error) = self.catch_up(head.job).await {
                warn!(job_id = %head.job, %error, "job cannot be read");
            }
        }
    }

    /// Records the end of a job that has no JobMaster.
    pub(super) async fn end_unstarted(&self, job: JobId, failure: &str) {
        let (status, at_ms) = (JobStatus::Failed, unix_ms());
        // Without its exception history it ends all the same.
        let known = self.meta.state().exceptions(job).ok().flatten().unwrap_or_default();
        let number = known.entries.last().map_or(0, |newest| newest.number + 1);
        let root = JobException { at_ms, kind: ExceptionKind::JobFailed, text: failure.to_owned(), task: None };
        let news = JobExceptions { entries: vec![ExceptionEntry::new(number, root)], memory: known.memory };
        let end = Command::EndJob { job, status, at_ms, failure: Some(failure.to_owned()) };
        let command =
            Command::RecordExceptions { job, news, kept: self.settings.exceptions_kept, then: Some(Box::new(end)) };
        let write = crate::job_master::record(&self.meta, job, command);
        if let Some(Err(reason)) = self.token().run_until_cancelled(write).await {
            warn!(job_id = %job, reason, "the job's end was not recorded");
        }
        self.job_ended.notify_one();
    }
}
