//! Requests that are sent again: one id, one job, one answer, whoever leads meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use perennial_client::{CancelJobError, Client, DispatcherGateway, Prepared, SubmitJob};
use perennial_tests::{Cluster, wait_for};
use perennial_types::{JobId, JobStatus, PlanRequest, RequestId};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{LIMIT, cluster};

/// Submissions at once.
const AT_ONCE: usize = 50;

/// A client that asks this member first.
fn client(cluster: &Cluster, first: usize) -> Result<Client> {
    let mut endpoints: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    endpoints.rotate_left(first % 3);
    Ok(Client::new(&endpoints, LIMIT)?)
}

/// Index of the member that leads, as the first that is up sees it.
fn leader(cluster: &Cluster) -> Result<usize> {
    let members = cluster.rest("/v1/cluster/members")?;
    let id = members.get("leader").and_then(Value::as_u64).with_context(|| format!("no leader in {members}"))?;
    Ok(usize::try_from(id)? - 1)
}

/// A submission of a sample job, whose artifact the cluster has.
async fn submission(cluster: &Cluster, job: &str) -> Result<SubmitJob> {
    let request = PlanRequest { job: Some(job.to_owned()), ..PlanRequest::default() };
    let prepared = Prepared::new(cluster.binary(), request, Duration::from_secs(30)).await?;
    client(cluster, 0)?.upload(&prepared.artifact).await?;
    Ok(SubmitJob {
        request: RequestId::random(),
        job: None,
        artifact: prepared.artifact.digest(),
        plan: prepared.request,
        graph: prepared.plan.graph,
        restore: None,
    })
}

/// Fifty clients send one submission to different members while the leader is killed: all are told the same job, and
/// there is one. The same again under the next leader.
#[test]
fn identical_submissions_make_one_job_while_leaders_die() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 1).start()?;
    let runtime = Runtime::new()?;
    for round in 1..=2 {
        let job = runtime.block_on(submission(&cluster, "trivial"))?;
        let mut sent = Vec::new();
        for number in 0..AT_ONCE {
            let (client, job) = runtime.block_on(async { client(&cluster, number) }).map(|it| (it, job.clone()))?;
            sent.push(runtime.spawn(async move { client.submit_job(job).await }));
        }
        let dying = leader(&cluster)?;
        cluster.jobmanager(dying)?.kill()?;
        let mut told: Vec<JobId> = Vec::new();
        for answer in sent {
            told.push(runtime.block_on(answer)??);
        }
        // And once more, long after.
        told.push(
            runtime
                .block_on(async { client(&cluster, dying + 1)?.submit_job(job).await.map_err(anyhow::Error::from) })?,
        );
        told.dedup();
        assert_eq!(told.len(), 1, "{told:?}");
        cluster.start_jobmanager(dying)?;
        wait_for("all jobs to be listed", LIMIT, || {
            let jobs = cluster.rest("/v1/jobs")?;
            let listed = jobs.get("jobs").and_then(Value::as_array).map_or(0, Vec::len);
            ensure!(listed == round, "{listed} are: {jobs}");
            Ok(())
        })?;
    }
    Ok(())
}

/// The answer to a cancellation is lost and the leader dies; sent again it is told that it is done, though the job has
/// ended by then. A cancellation of somebody else is told that it came too late.
#[test]
fn a_cancellation_sent_again_is_still_done() -> Result<()> {
    let mut cluster = cluster().jobmanagers(3).taskmanagers(1, 1).start()?;
    let runtime = Runtime::new()?;
    let request = RequestId::random();
    let job = runtime.block_on(async {
        let submission = submission(&cluster, "idle").await?;
        let client = client(&cluster, 0)?;
        let job = client.submit_job(submission).await?;
        client.cancel_job(job, request).await?;
        anyhow::Ok(job)
    })?;
    wait_for("the job to be cancelled", LIMIT, || {
        let seen = cluster.rest(&format!("/v1/jobs/{job}"))?;
        ensure!(seen.get("state").and_then(Value::as_str) == Some("CANCELED"), "{seen}");
        Ok(())
    })?;
    let dying = leader(&cluster)?;
    cluster.jobmanager(dying)?.kill()?;
    runtime.block_on(async {
        for first in [dying + 1, dying + 2] {
            client(&cluster, first)?.cancel_job(job, request).await?;
        }
        let late = client(&cluster, dying + 1)?.cancel_job(job, RequestId::random()).await;
        assert_eq!(late, Err(CancelJobError::AlreadyEnded { job, status: JobStatus::Canceled }));
        anyhow::Ok(())
    })
}
