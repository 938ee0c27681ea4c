//! A JobManager that dies and comes back finds its jobs running, and leaves them so.

use std::net::TcpListener;

use perennial_meta::{Command, MetaConfig, MetaStore};
use perennial_rpc::dispatcher::DispatcherGateway;
use perennial_types::{ExecutionAttemptId, JobEdge, JobId, JobStatus, PlanRequest, RequestId, ShipStrategy, VertexId};
use tempfile::tempdir;

use crate::fake_taskmanager::{FakeTaskManager, Manner};
use crate::support::{config, follow, job, reach, single, stop, until, upload};

/// A port that was free a moment ago: the JobManager comes back on the one its TaskManagers know.
pub(crate) fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// FLINK-14316 too: the new leader has the address of the old one, and its TaskManagers notice.
#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_leader_adopts_running_tasks_without_a_command() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str())];
    let jobmanager = single(&dir, &options).await;
    let address = jobmanager.rpc_address().to_string();
    let (a, b) = (FakeTaskManager::new("tm-a", 1), FakeTaskManager::new("tm-b", 1));
    let _attached = (a.attach(&address), b.attach(&address));
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = jobmanager.dispatcher().submit_job(job(artifact, 2)).await.unwrap();
    reach(&jobmanager.dispatcher(), id, JobStatus::Running).await;
    let started: Vec<_> =
        jobmanager.dispatcher().job(id).await.unwrap().unwrap().executions.iter().map(|one| one.attempt).collect();
    stop(jobmanager).await;

    let jobmanager = single(&dir, &options).await;
    let dispatcher = jobmanager.dispatcher();
    reach(&dispatcher, id, JobStatus::Running).await;
    until("both have registered again", async || (a.registrations(), b.registrations()) == (2, 2)).await;
    for taskmanager in [&a, &b] {
        assert_eq!(taskmanager.command_names(), ["start", "deploy"], "nothing was told to {}", taskmanager.name);
    }
    let details = dispatcher.job(id).await.unwrap().unwrap();
    assert_eq!(details.executions.iter().map(|one| one.attempt).collect::<Vec<_>>(), started);
    assert_eq!(details.summary.restarts, 0);
    let taskmanagers = dispatcher.taskmanagers().await.unwrap();
    assert!(taskmanagers.iter().all(|one| one.free_slots == 0), "adopted tasks keep their slots");
    a.finish(id).await;
    b.finish(id).await;
    reach(&dispatcher, id, JobStatus::Finished).await;
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_that_finished_while_nobody_led_end_the_job() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str())];
    let jobmanager = single(&dir, &options).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = jobmanager.dispatcher().submit_job(job(artifact, 1)).await.unwrap();
    reach(&jobmanager.dispatcher(), id, JobStatus::Running).await;
    stop(jobmanager).await;
    drop(attached);
    taskmanager.finish_unheard(id);

    let jobmanager = single(&dir, &options).await;
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    reach(&jobmanager.dispatcher(), id, JobStatus::Finished).await;
    until("the executor is stopped", async || taskmanager.executors().is_empty()).await;
    stop(jobmanager).await;
}

/// The old leader died after committing the placement: its TaskManager never started anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_placement_that_was_not_carried_out_is_by_the_next_leader() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str())];
    let jobmanager = single(&dir, &options).await;
    let deaf = FakeTaskManager::new("tm-a", 1).with_manner(Manner::Ignores);
    let attached = deaf.attach(jobmanager.rpc_address().to_string());
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = jobmanager.dispatcher().submit_job(job(artifact, 1)).await.unwrap();
    until("it was told to start", async || deaf.command_names() == ["start"]).await;
    stop(jobmanager).await;
    drop(attached);

    let jobmanager = single(&dir, &options).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    reach(&jobmanager.dispatcher(), id, JobStatus::Running).await;
    assert_eq!(taskmanager.command_names(), ["start", "deploy"]);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_and_ended_jobs_are_still_known_after_a_restart() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str())];
    let jobmanager = single(&dir, &options).await;
    let artifact = upload(&jobmanager.artifacts()).await;
    let (waits, canceled) = (job(artifact, 3), job(artifact, 1));
    let waits = jobmanager.dispatcher().submit_job(waits).await.unwrap();
    let canceled = jobmanager.dispatcher().submit_job(canceled).await.unwrap();
    jobmanager.dispatcher().cancel_job(canceled, RequestId::random()).await.unwrap();
    reach(&jobmanager.dispatcher(), canceled, JobStatus::Canceled).await;
    stop(jobmanager).await;

    let jobmanager = single(&dir, &options).await;
    let dispatcher = jobmanager.dispatcher();
    follow(&dispatcher, waits, |summary| summary.waiting_for.starts_with("needs 3 slots, 0 are free")).await;
    assert_eq!(reach(&dispatcher, canceled, JobStatus::Canceled).await.tasks.len(), 0);
    assert_eq!(dispatcher.list_jobs().await.unwrap().len(), 2);
    stop(jobmanager).await;
}

/// SeaTunnel #4042: a job that cannot be taken over ends with the reason, what still runs of it is stopped, and the others
/// notice nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_cannot_be_taken_over_leaves_no_orphans_and_holds_nobody_up() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str())];
    let jobmanager = single(&dir, &options).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let artifact = upload(&jobmanager.artifacts()).await;
    let well = jobmanager.dispatcher().submit_job(job(artifact, 1)).await.unwrap();
    reach(&jobmanager.dispatcher(), well, JobStatus::Running).await;
    stop(jobmanager).await;

    // A graph that this version does not accept, as another version may have left it.
    let broken = JobId::random();
    let mut graph = job(artifact, 1).graph;
    graph.edges.push(JobEdge { source: 0, target: 9, ship: ShipStrategy::Hash });
    let meta = MetaStore::open(MetaConfig::from_configuration(&config(&dir, &options), 1).unwrap()).await.unwrap();
    let submit = Command::SubmitJob {
        request: RequestId::random(),
        job: broken,
        artifact,
        plan: PlanRequest::default(),
        graph,
        restored: None,
        at_ms: 1,
    };
    until("it is recorded", async || meta.write(submit.clone()).await.is_ok()).await;
    meta.shutdown().await;
    drop(meta);
    let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask: 0, attempt: 0 };
    taskmanager.plant(broken, attempt);

    let jobmanager = single(&dir, &options).await;
    let dispatcher = jobmanager.dispatcher();
    let failed = reach(&dispatcher, broken, JobStatus::Failed).await;
    assert!(failed.failure.starts_with("it cannot be recovered: edge 0 leads from vertex 0"), "{}", failed.failure);
    until("its executor is stopped", async || taskmanager.executors() == [well]).await;
    reach(&dispatcher, well, JobStatus::Running).await;
    let told: Vec<JobId> = taskmanager.commands().iter().map(|command| command.job).collect();
    assert_eq!(told, [well, well, broken]);
    stop(jobmanager).await;
}
