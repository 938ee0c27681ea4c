//! A list of endpoints as one gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use perennial_base::Backoff;
use perennial_rpc::artifact::{ArtifactClient, ArtifactGateway, PutArtifact, PutArtifactError, PutScope};
use perennial_rpc::dispatcher::{
    CancelJobError, ClusterStatus, DispatcherClient, DispatcherGateway, JobDetails, JobSummaries, JobSummary,
    LeadershipSummary, Stale, SubmitJob, SubmitJobError, TaskManagerSummary, Unavailable,
};
use perennial_rpc::group::{
    ChangedMember, GroupClient, GroupError, GroupGateway, LeaderTransfer, MemberChange, Place, SnapshotContent,
};
use perennial_rpc::transport::{AddressError, channel};
use perennial_types::{ExceptionEntry, JobId, RequestId};
use tokio::time::{Instant, timeout_at};
use tracing::warn;

use crate::{Artifact, follow};

/// First wait before all endpoints are tried again: an election takes a few of these.
const RETRY_FIRST: Duration = Duration::from_millis(20);

/// Longest wait before all endpoints are tried again.
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// Time one endpoint has to say how it stands: it answers from memory.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);

/// How long a cluster may have no leader before the user is told that we wait.
const SILENT_WAIT: Duration = Duration::from_secs(2);

/// A cluster, reached through any of its JobManagers. Cheap to clone.
///
/// A call tries the endpoints in turn, beginning with the one that answered last. When none can answer it waits and tries
/// again until the client's timeout; but a cluster of which nobody has ever answered is given up after one round, with
/// every endpoint and its reason.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    endpoints: Vec<Endpoint>,
    timeout: Duration,
    /// Index of the endpoint that answered last.
    preferred: AtomicUsize,
    /// Whether any endpoint has ever answered.
    reached: AtomicBool,
}

/// One JobManager.
#[derive(Debug, Clone)]
struct Endpoint {
    address: Arc<str>,
    dispatcher: DispatcherClient,
    group: GroupClient,
    artifacts: ArtifactClient,
}

/// Tells the refusals that another endpoint or another time may not give.
trait Refusal: From<Unavailable> + std::fmt::Display + Send {
    fn unavailable(&self) -> Option<&Unavailable>;
}

impl Refusal for Unavailable {
    fn unavailable(&self) -> Option<&Unavailable> {
        Some(self)
    }
}

macro_rules! refusal {
    ($($error:ident),*) => { $(
        impl Refusal for $error {
            fn unavailable(&self) -> Option<&Unavailable> {
                if let $error::Unavailable(error) = self { Some(error) } else { None }
            }
        }
    )* };
}
refusal!(SubmitJobError, CancelJobError, PutArtifactError, GroupError);

