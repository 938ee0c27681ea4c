//! The Dispatcher over gRPC: [`DispatcherServer`] offers a gateway to others, [`DispatcherClient`] is one.

use std::pin::Pin;
use std::time::Duration;

use perennial_types::{ExceptionEntry, JobId, RequestId};
use tokio_stream::{Stream, StreamExt};
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::convert::{exceptions_from_json, exceptions_to_json};
use super::{
    CancelJobError, ClusterStatus, DispatcherGateway, JobDetails, JobSummaries, JobSummary, LeadershipSummary, Stale,
    SubmitJob, SubmitJobError, TaskManagerSummary, Unavailable,
};
use crate::WireError;
use crate::grpc::MESSAGE_BYTES_MAX;
use crate::transport::{explain, malformed};
use crate::wire::{id, pb};

/// Deadline of one call. A submission is recorded on a majority within it or counts as unavailable.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Offers a gateway as a gRPC service.
#[derive(Debug, Clone)]
pub struct DispatcherServer<G> {
    gateway: G,
}

impl<G: DispatcherGateway> DispatcherServer<G> {
    /// Offers this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }

    /// Adds the service to a listener's routes.
    pub fn add_to(self, routes: &mut RoutesBuilder) {
        routes.add_service(
            pb::dispatcher_server::DispatcherServer::new(self)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX),
        );
    }
}

