//! Jobs: listings, one job with its plan, cancelling.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use perennial_client::{DispatcherGateway, ExecutionSummary, JobDetails, JobSummary, Stale};
use perennial_types::{ExecutionState, JobGraph, JobId, JobVertex, RequestId};
use serde_json::{Value, json};

use crate::Shared;
use crate::answer::{Parameters, Refusal, aged, job_id, wants_stale};

/// Every execution state, in Flink's order.
const STATES: [ExecutionState; 10] = ExecutionState::ALL;

/// Milliseconds of the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// A time or -1.
fn time(ms: Option<u64>) -> Value {
    ms.map_or(json!(-1), |ms| json!(ms))
}

/// From start to end, or to now; -1 when it has not started.
fn duration(start_ms: Option<u64>, end_ms: Option<u64>) -> Value {
    time(start_ms.map(|start| end_ms.unwrap_or_else(now_ms).saturating_sub(start)))
}

pub(crate) async fn ids<G: DispatcherGateway>(
    State(web): Shared<G>,
    Query(parameters): Parameters,
) -> Result<Json<Value>, Refusal> {
    listing(&web.gateway, wants_stale(&parameters)?, |job| json!({ "id": job.job, "status": job.status })).await
}

pub(crate) async fn overview<G: DispatcherGateway>(
    State(web): Shared<G>,
    Query(parameters): Parameters,
) -> Result<Json<Value>, Refusal> {
    listing(&web.gateway, wants_stale(&parameters)?, line).await
}

async fn listing<G: DispatcherGateway>(
    gateway: &G,
    stale: bool,
    line: impl Fn(&JobSummary) -> Value,
) -> Result<Json<Value>, Refusal> {
    let all = |jobs: &[JobSummary]| json!({ "jobs": jobs.iter().map(&line).collect::<Vec<_>>() });
    if !stale {
        return Ok(Json(all(&gateway.list_jobs().await?)));
    }
    let Stale { value, age } = gateway.list_jobs_stale().await?;
    Ok(Json(aged(all(&value), age.applied, age.age_ms)))
}

fn line(job: &JobSummary) -> Value {
    let mut tasks: BTreeMap<String, u32> = STATES
        .iter()
        .map(|state| (state.as_str().to_ascii_lowercase(), job.tasks.get(state).copied().unwrap_or_default()))
        .collect();
    tasks.insert("total".to_owned(), job.tasks.values().sum());
    json!({
        "jid": job.job,
        "name": job.name,
        "state": job.status,
        "job-type": "STREAMING",
        "start-time": job.start_ms,
        "end-time": time(job.end_ms),
        "duration": duration(Some(job.start_ms), job.end_ms),
        "last-modification": job.end_ms.unwrap_or(job.start_ms),
        "pending-operators": 0,
        "tasks": tasks,
        "slots-needed": job.slots_needed,
        "waiting-for": job.waiting_for,
        "failure": job.failure,
        "restarts": job.restarts,
    })
}

pub(crate) async fn details<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
    Query(parameters): Parameters,
) -> Result<Json<Value>, Refusal> {
    let job = job_id(&id)?;
    if !wants_stale(&parameters)? {
        return Ok(Json(details_json(&find(&web.gateway, job).await?)));
    }
    let Stale { value, age } = web.gateway.job_stale(job).await?;
    let details = value.ok_or_else(|| Refusal::no_such_job(job))?;
    Ok(Json(aged(details_json(&details), age.applied, age.age_ms)))
}

pub(crate) async fn status<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let details = find(&web.gateway, job_id(&id)?).await?;
    Ok(Json(json!({ "status": details.summary.status })))
}

pub(crate) async fn plan<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let details = find(&web.gateway, job_id(&id)?).await?;
    Ok(Json(json!({ "plan": plan_json(details.summary.job, &details.graph) })))
}

/// `PATCH /jobs/:id?mode=cancel`; cancel is the default and the only mode.
pub(crate) async fn cancel<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
    Query(parameters): Query<BTreeMap<String, String>>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let job = job_id(&id)?;
    if let Some(mode) = parameters.get("mode").filter(|mode| !mode.eq_ignore_ascii_case("cancel")) {
        let text = format!("mode `{mode}` is not possible: expected cancel");
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    web.gateway.cancel_job(job, RequestId::random()).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({}))))
}

async fn find<G: DispatcherGateway>(gateway: &G, job: JobId) -> Result<JobDetails, Refusal> {
    gateway.job(job).await?.ok_or_else(|| Refusal::no_such_job(job))
}

