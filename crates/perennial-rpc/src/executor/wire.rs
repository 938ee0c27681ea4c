//! The executor conversation's messages to and from the wire.

use super::{ExecutorAction, FromExecutor, Hello, ToExecutor};
use crate::taskmanager::wire::{all, each, raw, required};
use crate::wire::{WireError, id, pb};

impl From<FromExecutor> for pb::ExecutorMessage {
    fn from(message: FromExecutor) -> Self {
        use pb::executor_message::Message;
        let message = match message {
            FromExecutor::Hello(hello) => Message::Hello(hello.into()),
            FromExecutor::Answer { id, result } => {
                Message::Answer(pb::ExecutorAnswer { id, error: result.err().map(Into::into) })
            }
            FromExecutor::Execution(report) => Message::Execution(report.into()),
            FromExecutor::Progress(tasks) => Message::Progress(pb::ProgressReport { tasks: all(tasks) }),
            FromExecutor::Checkpoint(report) => Message::Checkpoint(report.into()),
        };
        Self { message: Some(message) }
    }
}

impl TryFrom<pb::ExecutorMessage> for FromExecutor {
    type Error = WireError;

    fn try_from(message: pb::ExecutorMessage) -> Result<Self, WireError> {
        use pb::executor_message::Message;
        Ok(match required(message.message, "message")? {
            Message::Hello(hello) => Self::Hello(hello.try_into()?),
            Message::Answer(pb::ExecutorAnswer { id, error: None }) => Self::Answer { id, result: Ok(()) },
            Message::Answer(pb::ExecutorAnswer { id, error: Some(error) }) => {
                Self::Answer { id, result: Err(error.try_into()?) }
            }
            Message::Execution(report) => Self::Execution(report.try_into()?),
            Message::Progress(progress) => Self::Progress(each(progress.tasks)?),
            Message::Checkpoint(report) => Self::Checkpoint(report.try_into()?),
        })
    }
}

impl From<Hello> for pb::ExecutorHello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            job: raw(hello.job.as_bytes()),
            pid: hello.pid,
            data_port: hello.data_port.into(),
            fence: Some(hello.fence.into()),
            executions: all(hello.executions),
            stale_commands: hello.stale_commands,
        }
    }
}

impl TryFrom<pb::ExecutorHello> for Hello {
    type Error = WireError;

    fn try_from(hello: pb::ExecutorHello) -> Result<Self, WireError> {
        Ok(Self {
            protocol: hello.protocol,
            job: id(&hello.job, "hello.job")?,
            pid: hello.pid,
            data_port: u16::try_from(hello.data_port)
                .map_err(|_| WireError::invalid("hello.data_port", format_args!("{} is no port", hello.data_port)))?,
            fence: required(hello.fence, "hello.fence")?.into(),
            executions: each(hello.executions)?,
            stale_commands: hello.stale_commands,
        })
    }
}

impl From<ToExecutor> for pb::ExecutorCommand {
    fn from(command: ToExecutor) -> Self {
        use pb::executor_command::Action as Wire;
        let action = match command.action {
            ExecutorAction::Deploy(deploy) => Wire::Deploy(deploy.into()),
            ExecutorAction::Cancel { attempts } => Wire::Cancel(pb::CancelExecutions { attempts: all(attempts) }),
            ExecutorAction::Stop => Wire::Stop(pb::StopAll {}),
            ExecutorAction::Heartbeat => Wire::Heartbeat(pb::ExecutorHeartbeat {}),
            ExecutorAction::TriggerCheckpoint(trigger) => Wire::TriggerCheckpoint(trigger.into()),
            ExecutorAction::NotifyCheckpoint(notice) => Wire::NotifyCheckpoint(notice.into()),
        };
        Self { fence: Some(command.fence.into()), id: command.id, action: Some(action) }
    }
}

impl TryFrom<pb::ExecutorCommand> for ToExecutor {
    type Error = WireError;

    fn try_from(command: pb::ExecutorCommand) -> Result<Self, WireError> {
        use pb::executor_command::Action as Wire;
        let action = match required(command.action, "command.action")? {
            Wire::Deploy(deploy) => ExecutorAction::Deploy(deploy.try_into()?),
            Wire::Cancel(cancel) => ExecutorAction::Cancel { attempts: each(cancel.attempts)? },
            Wire::Stop(pb::StopAll {}) => ExecutorAction::Stop,
            Wire::Heartbeat(pb::ExecutorHeartbeat {}) => ExecutorAction::Heartbeat,
            Wire::TriggerCheckpoint(trigger) => ExecutorAction::TriggerCheckpoint(trigger.try_into()?),
            Wire::NotifyCheckpoint(notice) => ExecutorAction::NotifyCheckpoint(notice.try_into()?),
        };
        Ok(Self { fence: required(command.fence, "command.fence")?.into(), id: command.id, action })
    }
}