#[tonic::async_trait]
impl<G: DispatcherGateway> pb::dispatcher_server::Dispatcher for DispatcherServer<G> {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let job = SubmitJob::try_from(request.into_inner()).map_err(malformed)?;
        Ok(Response::new(self.gateway.submit_job(job).await.into()))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let request = request.into_inner();
        let job = id(&request.job, "cancel_job.job").map_err(malformed)?;
        let request = id(&request.request, "cancel_job.request").map_err(malformed)?;
        Ok(Response::new(self.gateway.cancel_job(job, request).await.into()))
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsResponse>, Status> {
        let answer = match request.into_inner().stale {
            false => self.gateway.list_jobs().await.map(|jobs| (jobs, None)),
            true => self.gateway.list_jobs_stale().await.map(|stale| (stale.value, Some(stale.age))),
        };
        Ok(Response::new(match answer {
            Ok((jobs, age)) => pb::ListJobsResponse {
                jobs: jobs.into_iter().map(Into::into).collect(),
                unavailable: None,
                age: age.map(Into::into),
            },
            Err(error) => pb::ListJobsResponse { unavailable: Some(error.into()), ..Default::default() },
        }))
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::GetJobResponse>, Status> {
        use pb::get_job_response::Result as Answer;
        let pb::GetJobRequest { job, stale } = request.into_inner();
        let job = id(&job, "get_job.job").map_err(malformed)?;
        let answer = match stale {
            false => self.gateway.job(job).await.map(|details| (details, None)),
            true => self.gateway.job_stale(job).await.map(|stale| (stale.value, Some(stale.age))),
        };
        let (answer, age) = match answer {
            Ok((Some(details), age)) => (Answer::Details(details.into()), age),
            Ok((None, age)) => (Answer::UnknownJob(pb::UnknownJob {}), age),
            Err(error) => (Answer::Unavailable(error.into()), None),
        };
        Ok(Response::new(pb::GetJobResponse { result: Some(answer), age: age.map(Into::into) }))
    }

    async fn get_exceptions(
        &self,
        request: Request<pb::GetExceptionsRequest>,
    ) -> Result<Response<pb::GetExceptionsResponse>, Status> {
        use pb::get_exceptions_response::Result as Answer;
        let job = id(&request.into_inner().job, "get_exceptions.job").map_err(malformed)?;
        let answer = match self.gateway.exceptions(job).await {
            Ok(Some(entries)) => Answer::Entries(exceptions_to_json(&entries)),
            Ok(None) => Answer::UnknownJob(pb::UnknownJob {}),
            Err(error) => Answer::Unavailable(error.into()),
        };
        Ok(Response::new(pb::GetExceptionsResponse { result: Some(answer) }))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<pb::WatchJobResponse, Status>> + Send>>;

    async fn watch_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<Self::WatchJobStream>, Status> {
        use pb::watch_job_response::Result as Answer;
        let job = id(&request.into_inner().job, "watch_job.job").map_err(malformed)?;
        let one = |answer| tokio_stream::once(Ok(pb::WatchJobResponse { result: Some(answer) }));
        Ok(Response::new(match self.gateway.watch_job(job).await {
            Ok(Some(summaries)) => Box::pin(summaries.map(|summary| {
                let answer = match summary {
                    Ok(summary) => Answer::Summary(summary.into()),
                    Err(error) => Answer::Unavailable(error.into()),
                };
                Ok(pb::WatchJobResponse { result: Some(answer) })
            })),
            Ok(None) => Box::pin(one(Answer::UnknownJob(pb::UnknownJob {}))),
            Err(error) => Box::pin(one(Answer::Unavailable(error.into()))),
        }))
    }

    async fn list_task_managers(
        &self,
        _: Request<pb::ListTaskManagersRequest>,
    ) -> Result<Response<pb::ListTaskManagersResponse>, Status> {
        Ok(Response::new(match self.gateway.taskmanagers().await {
            Ok(found) => pb::ListTaskManagersResponse {
                taskmanagers: found.into_iter().map(Into::into).collect(),
                ..Default::default()
            },
            Err(error) => pb::ListTaskManagersResponse { unavailable: Some(error.into()), ..Default::default() },
        }))
    }

    async fn get_cluster_status(
        &self,
        _: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::GetClusterStatusResponse>, Status> {
        use pb::get_cluster_status_response::Result as Answer;
        let answer = match self.gateway.cluster_status().await {
            Ok(status) => Answer::Status(status.into()),
            Err(error) => Answer::Unavailable(error.into()),
        };
        Ok(Response::new(pb::GetClusterStatusResponse { result: Some(answer) }))
    }

    async fn list_leaderships(
        &self,
        _: Request<pb::ListLeadershipsRequest>,
    ) -> Result<Response<pb::ListLeadershipsResponse>, Status> {
        use pb::list_leaderships_response::Result as Answer;
        let answer = match self.gateway.leaderships().await {
            Ok(leaderships) => {
                let leaderships = leaderships.into_iter().map(Into::into).collect();
                Answer::Leaderships(pb::Leaderships { leaderships })
            }
            Err(error) => Answer::Unavailable(error.into()),
        };
        Ok(Response::new(pb::ListLeadershipsResponse { result: Some(answer) }))
    }
}

/// The Dispatcher as one JobManager offers it. Connects when first used and again after a loss.
///
/// Every call ends within 10 s; what goes wrong on the way is [`Unavailable::Unreachable`] with the endpoint and reason.
#[derive(Debug, Clone)]
pub struct DispatcherClient {
    client: pb::dispatcher_client::DispatcherClient<Channel>,
    endpoint: String,
}

impl DispatcherClient {
    /// A client of the JobManager behind `channel`; `endpoint` names it in errors.
    pub fn new(channel: Channel, endpoint: impl Into<String>) -> Self {
        let client = pb::dispatcher_client::DispatcherClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Self { client, endpoint: endpoint.into() }
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> Unavailable {
        Unavailable::Unreachable { reason: format!("{}: {reason}", self.endpoint) }
    }

    fn not_understood(&self) -> impl Fn(WireError) -> Unavailable {
        move |error| self.unreachable(error)
    }

    /// Waits for an answer within the deadline.
    async fn answer<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, Unavailable> {
        match tokio::time::timeout(CALL_DEADLINE, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.unreachable(explain(&status))),
            Err(_) => Err(self.unreachable(format_args!("no answer within {} s", CALL_DEADLINE.as_secs()))),
        }
    }
}

impl DispatcherClient {
    async fn list(&self, stale: bool) -> Result<(Vec<JobSummary>, Option<pb::StateAge>), Unavailable> {
        let mut client = self.client.clone();
        let response = self.answer(client.list_jobs(pb::ListJobsRequest { stale })).await?;
        if let Some(error) = response.unavailable {
            return Err(error.try_into().unwrap_or_else(self.not_understood()));
        }
        let jobs = response.jobs.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
        Ok((jobs.map_err(self.not_understood())?, response.age))
    }

    async fn get(&self, job: JobId, stale: bool) -> Result<(Option<JobDetails>, Option<pb::StateAge>), Unavailable> {
        use pb::get_job_response::Result as Answer;
        let mut client = self.client.clone();
        let request = pb::GetJobRequest { job: job.as_bytes().to_vec().into(), stale };
        let response = self.answer(client.get_job(request)).await?;
        match response.result {
            Some(Answer::Details(details)) => {
                Ok((Some(details.try_into().map_err(self.not_understood())?), response.age))
            }
            Some(Answer::UnknownJob(_)) => Ok((None, response.age)),
            Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(self.not_understood())),
            None => Err(self.unreachable(WireError::missing("get_job.result"))),
        }
    }
}

impl DispatcherGateway for DispatcherClient {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        let mut client = self.client.clone();
        let response = self.answer(client.submit_job(pb::SubmitJobRequest::from(job))).await?;
        Result::try_from(response).map_err(self.not_understood())?
    }

    async fn cancel_job(&self, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        let mut client = self.client.clone();
        let (job, request) = (job.as_bytes().to_vec().into(), request.as_bytes().to_vec().into());
        let response = self.answer(client.cancel_job(pb::CancelJobRequest { job, request })).await?;
        Result::try_from(response).map_err(self.not_understood())?
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.list(false).await.map(|(jobs, _)| jobs)
    }

    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        let (value, age) = self.list(true).await?;
        let age = age.ok_or_else(|| self.unreachable(WireError::missing("list_jobs.age")))?;
        Ok(Stale { value, age: age.into() })
    }

