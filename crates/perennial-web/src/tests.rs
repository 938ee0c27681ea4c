//! Requests against a gateway that is a value.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use perennial_client::{
    CancelJobError, ClusterStatus, DispatcherGateway, ExecutionSummary, JobDetails, JobSummaries, JobSummary,
    LeadershipSummary, MemberSummary, Stale, StateAge, SubmitJob, SubmitJobError, TaskManagerSummary, Unavailable,
};
use perennial_types::{
    ArtifactDigest, Configuration, ElectionCause, ExceptionEntry, ExceptionKind, ExecutionAttemptId, ExecutionState,
    FailedTask, JobEdge, JobException, JobGraph, JobId, JobManagerId, JobStatus, JobVertex, LeaderEpoch,
    MaxParallelism, PlanRequest, RequestId, ShipStrategy, TakeOver, TaskManagerId, VertexId,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::router;

const RUNNING: JobId = JobId::from_bytes([1; 16]);
const ENDED: JobId = JobId::from_bytes([2; 16]);

const AGE: StateAge = StateAge { from: JobManagerId(1), applied: 17, age_ms: Some(250) };

/// One job that runs, one that has ended, one TaskManager; or no leader at all.
#[derive(Clone)]
struct Fake {
    leader: bool,
}

impl Fake {
    fn led(&self) -> Result<(), Unavailable> {
        if self.leader { Ok(()) } else { Err(Unavailable::NoLeader { reason: "quorum is lost".to_owned() }) }
    }
}

fn summary(job: JobId) -> JobSummary {
    let running = job == RUNNING;
    JobSummary {
        job,
        name: "words".to_owned(),
        status: if running { JobStatus::Running } else { JobStatus::Failed },
        start_ms: 1000,
        end_ms: (!running).then_some(3500),
        tasks: BTreeMap::from([(if running { ExecutionState::Running } else { ExecutionState::Failed }, 2)]),
        slots_needed: 2,
        waiting_for: String::new(),
        failure: if running { String::new() } else { "disk is full".to_owned() },
        restarts: 0,
    }
}

fn graph() -> JobGraph {
    let vertex = |number: u8, name: &str| JobVertex {
        id: VertexId::from_bytes([number; 16]),
        name: name.to_owned(),
        parallelism: 1,
        max_parallelism: MaxParallelism::default_for(1),
        max_parallelism_is_set: false,
        slot_sharing_group: "default".to_owned(),
        operators: Vec::new(),
    };
    JobGraph {
        name: "words".to_owned(),
        vertices: vec![vertex(7, "Source: text"), vertex(8, "count -> Sink: print")],
        edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Hash }],
        structural_hash: 0,
        config: BTreeMap::new(),
    }
}

