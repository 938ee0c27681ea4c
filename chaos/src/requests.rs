//! Requests to single JobManagers, with exactly the retries a run wants.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perennial_client::{
    CancelJobError, Client, DispatcherGateway, JobDetails, Prepared, SubmitJob, SubmitJobError, Unavailable,
};
use perennial_rpc::dispatcher::DispatcherClient;
use perennial_rpc::transport::channel;
use perennial_tests::Cluster;
use perennial_types::{JobId, PlanRequest, RequestId};

/// Time an artifact has to plan its job.
const PLAN_LIMIT: Duration = Duration::from_secs(10);

/// Time a client keeps trying.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);

/// One member, asked once for each request.
#[derive(Debug, Clone)]
pub(crate) struct Member(DispatcherClient);

/// Every member of a cluster, in order. Has to be called within a tokio runtime.
pub(crate) fn members(cluster: &Cluster) -> Result<Vec<Member>> {
    let member = |index| {
        let address = cluster.endpoint(index)?.to_string();
        Ok(Member(DispatcherClient::new(channel(&address)?, &address)))
    };
    (0..cluster.jobmanager_count()).map(member).collect()
}

/// A sample job, ready to be submitted any number of times: its artifact is in the cluster.
pub(crate) async fn prepared(cluster: &Cluster, job: &str) -> Result<SubmitJob> {
    let request = PlanRequest { job: Some(job.to_owned()), ..PlanRequest::default() };
    let prepared = Prepared::new(Path::new(cluster.binary()), request.clone(), PLAN_LIMIT).await?;
    let endpoints: Vec<String> = cluster.endpoints().split(',').map(str::to_owned).collect();
    Client::new(&endpoints, CLIENT_TIMEOUT)?.upload(&prepared.artifact).await.context("the artifact was not stored")?;
    Ok(SubmitJob {
        request: RequestId::random(),
        job: None,
        artifact: prepared.artifact.digest(),
        plan: request,
        graph: prepared.plan.graph,
        restore: None,
    })
}

impl Member {
    /// Submits a job.
    pub(crate) async fn submit(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        self.0.submit_job(job).await
    }

    /// Cancels a job. One that has ended before is fine: the first answer may have been lost.
    pub(crate) async fn cancel(&self, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        match self.0.cancel_job(job, request).await {
            Err(CancelJobError::AlreadyEnded { .. }) => Ok(()),
            answer => answer,
        }
    }

    /// Reads a job.
    pub(crate) async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.0.job(job).await
    }

    /// The cheapest write there is: cancels a job nobody knows. It goes through the log like any other, and the answer that
    /// there is no such job comes after its commit. Returns how long that took.
    pub(crate) async fn write(&self) -> Result<Duration, CancelJobError> {
        let start = Instant::now();
        match self.0.cancel_job(JobId::random(), RequestId::random()).await {
            Ok(()) | Err(CancelJobError::UnknownJob { .. }) => Ok(start.elapsed()),
            Err(error) => Err(error),
        }
    }
}

/// The value below which this part of them lies; zero of none.
pub(crate) fn percentile(values: &mut [Duration], part: f64) -> Duration {
    values.sort_unstable();
    let at = ((values.len() as f64 * part).ceil() as usize).saturating_sub(1);
    values.get(at).copied().unwrap_or_default()
}
