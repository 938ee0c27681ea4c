//! The Dispatcher as this member offers it.
//!
//! [`DispatcherHandle`] is for clients and REST: it goes to the leader wherever that is. [`LeaderOnly`] is what other
//! members are offered on the RPC port: it never forwards, so no request can travel in circles.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_meta::{LeadershipRecord, MetaStore, RaftRole};
use perennial_rpc::dispatcher::{
    CancelJobError, ClusterStatus, DispatcherClient, DispatcherGateway, JobDetails, JobSummaries, JobSummary,
    LeadershipSummary, MemberRole, MemberStatus, MemberSummary, Stale, StateAge, SubmitJob, SubmitJobError,
    TaskManagerSummary, Unavailable,
};
use perennial_rpc::transport;
use perennial_types::{ExceptionEntry, JobId, JobManagerId, RequestId};

use crate::leader::{Leader, recorded_details, recorded_summary, unreadable};
use crate::role::{RoleWatch, Route, lead_here, route};
use crate::room::Room;

/// Attempts to find and reach the leader. Between two the role may change; a third leader in one request's time means
/// that something is wrong which the client should hear of.
pub(crate) const ATTEMPTS: usize = 3;

/// After a leader was not reached, this member waits so long to hear that it leads no more: longer than timers take to
/// elect another one. Mostly it has heard of it already.
pub(crate) const CHANGE_WAIT: Duration = Duration::from_millis(600);

/// Connections to other members kept for forwarding: more than a group has members.
const CLIENTS_MAX: usize = 16;

/// This member as others see it, with or without a leader.
#[derive(Clone)]
pub(crate) struct Local {
    pub(crate) this: JobManagerId,
    pub(crate) meta: MetaStore,
    /// When this process started.
    pub(crate) started: Instant,
    pub(crate) room: Room,
}

impl Local {
    fn own_status(&self) -> MemberStatus {
        let standing = self.meta.standing();
        let ms = |duration: Duration| duration.as_millis() as u64;
        MemberStatus {
            role: match standing.role {
                RaftRole::Leader => MemberRole::Leader,
                RaftRole::Follower => MemberRole::Follower,
                RaftRole::Candidate => MemberRole::Candidate,
                RaftRole::Learner => MemberRole::Learner,
            },
            last_log: standing.last_log,
            committed: standing.committed,
            snapshot: standing.snapshot,
            quorum_ack_ms: standing.quorum_ack.map(ms),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: ms(self.started.elapsed()),
        }
    }

    fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        let view = self.meta.leadership().borrow().clone();
        // One that has lost its quorum, or was not heard of for too long, may still be the last there was.
        let leader = view.leader.filter(|leader| match leader.id == self.this {
            true => view.serving.is_some(),
            false => self.meta.is_led(),
        });
        let members = self.meta.members().into_iter().map(|member| MemberSummary {
            id: member.id,
            name: member.name,
            address: member.address,
            voter: member.voter,
            lag: member.lag,
        });
        Ok(ClusterStatus {
            cluster: self.meta.state().cluster_id().map_err(unreadable)?,
            from: self.this,
            epoch: view.epoch,
            leader: leader.map(|leader| leader.id),
            applied: self.meta.state().applied(),
            members: members.collect(),
            own: self.own_status(),
            age_ms: self.age().age_ms,
        })
    }

    fn age(&self) -> StateAge {
        let age_ms = self.meta.last_contact().map(|age| age.as_millis() as u64);
        StateAge { from: self.this, applied: self.meta.state().applied(), age_ms }
    }

    fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        // Taken first: what is read is at least as new as it says.
        let age = self.age();
        let heads = self.meta.state().job_heads().map_err(unreadable)?;
        Ok(Stale { value: heads.into_iter().map(recorded_summary).collect(), age })
    }

    fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        let age = self.age();
        Ok(Stale { value: recorded_details(&self.meta.state(), job).map_err(unreadable)?, age })
    }

    /// From what is applied here, newest first.
    fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        let state = self.meta.state();
        let mut leaderships = Vec::new();
        for LeadershipRecord { epoch, leader, at_ms, .. } in state.leaderships().map_err(unreadable)?.into_iter().rev()
        {
            let take_over = state.take_over(epoch).map_err(unreadable)?;
            leaderships.push(LeadershipSummary { epoch, leader, at_ms, take_over });
        }
        Ok(leaderships)
    }
}

/// The Dispatcher, wherever the leader is. Cheap to clone.
///
/// A request waits up to two seconds for an election to end. What fails because the leader changed or was not reached is
/// tried again, which is safe because every request is idempotent.
#[derive(Clone)]
pub struct DispatcherHandle {
    local: Local,
    role: RoleWatch,
    clients: Arc<Mutex<HashMap<String, DispatcherClient>>>,
}

impl std::fmt::Debug for DispatcherHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DispatcherHandle").field("this", &self.local.this).finish_non_exhaustive()
    }
}

/// Errors that may be about the leader and not about the request.
pub(crate) trait OfLeader: From<Unavailable> {
    /// What it says of the leader, if anything.
    fn unavailable(&self) -> Option<&Unavailable>;

    /// Whether it may go away with another attempt.
    fn may_pass(&self) -> bool {
        matches!(self.unavailable(), Some(Unavailable::NoLeader { .. } | Unavailable::Unreachable { .. }))
    }

