//! The cluster as a whole: overview, TaskManagers, members, configuration, health.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use perennial_client::{DispatcherGateway, LeadershipSummary, TaskManagerSummary};
use perennial_types::JobStatus;
use serde_json::{Value, json};

use crate::Shared;
use crate::answer::{Parameters, Refusal, aged, wants_stale};
use crate::job::now_ms;

/// Parts of keys whose values are not shown, as in Flink.
const SECRET: [&str; 11] = [
    "password",
    "secret",
    "fs.azure.account.key",
    "apikey",
    "api-key",
    "auth-params",
    "service-key",
    "token",
    "basic-auth",
    "jaas.config",
    "http-headers",
];

/// How often a dashboard asks again, in milliseconds.
const REFRESH_INTERVAL_MS: u64 = 3000;

/// A value as it may be shown.
pub(crate) fn masked(key: &str, text: &str) -> String {
    if SECRET.iter().any(|part| key.contains(part)) { "******".to_owned() } else { text.to_owned() }
}

pub(crate) async fn overview<G: DispatcherGateway>(State(web): Shared<G>) -> Result<Json<Value>, Refusal> {
    let (jobs, taskmanagers) = (web.gateway.list_jobs().await?, web.gateway.taskmanagers().await?);
    let in_state = |wanted: JobStatus| jobs.iter().filter(|job| job.status == wanted).count();
    let sum = |count: fn(&TaskManagerSummary) -> u32| taskmanagers.iter().map(count).sum::<u32>();
    Ok(Json(json!({
        "taskmanagers": taskmanagers.len(),
        "taskmanagers-blocked": 0,
        "slots-total": sum(|taskmanager| taskmanager.slots),
        "slots-available": sum(|taskmanager| taskmanager.free_slots),
        "slots-free-and-blocked": 0,
        // In Flink everything that has not ended counts as running.
        "jobs-running": jobs.iter().filter(|job| !job.status.is_globally_terminal()).count(),
        "jobs-finished": in_state(JobStatus::Finished),
        "jobs-cancelled": in_state(JobStatus::Canceled),
        "jobs-failed": in_state(JobStatus::Failed),
        "flink-version": env!("CARGO_PKG_VERSION"),
        "flink-commit": "",
    })))
}

pub(crate) async fn dashboard<G: DispatcherGateway>(_: Shared<G>) -> Json<Value> {
    Json(json!({
        "refresh-interval": REFRESH_INTERVAL_MS,
        "timezone-name": "UTC",
        "timezone-offset": 0,
        "flink-version": env!("CARGO_PKG_VERSION"),
        "flink-revision": "",
        "features": { "web-submit": false, "web-cancel": true, "web-rescale": false, "web-history": false },
    }))
}

pub(crate) async fn jobmanager_config<G: DispatcherGateway>(State(web): Shared<G>) -> Json<Value> {
    Json(web.config.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect())
}

fn taskmanager_json(taskmanager: &TaskManagerSummary) -> Value {
    json!({
        "id": taskmanager.id,
        "path": taskmanager.host,
        "dataPort": -1,
        "jmxPort": -1,
        // Despite its name this is when it was last heard of.
        "timeSinceLastHeartbeat": now_ms().saturating_sub(taskmanager.heartbeat_age_ms),
        "slotsNumber": taskmanager.slots,
        "freeSlots": taskmanager.free_slots,
        "pid": taskmanager.pid,
        "staleCommandsRejected": taskmanager.stale_commands,
    })
}

pub(crate) async fn taskmanagers<G: DispatcherGateway>(State(web): Shared<G>) -> Result<Json<Value>, Refusal> {
    let taskmanagers = web.gateway.taskmanagers().await?;
    Ok(Json(json!({ "taskmanagers": taskmanagers.iter().map(taskmanager_json).collect::<Vec<_>>() })))
}

pub(crate) async fn taskmanager<G: DispatcherGateway>(
    State(web): Shared<G>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let taskmanagers = web.gateway.taskmanagers().await?;
    match taskmanagers.iter().find(|taskmanager| taskmanager.id.0 == id) {
        Some(taskmanager) => Ok(Json(taskmanager_json(taskmanager))),
        None => Err(Refusal::new(StatusCode::NOT_FOUND, format!("TaskManager {id} not found"))),
    }
}

/// The JobManager group as this member sees it, with or without a leader.
pub(crate) async fn members<G: DispatcherGateway>(
    State(web): Shared<G>,
    Query(parameters): Parameters,
) -> Result<Json<Value>, Refusal> {
    let status = web.gateway.cluster_status().await?;
    let member = |member: &perennial_client::MemberSummary| {
        json!({
            "id": member.id,
            "name": member.name,
            "address": member.address,
            "voter": member.voter,
            "leader": status.leader == Some(member.id),
            "lag": member.lag,
        })
    };
    let answer = json!({
        "cluster": status.cluster,
        "from": status.from,
        "epoch": status.epoch,
        "leader": status.leader,
        "applied": status.applied,
        "members": status.members.iter().map(member).collect::<Vec<_>>(),
    });
    Ok(Json(if wants_stale(&parameters)? { aged(answer, status.applied, status.age_ms) } else { answer }))
}

/// The newest leaderships with the timing of their beginnings, newest first, as this member has applied them.
///
/// Phases are milliseconds since contact with the leader before was lost; `null` when one was not reached or not recorded.
pub(crate) async fn leaderships<G: DispatcherGateway>(State(web): Shared<G>) -> Result<Json<Value>, Refusal> {
    let leadership = |leadership: LeadershipSummary| {
        let LeadershipSummary { epoch, leader, at_ms, take_over } = leadership;
        let mut json = json!({ "epoch": epoch, "leader": leader, "start-time": at_ms });
        if let (Value::Object(fields), Some(take_over)) = (&mut json, take_over) {
            fields.insert("cause".to_owned(), json!(take_over.cause.as_str()));
            fields.insert("lost-contact-time".to_owned(), json!(take_over.lost_ms));
            let phases = take_over.phases().map(|(name, us)| (name.to_owned(), json!(us.map(|us| us as f64 / 1e3))));
            fields.insert("phases-ms".to_owned(), Value::Object(phases.into_iter().collect()));
            fields.insert("taskmanagers".to_owned(), json!(take_over.taskmanagers));
            fields.insert("jobs-adopted".to_owned(), json!(take_over.jobs_adopted));
            fields.insert("jobs-restarted".to_owned(), json!(take_over.jobs_restarted));
        }
        json
    };
    let leaderships = web.gateway.leaderships().await?;
    Ok(Json(json!({ "leaderships": leaderships.into_iter().map(leadership).collect::<Vec<_>>() })))
}

/// The process answers. Never depends on a quorum: else a partition would restart every JobManager.
pub(crate) async fn alive() -> &'static str {
    "ok"
}

/// This JobManager knows a leader, so it can serve requests, by forwarding if need be.
pub(crate) async fn ready<G: DispatcherGateway>(State(web): Shared<G>) -> Result<&'static str, Refusal> {
    match web.gateway.cluster_status().await?.leader {
        Some(_) => Ok("ok"),
        None => Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "no leader is known".to_owned())),
    }
}