impl Client {
    /// A client of the cluster behind these `host:port` addresses of REST ports. Connects when first used.
    ///
    /// `timeout` is how long a call keeps trying. Must be called inside a tokio runtime.
    pub fn new(endpoints: &[String], timeout: Duration) -> Result<Self, AddressError> {
        if endpoints.is_empty() {
            return Err(AddressError { address: String::new() });
        }
        let endpoint = |address: &String| {
            let channel = channel(address)?;
            Ok(Endpoint {
                address: address.as_str().into(),
                dispatcher: DispatcherClient::new(channel.clone(), address),
                group: GroupClient::new(channel.clone(), address),
                artifacts: ArtifactClient::new(channel, address),
            })
        };
        let endpoints = endpoints.iter().map(endpoint).collect::<Result<_, _>>()?;
        let shared = Shared { endpoints, timeout, preferred: AtomicUsize::new(0), reached: AtomicBool::new(false) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Asks one endpoint after the other until one gives an answer that is not "unavailable".
    async fn ask<T, E, F>(&self, what: &'static str, ask: impl Fn(Endpoint) -> F + Send + Sync) -> Result<T, E>
    where
        E: Refusal,
        T: Send,
        F: Future<Output = Result<T, E>> + Send,
    {
        let shared = &*self.shared;
        let started = Instant::now();
        let deadline = started + shared.timeout;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        let mut told = false;
        // Why each endpoint could not, by its index; the last round may be cut short and knows less than the one before.
        let mut known = BTreeMap::new();
        let mut answered = false;
        loop {
            let first = shared.preferred.load(Ordering::Relaxed);
            let indexes = (first..shared.endpoints.len()).chain(0..first);
            for (index, endpoint) in indexes.filter_map(|index| Some((index, shared.endpoints.get(index)?))) {
                let answer = match timeout_at(deadline, ask(endpoint.clone())).await {
                    Ok(answer) => answer,
                    Err(_) => {
                        let seconds = shared.timeout.as_secs();
                        known
                            .entry(index)
                            .or_insert_with(|| format!("{}: no answer within {seconds} s", endpoint.address));
                        continue;
                    }
                };
                match answer.as_ref().map_err(Refusal::unavailable) {
                    Err(Some(Unavailable::Unreachable { reason })) => _ = known.insert(index, reason.clone()),
                    // Somebody has to make room: waiting does not help.
                    Ok(_) | Err(None | Some(Unavailable::NoRoom { .. })) => {
                        shared.preferred.store(index, Ordering::Relaxed);
                        shared.reached.store(true, Ordering::Relaxed);
                        return answer;
                    }
                    Err(Some(error)) => {
                        answered = true;
                        known.insert(index, format!("{}: {error}", endpoint.address));
                    }
                }
            }
            let reason = known.values().map(String::as_str).collect::<Vec<_>>().join("; ");
            let reached = shared.reached.fetch_or(answered, Ordering::Relaxed) || answered;
            let wait = backoff.next_wait();
            if !reached || Instant::now() + wait >= deadline {
                return Err(match answered {
                    true => Unavailable::NoLeader { reason }.into(),
                    false => Unavailable::Unreachable { reason }.into(),
                });
            }
            if !told && started.elapsed() >= SILENT_WAIT {
                told = true;
                warn!(what, reason, timeout_s = shared.timeout.as_secs(), "the cluster cannot answer yet, waiting");
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Uploads an artifact; resolves once a majority of the JobManagers has it.
    pub async fn upload(&self, artifact: &Artifact) -> Result<(), PutArtifactError> {
        self.ask("upload", |endpoint| async move {
            let put = PutArtifact {
                digest: artifact.digest(),
                name: artifact.name().to_owned(),
                size: artifact.size(),
                scope: PutScope::Replicated,
            };
            endpoint.artifacts.put(put, artifact.bytes()).await
        })
        .await
    }

    /// Asks every endpoint how it sees the group, all at once, each with the reason when it does not answer in time. In the
    /// order of the endpoints.
    pub async fn survey(&self) -> Vec<(String, Result<ClusterStatus, Unavailable>)> {
        statuses(
            self.shared.endpoints.iter().map(|endpoint| (endpoint.address.to_string(), endpoint.dispatcher.clone())),
        )
        .await
    }

    /// The same of JobManagers at these addresses, which are no endpoints of this client.
    pub async fn survey_of(addresses: &[String]) -> Vec<(String, Result<ClusterStatus, Unavailable>)> {
        let reachable = addresses.iter().filter_map(|address| {
            let channel = channel(address).ok()?;
            Some((address.clone(), DispatcherClient::new(channel, address)))
        });
        statuses(reachable).await
    }

    /// Follows a job at one endpoint, without trying again when it is lost.
    pub(crate) async fn watch_once(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        self.ask("watch", |endpoint| async move { endpoint.dispatcher.watch_job(job).await }).await
    }
}

async fn statuses(
    of: impl Iterator<Item = (String, DispatcherClient)>,
) -> Vec<(String, Result<ClusterStatus, Unavailable>)> {
    let asked: Vec<_> = of
        .map(|(address, dispatcher)| {
            let asking =
                tokio::spawn(
                    async move { timeout_at(Instant::now() + STATUS_DEADLINE, dispatcher.cluster_status()).await },
                );
            (address, asking)
        })
        .collect();
    let mut answers = Vec::new();
    for (address, asking) in asked {
        let late = || {
            let reason = format!("{address}: no answer within {} s", STATUS_DEADLINE.as_secs());
            Err(Unavailable::Unreachable { reason })
        };
        let answer = asking.await.map_or_else(|_| late(), |answer| answer.unwrap_or_else(|_| late()));
        answers.push((address, answer));
    }
    answers
}

impl GroupGateway for Client {
    async fn transfer_leader(&self, to: Option<String>) -> Result<LeaderTransfer, GroupError> {
        self.ask("transfer", |endpoint| {
            let to = to.clone();
            async move { endpoint.group.transfer_leader(to).await }
        })
        .await
    }

    async fn change_member(&self, change: MemberChange) -> Result<ChangedMember, GroupError> {
        self.ask("member", |endpoint| {
            let change = change.clone();
            async move { endpoint.group.change_member(change).await }
        })
        .await
    }

    async fn find_place(&self, name: String) -> Result<Option<Place>, GroupError> {
        self.ask("place", |endpoint| {
            let name = name.clone();
            async move { endpoint.group.find_place(name).await }
        })
        .await
    }

    async fn save_snapshot(&self) -> Result<SnapshotContent, GroupError> {
        self.ask("snapshot", |endpoint| async move { endpoint.group.save_snapshot().await }).await
    }
}

impl DispatcherGateway for Client {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        self.ask("submit", |endpoint| {
            let job = job.clone();
            async move { endpoint.dispatcher.submit_job(job).await }
        })
        .await
    }

    async fn cancel_job(&self, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        self.ask("cancel", |endpoint| async move { endpoint.dispatcher.cancel_job(job, request).await }).await
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.ask("list", |endpoint| async move { endpoint.dispatcher.list_jobs().await }).await
    }

    async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.ask("job", |endpoint| async move { endpoint.dispatcher.job(job).await }).await
    }

    /// Answered by the first endpoint that is reached.
    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        self.ask("list", |endpoint| async move { endpoint.dispatcher.list_jobs_stale().await }).await
    }

    async fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        self.ask("job", |endpoint| async move { endpoint.dispatcher.job_stale(job).await }).await
    }

    async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        self.ask("exceptions", |endpoint| async move { endpoint.dispatcher.exceptions(job).await }).await
    }

    /// Also after a loss of the connection or of the leader: then it goes on with the next endpoint.
    async fn watch_job(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        let first = self.watch_once(job).await?;
        Ok(first.map(|first| follow::follow(self.clone(), job, first)))
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        self.ask("taskmanagers", |endpoint| async move { endpoint.dispatcher.taskmanagers().await }).await
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        self.ask("status", |endpoint| async move { endpoint.dispatcher.cluster_status().await }).await
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        self.ask("leaderships", |endpoint| async move { endpoint.dispatcher.leaderships().await }).await
    }
}

#[cfg(test)]
mod tests;
