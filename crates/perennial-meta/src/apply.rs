//! What a command does to the state: a pure function of the state, the entry's id and the command.
//!
//! No clock and no randomness, and reads only through [`View`], so every member computes the same. All changes of a
//! command are returned at once and written as one batch; a command never sees its own changes.

mod checkpoint;

use perennial_types::{ExecutionAttemptId, JobExceptions, JobId, JobStatus, LeaderEpoch, RequestId};

use crate::command::{Command, Outcome};
use crate::kv::{self, Change, StateError, View, delete, list, put, read};
use crate::record::{
    ArtifactRecord, CompletedCheckpoint, DesiredState, JobHead, LeadershipRecord, PlacedExecution, ReservedCheckpoint,
};

/// Leaderships remembered: enough for the UI and for a report of a day of faults.
const LEADERSHIPS_KEPT: usize = 256;

/// The entry a command travels in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryId {
    /// The leadership that wrote it: Raft's term.
    pub(crate) epoch: LeaderEpoch,
    /// Its place in the log.
    pub(crate) index: u64,
}

/// An outcome, and the changes that go with it.
type Applied = Result<(Outcome, Vec<Change>), StateError>;

/// Applies a command.
pub(crate) fn apply(view: &impl View, entry: EntryId, command: Command) -> Applied {
    match command {
        Command::Bootstrap { cluster } => match read::<kv::cluster::Cluster>(view, &())? {
            Some(_) => Ok((Outcome::Ignored, Vec::new())),
            None => Ok((Outcome::Done, vec![put::<kv::cluster::Cluster>(&(), &cluster)])),
        },
        Command::Lead { leader, at_ms } => {
            let record = LeadershipRecord { epoch: entry.epoch, leader, at_ms, index: entry.index };
            lead(view, record)
        }
        Command::AddArtifact { digest, name, size, holders } => {
            let new = ArtifactRecord { digest, name, size, holders };
            add_artifact(view, new)
        }
        Command::SubmitJob { request, job, artifact, plan, graph, restored, at_ms } => {
            let head = JobHead {
                job,
                request,
                name: graph.name.clone(),
                artifact,
                status: JobStatus::Initializing,
                desired: DesiredState::Running,
                cancel_request: None,
                submitted_ms: at_ms,
                ended_ms: None,
                status_times: vec![(JobStatus::Initializing, at_ms)],
                failure: None,
                restarts: 0,
            };
            submit(view, head, kv::job_graph::PlannedGraph { plan, graph }, restored.map(|restored| *restored))
        }
        Command::SetStatus { job, status, at_ms, failure } => {
            on_live_job(view, job, |head| set_status(head, status, at_ms, failure))
        }
        Command::PlaceExecutions { job, executions, at_ms: _ } => on_live_job(view, job, |_| {
            let placed = executions.into_iter().map(|record| PlacedExecution { record, finished: false });
            let changes = placed.map(|placed| put::<kv::execution::Execution>(&slot_of(job, &placed), &placed));
            Ok((Outcome::Done, changes.collect()))
        }),
        Command::FinishExecutions { job, attempts } => on_live_job(view, job, |_| finish(view, job, &attempts)),
        Command::RecordExceptions { job, news, kept, then } => {
            let remembered = on_live_job(view, job, |_| remember(view, job, news, kept))?;
            match then {
                None => Ok(remembered),
                // No other command touches the history, but for the one that forgets the job, which nothing can follow from.
                Some(then) => apply(view, entry, *then).map(|(outcome, mut changes)| {
                    changes.extend(remembered.1);
                    (outcome, changes)
                }),
            }
        }
        Command::CancelJob { job, request, at_ms } => cancel(view, job, request, at_ms),
        Command::EndJob { job, status, at_ms, failure } => {
            on_live_job(view, job, |head| end(view, head, status, at_ms, failure))
        }
        Command::ForgetJobs { jobs } => forget(view, jobs),
        // Of an older leader only entries are applied that it wrote while it led.
        Command::RecordTakeOver { epoch, .. } if epoch != entry.epoch => Ok((Outcome::Ignored, Vec::new())),
        Command::RecordTakeOver { epoch, take_over } => {
            Ok((Outcome::Done, vec![put::<kv::take_over::TakeOvers>(&epoch, &take_over)]))
        }
        Command::ReserveCheckpoint { job, checkpoint, kind, directory, request, deleted, at_ms } => {
            let new = ReservedCheckpoint { id: checkpoint, kind, directory, request, at_ms };
            on_live_job(view, job, |_| checkpoint::reserve(view, job, new, &deleted))
        }
        Command::CompleteCheckpoint { job, completed, retained } => {
            on_live_job(view, job, |_| checkpoint::complete(view, job, completed, retained))
        }
        Command::AbortCheckpoint { job, checkpoints, reason: _ } => {
            on_live_job(view, job, |_| checkpoint::abort(view, job, &checkpoints))
        }
    }
}

