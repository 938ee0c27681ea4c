//! Between the plain messages and their wire form.

use std::collections::BTreeMap;

use perennial_types::{
    ClaimMode, ClusterId, ElectionCause, ExceptionEntry, JobGraph, JobId, JobManagerId, JobStatus, LeaderEpoch,
    RestoreSettings, TakeOver, TaskManagerId,
};

use super::{
    CancelJobError, ClusterStatus, ExecutionSummary, JobDetails, JobSummary, LeadershipSummary, MemberRole,
    MemberStatus, MemberSummary, StateAge, SubmitJob, SubmitJobError, TaskManagerSummary, Unavailable,
};
use crate::WireError;
use crate::wire::{execution_state, id, pb};

impl From<JobStatus> for pb::JobStatus {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Initializing => Self::Initializing,
            JobStatus::Created => Self::Created,
            JobStatus::Running => Self::Running,
            JobStatus::Failing => Self::Failing,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelling => Self::Cancelling,
            JobStatus::Canceled => Self::Canceled,
            JobStatus::Finished => Self::Finished,
            JobStatus::Restarting => Self::Restarting,
            JobStatus::Suspended => Self::Suspended,
            JobStatus::Reconciling => Self::Reconciling,
        }
    }
}

fn job_status(number: i32, field: &'static str) -> Result<JobStatus, WireError> {
    match pb::JobStatus::try_from(number) {
        Ok(pb::JobStatus::Initializing) => Ok(JobStatus::Initializing),
        Ok(pb::JobStatus::Created) => Ok(JobStatus::Created),
        Ok(pb::JobStatus::Running) => Ok(JobStatus::Running),
        Ok(pb::JobStatus::Failing) => Ok(JobStatus::Failing),
        Ok(pb::JobStatus::Failed) => Ok(JobStatus::Failed),
        Ok(pb::JobStatus::Cancelling) => Ok(JobStatus::Cancelling),
        Ok(pb::JobStatus::Canceled) => Ok(JobStatus::Canceled),
        Ok(pb::JobStatus::Finished) => Ok(JobStatus::Finished),
        Ok(pb::JobStatus::Restarting) => Ok(JobStatus::Restarting),
        Ok(pb::JobStatus::Suspended) => Ok(JobStatus::Suspended),
        Ok(pb::JobStatus::Reconciling) => Ok(JobStatus::Reconciling),
        Ok(pb::JobStatus::Unspecified) => Err(WireError::missing(field)),
        Err(_) => Err(WireError::invalid(field, format_args!("{number} is no job status"))),
    }
}

fn graph_to_json(graph: &JobGraph) -> prost::bytes::Bytes {
    serde_json::to_vec(graph).expect("a JobGraph has only text keys, so it has a JSON form").into()
}

fn graph_from_json(json: &[u8], field: &'static str) -> Result<JobGraph, WireError> {
    serde_json::from_slice(json).map_err(|error| WireError::invalid(field, error))
}

pub(super) fn exceptions_to_json(entries: &[ExceptionEntry]) -> prost::bytes::Bytes {
    serde_json::to_vec(entries).expect("entries have only text keys, so they have a JSON form").into()
}

pub(super) fn exceptions_from_json(json: &[u8]) -> Result<Vec<ExceptionEntry>, WireError> {
    serde_json::from_slice(json).map_err(|error| WireError::invalid("get_exceptions.entries", error))
}

fn bytes(id: impl AsRef<[u8]>) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(id.as_ref())
}

impl From<SubmitJob> for pb::SubmitJobRequest {
    fn from(job: SubmitJob) -> Self {
        Self {
            request: bytes(job.request.as_bytes()),
            job: job.job.map(|job| bytes(job.as_bytes())),
            artifact: bytes(job.artifact.as_bytes()),
            plan: Some(job.plan.into()),
            graph: graph_to_json(&job.graph),
            restore: job.restore.map(Into::into),
        }
    }
}

