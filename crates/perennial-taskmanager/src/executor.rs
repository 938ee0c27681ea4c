//! One executor: a task that owns its process, its connection and its files from start, or adoption, to the end.
//!
//! ```text
//! start ──> starting ──> ready ──────────────> lost      it ended by itself, or had to be killed
//!               │          │ ▲
//! adopt ────────┘          │ └ reconnect       the process lives, its connection broke
//!               │          ▼
//!               └──────> stopping ───────────> gone      it was asked to end
//! ```
//! The process outlives this task when the TaskManager is told to leave its executors running; a later TaskManager
//! adopts it. Whatever happens otherwise, when the task ends the process has ended and its directory is removed.

mod files;
mod link;
mod output;
mod process;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_rpc::executor::{ExecutorAction, ExecutorSpec, FromExecutor, Hello, ToExecutor};
use perennial_rpc::taskmanager::{CommandError, ExecutionReport, StartExecutor, TaskProgress};
use perennial_types::{ClusterId, ExecutionAttemptId, Fence, JobId, ProtocolRange, TaskManagerId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::artifacts::{Artifact, ArtifactCache};
use crate::settings::Settings;
pub(crate) use files::{ExecutorFiles, Record};
use link::Link;
use output::{Begin, Output};
pub(crate) use process::Process;

/// Orders waiting for one executor. A leader sends a handful per job and failover; more are answered with an error.
const ORDERS_MAX: usize = 256;

/// Time a process has to end after it was killed: none is needed, unless the kernel is stuck in its I/O.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time an executor that an earlier TaskManager started has to answer. It is up already.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);

/// What the owner tells an executor's task.
#[derive(Debug)]
pub(crate) enum Order {
    /// Forward to the executor; its answer comes back with the ticket.
    Do {
        /// Who orders it.
        fence: Fence,
        /// Names the answer.
        ticket: u64,
        /// Deploy or cancel.
        action: ExecutorAction,
    },
    /// End it, in good order if it manages that in time.
    Stop {
        /// Who orders it.
        fence: Fence,
        /// Time it has.
        grace: Duration,
    },
}

/// What an executor's task tells the owner. After one of the last three there is nothing more to come.
#[derive(Debug)]
pub(crate) enum ExecutorEvent {
    /// It takes commands, for the first time or again.
    Ready {
        /// Port of its data listener.
        data_port: u16,
        /// Highest fencing token it has seen.
        fence: Fence,
        /// What it runs.
        executions: Vec<ExecutionReport>,
    },
    /// It has answered an order.
    Answer {
        /// The order's ticket.
        ticket: u64,
        /// What became of it.
        result: Result<(), CommandError>,
    },
    /// An execution changed its state.
    Execution(ExecutionReport),
    /// Counters of its executions.
    Progress(Vec<TaskProgress>),
    /// It never took commands.
    NotStarted {
        /// Why.
        cause: String,
    },
    /// It ended without being asked to.
    Lost {
        /// How.
        cause: String,
    },
    /// It was asked to end, and has.
    Gone,
}

/// Where events go.
pub(crate) trait Sink: Send + 'static {
    /// Delivers an event; waits while the owner is behind.
    fn tell(&self, event: ExecutorEvent) -> impl Future<Output = ()> + Send;
}

/// How an executor begins.
#[derive(Debug)]
pub(crate) enum Origin {
    /// Fetch the artifact and start it.
    Start {
        /// What to run.
        start: Box<StartExecutor>,
        /// Its data port; 0 takes a free one.
        data_port: u16,
        /// JobManagers that may have the artifact, the leader first.
        jobmanagers: Vec<String>,
        /// The cluster it works for.
        cluster: Option<ClusterId>,
    },
    /// An earlier TaskManager started it, and it is alive.
    Adopt {
        /// The process.
        process: Box<Process>,
        /// Who it is.
        record: Box<Record>,
    },
}

/// Reaches an executor's task.
#[derive(Debug)]
pub(crate) struct ExecutorHandle {
    orders: mpsc::Sender<Order>,
}

impl ExecutorHandle {
    /// Hands over an order, or gives it back when too many wait or the task has ended.
    pub(crate) fn order(&self, order: Order) -> Result<(), Order> {
        self.orders.try_send(order).map_err(|error| error.into_inner())
    }
}

/// All that an executor's task needs.
#[derive(Debug)]
pub(crate) struct Supervisor<S> {
    job: JobId,
    taskmanager: TaskManagerId,
    settings: Arc<Settings>,
    cache: ArtifactCache,
    files: ExecutorFiles,
    events: S,
    orders: mpsc::Receiver<Order>,
    /// Ends this task and leaves the process alone.
    leave: CancellationToken,
}

