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
mod memory;
mod output;
mod process;
mod running;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use perennial_rpc::executor::{ExecutorAction, ExecutorSpec, Hello};
use perennial_rpc::taskmanager::{CheckpointReport, CommandError, ExecutionReport, StartExecutor, TaskProgress};
use perennial_types::config::{Origin as ConfigOrigin, options};
use perennial_types::{ClusterId, Configuration, Fence, JobId, ProtocolRange, TaskManagerId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::artifacts::{Artifact, ArtifactCache};
use crate::settings::Settings;
pub(crate) use files::{ExecutorFiles, Record};
use link::Link;
use output::{Begin, Output};
pub(crate) use process::Process;
use running::Running;

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
        /// Who orders it; none when the TaskManager itself is ending.
        fence: Option<Fence>,
        /// Time it has; none for what a cancelled task of its job has.
        grace: Option<Duration>,
    },
}

/// What an executor's task tells the owner. After one of the last three there is nothing more to come.
#[derive(Debug)]
pub(crate) enum ExecutorEvent {
    /// It takes commands, for the first time or again.
    Ready {
        /// Port of its data listener.
        data_port: u16,
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
    /// What became of a checkpoint in one of its executions.
    Checkpoint(CheckpointReport),
    /// Counters of its executions.
    Progress(Vec<TaskProgress>),
    /// It has refused so many more commands of deposed leaders.
    Stale(u64),
    /// It never took commands.
    NotStarted {
        /// Why.
        cause: String,
    },
    /// It ended without being asked to.
    Lost {
        /// How.
        cause: String,
        /// Whether its code ended it, and nobody from outside.
        own_doing: bool,
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
                        StartEnd::Failed(cause) if adopted => ExecutorEvent::Lost { cause, own_doing: false },
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
        let cancellation_timeout = cancellation_timeout(&config, self.settings.cancellation_timeout);
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
            cancellation_timeout: Some(cancellation_timeout),
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

/// `task.cancellation.timeout` as the job's options say, which were checked when it was planned; else the TaskManager's.
fn cancellation_timeout(job: &BTreeMap<String, String>, ours: Duration) -> Duration {
    let option = options::TASK_CANCELLATION_TIMEOUT;
    let Some(value) = job.get(option.key) else { return ours };
    let mut config = Configuration::new();
    match config.set(option.key, value, ConfigOrigin::Flag("job".to_owned())) {
        Ok(()) => config.get(&option),
        Err(error) => {
            warn!(%error, "an option of the job is ignored");
            ours
        }
    }
}

/// An error with its cause.
fn with_cause(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}