fn lead(view: &impl View, record: LeadershipRecord) -> Applied {
    let mut changes = vec![put::<kv::leadership::Leadership>(&record.epoch, &record)];
    let known = list::<kv::leadership::Leadership>(view, &[])?;
    let surplus = (known.len() + 1).saturating_sub(LEADERSHIPS_KEPT);
    let oldest = known.iter().filter(|old| old.epoch != record.epoch).take(surplus);
    for old in oldest {
        changes.push(delete::<kv::leadership::Leadership>(&old.epoch));
        changes.push(delete::<kv::take_over::TakeOvers>(&old.epoch));
    }
    Ok((Outcome::Done, changes))
}

fn add_artifact(view: &impl View, new: ArtifactRecord) -> Applied {
    let mut record = read::<kv::artifact::Artifact>(view, &new.digest)?.unwrap_or(new.clone());
    record.holders.extend(new.holders);
    record.holders.sort_unstable();
    record.holders.dedup();
    Ok((Outcome::Done, vec![put::<kv::artifact::Artifact>(&record.digest.clone(), &record)]))
}

fn submit(
    view: &impl View,
    head: JobHead,
    planned: kv::job_graph::PlannedGraph,
    restored: Option<CompletedCheckpoint>,
) -> Applied {
    if let Some(job) = read::<kv::request::Request>(view, &head.request)? {
        return Ok((Outcome::SameRequest(job), Vec::new()));
    }
    if read::<kv::job::Job>(view, &head.job)?.is_some() {
        return Ok((Outcome::DuplicateJob(head.job), Vec::new()));
    }
    if read::<kv::artifact::Artifact>(view, &head.artifact)?.is_none() {
        return Ok((Outcome::UnknownArtifact(head.artifact), Vec::new()));
    }
    let mut changes = vec![
        put::<kv::job::Job>(&head.job, &head),
        put::<kv::job_graph::JobGraphs>(&head.job, &planned),
        put::<kv::request::Request>(&head.request, &head.job),
        put::<kv::artifact_use::ArtifactUse>(&(head.artifact, head.job), &head.job),
    ];
    changes.extend(restored.into_iter().flat_map(|restored| checkpoint::start_from(head.job, restored)));
    Ok((Outcome::Accepted(head.job), changes))
}

/// Answers for a job that is unknown or has ended, else lets `act` go on.
fn on_live_job(view: &impl View, job: JobId, act: impl FnOnce(JobHead) -> Applied) -> Applied {
    match read::<kv::job::Job>(view, &job)? {
        None => Ok((Outcome::UnknownJob(job), Vec::new())),
        Some(head) if head.status.is_globally_terminal() => Ok((Outcome::AlreadyEnded(job, head.status), Vec::new())),
        Some(head) => act(head),
    }
}

fn set_status(mut head: JobHead, status: JobStatus, at_ms: u64, failure: Option<String>) -> Applied {
    let job = head.job;
    if head.status == status {
        return Ok((Outcome::Ignored, Vec::new()));
    }
    if status.is_globally_terminal() || !head.status.may_become(status) {
        return Ok((Outcome::IllegalStatus { job, from: head.status, to: status }, Vec::new()));
    }
    enter(&mut head, status, at_ms);
    head.restarts += u32::from(status == JobStatus::Restarting);
    head.failure = failure.or(head.failure);
    Ok((Outcome::Done, vec![put::<kv::job::Job>(&job, &head)]))
}

fn remember(view: &impl View, job: JobId, news: JobExceptions, kept: u32) -> Applied {
    let mut exceptions = read::<kv::exceptions::Exceptions>(view, &job)?.unwrap_or_default();
    exceptions.merge(news, kept as usize);
    Ok((Outcome::Done, vec![put::<kv::exceptions::Exceptions>(&job, &exceptions)]))
}

fn finish(view: &impl View, job: JobId, attempts: &[ExecutionAttemptId]) -> Applied {
    let mut changes = Vec::new();
    for attempt in attempts {
        let key = (job, attempt.vertex, attempt.subtask);
        match read::<kv::execution::Execution>(view, &key)? {
            Some(placed) if placed.record.attempt == *attempt => {
                let finished = PlacedExecution { finished: true, ..placed };
                changes.push(put::<kv::execution::Execution>(&key, &finished));
            }
            _ => {}
        }
    }
    Ok((Outcome::Done, changes))
}