impl From<RestoreSettings> for pb::RestoreSettings {
    fn from(restore: RestoreSettings) -> Self {
        let RestoreSettings { path, allow_non_restored, claim } = restore;
        Self { path, allow_non_restored, claim: claim == ClaimMode::Claim }
    }
}

impl From<pb::RestoreSettings> for RestoreSettings {
    fn from(restore: pb::RestoreSettings) -> Self {
        let pb::RestoreSettings { path, allow_non_restored, claim } = restore;
        Self { path, allow_non_restored, claim: if claim { ClaimMode::Claim } else { ClaimMode::NoClaim } }
    }
}

impl TryFrom<pb::SubmitJobRequest> for SubmitJob {
    type Error = WireError;

    fn try_from(job: pb::SubmitJobRequest) -> Result<Self, WireError> {
        Ok(Self {
            request: id(&job.request, "submit_job.request")?,
            job: job.job.as_deref().map(|job| id(job, "submit_job.job")).transpose()?,
            artifact: id(&job.artifact, "submit_job.artifact")?,
            plan: job.plan.ok_or(WireError::missing("submit_job.plan"))?.into(),
            graph: graph_from_json(&job.graph, "submit_job.graph")?,
            restore: job.restore.map(Into::into),
        })
    }
}

impl From<Unavailable> for pb::Unavailable {
    fn from(error: Unavailable) -> Self {
        use pb::unavailable::Kind;
        let kind = match error {
            Unavailable::NoLeader { reason } => Kind::NoLeader(reason),
            Unavailable::Store { reason } => Kind::Store(reason),
            Unavailable::Unreachable { reason } => Kind::Unreachable(reason),
            Unavailable::NoRoom { reason } => Kind::NoRoom(reason),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::Unavailable> for Unavailable {
    type Error = WireError;

    fn try_from(error: pb::Unavailable) -> Result<Self, WireError> {
        use pb::unavailable::Kind;
        Ok(match error.kind.ok_or(WireError::missing("unavailable.kind"))? {
            Kind::NoLeader(reason) => Self::NoLeader { reason },
            Kind::Store(reason) => Self::Store { reason },
            Kind::Unreachable(reason) => Self::Unreachable { reason },
            Kind::NoRoom(reason) => Self::NoRoom { reason },
        })
    }
}

impl From<Result<JobId, SubmitJobError>> for pb::SubmitJobResponse {
    fn from(result: Result<JobId, SubmitJobError>) -> Self {
        use pb::submit_job_response::Result as Answer;
        let answer = match result {
            Ok(job) => Answer::Job(bytes(job.as_bytes())),
            Err(SubmitJobError::UnknownArtifact { digest }) => Answer::UnknownArtifact(bytes(digest.as_bytes())),
            Err(SubmitJobError::Duplicate { job }) => Answer::Duplicate(bytes(job.as_bytes())),
            Err(SubmitJobError::InvalidGraph { reason }) => Answer::InvalidGraph(reason),
            Err(SubmitJobError::CannotRestore { reason }) => Answer::CannotRestore(reason),
            Err(SubmitJobError::Unavailable(error)) => Answer::Unavailable(error.into()),
        };
        Self { result: Some(answer) }
    }
}

impl TryFrom<pb::SubmitJobResponse> for Result<JobId, SubmitJobError> {
    type Error = WireError;

    fn try_from(response: pb::SubmitJobResponse) -> Result<Self, WireError> {
        use pb::submit_job_response::Result as Answer;
        Ok(match response.result.ok_or(WireError::missing("submit_job.result"))? {
            Answer::Job(job) => Ok(id(&job, "submit_job.result.job")?),
            Answer::UnknownArtifact(digest) => {
                Err(SubmitJobError::UnknownArtifact { digest: id(&digest, "submit_job.result.unknown_artifact")? })
            }
            Answer::Duplicate(job) => Err(SubmitJobError::Duplicate { job: id(&job, "submit_job.result.duplicate")? }),
            Answer::InvalidGraph(reason) => Err(SubmitJobError::InvalidGraph { reason }),
            Answer::CannotRestore(reason) => Err(SubmitJobError::CannotRestore { reason }),
            Answer::Unavailable(error) => Err(Unavailable::try_from(error)?.into()),
        })
    }
}

impl From<Result<(), CancelJobError>> for pb::CancelJobResponse {
    fn from(result: Result<(), CancelJobError>) -> Self {
        use pb::cancel_job_response::{AlreadyEnded, Done, Result as Answer};
        let answer = match result {
            Ok(()) => Answer::Done(Done {}),
            Err(CancelJobError::UnknownJob { job }) => Answer::UnknownJob(bytes(job.as_bytes())),
            Err(CancelJobError::AlreadyEnded { job, status }) => Answer::AlreadyEnded(AlreadyEnded {
                job: bytes(job.as_bytes()),
                status: pb::JobStatus::from(status).into(),
            }),
            Err(CancelJobError::Unavailable(error)) => Answer::Unavailable(error.into()),
        };
        Self { result: Some(answer) }
    }
}

impl TryFrom<pb::CancelJobResponse> for Result<(), CancelJobError> {
    type Error = WireError;

    fn try_from(response: pb::CancelJobResponse) -> Result<Self, WireError> {
        use pb::cancel_job_response::Result as Answer;
        Ok(match response.result.ok_or(WireError::missing("cancel_job.result"))? {
            Answer::Done(_) => Ok(()),
            Answer::UnknownJob(job) => {
                Err(CancelJobError::UnknownJob { job: id(&job, "cancel_job.result.unknown_job")? })
            }
            Answer::AlreadyEnded(ended) => Err(CancelJobError::AlreadyEnded {
                job: id(&ended.job, "cancel_job.result.already_ended.job")?,
                status: job_status(ended.status, "cancel_job.result.already_ended.status")?,
            }),
            Answer::Unavailable(error) => Err(Unavailable::try_from(error)?.into()),
        })
    }
}

impl From<JobSummary> for pb::JobSummary {
    fn from(job: JobSummary) -> Self {
        let tasks = job
            .tasks
            .into_iter()
            .map(|(state, count)| pb::job_summary::TaskCount { state: pb::ExecutionState::from(state).into(), count });
        Self {
            job: bytes(job.job.as_bytes()),
            name: job.name,
            status: pb::JobStatus::from(job.status).into(),
            start_ms: job.start_ms,
            end_ms: job.end_ms,
            tasks: tasks.collect(),
            slots_needed: job.slots_needed,
            waiting_for: job.waiting_for,
            failure: job.failure,
            restarts: job.restarts,
        }
    }
}

impl TryFrom<pb::JobSummary> for JobSummary {
    type Error = WireError;

    fn try_from(job: pb::JobSummary) -> Result<Self, WireError> {
        let mut tasks = BTreeMap::new();
        for task in job.tasks {
            tasks.insert(execution_state(task.state, "job_summary.tasks.state")?, task.count);
        }
        Ok(Self {
            job: id(&job.job, "job_summary.job")?,
            name: job.name,
            status: job_status(job.status, "job_summary.status")?,
            start_ms: job.start_ms,
            end_ms: job.end_ms,
            tasks,
            slots_needed: job.slots_needed,
            waiting_for: job.waiting_for,
            failure: job.failure,
            restarts: job.restarts,
        })
    }
}

impl From<JobDetails> for pb::JobDetails {
    fn from(job: JobDetails) -> Self {
        Self {
            graph: graph_to_json(&job.graph),
            summary: Some(job.summary.into()),
            artifact: bytes(job.artifact.as_bytes()),
            plan: Some(job.plan.into()),
            executions: job.executions.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::JobDetails> for JobDetails {
    type Error = WireError;

    fn try_from(job: pb::JobDetails) -> Result<Self, WireError> {
        Ok(Self {
            summary: job.summary.ok_or(WireError::missing("job_details.summary"))?.try_into()?,
            graph: graph_from_json(&job.graph, "job_details.graph")?,
            artifact: id(&job.artifact, "job_details.artifact")?,
            plan: job.plan.ok_or(WireError::missing("job_details.plan"))?.into(),
            executions: job.executions.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        })
    }
}

impl From<ExecutionSummary> for pb::ExecutionSummary {
    fn from(execution: ExecutionSummary) -> Self {
        Self {
            vertex: bytes(execution.vertex.as_bytes()),
            subtask: execution.subtask,
            attempt: execution.attempt,
            state: pb::ExecutionState::from(execution.state).into(),
            taskmanager: execution.taskmanager.map(|taskmanager| taskmanager.0),
            host: execution.host,
            start_ms: execution.start_ms,
            end_ms: execution.end_ms,
            records_in: execution.records_in,
            records_out: execution.records_out,
            failure: execution.failure,
        }
    }
}

impl TryFrom<pb::ExecutionSummary> for ExecutionSummary {
    type Error = WireError;

    fn try_from(execution: pb::ExecutionSummary) -> Result<Self, WireError> {
        Ok(Self {
            vertex: id(&execution.vertex, "execution_summary.vertex")?,
            subtask: execution.subtask,
            attempt: execution.attempt,
            state: execution_state(execution.state, "execution_summary.state")?,
            taskmanager: execution.taskmanager.map(TaskManagerId),
            host: execution.host,
            start_ms: execution.start_ms,
            end_ms: execution.end_ms,
            records_in: execution.records_in,
            records_out: execution.records_out,
            failure: execution.failure,
        })
    }
}

impl From<TaskManagerSummary> for pb::TaskManagerSummary {
    fn from(taskmanager: TaskManagerSummary) -> Self {
        let TaskManagerSummary { id, host, pid, slots, free_slots, heartbeat_age_ms, stale_commands } = taskmanager;
        Self { id: id.0, host, pid, slots, free_slots, heartbeat_age_ms, stale_commands }
    }
}

impl From<pb::TaskManagerSummary> for TaskManagerSummary {
    fn from(taskmanager: pb::TaskManagerSummary) -> Self {
        let pb::TaskManagerSummary { id, host, pid, slots, free_slots, heartbeat_age_ms, stale_commands } = taskmanager;
        Self { id: TaskManagerId(id), host, pid, slots, free_slots, heartbeat_age_ms, stale_commands }
    }
}

impl From<ClusterStatus> for pb::ClusterStatus {
    fn from(status: ClusterStatus) -> Self {
        let members = status.members.into_iter().map(|member| pb::MemberSummary {
            id: member.id.0,
            name: member.name,
            address: member.address,
            voter: member.voter,
            lag: member.lag,
        });
        Self {
            cluster: status.cluster.map(|cluster| bytes(cluster.as_bytes())),
            from: status.from.0,
            epoch: status.epoch.0,
            leader: status.leader.map(|leader| leader.0),
            applied: status.applied,
            members: members.collect(),
            own: Some(status.own.into()),
            age_ms: status.age_ms,
        }
    }
}

impl TryFrom<pb::ClusterStatus> for ClusterStatus {
    type Error = WireError;

    fn try_from(status: pb::ClusterStatus) -> Result<Self, WireError> {
        let cluster = status.cluster.as_deref();
        let members = status.members.into_iter().map(|member| MemberSummary {
            id: JobManagerId(member.id),
            name: member.name,
            address: member.address,
            voter: member.voter,
            lag: member.lag,
        });
        Ok(Self {
            cluster: cluster.map(|cluster| id::<ClusterId>(cluster, "cluster_status.cluster")).transpose()?,
            from: JobManagerId(status.from),
            epoch: LeaderEpoch(status.epoch),
            leader: status.leader.map(JobManagerId),
            applied: status.applied,
            members: members.collect(),
            own: status.own.map(Into::into).unwrap_or_default(),
            age_ms: status.age_ms,
        })
    }
}

impl From<MemberStatus> for pb::MemberStatus {
    fn from(status: MemberStatus) -> Self {
        let role = match status.role {
            MemberRole::Leader => pb::MemberRole::Leader,
            MemberRole::Follower => pb::MemberRole::Follower,
            MemberRole::Candidate => pb::MemberRole::Candidate,
            MemberRole::Learner => pb::MemberRole::Learner,
        };
        let MemberStatus { last_log, committed, snapshot, quorum_ack_ms, version, uptime_ms, .. } = status;
        Self { role: role.into(), last_log, committed, snapshot, quorum_ack_ms, version, uptime_ms }
    }
}

impl From<pb::MemberStatus> for MemberStatus {
    fn from(status: pb::MemberStatus) -> Self {
        let role = match status.role() {
            pb::MemberRole::Leader => MemberRole::Leader,
            pb::MemberRole::Candidate => MemberRole::Candidate,
            pb::MemberRole::Learner => MemberRole::Learner,
            pb::MemberRole::Follower | pb::MemberRole::Unspecified => MemberRole::Follower,
        };
        let pb::MemberStatus { last_log, committed, snapshot, quorum_ack_ms, version, uptime_ms, .. } = status;
        Self { role, last_log, committed, snapshot, quorum_ack_ms, version, uptime_ms }
    }
}

impl From<StateAge> for pb::StateAge {
    fn from(StateAge { from, applied, age_ms }: StateAge) -> Self {
        Self { from: from.0, applied, age_ms }
    }
}

impl From<pb::StateAge> for StateAge {
    fn from(pb::StateAge { from, applied, age_ms }: pb::StateAge) -> Self {
        Self { from: JobManagerId(from), applied, age_ms }
    }
}

impl From<LeadershipSummary> for pb::LeadershipSummary {
    fn from(summary: LeadershipSummary) -> Self {
        let take_over = summary.take_over.map(|take_over| pb::TakeOver {
            cause: take_over.cause.as_str().to_owned(),
            lost_ms: take_over.lost_ms,
            elected_us: take_over.elected_us,
            first_commit_us: take_over.first_commit_us,
            attached_us: take_over.attached_us,
            adopted_us: take_over.adopted_us,
            first_checkpoint_us: take_over.first_checkpoint_us,
            taskmanagers: take_over.taskmanagers,
            jobs_adopted: take_over.jobs_adopted,
            jobs_restarted: take_over.jobs_restarted,
        });
        Self { epoch: summary.epoch.0, leader: summary.leader.0, at_ms: summary.at_ms, take_over }
    }
}

impl TryFrom<pb::LeadershipSummary> for LeadershipSummary {
    type Error = WireError;

    fn try_from(summary: pb::LeadershipSummary) -> Result<Self, WireError> {
        let take_over = summary.take_over.map(|take_over| {
            let cause = ElectionCause::ALL.into_iter().find(|cause| cause.as_str() == take_over.cause);
            let unknown = || WireError::invalid("take_over.cause", format!("`{}` is none", take_over.cause));
            Ok(TakeOver {
                cause: cause.ok_or_else(unknown)?,
                lost_ms: take_over.lost_ms,
                elected_us: take_over.elected_us,
                first_commit_us: take_over.first_commit_us,
                attached_us: take_over.attached_us,
                adopted_us: take_over.adopted_us,
                first_checkpoint_us: take_over.first_checkpoint_us,
                taskmanagers: take_over.taskmanagers,
                jobs_adopted: take_over.jobs_adopted,
                jobs_restarted: take_over.jobs_restarted,
            })
        });
        Ok(Self {
            epoch: LeaderEpoch(summary.epoch),
            leader: JobManagerId(summary.leader),
            at_ms: summary.at_ms,
            take_over: take_over.transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{
        ArtifactDigest, ExecutionState, JobEdge, JobVertex, MaxParallelism, PlanRequest, RequestId, ShipStrategy,
        VertexId,
    };

    use super::*;

    const JOB: JobId = JobId::from_bytes([1; 16]);

    fn graph() -> JobGraph {
        let vertex = |number| JobVertex {
            id: VertexId::from_bytes([number; 16]),
            name: format!("vertex {number}"),
            parallelism: 2,
            max_parallelism: MaxParallelism::default_for(2),
            max_parallelism_is_set: false,
            slot_sharing_group: "default".to_owned(),
            operators: Vec::new(),
        };
        JobGraph {
            name: "job".to_owned(),
            vertices: vec![vertex(3), vertex(4)],
            edges: vec![JobEdge { source: 0, target: 1, ship: ShipStrategy::Rebalance }],
            structural_hash: u64::MAX,
            config: BTreeMap::from([("pipeline.name".to_owned(), "job".to_owned())]),
        }
    }

    fn summary(status: JobStatus) -> JobSummary {
        JobSummary {
            job: JOB,
            name: "job".to_owned(),
            status,
            start_ms: 5,
            end_ms: Some(7),
            tasks: ExecutionState::ALL.into_iter().zip(1..).collect(),
            slots_needed: 8,
            waiting_for: "needs 8 slots".to_owned(),
            failure: "because".to_owned(),
            restarts: 2,
        }
    }

    fn submission() -> SubmitJob {
        SubmitJob {
            request: RequestId::from_bytes([2; 16]),
            job: Some(JOB),
            artifact: ArtifactDigest::from_bytes([9; 32]),
            plan: PlanRequest { job: Some("words".to_owned()), args: vec!["a b".to_owned()], config: BTreeMap::new() },
            graph: graph(),
            restore: Some(RestoreSettings { path: "/s".to_owned(), allow_non_restored: true, claim: ClaimMode::Claim }),
        }
    }

    #[test]
    fn an_exception_history_comes_back_as_it_was() {
        let root = perennial_types::JobException {
            at_ms: 7,
            kind: perennial_types::ExceptionKind::TaskFailed,
            text: "why".to_owned(),
            task: Some(perennial_types::FailedTask {
                attempt: perennial_types::ExecutionAttemptId {
                    vertex: VertexId::from_bytes([1; 16]),
                    subtask: 2,
                    attempt: 3,
                },
                name: "map".to_owned(),
                taskmanager: Some(TaskManagerId("tm".to_owned())),
                endpoint: None,
            }),
        };
        let entries = vec![ExceptionEntry::new(5, root)];
        assert_eq!(exceptions_from_json(&exceptions_to_json(&entries)).unwrap(), entries);
        assert!(exceptions_from_json(b"[{}]").unwrap_err().to_string().contains("get_exceptions.entries"));
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let job = submission();
        assert_eq!(SubmitJob::try_from(pb::SubmitJobRequest::from(job.clone())), Ok(job.clone()));
        for status in JobStatus::ALL {
            let summary = summary(status);
            assert_eq!(JobSummary::try_from(pb::JobSummary::from(summary.clone())), Ok(summary));
        }
        let execution = ExecutionSummary {
            vertex: VertexId::from_bytes([3; 16]),
            subtask: 1,
            attempt: 2,
            state: ExecutionState::Failed,
            taskmanager: Some(TaskManagerId("tm-1".to_owned())),
            host: "here".to_owned(),
            start_ms: Some(0),
            end_ms: None,
            records_in: 10,
            records_out: 11,
            failure: "oops".to_owned(),
        };
        let details = JobDetails {
            summary: summary(JobStatus::Running),
            graph: graph(),
            artifact: job.artifact,
            plan: job.plan,
            executions: vec![execution],
        };
        assert_eq!(JobDetails::try_from(pb::JobDetails::from(details.clone())), Ok(details));
        let status = ClusterStatus {
            cluster: Some(ClusterId::from_bytes([6; 16])),
            from: JobManagerId(2),
            epoch: LeaderEpoch(4),
            leader: Some(JobManagerId(1)),
            applied: 99,
            members: vec![MemberSummary {
                id: JobManagerId(1),
                name: "jm-1".to_owned(),
                address: "h:1".to_owned(),
                voter: true,
                lag: Some(0),
            }],
            own: MemberStatus {
                role: MemberRole::Learner,
                last_log: 7,
                committed: 6,
                snapshot: 5,
                quorum_ack_ms: Some(4),
                version: "1".to_owned(),
                uptime_ms: 3,
            },
            age_ms: Some(12),
        };
        assert_eq!(ClusterStatus::try_from(pb::ClusterStatus::from(status.clone())), Ok(status));
        for cause in ElectionCause::ALL {
            let take_over = TakeOver {
                cause,
                lost_ms: 1,
                elected_us: 2,
                first_commit_us: 3,
                attached_us: Some(4),
                adopted_us: Some(5),
                first_checkpoint_us: None,
                taskmanagers: 6,
                jobs_adopted: 7,
                jobs_restarted: 8,
            };
            let (epoch, leader) = (LeaderEpoch(9), JobManagerId(2));
            let summary = LeadershipSummary { epoch, leader, at_ms: 10, take_over: Some(take_over) };
            assert_eq!(LeadershipSummary::try_from(pb::LeadershipSummary::from(summary)), Ok(summary));
        }
    }

    #[test]
    fn refusals_come_back_as_they_were() {
        let unavailable = [
            Unavailable::NoLeader { reason: "a".to_owned() },
            Unavailable::Store { reason: "b".to_owned() },
            Unavailable::Unreachable { reason: "c".to_owned() },
            Unavailable::NoRoom { reason: "d".to_owned() },
        ];
        let mut submit = vec![
            Ok(JOB),
            Err(SubmitJobError::UnknownArtifact { digest: ArtifactDigest::from_bytes([9; 32]) }),
            Err(SubmitJobError::Duplicate { job: JOB }),
            Err(SubmitJobError::InvalidGraph { reason: "a cycle".to_owned() }),
            Err(SubmitJobError::CannotRestore { reason: "it is damaged".to_owned() }),
        ];
        submit.extend(unavailable.iter().map(|error| Err(error.clone().into())));
        for result in submit {
            assert_eq!(Result::try_from(pb::SubmitJobResponse::from(result.clone())), Ok(result));
        }
        let mut cancel = vec![
            Ok(()),
            Err(CancelJobError::UnknownJob { job: JOB }),
            Err(CancelJobError::AlreadyEnded { job: JOB, status: JobStatus::Finished }),
        ];
        cancel.extend(unavailable.iter().map(|error| Err(error.clone().into())));
        for result in cancel {
            assert_eq!(Result::try_from(pb::CancelJobResponse::from(result.clone())), Ok(result));
        }
    }

    #[test]
    fn malformed_messages_name_the_field() {
        type Change = fn(&mut pb::SubmitJobRequest);
        let changes: [(&str, Change); 5] = [
            ("submit_job.request", |it| it.request.clear()),
            ("submit_job.job", |it| it.job = Some(vec![1; 15].into())),
            ("submit_job.artifact", |it| it.artifact = vec![0; 33].into()),
            ("submit_job.plan", |it| it.plan = None),
            ("submit_job.graph", |it| it.graph = b"{\"name\":".to_vec().into()),
        ];
        for (field, change) in changes {
            let mut message = pb::SubmitJobRequest::from(submission());
            change(&mut message);
            assert_eq!(SubmitJob::try_from(message).unwrap_err().field, field);
        }
        let mut message = pb::JobSummary::from(summary(JobStatus::Running));
        message.status = 99;
        assert_eq!(
            JobSummary::try_from(message).unwrap_err().to_string(),
            "malformed message: `job_summary.status` is not valid: 99 is no job status"
        );
    }
}
