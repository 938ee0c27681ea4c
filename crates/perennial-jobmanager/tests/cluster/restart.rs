//! Losses and what restarts because of them.

use std::net::TcpListener;

use perennial_jobmanager::DispatcherHandle;
use perennial_rpc::dispatcher::{DispatcherGateway, JobSummary, SubmitJob};
use perennial_types::{ArtifactDigest, ExecutionState, JobId, JobStatus};
use tempfile::tempdir;

use crate::fake_taskmanager::FakeTaskManager;
use crate::support::{follow, job, reach, single, stop, until, upload};
use crate::takeover::free_port;

/// The fake sends no heartbeats: silence must not be what is noticed.
const PATIENT: (&str, &str) = ("heartbeat.timeout", "1 h");

/// Attempt and TaskManager of every task, in order.
async fn whereabouts(dispatcher: &DispatcherHandle, job: JobId) -> Vec<(u32, String)> {
    let executions = dispatcher.job(job).await.unwrap().unwrap().executions;
    executions
        .iter()
        .map(|one| (one.attempt, one.taskmanager.as_ref().map_or(String::new(), |id| id.0.clone())))
        .collect()
}

/// Waits until the job runs again and has been restarted so often.
async fn running_again(dispatcher: &DispatcherHandle, job: JobId, restarts: u32) -> JobSummary {
    follow(dispatcher, job, |summary| summary.status == JobStatus::Running && summary.restarts == restarts).await
}

fn with_option(mut submission: SubmitJob, key: &str, value: &str) -> SubmitJob {
    submission.graph.config.insert(key.to_owned(), value.to_owned());
    submission
}