/// How supervision ended, when it did not fail to start.
enum End {
    Lost(String),
    Gone,
    Left,
}

/// Why an executor does not take commands.
enum StartEnd {
    Failed(String),
    Stopped,
    Left,
}

impl<S: Sink> Supervisor<S> {
    /// A task for the executor of `job`; run it with [`run`](Self::run).
    pub(crate) fn new(
        job: JobId,
        taskmanager: TaskManagerId,
        settings: Arc<Settings>,
        cache: ArtifactCache,
        files: ExecutorFiles,
        events: S,
        leave: CancellationToken,
    ) -> (Self, ExecutorHandle) {
        let (sender, orders) = mpsc::channel(ORDERS_MAX);
        let supervisor = Self { job, taskmanager, settings, cache, files, events, orders, leave };
        (supervisor, ExecutorHandle { orders: sender })
    }

    /// Supervises until the end.
    pub(crate) async fn run(mut self, origin: Origin) {
        let adopted = matches!(origin, Origin::Adopt { .. });
        let started = match origin {
            Origin::Start { start, data_port, jobmanagers, cluster } => {
                self.start(*start, data_port, jobmanagers, cluster).await
            }
            Origin::Adopt { process, record } => self.adopt(*process, *record).await,
        };
        match started {
            Ok(running) => running.supervise(self).await,
            Err(StartEnd::Left) => {}
            Err(end) => {
                self.clean().await;
                self.events
                    .tell(match end {
                        StartEnd::Failed(cause) if adopted => ExecutorEvent::Lost { cause },
                        StartEnd::Failed(cause) => ExecutorEvent::NotStarted { cause },
                        StartEnd::Stopped | StartEnd::Left => ExecutorEvent::Gone,
                    })
                    .await;
            }
        }
    }

    async fn start(
        &mut self,
        start: StartExecutor,
        data_port: u16,
        jobmanagers: Vec<String>,
        cluster: Option<ClusterId>,
    ) -> Result<Running, StartEnd> {
        let begun = Instant::now();
        let fetch = self.cache.get(start.artifact, start.artifact_size, &jobmanagers);
        let artifact = tokio::select! {
            fetched = fetch => fetched.map_err(|error| StartEnd::Failed(with_cause(&error)))?,
            end = stopped(&mut self.orders, &self.leave) => return Err(end),
        };
        let mut config = self.settings.executor_config.clone();
        config.extend(start.config);
        let spec = ExecutorSpec {
            job: self.job,
            socket: self.files.socket(),
            bind_host: self.settings.bind_host.clone(),
            host: self.settings.host.clone(),
            data_port,
            taskmanager: self.taskmanager.0.clone(),
            request: start.request,
            structural_hash: start.structural_hash,
            config,
        };
        let failed = |error: std::io::Error| {
            StartEnd::Failed(format!("executor of `{}` not started: {error}", start.artifact_name))
        };
        self.files.prepare(&spec).map_err(failed)?;
        let spawned = Process::spawn(artifact.path(), &self.files.spec(), &self.files.stdout()).await;
        let process = spawned.map_err(failed)?;
        let record = Record {
            job: self.job,
            pid: process.pid(),
            start_ticks: process.start_ticks(),
            socket: spec.socket,
            artifact: start.artifact,
            structural_hash: start.structural_hash,
            cluster,
        };
        if let Err(error) = self.files.write_record(&record) {
            end(process).await;
            return Err(failed(error));
        }
        let running = self.link(process, record, artifact, self.settings.start_timeout, Begin::Start).await?;
        let elapsed_ms = begun.elapsed().as_millis() as u64;
        info!(job = %self.job, pid = running.record.pid, elapsed_ms, "executor started");
        Ok(running)
    }

    async fn adopt(&mut self, process: Process, record: Record) -> Result<Running, StartEnd> {
        let artifact = self.cache.lend(record.artifact);
        let running = self.link(process, record, artifact, ADOPT_TIMEOUT, Begin::End).await?;
        info!(job = %self.job, pid = running.record.pid, "executor adopted");
        Ok(running)
    }

    /// Waits until the executor of a process takes commands. When it does not, the process is ended.
    async fn link(
        &mut self,
        mut process: Process,
        record: Record,
        artifact: Artifact,
        limit: Duration,
        begin: Begin,
    ) -> Result<Running, StartEnd> {
        let failure = tokio::select! {
            linked = Link::open(&record.socket, limit) => match linked {
                Ok((link, hello)) => match check(&hello, &record) {
                    Ok(()) => {
                        let output = Output::follow(self.job, self.files.stdout(), begin);
                        return Ok(Running::new(process, record, artifact, output, link, hello));
                    }
                    Err(reason) => StartEnd::Failed(format!("executor refused: {reason}")),
                },
                Err(error) => StartEnd::Failed(format!("executor does not answer: {error}{}", self.last_words())),
            },
            ended = process.ended() => return Err(StartEnd::Failed(format!("executor {ended}{}", self.last_words()))),
            end = stopped(&mut self.orders, &self.leave) => end,
        };
        if !matches!(failure, StartEnd::Left) {
            end(process).await;
        }
        Err(failure)
    }

