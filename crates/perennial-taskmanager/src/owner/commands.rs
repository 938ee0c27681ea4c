//! What a leader may order, and how it is answered.

use perennial_rpc::executor::ExecutorAction;
use perennial_rpc::taskmanager::{
    Action, Command, CommandAnswer, CommandDone, CommandError, Deploy, FromTaskManager, NotifyCheckpoint,
    StartExecutor, StreamId,
};
use perennial_types::{ExecutionAttemptId, Fence, JobId};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Owner;
use super::executors::{Executor, Stage};
use crate::executor::Order;

/// Orders without an answer at most: far more than a leader sends at once. Above it commands fail.
const TICKETS_MAX: usize = 4096;

/// Whom to answer: a command's number means something only on the stream it came by, and a new leader learns the
/// outcome from the registration. So an answer is dropped when its stream has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyTo {
    stream: StreamId,
    id: u64,
}

/// An order that was forwarded to an executor.
#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) job: JobId,
    reply: ReplyTo,
    expires: Instant,
    /// Executions that hold their slots only if the order succeeds.
    deploys: Vec<ExecutionAttemptId>,
}

/// The first ticket of a process: above those of an earlier one, which an adopted executor might still answer.
pub(super) fn first_ticket() -> u64 {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since_1970.map_or(1, |time| time.as_micros() as u64)
}

fn failed<T>(reason: impl Into<String>) -> Result<T, CommandError> {
    Err(CommandError::Failed(reason.into()))
}

impl Owner {
    pub(super) fn command(&mut self, stream: StreamId, command: Command) {
        let Command { fence, id, job, action } = command;
        let reply = ReplyTo { stream, id };
        if !self.fence.admit(fence) {
            self.stale_commands += 1;
            let (seen, jobmanager) = (self.fence, self.address(stream));
            warn!(%job, jobmanager, %fence, %seen, total = self.stale_commands, "command of a deposed leader refused");
            return self.answer(reply, Err(CommandError::Stale { seen }));
        }
        debug!(%job, %fence, id, "command");
        let done = match action {
            Action::StartExecutor(start) => self.start_executor(job, start, reply),
            Action::Deploy(deploy) => self.deploy(job, fence, deploy, reply),
            Action::Cancel { attempts } => self.cancel(job, fence, attempts, reply),
            Action::StopExecutor => self.stop_executor(job, fence, reply),
            Action::TriggerCheckpoint(trigger) => match self.executors.get(&job) {
                Some(Executor { stage: Stage::Ready, .. }) => {
                    self.forward(job, fence, ExecutorAction::TriggerCheckpoint(trigger), reply, Vec::new())
                }
                _ => Some(failed(format!("job {job} has no executor here that could take a checkpoint"))),
            },
            Action::NotifyCheckpoint(notice) => self.notify_checkpoint(job, fence, notice, reply),
        };
        if let Some(result) = done {
            self.answer(reply, result);
        }
    }

    /// Starts an executor, unless it runs. `None` when the answer follows.
    fn start_executor(
        &mut self,
        job: JobId,
        start: StartExecutor,
        reply: ReplyTo,
    ) -> Option<Result<CommandDone, CommandError>> {
        if self.stopping.is_some() {
            return Some(failed("this TaskManager is shutting down"));
        }
        let identity = (start.artifact, start.structural_hash);
        let Some(executor) = self.executors.get_mut(&job) else {
            return match self.spawn_executor(job, start, vec![reply]) {
                Ok(()) => None,
                Err(reason) => Some(failed(reason)),
            };
        };
        if let Stage::Stopping { next, .. } = &mut executor.stage {
            next.get_or_insert_with(|| (start, Vec::new())).1.push(reply);
            return None;
        }
        if executor.identity != identity {
            return Some(failed(format!("job {job} runs here already, from artifact {}", executor.identity.0)));
        }
        match &mut executor.stage {
            Stage::Starting { waiting } => {
                waiting.push(reply);
                None
            }
            Stage::Ready => Some(Ok(CommandDone::ExecutorReady {
                data_address: self.ledger.data_address(job).unwrap_or_default().to_owned(),
            })),
            Stage::Adopting | Stage::Stopping { .. } => Some(failed("the executor is still being adopted")),
        }
    }