fn cancel(view: &impl View, job: JobId, request: RequestId, at_ms: u64) -> Applied {
    let Some(mut head) = read::<kv::job::Job>(view, &job)? else {
        return Ok((Outcome::UnknownJob(job), Vec::new()));
    };
    let mut others = read::<kv::cancel::Cancels>(view, &job)?.unwrap_or_default();
    if head.cancel_request == Some(request) || others.contains(&request) {
        return Ok((Outcome::Done, Vec::new()));
    }
    if head.status.is_globally_terminal() {
        return Ok((Outcome::AlreadyEnded(job, head.status), Vec::new()));
    }
    head.desired = DesiredState::Canceled;
    let mut changes = Vec::new();
    if *head.cancel_request.get_or_insert(request) != request {
        // The newest are those that may be asked again.
        if others.len() >= kv::cancel::CANCELS_MAX {
            others.remove(0);
        }
        others.push(request);
        changes.push(put::<kv::cancel::Cancels>(&job, &others));
    }
    if head.status != JobStatus::Cancelling {
        enter(&mut head, JobStatus::Cancelling, at_ms);
    }
    changes.push(put::<kv::job::Job>(&job, &head));
    Ok((Outcome::Done, changes))
}

fn end(view: &impl View, mut head: JobHead, status: JobStatus, at_ms: u64, failure: Option<String>) -> Applied {
    let job = head.job;
    if !status.is_globally_terminal() {
        return Ok((Outcome::IllegalStatus { job, from: head.status, to: status }, Vec::new()));
    }
    enter(&mut head, status, at_ms);
    head.ended_ms = Some(at_ms);
    head.failure = failure.or(head.failure);
    let mut changes = vec![put::<kv::job::Job>(&job, &head)];
    changes.extend(drop_executions(view, job)?);
    changes.extend(checkpoint::end(view, job)?);
    Ok((Outcome::Done, changes))
}

fn forget(view: &impl View, jobs: Vec<JobId>) -> Applied {
    let mut changes = Vec::new();
    let mut ended: Vec<JobHead> = Vec::new();
    for job in jobs {
        match read::<kv::job::Job>(view, &job)? {
            Some(head) if head.status.is_globally_terminal() => ended.push(head),
            _ => {}
        }
    }
    ended.sort_by_key(|head| head.job);
    ended.dedup_by_key(|head| head.job);
    for head in &ended {
        changes.push(delete::<kv::job::Job>(&head.job));
        changes.push(delete::<kv::job_graph::JobGraphs>(&head.job));
        changes.push(delete::<kv::request::Request>(&head.request));
        changes.push(delete::<kv::cancel::Cancels>(&head.job));
        changes.push(delete::<kv::exceptions::Exceptions>(&head.job));
        changes.push(delete::<kv::artifact_use::ArtifactUse>(&(head.artifact, head.job)));
        changes.extend(drop_executions(view, head.job)?);
        changes.extend(checkpoint::forget(view, head.job)?);
    }
    let jobs: Vec<JobId> = ended.iter().map(|head| head.job).collect();
    let mut artifacts: Vec<_> = ended.iter().map(|head| head.artifact).collect();
    artifacts.sort_unstable();
    artifacts.dedup();
    let mut unused = Vec::new();
    for digest in artifacts {
        let users = list::<kv::artifact_use::ArtifactUse>(view, digest.as_bytes())?;
        if users.iter().all(|user| jobs.binary_search(user).is_ok()) {
            changes.push(delete::<kv::artifact::Artifact>(&digest));
            unused.push(digest);
        }
    }
    Ok((Outcome::Forgotten { jobs, artifacts: unused }, changes))
}

fn drop_executions(view: &impl View, job: JobId) -> Result<Vec<Change>, StateError> {
    let placed = list::<kv::execution::Execution>(view, job.as_bytes())?;
    Ok(placed.iter().map(|placed| delete::<kv::execution::Execution>(&slot_of(job, placed))).collect())
}

fn slot_of(job: JobId, placed: &PlacedExecution) -> (JobId, perennial_types::VertexId, u32) {
    (job, placed.record.attempt.vertex, placed.record.attempt.subtask)
}

/// Moves a job to a state, and notes when.
fn enter(head: &mut JobHead, status: JobStatus, at_ms: u64) {
    head.status = status;
    match head.status_times.iter_mut().find(|(entered, _)| *entered == status) {
        Some((_, time)) => *time = at_ms,
        None => head.status_times.push((status, at_ms)),
    }
}

#[cfg(test)]
mod tests;