    /// What it printed last, to put behind a cause.
    fn last_words(&self) -> String {
        let lines = self.files.last_lines();
        if lines.is_empty() { lines } else { format!(": {lines}") }
    }

    async fn clean(&self) {
        let files = self.files.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || files.clean()).await {
            warn!(job = %self.job, %error, "files of an executor not removed");
        }
    }
}

/// An executor that takes commands, or did.
struct Running {
    process: Process,
    record: Record,
    /// Keeps the file from being evicted.
    _artifact: Artifact,
    output: Output,
    /// None while the connection is broken.
    link: Option<Link>,
    hello: Option<Hello>,
    /// Highest token it may have seen.
    fence: Fence,
    /// Orders it has not been sent, because the connection is broken.
    backlog: Vec<ToExecutor>,
    /// Until when executions that were cancelled have to end.
    cancelling: BTreeMap<ExecutionAttemptId, Instant>,
    /// Until when the executor has to end, once it was asked to.
    stopping: Option<Instant>,
    /// Until when a broken connection has to be up again.
    relink_by: Option<Instant>,
}

/// What a running executor's task wakes up for.
enum Wake {
    Ended(process::Ended),
    Said(Result<FromExecutor, link::LinkError>),
    Relinked(Result<(Link, Hello), link::LinkError>),
    Ordered(Order),
    Deadline,
    Heartbeat,
    Leave,
}

impl Running {
    fn new(process: Process, record: Record, artifact: Artifact, output: Output, link: Link, hello: Hello) -> Self {
        Self {
            process,
            record,
            _artifact: artifact,
            output,
            fence: hello.fence,
            link: Some(link),
            hello: Some(hello),
            backlog: Vec::new(),
            cancelling: BTreeMap::new(),
            stopping: None,
            relink_by: None,
        }
    }

    /// Passes messages both ways until the executor has ended.
    async fn supervise<S: Sink>(mut self, mut supervisor: Supervisor<S>) {
        let outcome = self.until_end(&mut supervisor).await;
        if matches!(outcome, End::Left) {
            return;
        }
        self.output.finish().await;
        supervisor.clean().await;
        let event = match outcome {
            End::Lost(cause) => ExecutorEvent::Lost { cause },
            End::Gone | End::Left => ExecutorEvent::Gone,
        };
        supervisor.events.tell(event).await;
    }