impl DispatcherGateway for Fake {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        Err(SubmitJobError::UnknownArtifact { digest: job.artifact })
    }

    async fn cancel_job(&self, job: JobId, _: RequestId) -> Result<(), CancelJobError> {
        self.led()?;
        match job {
            RUNNING => Ok(()),
            ENDED => Err(CancelJobError::AlreadyEnded { job, status: JobStatus::Failed }),
            job => Err(CancelJobError::UnknownJob { job }),
        }
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.led().map(|()| vec![summary(RUNNING), summary(ENDED)])
    }

    async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.led()?;
        let execution = |vertex: u8, state, records_in, records_out| ExecutionSummary {
            vertex: VertexId::from_bytes([vertex; 16]),
            subtask: 0,
            attempt: 0,
            state,
            taskmanager: Some(TaskManagerId("tm-1".to_owned())),
            host: "127.0.0.1".to_owned(),
            start_ms: Some(1100),
            end_ms: None,
            records_in,
            records_out,
            failure: String::new(),
        };
        Ok((job == RUNNING).then(|| JobDetails {
            summary: summary(RUNNING),
            graph: graph(),
            artifact: ArtifactDigest::from_bytes([9; 32]),
            plan: PlanRequest::default(),
            executions: vec![
                execution(7, ExecutionState::Running, 0, 70),
                execution(8, ExecutionState::Deploying, 60, 0),
            ],
        }))
    }

    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        Ok(Stale { value: vec![summary(RUNNING)], age: AGE })
    }

    async fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        Ok(Stale { value: Fake { leader: true }.job(job).await?, age: AGE })
    }

    async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        self.led()?;
        let failed = |number: u64, subtask: u32| JobException {
            at_ms: 1000 + number,
            kind: ExceptionKind::TaskFailed,
            text: format!("failure {number} of {subtask}"),
            task: Some(FailedTask {
                attempt: ExecutionAttemptId { vertex: VertexId::from_bytes([7; 16]), subtask, attempt: number as u32 },
                name: format!("map ({}/2) - execution #{number}", subtask + 1),
                taskmanager: Some(TaskManagerId("tm-1".to_owned())),
                endpoint: (subtask == 0).then(|| "127.0.0.1:4711".to_owned()),
            }),
        };
        let mut newest = ExceptionEntry::new(1, failed(1, 0));
        newest.add(failed(1, 1));
        let whole = JobException { kind: ExceptionKind::JobFailed, task: None, ..failed(0, 0) };
        Ok(match job {
            RUNNING => Some(Vec::new()),
            ENDED => Some(vec![newest, ExceptionEntry::new(0, whole)]),
            _ => None,
        })
    }

    async fn watch_job(&self, _: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        Ok(None)
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        self.led().map(|()| {
            vec![TaskManagerSummary {
                id: TaskManagerId("tm-1".to_owned()),
                host: "127.0.0.1".to_owned(),
                pid: 42,
                slots: 4,
                free_slots: 2,
                heartbeat_age_ms: 10,
                stale_commands: 3,
            }]
        })
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        let leader = self.leader.then_some(JobManagerId(1));
        let member = MemberSummary {
            id: JobManagerId(1),
            name: "jm-1".to_owned(),
            address: "127.0.0.1:6123".to_owned(),
            voter: true,
            lag: None,
        };
        let (from, epoch) = (JobManagerId(1), LeaderEpoch(3));
        Ok(ClusterStatus {
            cluster: None,
            from,
            epoch,
            leader,
            applied: 17,
            members: vec![member],
            own: Default::default(),
            age_ms: Some(250),
        })
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        let take_over = TakeOver {
            cause: ElectionCause::ProcessGone,
            lost_ms: 1000,
            elected_us: 1500,
            first_commit_us: 2250,
            attached_us: Some(3000),
            adopted_us: None,
            first_checkpoint_us: None,
            taskmanagers: 2,
            jobs_adopted: 1,
            jobs_restarted: 0,
        };
        let summary = |epoch, take_over| LeadershipSummary {
            epoch: LeaderEpoch(epoch),
            leader: JobManagerId(1),
            at_ms: 999 + epoch,
            take_over,
        };
        Ok(vec![summary(3, Some(take_over)), summary(2, None)])
    }
}

fn app(leader: bool) -> Router {
    router(Fake { leader }, &Configuration::new())
}

async fn ask(app: Router, method: &str, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = app.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let status = response.status();
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| json!(String::from_utf8_lossy(&body))))
}

async fn get(path: &str) -> Value {
    let (status, body) = ask(app(true), "GET", path).await;
    assert_eq!(status, StatusCode::OK, "{path}: {body}");
    body
}

#[tokio::test]
async fn paths_answer_alike_with_and_without_the_version() {
    for path in ["/overview", "/config", "/jobs", "/taskmanagers/tm-1", "/jobmanager/config", "/cluster/members"] {
        assert_eq!(get(path).await.to_string().len(), get(&format!("/v1{path}")).await.to_string().len(), "{path}");
    }
}

#[tokio::test]
async fn the_overview_counts_slots_and_jobs() {
    let overview = get("/overview").await;
    for (key, value) in [
        ("taskmanagers", 1),
        ("slots-total", 4),
        ("slots-available", 2),
        ("jobs-running", 1),
        ("jobs-finished", 0),
        ("jobs-cancelled", 0),
        ("jobs-failed", 1),
    ] {
        assert_eq!(overview[key], value, "{key}");
    }
}

#[tokio::test]
async fn listings_have_flinks_fields() {
    assert_eq!(get("/jobs").await["jobs"][0], json!({ "id": RUNNING, "status": "RUNNING" }));
    let jobs = get("/jobs/overview").await;
    let (running, ended) = (&jobs["jobs"][0], &jobs["jobs"][1]);
    assert_eq!((&running["jid"], &running["end-time"]), (&json!(RUNNING), &json!(-1)));
    assert_eq!((&running["tasks"]["running"], &running["tasks"]["total"]), (&json!(2), &json!(2)));
    assert_eq!((&ended["state"], &ended["duration"]), (&json!("FAILED"), &json!(2500)));
    assert_eq!(ended["failure"], "disk is full");
    let taskmanagers = get("/taskmanagers").await;
    assert_eq!(
        (&taskmanagers["taskmanagers"][0]["id"], &taskmanagers["taskmanagers"][0]["freeSlots"]),
        (&json!("tm-1"), &json!(2))
    );
    assert_eq!(taskmanagers["taskmanagers"][0]["staleCommandsRejected"], 3);
}

