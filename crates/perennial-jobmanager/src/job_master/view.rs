//! A job as clients see it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use perennial_coordination::job::Job;
use perennial_rpc::dispatcher::{ExecutionSummary, JobSummary};
use perennial_types::TaskManagerId;

use super::{About, Place};
use crate::masters::JobView;

/// What is shown of a job now.
pub(super) fn of(
    about: &About,
    job: &Job,
    places: &HashMap<TaskManagerId, Place>,
    ended_ms: Option<u64>,
    first_checkpoint: Option<Instant>,
) -> JobView {
    let status = job.status();
    let executions = job.executions().executions().map(|(attempt, execution)| {
        let taskmanager = execution.assignment().map(|at| at.taskmanager.clone());
        let host = taskmanager.as_ref().and_then(|id| places.get(id)).map_or("", |place| &place.host);
        ExecutionSummary {
            vertex: attempt.vertex,
            subtask: attempt.subtask,
            attempt: attempt.attempt,
            state: execution.state(),
            host: host.to_owned(),
            taskmanager,
            start_ms: execution.start_ms(),
            end_ms: execution.end_ms(),
            records_in: execution.counters().records_in,
            records_out: execution.counters().records_out,
            failure: execution.failure().unwrap_or_default().to_owned(),
        }
    });
    JobView {
        executions: executions.collect(),
        exceptions: Arc::clone(job.exceptions()),
        first_checkpoint,
        summary: JobSummary {
            job: about.job,
            name: about.graph.name.clone(),
            status,
            start_ms: about.submitted_ms,
            end_ms: ended_ms.filter(|_| status.is_globally_terminal()),
            tasks: job.executions().count_by_state(),
            slots_needed: if status.is_globally_terminal() { 0 } else { about.graph.slots_needed() },
            waiting_for: job.waiting_for().to_owned(),
            failure: job.failure().to_owned(),
            restarts: job.restarts(),
        },
    }
}