    async fn until_end<S: Sink>(&mut self, supervisor: &mut Supervisor<S>) -> End {
        let mut heartbeat = tokio::time::interval(supervisor.settings.heartbeat_interval);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if let Some(hello) = self.hello.take() {
                let Hello { data_port, fence, executions, .. } = hello;
                let executions = self.ours(executions);
                supervisor.events.tell(ExecutorEvent::Ready { data_port, fence, executions }).await;
            }
            match self.next_wake(supervisor, &mut heartbeat).await {
                Wake::Leave => return End::Left,
                Wake::Ended(ended) => return self.ended(supervisor, format_args!("{ended}")),
                Wake::Said(Ok(message)) => self.said(supervisor, message).await,
                Wake::Said(Err(error)) => self.broken(supervisor, &error),
                Wake::Relinked(Ok((link, hello))) => self.relinked(link, hello).await,
                Wake::Relinked(Err(error)) => {
                    let cause = format!("killed, because it did not answer: {error}");
                    return self.kill(supervisor, cause).await;
                }
                Wake::Ordered(Order::Do { fence, ticket, action }) => {
                    if let ExecutorAction::Cancel { attempts } = &action {
                        let by = Instant::now() + supervisor.settings.cancellation_timeout;
                        self.cancelling.extend(attempts.iter().map(|attempt| (*attempt, by)));
                    }
                    self.send(fence, ticket, action).await;
                }
                Wake::Ordered(Order::Stop { fence, grace }) => {
                    let by = Instant::now() + grace;
                    self.stopping = Some(self.stopping.map_or(by, |earlier| earlier.min(by)));
                    self.send(fence, 0, ExecutorAction::Stop).await;
                }
                Wake::Deadline => {
                    let late = self.cancelling.iter().min_by_key(|(_, by)| **by).map(|(attempt, _)| *attempt);
                    let cause = match (self.stopping, late) {
                        (None, Some(attempt)) => format!(
                            "killed, because execution {attempt} had not ended {} s after it was cancelled",
                            supervisor.settings.cancellation_timeout.as_secs()
                        ),
                        _ => "killed, because it had not ended in time after it was told to".to_owned(),
                    };
                    return self.kill(supervisor, cause).await;
                }
                Wake::Heartbeat => self.send(self.fence, 0, ExecutorAction::Heartbeat).await,
            }
        }
    }

    async fn next_wake<S: Sink>(
        &mut self,
        supervisor: &mut Supervisor<S>,
        heartbeat: &mut tokio::time::Interval,
    ) -> Wake {
        let deadline = self.cancelling.values().copied().chain(self.stopping).min();
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

    async fn said<S: Sink>(&mut self, supervisor: &Supervisor<S>, message: FromExecutor) {
        let event = match message {
            FromExecutor::Answer { id: 0, .. } => return,
            FromExecutor::Answer { id, result } => ExecutorEvent::Answer { ticket: id, result },
            FromExecutor::Execution(report) => match self.ours(vec![report]).pop() {
                Some(report) => ExecutorEvent::Execution(report),
                None => return,
            },
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
        for report in reports.iter().filter(|report| report.state.is_terminal()) {
            self.cancelling.remove(&report.attempt);
        }
        reports
    }

    fn broken<S>(&mut self, supervisor: &Supervisor<S>, error: &link::LinkError) {
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

    fn ended<S: Sink>(&self, supervisor: &Supervisor<S>, how: impl std::fmt::Display) -> End {
        // Whatever it started and left behind ends with it.
        self.process.kill();
        if self.stopping.is_some() {
            info!(job = %self.record.job, pid = self.record.pid, "executor stopped");
            return End::Gone;
        }
        let cause = format!("{how}{}", supervisor.last_words());
        warn!(job = %self.record.job, pid = self.record.pid, cause, "executor lost");
        End::Lost(cause)
    }

    async fn kill<S: Sink>(&mut self, supervisor: &Supervisor<S>, cause: String) -> End {
        if self.stopping.is_some() {
            warn!(job = %self.record.job, pid = self.record.pid, cause, "executor did not stop by itself");
        }
        self.process.kill();
        if tokio::time::timeout(KILL_TIMEOUT, self.process.ended()).await.is_err() {
            warn!(job = %self.record.job, pid = self.record.pid, "executor was killed and has not ended");
        }
        self.ended(supervisor, cause)
    }
}

/// The next message of a connection; never, without one.
async fn next(link: &mut Option<Link>) -> Result<FromExecutor, link::LinkError> {
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
async fn relink(record: &Record, by: Option<Instant>) -> Result<(Link, Hello), link::LinkError> {
    let limit = by.map_or(ADOPT_TIMEOUT, |by| by.saturating_duration_since(Instant::now()));
    let (link, hello) = Link::open(&record.socket, limit).await?;
    check(&hello, record).map_err(link::LinkError::Protocol)?;
    Ok((link, hello))
}

/// Resolves when the executor is not wanted any more before it has started. Cancel-safe.
async fn stopped(orders: &mut mpsc::Receiver<Order>, leave: &CancellationToken) -> StartEnd {
    loop {
        tokio::select! {
            () = leave.cancelled() => return StartEnd::Left,
            order = orders.recv() => match order {
                Some(Order::Stop { .. }) => return StartEnd::Stopped,
                // The owner forwards nothing before it has heard that the executor is ready.
                Some(Order::Do { .. }) => {}
                None => return StartEnd::Left,
            },
        }
    }
}

/// Kills a process that never became an executor and waits for its end.
async fn end(mut process: Process) {
    process.kill();
    if tokio::time::timeout(KILL_TIMEOUT, process.ended()).await.is_err() {
        warn!(pid = process.pid(), "process was killed and has not ended");
    }
}

/// Whether the one who said hello is the executor that was started.
fn check(hello: &Hello, record: &Record) -> Result<(), String> {
    let ours = ProtocolRange::OURS;
    if hello.protocol < ours.min {
        return Err(format!(
            "it speaks protocol {} and this TaskManager {} to {}; build the job with a newer library",
            hello.protocol, ours.min, ours.max
        ));
    }
    if hello.job != record.job {
        return Err(format!("it runs job {} instead of {}", hello.job, record.job));
    }
    if i64::from(hello.pid) != i64::from(record.pid) {
        return Err(format!("process {} answers instead of {}", hello.pid, record.pid));
    }
    Ok(())
}

/// An error with its cause.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