    fn deploy(
        &mut self,
        job: JobId,
        fence: Fence,
        deploy: Deploy,
        reply: ReplyTo,
    ) -> Option<Result<CommandDone, CommandError>> {
        match self.executors.get(&job) {
            Some(Executor { stage: Stage::Ready, .. }) => {}
            Some(_) => return Some(failed(format!("the executor of job {job} is not ready"))),
            None => return Some(failed(format!("job {job} has no executor here; start it first"))),
        }
        // It may have been sent when another executor was here, whose end the leader had not heard of. Its tasks would run
        // beside those the leader deploys once it has.
        let here = self.ledger.data_address(job);
        let meant = deploy.executors.iter().find(|executor| executor.taskmanager == *self.dir.id());
        if let Some(meant) = meant.filter(|meant| here != Some(meant.data_address.as_str())) {
            return Some(failed(format!("the executor of job {job} at {} is not here any more", meant.data_address)));
        }
        // A leader that did not hear of an end deploys again what has ended. That takes no slot.
        let alive: Vec<_> =
            deploy.tasks.iter().filter(|task| !self.ledger.has_ended(job, task.attempt)).cloned().collect();
        if let Err(error) = self.slots.hold(job, &alive) {
            warn!(%job, %error, "deployment refused");
            return Some(failed(error.to_string()));
        }
        self.ledger.deployed(job, &deploy.tasks);
        let deploys = alive.iter().map(|task| task.attempt).collect();
        self.forward(job, fence, ExecutorAction::Deploy(deploy), reply, deploys)
    }

    fn cancel(
        &mut self,
        job: JobId,
        fence: Fence,
        attempts: Vec<ExecutionAttemptId>,
        reply: ReplyTo,
    ) -> Option<Result<CommandDone, CommandError>> {
        match self.executors.get(&job) {
            Some(Executor { stage: Stage::Ready, .. }) => {
                let running = attempts.into_iter().filter(|attempt| !self.ledger.has_ended(job, *attempt)).collect();
                self.forward(job, fence, ExecutorAction::Cancel { attempts: running }, reply, Vec::new())
            }
            // Nothing runs there, or soon will not.
            _ => Some(Ok(CommandDone::Done)),
        }
    }

    fn notify_checkpoint(
        &mut self,
        job: JobId,
        fence: Fence,
        notice: NotifyCheckpoint,
        reply: ReplyTo,
    ) -> Option<Result<CommandDone, CommandError>> {
        self.ledger.settle(job, &notice);
        match self.executors.get(&job) {
            Some(Executor { stage: Stage::Ready, .. }) => {
                self.forward(job, fence, ExecutorAction::NotifyCheckpoint(notice), reply, Vec::new())
            }
            // Nothing runs there that had a part in one.
            _ => Some(Ok(CommandDone::Done)),
        }
    }

    fn stop_executor(&mut self, job: JobId, fence: Fence, reply: ReplyTo) -> Option<Result<CommandDone, CommandError>> {
        self.slots.release(job);
        if !self.executors.contains_key(&job) {
            self.ledger.forget(job);
            return Some(Ok(CommandDone::Done));
        }
        self.stop_one(job, Some(fence), None, Some(reply));
        None
    }

    /// Sends an order to an executor that is ready. `None` when the answer follows.
    fn forward(
        &mut self,
        job: JobId,
        fence: Fence,
        action: ExecutorAction,
        reply: ReplyTo,
        deploys: Vec<ExecutionAttemptId>,
    ) -> Option<Result<CommandDone, CommandError>> {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let expires = Instant::now() + self.settings.start_timeout;
        let entry = Ticket { job, reply, expires, deploys };
        let taken = self.tickets.len() < TICKETS_MAX
            && self
                .executors
                .get(&job)
                .is_some_and(|executor| executor.handle.order(Order::Do { fence, ticket, action }).is_ok());
        if !taken {
            self.release_undeployed(&entry);
            return Some(failed(format!("the executor of job {job} takes no more orders")));
        }
        self.tickets.insert(ticket, entry);
        None
    }

    /// An executor has answered an order.
    pub(super) fn answered(&mut self, ticket: u64, result: Result<(), CommandError>) {
        let Some(ticket) = self.tickets.remove(&ticket) else { return };
        if result.is_err() {
            self.release_undeployed(&ticket);
        }
        self.answer(ticket.reply, result.map(|()| CommandDone::Done));
    }

    /// Answers every order of a job that will not be answered any more.
    pub(super) fn fail_tickets(&mut self, job: JobId, reason: &str) {
        let orphans: Vec<u64> =
            self.tickets.iter().filter(|(_, ticket)| ticket.job == job).map(|(number, _)| *number).collect();
        for number in orphans {
            self.answered(number, failed(reason));
        }
    }

    pub(super) fn expire_tickets(&mut self, now: Instant) {
        let late: Vec<u64> =
            self.tickets.iter().filter(|(_, ticket)| ticket.expires <= now).map(|(number, _)| *number).collect();
        for number in late {
            let seconds = self.settings.start_timeout.as_secs();
            self.answered(number, failed(format!("the executor has not answered for {seconds} s")));
        }
    }

    /// Frees the slots of executions that an executor did not take and that do not run.
    fn release_undeployed(&mut self, ticket: &Ticket) {
        for attempt in &ticket.deploys {
            if !self.ledger.knows(ticket.job, *attempt) {
                self.slots.ended(ticket.job, *attempt);
            }
        }
    }

    pub(super) fn answer(&mut self, reply: ReplyTo, result: Result<CommandDone, CommandError>) {
        self.send(reply.stream, FromTaskManager::Answer(CommandAnswer { id: reply.id, result }));
    }
}