    /// The client has reached this member: what is not reached from here is the leader.
    fn seen_from_here(self) -> Self {
        match self.unavailable() {
            Some(Unavailable::Unreachable { reason }) => {
                let reason = format!("the one before is not reached, {reason}");
                Unavailable::NoLeader { reason }.into()
            }
            _ => self,
        }
    }
}

impl OfLeader for Unavailable {
    fn unavailable(&self) -> Option<&Unavailable> {
        Some(self)
    }
}

impl OfLeader for SubmitJobError {
    fn unavailable(&self) -> Option<&Unavailable> {
        if let Self::Unavailable(error) = self { Some(error) } else { None }
    }
}

impl OfLeader for CancelJobError {
    fn unavailable(&self) -> Option<&Unavailable> {
        if let Self::Unavailable(error) = self { Some(error) } else { None }
    }
}

impl DispatcherHandle {
    pub(crate) fn new(local: Local, role: RoleWatch) -> Self {
        Self { local, role, clients: Arc::default() }
    }

    fn client(&self, address: &str) -> Result<DispatcherClient, Unavailable> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(address) {
            return Ok(client.clone());
        }
        let unreachable = |error: transport::AddressError| Unavailable::Unreachable { reason: error.to_string() };
        let client = DispatcherClient::new(transport::channel(address).map_err(unreachable)?, address);
        if clients.len() >= CLIENTS_MAX {
            clients.clear();
        }
        clients.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// Carries a request out here or at the leader, again when the leader changed meanwhile.
    async fn at_leader<T, E, H, HF, R, RF>(&self, here: H, there: R) -> Result<T, E>
    where
        E: OfLeader,
        H: Fn(Arc<Leader>) -> HF,
        HF: Future<Output = Result<T, E>>,
        R: Fn(DispatcherClient) -> RF,
        RF: Future<Output = Result<T, E>>,
    {
        let mut attempt = 1;
        loop {
            let route = route(&self.role).await?;
            let result = match &route {
                Route::Here(leader) => here(Arc::clone(leader)).await,
                // A leader that is paused or cut off would never answer.
                Route::There(address) => tokio::select! {
                    result = there(self.client(address)?) => result,
                    () = route.over(&self.role) => Err(leader_changed().into()),
                },
            };
            match result.map_err(OfLeader::seen_from_here) {
                Err(error) if error.may_pass() && attempt < ATTEMPTS => {
                    attempt += 1;
                    // Whether or not it has changed, another attempt is due.
                    _ = tokio::time::timeout(CHANGE_WAIT, route.over(&self.role)).await;
                }
                result => return result,
            }
        }
    }
}

fn leader_changed() -> Unavailable {
    Unavailable::NoLeader { reason: "the leader has changed meanwhile".to_owned() }
}

impl DispatcherGateway for DispatcherHandle {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        // An id chosen before the first attempt: whichever attempt is recorded, it is the same job.
        let job = SubmitJob { job: job.job.or_else(|| Some(JobId::random())), ..job };
        self.at_leader(
            |leader| {
                let (job, room) = (job.clone(), self.local.room.clone());
                async move {
                    room.check()?;
                    leader.submit(job).await
                }
            },
            |client| {
                let job = job.clone();
                async move { client.submit_job(job).await }
            },
        )
        .await
    }

    async fn cancel_job(&self, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        self.at_leader(
            |leader| async move { leader.cancel(job, request).await },
            |client| async move { client.cancel_job(job, request).await },
        )
        .await
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.at_leader(|leader| async move { leader.list().await }, |client| async move { client.list_jobs().await })
            .await
    }

    async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        self.at_leader(|leader| async move { leader.job(job).await }, |client| async move { client.job(job).await })
            .await
    }

    async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        self.at_leader(
            |leader| async move { leader.exceptions(job).await },
            |client| async move { client.exceptions(job).await },
        )
        .await
    }

    async fn watch_job(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        self.at_leader(
            |leader| async move { leader.watch(job).await },
            |client| async move { client.watch_job(job).await },
        )
        .await
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        self.at_leader(
            |leader| async move { leader.taskmanagers().await },
            |client| async move { client.taskmanagers().await },
        )
        .await
    }

    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        self.local.list_jobs_stale()
    }

    async fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        self.local.job_stale(job)
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        self.local.cluster_status()
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        self.local.leaderships()
    }
}

/// The Dispatcher if this member leads, else a refusal that names who does.
#[derive(Clone)]
pub(crate) struct LeaderOnly {
    pub(crate) local: Local,
    pub(crate) role: RoleWatch,
}

impl DispatcherGateway for LeaderOnly {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        let leader = lead_here(&self.role).await?;
        self.local.room.check()?;
        leader.submit(job).await
    }

    async fn cancel_job(&self, job: JobId, request: RequestId) -> Result<(), CancelJobError> {
        lead_here(&self.role).await?.cancel(job, request).await
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        lead_here(&self.role).await?.list().await
    }

    async fn job(&self, job: JobId) -> Result<Option<JobDetails>, Unavailable> {
        lead_here(&self.role).await?.job(job).await
    }

    async fn exceptions(&self, job: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        lead_here(&self.role).await?.exceptions(job).await
    }

    async fn watch_job(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        lead_here(&self.role).await?.watch(job).await
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        lead_here(&self.role).await?.taskmanagers().await
    }

    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        self.local.list_jobs_stale()
    }

    async fn job_stale(&self, job: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        self.local.job_stale(job)
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        self.local.cluster_status()
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        self.local.leaderships()
    }
}
