//! The TaskManager conversation's messages to and from the wire.

mod checkpoint;

use perennial_types::{JobManagerId, LeaderEpoch, MaxParallelism, SlotIndex, TaskManagerId};

use super::{
    Action, Command, CommandAnswer, CommandDone, CommandError, Deploy, ExecutionReport, ExecutorAddress,
    ExecutorReport, FromTaskManager, Leadership, Registration, StartExecutor, TaskDeployment, TaskPlacement,
    TaskProgress, ToTaskManager, VertexShape,
};
use crate::wire::{WireError, execution_state, id, pb};

/// A field that has to be there.
pub(crate) fn required<T>(value: Option<T>, field: &'static str) -> Result<T, WireError> {
    value.ok_or_else(|| WireError::missing(field))
}

/// Converts every element, or stops at the first that is not valid.
pub(crate) fn each<T, U: TryFrom<T, Error = WireError>>(items: Vec<T>) -> Result<Vec<U>, WireError> {
    items.into_iter().map(U::try_from).collect()
}

/// Converts every element, which cannot fail.
pub(crate) fn all<T: Into<U>, U>(items: Vec<T>) -> Vec<U> {
    items.into_iter().map(Into::into).collect()
}

/// The bytes of an id.
pub(crate) fn raw<const N: usize>(bytes: &[u8; N]) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(bytes)
}

fn text(value: String, field: &'static str) -> Result<String, WireError> {
    if value.is_empty() { Err(WireError::missing(field)) } else { Ok(value) }
}