/// A job of one slot whose two tasks restart together.
fn connected(artifact: ArtifactDigest) -> SubmitJob {
    let mut submission = job(artifact, 1);
    submission.graph.edges.push(perennial_types::JobEdge {
        source: 0,
        target: 1,
        ship: perennial_types::ShipStrategy::Hash,
    });
    submission
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_executor_is_started_again_on_its_taskmanager() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(connected(artifact)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    taskmanager.lose_executor(id).await;
    let summary = running_again(&dispatcher, id, 1).await;
    assert_eq!(summary.tasks.get(&ExecutionState::Running), Some(&2));
    assert_eq!(taskmanager.command_names(), ["start", "deploy", "start", "deploy"]);
    assert!(whereabouts(&dispatcher, id).await.iter().all(|(attempt, _)| *attempt == 1));
    stop(jobmanager).await;
}

/// The stream of a TaskManager breaks and nobody listens at its executor's data port: the process tree was killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_taskmanager_is_replaced_long_before_its_grace_is_over() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[PATIENT]).await;
    let address = jobmanager.rpc_address().to_string();
    let nobody = format!("127.0.0.1:{}", free_port());
    let (a, b) = (FakeTaskManager::new("tm-a", 1).with_data_address(nobody), FakeTaskManager::new("tm-b", 1));
    let attached = a.attach(&address);
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(connected(artifact)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    let _second = b.attach(&address);
    until("tm-b is registered", async || b.registrations() == 1).await;
    drop(attached);
    a.lose_executor_unheard(id);
    running_again(&dispatcher, id, 1).await;
    assert!(whereabouts(&dispatcher, id).await.iter().all(|at| *at == (1, "tm-b".to_owned())));
    assert_eq!(a.command_names(), ["start", "deploy"]);
    // It comes back empty-handed and is a TaskManager like any other.
    let _again = a.attach(&address);
    until("its slot is free", async || {
        dispatcher.taskmanagers().await.unwrap().iter().map(|one| one.free_slots).sum::<u32>() == 1
    })
    .await;
    stop(jobmanager).await;
}

/// The TaskManager's process is killed and started again; its executor never stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_taskmanager_that_returns_to_its_living_executor_costs_nothing() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[PATIENT]).await;
    let address = jobmanager.rpc_address().to_string();
    let executor = TcpListener::bind("127.0.0.1:0").unwrap();
    let data_address = executor.local_addr().unwrap().to_string();
    let taskmanager = FakeTaskManager::new("tm-a", 2).with_data_address(data_address);
    let attached = taskmanager.attach(&address);
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(connected(artifact)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    drop(attached);
    let asked = tokio::task::spawn_blocking(move || executor.accept().map(|_| executor));
    let _executor = asked.await.unwrap().expect("it is asked whether it lives");
    // Nothing new is placed on a TaskManager that is not connected.
    let other = dispatcher.submit_job(connected(artifact)).await.unwrap();
    let text = "needs 1 slot, 0 are free: no TaskManager is registered";
    follow(&dispatcher, other, |summary| summary.waiting_for == text).await;
    let _attached = taskmanager.attach(&address);
    reach(&dispatcher, other, JobStatus::Running).await;
    let summary = running_again(&dispatcher, id, 0).await;
    assert_eq!(summary.restarts, 0);
    assert!(taskmanager.commands().iter().filter(|command| command.job == id).count() == 2, "start and deploy");
    stop(jobmanager).await;
}

/// Nobody can say what became of it: it is given its time, then its tasks restart where there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_taskmanager_that_stays_away_is_lost_after_the_timeout() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[("heartbeat.timeout", "400 ms")]).await;
    let address = jobmanager.rpc_address().to_string();
    let a = FakeTaskManager::new("tm-a", 1);
    let attached = a.attach(&address);
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(connected(artifact)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    drop(attached);
    let text = "needs 1 slot, 0 are free: no TaskManager is registered";
    let waits = follow(&dispatcher, id, |summary| summary.waiting_for == text).await;
    assert_eq!((waits.status, waits.restarts), (JobStatus::Restarting, 1));
    // It returns after all, with tasks that were given up: they are ended, and the job may run there again.
    let _attached = a.attach(&address);
    follow(&dispatcher, id, |summary| summary.status == JobStatus::Running).await;
    assert!(a.running(id).iter().all(|attempt| attempt.attempt > 0), "{:?}", a.running(id));
    stop(jobmanager).await;
}

/// The fake sends no heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_taskmanager_is_lost_after_the_timeout() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[("heartbeat.timeout", "400 ms")]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let never = with_option(connected(artifact), "restart-strategy.type", "none");
    let id = dispatcher.submit_job(never).await.unwrap();
    let failed = reach(&dispatcher, id, JobStatus::Failed).await;
    assert_eq!(
        failed.failure,
        "TaskManager tm-a was lost: no heartbeat for 400 ms (heartbeat.timeout); \
         Recovery is suppressed by NoRestartBackoffTimeStrategy"
    );
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_own_strategy_wins_over_the_clusters_and_counts_over_leaders() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str()), ("restart-strategy.type", "none")];
    let jobmanager = single(&dir, &options).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let artifact = upload(&jobmanager.artifacts()).await;
    let submission = with_option(connected(artifact), "restart-strategy.type", "fixed-delay");
    let submission = with_option(submission, "restart-strategy.fixed-delay.delay", "1 ms");
    let id = jobmanager.dispatcher().submit_job(submission).await.unwrap();
    reach(&jobmanager.dispatcher(), id, JobStatus::Running).await;
    taskmanager.report(id, taskmanager.running(id)[0], ExecutionState::Failed).await;
    running_again(&jobmanager.dispatcher(), id, 1).await;
    stop(jobmanager).await;

    let jobmanager = single(&dir, &options).await;
    let dispatcher = jobmanager.dispatcher();
    running_again(&dispatcher, id, 1).await;
    until("it has registered again", async || taskmanager.registrations() == 2).await;
    taskmanager.report(id, taskmanager.running(id)[0], ExecutionState::Failed).await;
    let failed = reach(&dispatcher, id, JobStatus::Failed).await;
    assert!(failed.failure.contains("maxNumberRestartAttempts=1"), "{}", failed.failure);
    stop(jobmanager).await;
}

/// A TaskManager that is not there when the next leader comes costs a restart of what it ran, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn tasks_whose_taskmanager_does_not_come_to_the_next_leader_restart_elsewhere() {
    let (dir, port) = (tempdir().unwrap(), free_port());
    let options = [("jobmanager.rpc.port", port.as_str()), ("heartbeat.timeout", "1 s")];
    let jobmanager = single(&dir, &options[..1]).await;
    let address = jobmanager.rpc_address().to_string();
    let (a, b) = (FakeTaskManager::new("tm-a", 1), FakeTaskManager::new("tm-b", 1));
    let attached = a.attach(&address);
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = jobmanager.dispatcher().submit_job(connected(artifact)).await.unwrap();
    reach(&jobmanager.dispatcher(), id, JobStatus::Running).await;
    stop(jobmanager).await;
    drop(attached);

    let jobmanager = single(&dir, &options).await;
    let dispatcher = jobmanager.dispatcher();
    follow(&dispatcher, id, |summary| summary.status == JobStatus::Restarting).await;
    let _attached = b.attach(&address);
    running_again(&dispatcher, id, 1).await;
    assert!(whereabouts(&dispatcher, id).await.iter().all(|at| *at == (1, "tm-b".to_owned())));
    // The old one comes late.
    let _late = a.attach(&address);
    until("its executor is stopped", async || a.executors().is_empty()).await;
    assert_eq!(a.command_names(), ["start", "deploy", "stop"]);
    stop(jobmanager).await;
}