fn details_json(details: &JobDetails) -> Value {
    let job = &details.summary;
    let vertices: Vec<Value> = details
        .graph
        .vertices
        .iter()
        .map(|vertex| {
            let executions = details.executions.iter().filter(|execution| execution.vertex == vertex.id);
            vertex_json(vertex, &executions.collect::<Vec<_>>())
        })
        .collect();
    let counts: BTreeMap<&str, u32> =
        STATES.iter().map(|state| (state.as_str(), job.tasks.get(state).copied().unwrap_or_default())).collect();
    json!({
        "jid": job.job,
        "name": job.name,
        "isStoppable": false,
        "state": job.status,
        "job-type": "STREAMING",
        "start-time": job.start_ms,
        "end-time": time(job.end_ms),
        "duration": duration(Some(job.start_ms), job.end_ms),
        "maxParallelism": details.graph.vertices.iter().map(|vertex| vertex.max_parallelism.get()).max().map_or(-1, i64::from),
        "now": now_ms(),
        "timestamps": { "INITIALIZING": job.start_ms, (job.status.as_str()): job.end_ms.unwrap_or(job.start_ms) },
        "vertices": vertices,
        "status-counts": counts,
        "plan": plan_json(job.job, &details.graph),
        "pending-operators": 0,
        "artifact": details.artifact,
        "slots-needed": job.slots_needed,
        "waiting-for": job.waiting_for,
        "failure": job.failure,
        "restarts": job.restarts,
    })
}

/// A vertex is in the state of its least advanced subtask, but any failed one makes it FAILED.
fn vertex_json(vertex: &JobVertex, executions: &[&ExecutionSummary]) -> Value {
    let in_state = |state: ExecutionState| executions.iter().filter(|execution| execution.state == state).count();
    let tasks: BTreeMap<&str, usize> = STATES.iter().map(|state| (state.as_str(), in_state(*state))).collect();
    let status = aggregate(executions);
    let start = executions.iter().filter_map(|execution| execution.start_ms).min();
    let ended = !executions.is_empty() && executions.iter().all(|execution| execution.state.is_terminal());
    let end = executions.iter().filter_map(|execution| execution.end_ms).max().filter(|_| ended);
    let subtask = |execution: &&ExecutionSummary| {
        json!({
            "subtask": execution.subtask,
            "attempt": execution.attempt,
            "status": execution.state,
            "taskmanager-id": execution.taskmanager,
            "endpoint": execution.host,
            "start-time": time(execution.start_ms),
            "end-time": time(execution.end_ms),
            "read-records": execution.records_in,
            "write-records": execution.records_out,
            "failure": execution.failure,
        })
    };
    json!({
        "id": vertex.id,
        "name": vertex.name,
        "slotSharingGroup": vertex.slot_sharing_group,
        "maxParallelism": vertex.max_parallelism.get(),
        "parallelism": vertex.parallelism,
        "status": status,
        "start-time": time(start),
        "end-time": time(end),
        "duration": duration(start, end),
        "tasks": tasks,
        "metrics": {
            "read-records": executions.iter().map(|execution| execution.records_in).sum::<u64>(),
            "read-records-complete": true,
            "write-records": executions.iter().map(|execution| execution.records_out).sum::<u64>(),
            "write-records-complete": true,
        },
        "subtasks": executions.iter().map(subtask).collect::<Vec<_>>(),
    })
}

/// Flink's `ExecutionJobVertex.getAggregateJobVertexState`.
fn aggregate(executions: &[&ExecutionSummary]) -> ExecutionState {
    use ExecutionState::{Canceled, Canceling, Created, Failed, Finished, Running};
    let any = |state| executions.iter().any(|execution| execution.state == state);
    let all = |state| !executions.is_empty() && executions.iter().all(|execution| execution.state == state);
    for state in [Failed, Canceling, Canceled] {
        if any(state) {
            return state;
        }
    }
    if all(Finished) {
        return Finished;
    }
    if any(Running) || any(Finished) {
        return Running;
    }
    executions.iter().map(|execution| execution.state).max().unwrap_or(Created)
}

/// The job as a graph in the form Flink's dashboard draws.
fn plan_json(job: JobId, graph: &JobGraph) -> Value {
    let node = |(index, vertex): (usize, &JobVertex)| {
        let inputs = graph.edges.iter().filter(|edge| edge.target == index);
        let inputs: Vec<Value> = inputs
            .enumerate()
            .map(|(number, edge)| {
                json!({
                    "num": number,
                    "id": graph.vertices.get(edge.source).map(|source| source.id),
                    "ship_strategy": edge.ship,
                    "exchange": "pipelined_bounded",
                })
            })
            .collect();
        json!({
            "id": vertex.id,
            "parallelism": vertex.parallelism,
            "operator": "",
            "operator_strategy": "",
            "description": vertex.name,
            "inputs": inputs,
            "optimizer_properties": {},
        })
    };
    let nodes: Vec<Value> = graph.vertices.iter().enumerate().map(node).collect();
    json!({ "jid": job, "name": graph.name, "type": "STREAMING", "nodes": nodes })
}