#[tokio::test]
async fn a_job_has_its_vertices_counters_and_plan() {
    let job = get(&format!("/jobs/{RUNNING}")).await;
    assert_eq!(job["state"], "RUNNING");
    let (source, sink) = (&job["vertices"][0], &job["vertices"][1]);
    assert_eq!((&source["name"], &source["status"]), (&json!("Source: text"), &json!("RUNNING")));
    assert_eq!((&sink["status"], &sink["metrics"]["read-records"]), (&json!("DEPLOYING"), &json!(60)));
    assert_eq!((&sink["tasks"]["DEPLOYING"], &sink["tasks"]["RUNNING"]), (&json!(1), &json!(0)));
    let input = &job["plan"]["nodes"][1]["inputs"][0];
    assert_eq!((&input["id"], &input["ship_strategy"]), (&source["id"], &json!("HASH")));
    assert_eq!(get(&format!("/jobs/{RUNNING}/plan")).await["plan"], job["plan"]);
    assert_eq!(get(&format!("/jobs/{RUNNING}/status")).await, json!({ "status": "RUNNING" }));
}

#[tokio::test]
async fn members_name_the_leader() {
    let leaderships = get("/v1/cluster/leaderships").await;
    assert_eq!(
        leaderships["leaderships"],
        json!([
            {
                "epoch": 3, "leader": 1, "start-time": 1002, "cause": "process-gone", "lost-contact-time": 1000,
                "phases-ms": {
                    "elected": 1.5, "first-commit": 2.25, "taskmanagers-attached": 3.0, "jobs-adopted": null,
                    "first-checkpoint": null
                },
                "taskmanagers": 2, "jobs-adopted": 1, "jobs-restarted": 0
            },
            { "epoch": 2, "leader": 1, "start-time": 1001 }
        ])
    );
    let members = get("/v1/cluster/members").await;
    assert_eq!((&members["leader"], &members["epoch"], &members["applied"]), (&json!(1), &json!(3), &json!(17)));
    assert_eq!((&members["members"][0]["name"], &members["members"][0]["leader"]), (&json!("jm-1"), &json!(true)));
}

#[tokio::test]
async fn requests_are_refused_in_flinks_form() {
    let job = |job: JobId| format!("/jobs/{job}?mode=cancel");
    for (method, path, leader, status, text) in [
        ("GET", "/jobs/12".to_owned(), true, 400, "`12` is not a job id"),
        ("GET", format!("/jobs/{ENDED}"), true, 404, "not found"),
        ("GET", "/nowhere".to_owned(), true, 404, "Not found: /nowhere"),
        ("GET", "/jobs/05050505050505050505050505050505/exceptions".to_owned(), true, 404, "not found"),
        ("GET", format!("/jobs/{ENDED}/exceptions?maxExceptions=few"), true, 400, "maxExceptions `few`"),
        ("GET", format!("/jobs/{ENDED}/exceptions?failureLabelFilter=x"), true, 400, "failureLabelFilter `x`"),
        ("GET", "/taskmanagers/tm-9".to_owned(), true, 404, "TaskManager tm-9 not found"),
        ("DELETE", "/overview".to_owned(), true, 405, "/overview does not take DELETE"),
        ("PATCH", job(ENDED), true, 409, "has ended already: FAILED"),
        ("PATCH", job(JobId::from_bytes([5; 16])), true, 404, "not found"),
        ("PATCH", format!("/jobs/{RUNNING}?mode=stop"), true, 400, "mode `stop` is not possible"),
        ("GET", "/overview".to_owned(), false, 503, "quorum is lost"),
        ("PATCH", job(RUNNING), false, 503, "quorum is lost"),
        ("GET", "/readyz".to_owned(), false, 503, "no leader"),
    ] {
        let (seen, body) = ask(app(leader), method, &path).await;
        assert_eq!(seen.as_u16(), status, "{method} {path}: {body}");
        assert!(body["errors"][0].as_str().is_some_and(|error| error.contains(text)), "{method} {path}: {body}");
    }
}

