//! The life of jobs on one JobManager.

use perennial_rpc::artifact::{ArtifactGateway, PutArtifact, PutArtifactError, PutScope};
use perennial_rpc::dispatcher::{CancelJobError, DispatcherGateway, SubmitJob, SubmitJobError};
use perennial_rpc::taskmanager::{Action, ExecutorAddress, FromTaskManager};
use perennial_types::{ClusterId, ExecutionAttemptId, ExecutionState, JobId, JobStatus, RequestId, VertexId};
use tempfile::tempdir;

use crate::fake_taskmanager::{FakeTaskManager, Manner, progress};
use crate::support::{digest_of, follow, job, reach, single, stop, until, upload};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_deployed_over_two_taskmanagers_runs_and_finishes() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let address = jobmanager.rpc_address().to_string();
    let (a, b) = (FakeTaskManager::new("tm-a", 2), FakeTaskManager::new("tm-b", 2));
    let _attached = (a.attach(&address), b.attach(&address));
    until("both are registered", async || a.registrations() + b.registrations() == 2).await;

    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 4)).await.unwrap();
    let running = reach(&dispatcher, id, JobStatus::Running).await;
    assert_eq!(running.tasks.get(&ExecutionState::Running), Some(&8));
    assert_eq!(running.slots_needed, 4);
    for taskmanager in [&a, &b] {
        assert_eq!(taskmanager.command_names(), ["start", "deploy"]);
        let Action::Deploy(deploy) = taskmanager.commands()[1].action.clone() else { panic!("not a deployment") };
        assert_eq!(deploy.tasks.len(), 4, "the work is shared equally");
        assert_eq!(deploy.placement.len(), 8);
        // Each task is a region of its own, so of the other's executor nothing has to be known yet.
        let own = |executor: &&ExecutorAddress| executor.taskmanager.0 == taskmanager.name;
        let address = deploy.executors.iter().find(own).map(|executor| executor.data_address.clone());
        assert_eq!((deploy.executors.len(), address), (2, Some(format!("{}:4000", taskmanager.name))));
        assert!(taskmanager.commands().iter().all(|command| command.fence.epoch.0 > 0 && command.fence.index > 0));
    }
    let taskmanagers = dispatcher.taskmanagers().await.unwrap();
    assert_eq!(taskmanagers.iter().map(|one| one.free_slots).collect::<Vec<_>>(), [0, 0]);

    let attempt = a.running(id)[0];
    a.say(FromTaskManager::Progress(vec![progress(id, attempt, 42)])).await;
    until("the counters are shown", async || {
        let details = dispatcher.job(id).await.unwrap().unwrap();
        details.executions.iter().any(|execution| execution.records_in == 42)
    })
    .await;

    a.finish(id).await;
    b.finish(id).await;
    reach(&dispatcher, id, JobStatus::Finished).await;
    until("executors are stopped and slots free", async || {
        let free: u32 = dispatcher.taskmanagers().await.unwrap().iter().map(|one| one.free_slots).sum();
        free == 4 && a.executors().is_empty() && b.executors().is_empty()
    })
    .await;
    let details = dispatcher.job(id).await.unwrap().unwrap();
    assert!(details.executions.iter().all(|execution| execution.records_in == 100));
    assert!(details.summary.end_ms.is_some_and(|end_ms| end_ms >= details.summary.start_ms));
    assert_eq!(dispatcher.list_jobs().await.unwrap().len(), 1);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_canceled_and_a_second_cancel_is_told_so() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    let request = RequestId::random();
    dispatcher.cancel_job(id, request).await.unwrap();
    reach(&dispatcher, id, JobStatus::Canceled).await;
    dispatcher.cancel_job(id, request).await.expect("the same request has the same answer");
    let again = dispatcher.cancel_job(id, RequestId::random()).await;
    assert_eq!(again, Err(CancelJobError::AlreadyEnded { job: id, status: JobStatus::Canceled }));
    let unknown = JobId::random();
    assert_eq!(
        dispatcher.cancel_job(unknown, RequestId::random()).await,
        Err(CancelJobError::UnknownJob { job: unknown })
    );
    until("the executor is stopped", async || taskmanager.executors().is_empty()).await;
    assert_eq!(taskmanager.command_names(), ["start", "deploy", "cancel", "stop"]);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_fails_the_job_with_its_whole_text() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 2);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 2)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    let first = taskmanager.running(id)[0];
    taskmanager.report(id, first, ExecutionState::Failed).await;
    let failed = reach(&dispatcher, id, JobStatus::Failed).await;
    assert_eq!(
        failed.failure,
        "`Source: lines` (1/2) attempt 0 on TaskManager tm-a failed: user code: division by zero; \
         Recovery is suppressed by NoRestartBackoffTimeStrategy"
    );
    assert!(taskmanager.running(id).is_empty(), "the others were cancelled");
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_deployment_fails_the_job() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1).with_manner(Manner::RefusesDeployments);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    let failed = reach(&dispatcher, id, JobStatus::Failed).await;
    let text = "TaskManager tm-a could not deploy the job's tasks: the artifact does not start; Recovery is suppressed";
    assert!(failed.failure.starts_with(text), "{}", failed.failure);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_slots_are_told_at_once_and_after_the_timeout() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[("slot.request.timeout", "300 ms")]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 2);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    until("it is registered", async || taskmanager.registrations() == 1).await;
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 8)).await.unwrap();
    let text = "needs 8 slots, 2 are free: tm-a 2 of 2";
    follow(&dispatcher, id, |summary| summary.waiting_for == text).await;
    let failed = reach(&dispatcher, id, JobStatus::Failed).await;
    assert_eq!(failed.failure, format!("{text} (waited 300 ms, slot.request.timeout)"));
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_job_starts_when_a_taskmanager_comes() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 2)).await.unwrap();
    let text = "needs 2 slots, 0 are free: no TaskManager is registered";
    follow(&dispatcher, id, |summary| summary.waiting_for == text).await;
    let taskmanager = FakeTaskManager::new("tm-a", 2);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    reach(&dispatcher, id, JobStatus::Running).await;
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_repeated_finds_its_job_and_other_refusals_name_the_thing() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let dispatcher = jobmanager.dispatcher();
    let unknown = digest_of(b"nothing");
    let refused = dispatcher.submit_job(job(unknown, 1)).await;
    assert_eq!(refused, Err(SubmitJobError::UnknownArtifact { digest: unknown }));
    let artifact = upload(&jobmanager.artifacts()).await;
    let submission = job(artifact, 1);
    let id = dispatcher.submit_job(submission.clone()).await.unwrap();
    assert_eq!(dispatcher.submit_job(submission).await, Ok(id));
    let taken = SubmitJob { job: Some(id), ..job(artifact, 1) };
    assert_eq!(dispatcher.submit_job(taken).await, Err(SubmitJobError::Duplicate { job: id }));
    let mut broken = job(artifact, 1);
    broken.graph.vertices.clear();
    let refused = dispatcher.submit_job(broken).await.unwrap_err();
    assert_eq!(refused.to_string(), "the job graph is not valid: it has no operators");
    assert_eq!(dispatcher.list_jobs().await.unwrap().len(), 1);
    assert_eq!(dispatcher.job(JobId::random()).await, Ok(None));
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_artifact_is_refused() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let content = b"#!/bin/sh\n";
    let artifact = PutArtifact {
        digest: digest_of(content),
        name: "job.sh".to_owned(),
        size: content.len() as u64,
        scope: PutScope::Replicated,
    };
    let chunks = [Ok(bytes::Bytes::from_static(content))];
    let refused = jobmanager.artifacts().put(artifact.clone(), Box::pin(tokio_stream::iter(chunks))).await;
    assert!(matches!(refused, Err(PutArtifactError::NotAnArtifact { .. })), "{refused:?}");
    assert_eq!(jobmanager.artifacts().has(artifact.digest).await, Ok(false));
    stop(jobmanager).await;
}