impl From<FromTaskManager> for pb::TaskManagerMessage {
    fn from(message: FromTaskManager) -> Self {
        use pb::task_manager_message::Message;
        let message = match message {
            FromTaskManager::Register(registration) => Message::Register(registration.into()),
            FromTaskManager::Heartbeat { from, stale_commands } => {
                let taskmanager = from.map_or_else(String::new, |id| id.0);
                Message::Heartbeat(pb::TaskManagerHeartbeat { stale_commands, taskmanager })
            }
            FromTaskManager::Answer(answer) => Message::Answer(answer.into()),
            FromTaskManager::Execution(report) => Message::Execution(report.into()),
            FromTaskManager::Progress(tasks) => Message::Progress(pb::ProgressReport { tasks: all(tasks) }),
            FromTaskManager::ExecutorLost { job, cause, own_doing } => {
                Message::ExecutorLost(pb::ExecutorLost { job: raw(job.as_bytes()), cause, own_doing })
            }
            FromTaskManager::Checkpoint(report) => Message::Checkpoint(report.into()),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<pb::TaskManagerMessage> for FromTaskManager {
    type Error = WireError;

    fn try_from(message: pb::TaskManagerMessage) -> Result<Self, WireError> {
        use pb::task_manager_message::Message;
        Ok(match required(message.message, "message")? {
            Message::Register(registration) => Self::Register(registration.try_into()?),
            Message::Heartbeat(pb::TaskManagerHeartbeat { stale_commands, taskmanager }) => {
                let from = (!taskmanager.is_empty()).then_some(TaskManagerId(taskmanager));
                Self::Heartbeat { from, stale_commands }
            }
            Message::Answer(answer) => Self::Answer(answer.try_into()?),
            Message::Execution(report) => Self::Execution(report.try_into()?),
            Message::Progress(progress) => Self::Progress(each(progress.tasks)?),
            Message::ExecutorLost(lost) => Self::ExecutorLost {
                job: id(&lost.job, "executor_lost.job")?,
                cause: lost.cause,
                own_doing: lost.own_doing,
            },
            Message::Checkpoint(report) => Self::Checkpoint(report.try_into()?),
        })
    }
}

impl From<Registration> for pb::Registration {
    fn from(registration: Registration) -> Self {
        Self {
            cluster: registration.cluster.map(|cluster| raw(cluster.as_bytes())),
            id: registration.id.0,
            incarnation: raw(registration.incarnation.as_bytes()),
            host: registration.host,
            slots: registration.slots,
            target: registration.target,
            pid: registration.pid,
            executors: all(registration.executors),
        }
    }
}

impl TryFrom<pb::Registration> for Registration {
    type Error = WireError;

    fn try_from(registration: pb::Registration) -> Result<Self, WireError> {
        if registration.slots == 0 {
            return Err(WireError::invalid("register.slots", "a TaskManager has at least one slot"));
        }
        Ok(Self {
            cluster: registration.cluster.map(|cluster| id(&cluster, "register.cluster")).transpose()?,
            id: TaskManagerId(text(registration.id, "register.id")?),
            incarnation: id(&registration.incarnation, "register.incarnation")?,
            host: text(registration.host, "register.host")?,
            slots: registration.slots,
            target: registration.target,
            pid: registration.pid,
            executors: each(registration.executors)?,
        })
    }
}

impl From<ExecutorReport> for pb::ExecutorReport {
    fn from(report: ExecutorReport) -> Self {
        Self { job: raw(report.job.as_bytes()), data_address: report.data_address, executions: all(report.executions) }
    }
}

impl TryFrom<pb::ExecutorReport> for ExecutorReport {
    type Error = WireError;

    fn try_from(report: pb::ExecutorReport) -> Result<Self, WireError> {
        Ok(Self {
            job: id(&report.job, "executor.job")?,
            data_address: text(report.data_address, "executor.data_address")?,
            executions: each(report.executions)?,
        })
    }
}

impl From<ExecutionReport> for pb::ExecutionReport {
    fn from(report: ExecutionReport) -> Self {
        Self {
            job: raw(report.job.as_bytes()),
            attempt: Some(report.attempt.into()),
            state: pb::ExecutionState::from(report.state).into(),
            failure: report.failure,
            progress: report.progress.map(Into::into),
            peer_lost: report.peer_lost,
            start_ms: report.start_ms,
            checkpoints: all(report.checkpoints),
            ended: report.ended,
        }
    }
}

impl TryFrom<pb::ExecutionReport> for ExecutionReport {
    type Error = WireError;

    fn try_from(report: pb::ExecutionReport) -> Result<Self, WireError> {
        Ok(Self {
            job: id(&report.job, "execution.job")?,
            attempt: required(report.attempt, "execution.attempt")?.try_into()?,
            state: execution_state(report.state, "execution.state")?,
            failure: report.failure,
            progress: report.progress.map(TryInto::try_into).transpose()?,
            peer_lost: report.peer_lost,
            start_ms: report.start_ms,
            checkpoints: each(report.checkpoints)?,
            ended: report.ended,
        })
    }
}

impl From<TaskProgress> for pb::TaskProgress {
    fn from(progress: TaskProgress) -> Self {
        Self {
            job: raw(progress.job.as_bytes()),
            attempt: Some(progress.attempt.into()),
            records_in: progress.records_in,
            records_out: progress.records_out,
            bytes_in: progress.bytes_in,
            bytes_out: progress.bytes_out,
            busy_ms: progress.busy_ms,
            back_pressured_ms: progress.back_pressured_ms,
        }
    }
}

impl TryFrom<pb::TaskProgress> for TaskProgress {
    type Error = WireError;

    fn try_from(progress: pb::TaskProgress) -> Result<Self, WireError> {
        Ok(Self {
            job: id(&progress.job, "progress.job")?,
            attempt: required(progress.attempt, "progress.attempt")?.try_into()?,
            records_in: progress.records_in,
            records_out: progress.records_out,
            bytes_in: progress.bytes_in,
            bytes_out: progress.bytes_out,
            busy_ms: progress.busy_ms,
            back_pressured_ms: progress.back_pressured_ms,
        })
    }
}

impl From<ToTaskManager> for pb::JobManagerMessage {
    fn from(message: ToTaskManager) -> Self {
        use pb::job_manager_message::Message;
        let message = match message {
            ToTaskManager::Leadership(leadership) => Message::Leadership(leadership.into()),
            ToTaskManager::Registered { cluster } => {
                Message::Registered(pb::Registered { cluster: raw(cluster.as_bytes()) })
            }
            ToTaskManager::Refused { reason } => Message::Refused(pb::RegistrationRefused { reason }),
            ToTaskManager::Heartbeat => Message::Heartbeat(pb::JobManagerHeartbeat {}),
            ToTaskManager::Command(command) => Message::Command(command.into()),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<pb::JobManagerMessage> for ToTaskManager {
    type Error = WireError;

    fn try_from(message: pb::JobManagerMessage) -> Result<Self, WireError> {
        use pb::job_manager_message::Message;
        Ok(match required(message.message, "message")? {
            Message::Leadership(leadership) => Self::Leadership(leadership.try_into()?),
            Message::Registered(registered) => {
                Self::Registered { cluster: id(&registered.cluster, "registered.cluster")? }
            }
            Message::Refused(refused) => Self::Refused { reason: refused.reason },
            Message::Heartbeat(pb::JobManagerHeartbeat {}) => Self::Heartbeat,
            Message::Command(command) => Self::Command(command.try_into()?),
        })
    }
}

impl From<Leadership> for pb::Leadership {
    fn from(leadership: Leadership) -> Self {
        Self {
            cluster: leadership.cluster.map(|cluster| raw(cluster.as_bytes())),
            from: leadership.from.0,
            epoch: leadership.epoch.0,
            leader: leadership.leader.map(|leader| leader.0),
            leader_address: leadership.leader_address,
            jobmanagers: leadership.jobmanagers,
        }
    }
}

impl TryFrom<pb::Leadership> for Leadership {
    type Error = WireError;

    fn try_from(leadership: pb::Leadership) -> Result<Self, WireError> {
        Ok(Self {
            cluster: leadership.cluster.map(|cluster| id(&cluster, "leadership.cluster")).transpose()?,
            from: JobManagerId(leadership.from),
            epoch: LeaderEpoch(leadership.epoch),
            leader: leadership.leader.map(JobManagerId),
            leader_address: leadership.leader_address,
            jobmanagers: leadership.jobmanagers,
        })
    }
}

impl From<Command> for pb::TaskManagerCommand {
    fn from(command: Command) -> Self {
        use pb::task_manager_command::Action as Wire;
        let action = match command.action {
            Action::StartExecutor(start) => Wire::StartExecutor(start.into()),
            Action::Deploy(deploy) => Wire::Deploy(deploy.into()),
            Action::Cancel { attempts } => Wire::Cancel(pb::CancelExecutions { attempts: all(attempts) }),
            Action::StopExecutor => Wire::StopExecutor(pb::StopExecutor {}),
            Action::TriggerCheckpoint(trigger) => Wire::TriggerCheckpoint(trigger.into()),
            Action::NotifyCheckpoint(notice) => Wire::NotifyCheckpoint(notice.into()),
        };
        Self {
            fence: Some(command.fence.into()),
            id: command.id,
            job: raw(command.job.as_bytes()),
            action: Some(action),
        }
    }
}

impl TryFrom<pb::TaskManagerCommand> for Command {
    type Error = WireError;

    fn try_from(command: pb::TaskManagerCommand) -> Result<Self, WireError> {
        use pb::task_manager_command::Action as Wire;
        let action = match required(command.action, "command.action")? {
            Wire::StartExecutor(start) => Action::StartExecutor(start.try_into()?),
            Wire::Deploy(deploy) => Action::Deploy(deploy.try_into()?),
            Wire::Cancel(cancel) => Action::Cancel { attempts: each(cancel.attempts)? },
            Wire::StopExecutor(pb::StopExecutor {}) => Action::StopExecutor,
            Wire::TriggerCheckpoint(trigger) => Action::TriggerCheckpoint(trigger.try_into()?),
            Wire::NotifyCheckpoint(notice) => Action::NotifyCheckpoint(notice.try_into()?),
        };
        Ok(Self {
            fence: required(command.fence, "command.fence")?.into(),
            id: command.id,
            job: id(&command.job, "command.job")?,
            action,
        })
    }
}

impl From<StartExecutor> for pb::StartExecutor {
    fn from(start: StartExecutor) -> Self {
        Self {
            artifact: raw(start.artifact.as_bytes()),
            artifact_size: start.artifact_size,
            artifact_name: start.artifact_name,
            request: Some(start.request.into()),
            structural_hash: start.structural_hash,
            config: start.config.into_iter().collect(),
        }
    }
}

impl TryFrom<pb::StartExecutor> for StartExecutor {
    type Error = WireError;

    fn try_from(start: pb::StartExecutor) -> Result<Self, WireError> {
        Ok(Self {
            artifact: id(&start.artifact, "start_executor.artifact")?,
            artifact_size: start.artifact_size,
            artifact_name: start.artifact_name,
            request: required(start.request, "start_executor.request")?.into(),
            structural_hash: start.structural_hash,
            config: start.config.into_iter().collect(),
        })
    }
}

impl From<Deploy> for pb::Deploy {
    fn from(deploy: Deploy) -> Self {
        Self {
            tasks: all(deploy.tasks),
            placement: all(deploy.placement),
            executors: all(deploy.executors),
            vertices: all(deploy.vertices),
        }
    }
}

impl TryFrom<pb::Deploy> for Deploy {
    type Error = WireError;

    fn try_from(deploy: pb::Deploy) -> Result<Self, WireError> {
        let deploy = Self {
            tasks: each(deploy.tasks)?,
            placement: each(deploy.placement)?,
            executors: all(deploy.executors),
            vertices: each(deploy.vertices)?,
        };
        let executors = deploy.executors.len();
        match deploy.placement.iter().find(|place| place.executor as usize >= executors) {
            Some(place) => Err(WireError::invalid(
                "deploy.placement.executor",
                format_args!("{} of {executors} executors", place.executor),
            )),
            None => Ok(deploy),
        }
    }
}

impl From<VertexShape> for pb::VertexShape {
    fn from(shape: VertexShape) -> Self {
        Self {
            vertex: raw(shape.vertex.as_bytes()),
            parallelism: shape.parallelism,
            max_parallelism: shape.max_parallelism.get(),
        }
    }
}

impl TryFrom<pb::VertexShape> for VertexShape {
    type Error = WireError;

    fn try_from(shape: pb::VertexShape) -> Result<Self, WireError> {
        let max_parallelism = MaxParallelism::try_from(shape.max_parallelism);
        Ok(Self {
            vertex: id(&shape.vertex, "deploy.vertices.vertex")?,
            parallelism: shape.parallelism,
            max_parallelism: max_parallelism
                .map_err(|error| WireError::invalid("deploy.vertices.max_parallelism", error))?,
        })
    }
}

impl From<TaskDeployment> for pb::TaskDeployment {
    fn from(task: TaskDeployment) -> Self {
        Self {
            attempt: Some(task.attempt.into()),
            slot: task.slot.0,
            allocation: raw(task.allocation.as_bytes()),
            restore: task.restore.map(Into::into),
        }
    }
}

impl TryFrom<pb::TaskDeployment> for TaskDeployment {
    type Error = WireError;

    fn try_from(task: pb::TaskDeployment) -> Result<Self, WireError> {
        Ok(Self {
            attempt: required(task.attempt, "deploy.tasks.attempt")?.try_into()?,
            slot: SlotIndex(task.slot),
            allocation: id(&task.allocation, "deploy.tasks.allocation")?,
            restore: task.restore.map(TryInto::try_into).transpose()?,
        })
    }
}

impl From<TaskPlacement> for pb::TaskPlacement {
    fn from(place: TaskPlacement) -> Self {
        Self { attempt: Some(place.attempt.into()), executor: place.executor }
    }
}

impl TryFrom<pb::TaskPlacement> for TaskPlacement {
    type Error = WireError;

    fn try_from(place: pb::TaskPlacement) -> Result<Self, WireError> {
        let attempt = required(place.attempt, "deploy.placement.attempt")?.try_into()?;
        Ok(Self { attempt, executor: place.executor })
    }
}

impl From<ExecutorAddress> for pb::ExecutorAddress {
    fn from(address: ExecutorAddress) -> Self {
        Self { taskmanager: address.taskmanager.0, data_address: address.data_address }
    }
}

impl From<pb::ExecutorAddress> for ExecutorAddress {
    fn from(address: pb::ExecutorAddress) -> Self {
        Self { taskmanager: TaskManagerId(address.taskmanager), data_address: address.data_address }
    }
}

impl From<CommandAnswer> for pb::CommandAnswer {
    fn from(answer: CommandAnswer) -> Self {
        use pb::command_answer::Result as Wire;
        let result = match answer.result {
            Ok(CommandDone::ExecutorReady { data_address }) => Wire::ExecutorReady(pb::ExecutorReady { data_address }),
            Ok(CommandDone::Done) => Wire::Done(pb::CommandDone {}),
            Err(error) => Wire::Error(error.into()),
        };
        Self { id: answer.id, result: Some(result) }
    }
}

impl TryFrom<pb::CommandAnswer> for CommandAnswer {
    type Error = WireError;

    fn try_from(answer: pb::CommandAnswer) -> Result<Self, WireError> {
        use pb::command_answer::Result as Wire;
        let result = match required(answer.result, "answer.result")? {
            Wire::ExecutorReady(ready) => {
                Ok(CommandDone::ExecutorReady { data_address: text(ready.data_address, "answer.data_address")? })
            }
            Wire::Done(pb::CommandDone {}) => Ok(CommandDone::Done),
            Wire::Error(error) => Err(error.try_into()?),
        };
        Ok(Self { id: answer.id, result })
    }
}

impl From<CommandError> for pb::CommandError {
    fn from(error: CommandError) -> Self {
        use pb::command_error::Error as Wire;
        let error = match error {
            CommandError::Stale { seen } => Wire::Stale(seen.into()),
            CommandError::Failed(reason) => Wire::Failed(reason),
        };
        Self { error: Some(error) }
    }
}

impl TryFrom<pb::CommandError> for CommandError {
    type Error = WireError;

    fn try_from(error: pb::CommandError) -> Result<Self, WireError> {
        use pb::command_error::Error as Wire;
        Ok(match required(error.error, "answer.error")? {
            Wire::Stale(seen) => Self::Stale { seen: seen.into() },
            Wire::Failed(reason) => Self::Failed(reason),
        })
    }
}