/// Without a leader a read says what else there is, and that is answered with its age.
#[tokio::test]
async fn stale_reads_need_no_leader_and_say_how_old_they_are() {
    for path in ["/v1/jobs".to_owned(), "/jobs/overview".to_owned(), format!("/v1/jobs/{RUNNING}")] {
        let (status, body) = ask(app(false), "GET", &path).await;
        assert_eq!((status.as_u16(), body["errors"][0].as_str()), (503, Some("no leader: quorum is lost")), "{path}");
        assert!(body["errors"][1].as_str().unwrap().contains("?stale=true"), "{path}: {body}");
        let (status, body) = ask(app(false), "GET", &format!("{path}?stale=true")).await;
        assert_eq!(status.as_u16(), 200, "{path}: {body}");
        let age = (&body["stale"], &body["applied-index"], &body["age-ms"]);
        assert_eq!(age, (&json!(true), &json!(17), &json!(250)), "{path}");
    }
    let (_, body) = ask(app(false), "GET", "/cluster/members?stale=true").await;
    assert_eq!((&body["members"][0]["name"], &body["age-ms"]), (&json!("jm-1"), &json!(250)));
    assert_eq!(ask(app(true), "GET", "/jobs?stale=yes").await.0.as_u16(), 400);
    assert_eq!(get("/jobs").await["stale"], Value::Null);
}

#[tokio::test]
async fn cancelling_is_accepted_and_health_does_not_need_a_leader() {
    assert_eq!(ask(app(true), "PATCH", &format!("/v1/jobs/{RUNNING}")).await, (StatusCode::ACCEPTED, json!({})));
    assert_eq!(ask(app(false), "GET", "/livez").await.0, StatusCode::OK);
    assert_eq!(ask(app(true), "GET", "/readyz").await.0, StatusCode::OK);
    assert_eq!(ask(app(false), "GET", "/v1/cluster/members").await.0, StatusCode::OK);
}

/// The fields of Flink 1.20's `JobExceptionsInfoWithHistory`, newest first.
#[tokio::test]
async fn exceptions_are_told_as_flink_does() {
    let first = json!({
        "exceptionName": "TaskFailed", "stacktrace": "failure 1 of 0", "timestamp": 1001, "failureLabels": {},
        "taskName": "map (1/2) - execution #1", "taskManagerId": "tm-1", "endpoint": "127.0.0.1:4711",
        "location": "127.0.0.1:4711",
        "concurrentExceptions": [{
            "exceptionName": "TaskFailed", "stacktrace": "failure 1 of 1", "timestamp": 1001, "failureLabels": {},
            "taskName": "map (2/2) - execution #1", "taskManagerId": "tm-1"
        }]
    });
    let second = json!({
        "exceptionName": "JobFailed", "stacktrace": "failure 0 of 0", "timestamp": 1000, "failureLabels": {},
        "concurrentExceptions": []
    });
    let task = |name: &str, text: &str, endpoint: &str| {
        json!({
            "exception": text, "task": name, "location": endpoint, "endpoint": endpoint, "timestamp": 1001,
            "taskManagerId": "tm-1"
        })
    };
    let tasks = [
        task("map (1/2) - execution #1", "failure 1 of 0", "127.0.0.1:4711"),
        task("map (2/2) - execution #1", "failure 1 of 1", "(unassigned)"),
    ];
    let whole = json!({
        "root-exception": "failure 1 of 0", "timestamp": 1001, "all-exceptions": tasks, "truncated": false,
        "exceptionHistory": { "entries": [first, second], "truncated": false }
    });
    assert_eq!(get(&format!("/v1/jobs/{ENDED}/exceptions")).await, whole);
    let one = get(&format!("/jobs/{ENDED}/exceptions?maxExceptions=1")).await;
    assert_eq!(one["exceptionHistory"], json!({ "entries": [first], "truncated": true }));
    let labelled = get(&format!("/jobs/{ENDED}/exceptions?failureLabelFilter=type:user")).await;
    assert_eq!(labelled["exceptionHistory"]["entries"], json!([]));
    assert_eq!(
        get(&format!("/jobs/{RUNNING}/exceptions")).await,
        json!({
            "root-exception": null, "timestamp": null, "all-exceptions": [], "truncated": false,
            "exceptionHistory": { "entries": [], "truncated": false }
        })
    );
}