/// A leader that is told so knows that it is deposed: no command follows, and the silence afterwards costs no job anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_taskmanager_that_follows_a_newer_leader_is_left_alone() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[("heartbeat.timeout", "2 s")]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    until("it is registered", async || taskmanager.registrations() == 1).await;
    taskmanager.say(FromTaskManager::Heartbeat { from: None, stale_commands: 7 }).await;
    taskmanager.follow_another();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    until("it was told to start", async || taskmanager.command_names() == ["start"]).await;
    until("it is silent for longer than the timeout", async || {
        let [one] = dispatcher.taskmanagers().await.unwrap().try_into().unwrap();
        assert_eq!(one.stale_commands, 7);
        one.heartbeat_age_ms > 3000
    })
    .await;
    dispatcher.cancel_job(id, RequestId::random()).await.unwrap();
    until("the wish is seen", async || {
        dispatcher.job(id).await.unwrap().unwrap().summary.status == JobStatus::Cancelling
    })
    .await;
    assert_eq!(taskmanager.command_names(), ["start"], "nothing more is ordered");
    stop(jobmanager).await;
}

/// A connection that breaks and comes back within the grace changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_taskmanager_that_reconnects_is_not_lost_and_hears_no_command() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let address = jobmanager.rpc_address().to_string();
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let attached = taskmanager.attach(&address);
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    drop(attached);
    let _attached = taskmanager.attach(&address);
    until("it is registered again", async || taskmanager.registrations() == 2).await;
    taskmanager.finish(id).await;
    reach(&dispatcher, id, JobStatus::Finished).await;
    until("the executor is stopped", async || taskmanager.executors().is_empty()).await;
    assert_eq!(taskmanager.command_names(), ["start", "deploy", "stop"]);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn executors_that_no_job_owns_are_stopped() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([1; 16]), subtask: 0, attempt: 0 };
    taskmanager.plant(JobId::random(), attempt);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    until("the executor is stopped", async || taskmanager.executors().is_empty()).await;
    assert_eq!(taskmanager.command_names(), ["stop"]);
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taskmanager_of_another_cluster_is_refused() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let mut taskmanager = FakeTaskManager::new("tm-a", 1);
    taskmanager.cluster = Some(ClusterId::random());
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    until("it is refused", async || taskmanager.refusal().is_some()).await;
    let reason = taskmanager.refusal().unwrap();
    assert!(reason.starts_with("TaskManager tm-a belongs to cluster ") && reason.contains("correct"), "{reason}");
    stop(jobmanager).await;
}

