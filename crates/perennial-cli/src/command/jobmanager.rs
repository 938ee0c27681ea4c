//! `perennial jobmanager`.

use std::time::Duration;

use perennial_base::{OnError, TaskGroup};
use perennial_jobmanager::{JobManager, StartError};
use perennial_rpc::artifact::ArtifactServer;
use perennial_rpc::dispatcher::DispatcherServer;
use perennial_rpc::group::GroupServer;
use perennial_types::Configuration;
use tonic::service::RoutesBuilder;
use tracing::info;

use super::listener;
use super::service::Service;
use super::signals::StopSignals;
use super::standalone_job::{self, Application};
use crate::failure::{Exit, Failure};
use crate::output;

/// Time the REST listener has to end its requests, beyond what it gives them itself.
const LISTENER_GRACE: Duration = Duration::from_secs(2);

/// Runs until it is told to stop, or until the job of its application has ended.
pub(crate) async fn run(config: &Configuration, application: Option<&Application>) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let service = Service::of_this_process()?;
    // First of all, so that requests wait in the listener's queue instead of being refused while the store opens.
    let rest = listener::bind(config).await?;
    let rest_address = rest.local_addr().map_err(anyhow::Error::from)?;
    // One that joins a group waits until it was added, and may be told to give up.
    let started = tokio::select! {
        started = JobManager::start(config) => started,
        (name, _) = signals.next() => {
            info!(cause = name, "stopping before it had started");
            return Ok(Exit::Done);
        }
    };
    let jobmanager = started.map_err(|error| {
        let hint = match &error {
            StartError::Bind { .. } => "choose another port with -D jobmanager.rpc.port=N; 0 takes a free one",
            StartError::Config(_) => "jobmanager.raft.peers lists all members as name=host:port, jobmanager.resource-id says which one this is",
            StartError::Meta(_) | StartError::Artifacts { .. } => {
                "jobmanager.data-dir (or process.working-dir) names the directory; nothing in it was changed"
            }
        };
        Failure::new(Exit::Failed, error).hint(hint)
    })?;
    let mut services = RoutesBuilder::default();
    DispatcherServer::new(jobmanager.dispatcher()).add_to(&mut services);
    GroupServer::new(jobmanager.group()).add_to(&mut services);
    ArtifactServer::new(jobmanager.artifacts()).add_to(&mut services);
    let routes = services.routes().into_axum_router().reset_fallback();
    let routes = perennial_web::router(jobmanager.dispatcher(), config).merge(routes);
    let tasks = TaskGroup::new();
    tasks.spawn("rest", OnError::StopProcess, listener::serve(rest, routes, tasks.token().clone()));
    output::line(format_args!(
        "JobManager {} ({}) ready: REST http://{}, RPC {}",
        jobmanager.name(),
        jobmanager.id(),
        listener::advertised(config, rest_address),
        jobmanager.advertised_address()
    ))?;
    service.ready();
    let local = format!("127.0.0.1:{}", rest_address.port());
    let job = async {
        match application {
            Some(application) => application.see_through(&jobmanager, &local).await,
            None => std::future::pending().await,
        }
    };
    let failed = |reason: String| Err(Failure::new(Exit::Failed, anyhow::anyhow!(reason)));
    let (cause, ended) = tokio::select! {
        (name, _) = signals.next() => (name, Ok(Exit::Done)),
        reason = jobmanager.fatal() => ("a failure", failed(reason)),
        failure = tasks.failed() => ("a failure", failed(failure.to_string())),
        job = job => ("the end of the application", job.and_then(|summary| standalone_job::ended(&summary))),
    };
    info!(cause, "stopping");
    service.stopping();
    // The JobManager first: while it hands over its leadership, this member still forwards what clients ask.
    signals.unless_again(jobmanager.shutdown()).await;
    signals.unless_again(tasks.shutdown(LISTENER_GRACE)).await;
    ended
}
