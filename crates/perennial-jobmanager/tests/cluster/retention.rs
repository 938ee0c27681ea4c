//! Ended jobs are forgotten, so that a cluster does not grow with what it has done.

use perennial_rpc::dispatcher::DispatcherGateway;
use perennial_types::JobStatus;
use tempfile::tempdir;

use crate::fake_taskmanager::FakeTaskManager;
use crate::support::{job, reach, single, stop, until, upload};

#[tokio::test(flavor = "multi_thread")]
async fn only_the_newest_ended_jobs_stay_listed() {
    let dir = tempdir().unwrap();
    let jobmanager = single(&dir, &[("jobstore.max-capacity", "3")]).await;
    let taskmanager = FakeTaskManager::new("tm-a", 1);
    let _attached = taskmanager.attach(jobmanager.rpc_address().to_string());
    let dispatcher = jobmanager.dispatcher();
    let artifact = upload(&jobmanager.artifacts()).await;
    let mut newest = Vec::new();
    for _ in 0..8 {
        let id = dispatcher.submit_job(job(artifact, 1)).await.unwrap();
        reach(&dispatcher, id, JobStatus::Running).await;
        taskmanager.finish(id).await;
        reach(&dispatcher, id, JobStatus::Finished).await;
        newest.push(id);
    }
    until("older ones are forgotten", async || dispatcher.list_jobs().await.unwrap().len() == 3).await;
    for id in &newest[5..] {
        assert!(dispatcher.job(*id).await.unwrap().is_some());
    }
    assert!(dispatcher.job(newest[0]).await.unwrap().is_none());
    stop(jobmanager).await;
}