/// Reports about jobs, attempts and commands that never were do no harm.
#[tokio::test(flavor = "multi_thread")]
async fn reports_that_make_no_sense_change_nothing() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
    reach(&dispatcher, id, JobStatus::Running).await;
    let stray = ExecutionAttemptId { vertex: VertexId::from_bytes([9; 16]), subtask: u32::MAX, attempt: u32::MAX };
    taskmanager.report(id, stray, ExecutionState::Failed).await;
    taskmanager.report(JobId::random(), stray, ExecutionState::Finished).await;
    taskmanager.say(FromTaskManager::Progress(vec![progress(JobId::random(), stray, u64::MAX)])).await;
    let answer = perennial_rpc::taskmanager::CommandAnswer {
        id: u64::MAX,
        result: Ok(perennial_rpc::taskmanager::CommandDone::Done),
    };
    taskmanager.say(FromTaskManager::Answer(answer)).await;
    taskmanager
        .say(FromTaskManager::ExecutorLost { job: JobId::random(), cause: "none".to_owned(), own_doing: false })
        .await;
    taskmanager.finish(id).await;
    reach(&dispatcher, id, JobStatus::Finished).await;
    stop(jobmanager).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let dir = tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let config = crate::support::config(&dir, &[("jobmanager.rpc.port", &port)]);
    let error = perennial_jobmanager::JobManager::start(&config).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot listen on 127.0.0.1:{port} (jobmanager.bind-host, ")), "{error}");
}
