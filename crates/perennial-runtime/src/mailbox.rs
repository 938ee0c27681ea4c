//! What the executor tells a task that runs, and sees of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use perennial_exchange::Barrier;
use perennial_types::CheckpointId;

use crate::presence::Presence;

/// What a task is told about checkpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TaskCommand {
    /// A checkpoint is to be taken: to a task whose barriers come from nowhere this is where it cuts.
    Trigger(Barrier),
    /// A checkpoint is complete and recorded.
    Completed(CheckpointId),
    /// A checkpoint is given up.
    Aborted(CheckpointId),
}

/// Commands for one task. As long as there is none, looking costs one relaxed read.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    full: AtomicBool,
    /// A few: who writes them waits for a checkpoint before the next, and of completed ones the newest says all.
    commands: Mutex<Vec<TaskCommand>>,
    /// Whether the task's thread is in the job's code, where it reads no commands.
    pub(crate) presence: Presence,
}

impl Mailbox {
    /// Leaves a command. The task's thread has to be woken afterwards.
    pub(crate) fn post(&self, command: TaskCommand) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(command, TaskCommand::Completed(_)) {
            commands.retain(|other| !matches!(other, TaskCommand::Completed(_)));
        }
        if !commands.contains(&command) {
            commands.push(command);
        }
        self.full.store(true, Ordering::Release);
    }

    /// Takes all commands, oldest first.
    #[inline]
    pub(crate) fn take(&self) -> Option<Vec<TaskCommand>> {
        if !self.full.load(Ordering::Relaxed) {
            return None;
        }
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        self.full.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *commands))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_completed_checkpoints_the_last_is_kept() {
        let mailbox = Mailbox::default();
        assert_eq!(mailbox.take(), None);
        let (aborted, completed) =
            (TaskCommand::Aborted(CheckpointId(2)), |id| TaskCommand::Completed(CheckpointId(id)));
        for command in [completed(1), aborted, aborted, completed(3)] {
            mailbox.post(command);
        }
        assert_eq!(mailbox.take(), Some(vec![aborted, completed(3)]));
        assert_eq!(mailbox.take(), None);
    }
}
