//! An executor that takes commands: messages both ways, and the times within which it has to do as it is told.

use std::collections::BTreeMap;
use std::time::Duration;

use perennial_rpc::executor::{ExecutorAction, FromExecutor, Hello, ToExecutor};
use perennial_rpc::taskmanager::{CommandError, ExecutionReport};
use perennial_types::{ExecutionAttemptId, Fence, format_duration};
use tokio::time::{Instant, Interval, MissedTickBehavior, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::files::Record;
use super::link::{Link, LinkError};
use super::memory::MemoryWatch;
use super::output::Output;
use super::process::{Ended, Process};
use super::{ADOPT_TIMEOUT, ExecutorEvent, KILL_TIMEOUT, ORDERS_MAX, Order, Sink, Supervisor, check};
use crate::artifacts::Artifact;

/// How supervision ended.
enum End {
    Lost { cause: String, own_doing: bool },
    Gone,
    Left,
}

/// An executor that takes commands, or did.
pub(super) struct Running {
    process: Process,
    pub(super) record: Record,
    /// Keeps the file from being evicted.
    _artifact: Artifact,
    output: Output,
    memory: MemoryWatch,
    /// None while the connection is broken.
    link: Option<Link>,
    hello: Option<Hello>,
    /// Highest token it may have seen.
    fence: Fence,
    /// Commands of deposed leaders it is known to have refused.
    stale_commands: u64,
    /// Orders it has not been sent, because the connection is broken.
    backlog: Vec<ToExecutor>,
    /// Until when executions that were cancelled have to end.
    cancelling: BTreeMap<ExecutionAttemptId, Instant>,
    /// Whether the executor was asked to end.
    is_stopping: bool,
    /// Until when it has to.
    stop_by: Option<Instant>,
    /// Until when a broken connection has to be up again.
    relink_by: Option<Instant>,
}

/// What a running executor's task wakes up for.
enum Wake {
    Ended(Ended),
    Said(Result<FromExecutor, LinkError>),
    Relinked(Result<(Link, Hello), LinkError>),
    Ordered(Order),
    Deadline,
    Heartbeat,
    Leave,
}

impl Running {
    /// After its first hello.
    pub(super) fn new(
        process: Process,
        record: Record,
        artifact: Artifact,
        output: Output,
        link: Link,
        hello: Hello,
    ) -> Self {
        Self {
            process,
            record,
            _artifact: artifact,
            output,
            memory: MemoryWatch::start(),
            fence: hello.fence,
            stale_commands: 0,
            link: Some(link),
            hello: Some(hello),
            backlog: Vec::new(),
            cancelling: BTreeMap::new(),
            is_stopping: false,
            stop_by: None,
            relink_by: None,
        }
    }

    /// Passes messages both ways until the executor has ended.
    pub(super) async fn supervise<S: Sink>(mut self, mut supervisor: Supervisor<S>) {
        let outcome = self.until_end(&mut supervisor).await;
        if matches!(outcome, End::Left) {
            return;
        }
        self.output.finish().await;
        supervisor.clean().await;
        let event = match outcome {
            End::Lost { cause, own_doing } => ExecutorEvent::Lost { cause, own_doing },
            End::Gone | End::Left => ExecutorEvent::Gone,
        };
        supervisor.events.tell(event).await;
    }

    async fn until_end<S: Sink>(&mut self, supervisor: &mut Supervisor<S>) -> End {
        let mut heartbeat = tokio::time::interval(supervisor.settings.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(hello) = self.hello.take() {
                let Hello { data_port, fence, executions, stale_commands, .. } = hello;
                self.fence = self.fence.max(fence);
                self.refused(supervisor, stale_commands).await;
                let executions = self.ours(executions);
                supervisor.events.tell(ExecutorEvent::Ready { data_port, executions }).await;
            }
            match self.next_wake(supervisor, &mut heartbeat).await {
                Wake::Leave => return End::Left,
                Wake::Ended(ended) => {
                    let how = match ended {
                        Ended::Code(_) => format!("{ended} without being asked to, as `std::process::exit` does"),
                        Ended::Signal(9) => format!("{ended} (SIGKILL, from outside: {})", self.memory.explain()),
                        Ended::Unknown => format!("{ended} ({})", self.memory.explain()),
                        Ended::Signal(_) => ended.to_string(),
                    };
                    return self.ended(supervisor, how, ended.is_own_doing());
                }
                Wake::Said(Ok(message)) => self.said(supervisor, message).await,
                Wake::Said(Err(error)) => self.broken(supervisor, &error),
                Wake::Relinked(Ok((link, hello))) => self.relinked(link, hello).await,
                Wake::Relinked(Err(error)) => {
                    let cause = format!("killed, because it did not answer: {error}");
                    return self.kill(supervisor, cause).await;
                }
                Wake::Ordered(Order::Do { fence, ticket, action }) => {
                    if let ExecutorAction::Cancel { attempts } = &action
                        && let Some(timeout) = self.cancellation_timeout(supervisor)
                    {
                        // Asked again it has no longer.
                        let by = Instant::now() + timeout;
                        for attempt in attempts {
                            self.cancelling.entry(*attempt).or_insert(by);
                        }
                    }
                    self.send(fence, ticket, action).await;
                }
                Wake::Ordered(Order::Stop { fence, grace }) => {
                    let by = grace.or(self.cancellation_timeout(supervisor)).map(|grace| Instant::now() + grace);
                    self.is_stopping = true;
                    self.stop_by = self.stop_by.into_iter().chain(by).min();
                    self.send(fence.unwrap_or(self.fence), 0, ExecutorAction::Stop).await;
                }
                Wake::Deadline => {
                    let late = self.cancelling.iter().min_by_key(|(_, by)| **by).map(|(attempt, _)| *attempt);
                    let cause = match (self.is_stopping, late) {
                        (false, Some(attempt)) => format!(
                            "killed, because execution {attempt} had not ended {} after it was cancelled \
                             (task.cancellation.timeout)",
                            format_duration(self.cancellation_timeout(supervisor).unwrap_or_default())
                        ),
                        _ => "killed, because it had not ended in time after it was told to".to_owned(),
                    };
                    return self.kill(supervisor, cause).await;
                }
                Wake::Heartbeat => {
                    self.memory.look();
                    self.send(self.fence, 0, ExecutorAction::Heartbeat).await;
                }
            }
        }
    }

    /// Time a cancelled task has; none when it may take any.
    fn cancellation_timeout<S: Sink>(&self, supervisor: &Supervisor<S>) -> Option<Duration> {
        let timeout = self.record.cancellation_timeout.unwrap_or(supervisor.settings.cancellation_timeout);
        (!timeout.is_zero()).then_some(timeout)
    }

    async fn next_wake<S: Sink>(&mut self, supervisor: &mut Supervisor<S>, heartbeat: &mut Interval) -> Wake {
        let deadline = self.cancelling.values().copied().chain(self.stop_by).min();
        let (record, relink_by) = (&self.record, self.relink_by);
        let is_linked = self.link.is_some();
        let link = &mut self.link;
        tokio::select! {
            // What is asked of us goes first, because an executor may talk without end. What an executor said before it
            // ended comes before that it ended.
            biased;
            () = supervisor.leave.cancelled() => Wake::Leave,
            Some(order) = supervisor.orders.recv() => Wake::Ordered(order),
            () = until(deadline) => Wake::Deadline,
            said = next(link) => Wake::Said(said),
            ended = self.process.ended() => Wake::Ended(ended),
            linked = relink(record, relink_by), if !is_linked => Wake::Relinked(linked),
            _ = heartbeat.tick(), if is_linked => Wake::Heartbeat,
        }
    }

    /// Tells how many commands the executor has refused in all, as far as that is news. An answer that was lost with its
    /// connection is among those the next hello counts.
    async fn refused<S: Sink>(&mut self, supervisor: &Supervisor<S>, total: u64) {
        let more = total.saturating_sub(self.stale_commands);
        if more > 0 {
            self.stale_commands = total;
            supervisor.events.tell(ExecutorEvent::Stale(more)).await;
        }
    }

    async fn said<S: Sink>(&mut self, supervisor: &Supervisor<S>, message: FromExecutor) {
        if let FromExecutor::Answer { result: Err(CommandError::Stale { .. }), .. } = &message {
            self.refused(supervisor, self.stale_commands + 1).await;
        }
        let event = match message {
            FromExecutor::Answer { id: 0, .. } => return,
            FromExecutor::Answer { id, result } => ExecutorEvent::Answer { ticket: id, result },
            FromExecutor::Execution(report) => match self.ours(vec![report]).pop() {
                Some(report) => ExecutorEvent::Execution(report),
                None => return,
            },
            FromExecutor::Checkpoint(report) if report.job == self.record.job => ExecutorEvent::Checkpoint(report),
            FromExecutor::Checkpoint(_) => return,
            FromExecutor::Progress(mut tasks) => {
                tasks.retain(|task| task.job == self.record.job);
                ExecutorEvent::Progress(tasks)
            }
            FromExecutor::Hello(hello) => {
                debug!(job = %self.record.job, "executor said hello again");
                self.fence = self.fence.max(hello.fence);
                return;
            }
        };
        supervisor.events.tell(event).await;
    }

    /// Reports about this job only: an executor speaks for no other. Notes which cancelled executions have ended.
    fn ours(&mut self, mut reports: Vec<ExecutionReport>) -> Vec<ExecutionReport> {
        reports.retain(|report| report.job == self.record.job);
        for report in &mut reports {
            report.checkpoints.retain(|checkpoint| checkpoint.job == self.record.job);
        }
        for report in reports.iter().filter(|report| report.state.is_terminal()) {
            self.cancelling.remove(&report.attempt);
        }
        reports
    }

    fn broken<S>(&mut self, supervisor: &Supervisor<S>, error: &LinkError) {
        self.link = None;
        self.relink_by = Some(Instant::now() + supervisor.settings.start_timeout);
        debug!(job = %self.record.job, %error, "connection to executor broken");
    }

    async fn relinked(&mut self, link: Link, hello: Hello) {
        info!(job = %self.record.job, "connected to executor again");
        self.relink_by = None;
        self.link = Some(link);
        self.hello = Some(hello);
        for message in std::mem::take(&mut self.backlog) {
            self.send(message.fence, message.id, message.action).await;
        }
    }

    /// Sends a message now, or once the connection is up again. Heartbeats are not worth keeping.
    async fn send(&mut self, fence: Fence, id: u64, action: ExecutorAction) {
        self.fence = self.fence.max(fence);
        let message = ToExecutor { fence, id, action };
        if let Some(link) = &mut self.link {
            match link.send(message.clone()).await {
                Ok(()) => return,
                Err(error) => {
                    debug!(job = %self.record.job, %error, "executor takes no messages");
                    self.link = None;
                    self.relink_by.get_or_insert(Instant::now() + ADOPT_TIMEOUT);
                }
            }
        }
        if !matches!(message.action, ExecutorAction::Heartbeat) && self.backlog.len() < ORDERS_MAX {
            self.backlog.push(message);
        }
    }

    fn ended<S: Sink>(&self, supervisor: &Supervisor<S>, how: impl std::fmt::Display, own_doing: bool) -> End {
        // Whatever it started and left behind ends with it.
        self.process.kill();
        if self.is_stopping {
            info!(job = %self.record.job, pid = self.record.pid, "executor stopped");
            return End::Gone;
        }
        let cause = format!("{how}{}", supervisor.last_words());
        warn!(job = %self.record.job, pid = self.record.pid, cause, "executor lost");
        End::Lost { cause, own_doing }
    }

    async fn kill<S: Sink>(&mut self, supervisor: &Supervisor<S>, cause: String) -> End {
        if self.is_stopping {
            warn!(job = %self.record.job, pid = self.record.pid, cause, "executor did not stop by itself");
        }
        self.process.kill();
        if timeout(KILL_TIMEOUT, self.process.ended()).await.is_err() {
            warn!(job = %self.record.job, pid = self.record.pid, "executor was killed and has not ended");
        }
        self.ended(supervisor, cause, false)
    }
}

/// The next message of a connection; never, without one.
async fn next(link: &mut Option<Link>) -> Result<FromExecutor, LinkError> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

/// Resolves at a time, if there is one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(by) => sleep_until(by).await,
        None => std::future::pending().await,
    }
}

/// Connects again to the executor that was started.
async fn relink(record: &Record, by: Option<Instant>) -> Result<(Link, Hello), LinkError> {
    let limit = by.map_or(ADOPT_TIMEOUT, |by| by.saturating_duration_since(Instant::now()));
    let (link, hello) = Link::open(&record.socket, limit).await?;
    check(&hello, record).map_err(LinkError::Protocol)?;
    Ok((link, hello))
}