    async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.get(job, false).await.map(|(details, _)| details)
    }

    async fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        let (value, age) = self.get(job, true).await?;
        let age = age.ok_or_else(|| self.unreachable(WireError::missing("get_job.age")))?;
        Ok(Stale { value, age: age.into() })
    }

    async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        use pb::get_exceptions_response::Result as Answer;
        let mut client = self.client.clone();
        let request = pb::GetExceptionsRequest { job: job.as_bytes().to_vec().into() };
        let response = self.answer(client.get_exceptions(request)).await?;
        match response.result {
            Some(Answer::Entries(json)) => exceptions_from_json(&json).map(Some).map_err(self.not_understood()),
            Some(Answer::UnknownJob(_)) => Ok(None),
            Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(self.not_understood())),
            None => Err(self.unreachable(WireError::missing("get_exceptions.result"))),
        }
    }

    async fn watch_job(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        let mut client = self.client.clone();
        let request = pb::GetJobRequest { job: job.as_bytes().to_vec().into(), stale: false };
        let mut responses = self.answer(client.watch_job(request)).await?;
        let this = self.clone();
        let read = move |message: Result<pb::WatchJobResponse, Status>| {
            use pb::watch_job_response::Result as Answer;
            match message.map_err(|status| this.unreachable(explain(&status)))?.result {
                Some(Answer::Summary(summary)) => summary.try_into().map(Some).map_err(this.not_understood()),
                Some(Answer::UnknownJob(_)) => Ok(None),
                Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(this.not_understood())),
                None => Err(this.unreachable(WireError::missing("watch_job.result"))),
            }
        };
        let first = match tokio::time::timeout(CALL_DEADLINE, responses.next()).await {
            Ok(Some(message)) => read(message)?,
            Ok(None) => return Err(self.unreachable("it ended the answer before it began")),
            Err(_) => return Err(self.unreachable(format_args!("no answer within {} s", CALL_DEADLINE.as_secs()))),
        };
        let Some(first) = first else { return Ok(None) };
        // The server's messages have no deadline of their own: a job may run for months without a change. A dead
        // connection is found by HTTP/2 pings.
        Ok(Some(Box::pin(
            tokio_stream::once(Ok(first)).chain(responses.filter_map(move |message| read(message).transpose())),
        )))
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        let mut client = self.client.clone();
        let response = self.answer(client.list_task_managers(pb::ListTaskManagersRequest {})).await?;
        if let Some(error) = response.unavailable {
            return Err(error.try_into().unwrap_or_else(self.not_understood()));
        }
        Ok(response.taskmanagers.into_iter().map(Into::into).collect())
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        use pb::get_cluster_status_response::Result as Answer;
        let mut client = self.client.clone();
        let response = self.answer(client.get_cluster_status(pb::GetClusterStatusRequest {})).await?;
        match response.result {
            Some(Answer::Status(status)) => status.try_into().map_err(self.not_understood()),
            Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(self.not_understood())),
            None => Err(self.unreachable(WireError::missing("cluster_status.result"))),
        }
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        use pb::list_leaderships_response::Result as Answer;
        let mut client = self.client.clone();
        let response = self.answer(client.list_leaderships(pb::ListLeadershipsRequest {})).await?;
        match response.result {
            Some(Answer::Leaderships(list)) => {
                let leaderships = list.leaderships.into_iter().map(TryInto::try_into).collect::<Result<_, _>>();
                leaderships.map_err(self.not_understood())
            }
            Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(self.not_understood())),
            None => Err(self.unreachable(WireError::missing("list_leaderships.result"))),
        }
    }
}
