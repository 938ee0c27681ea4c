//! The role `exec`: runs a job's subtasks for one TaskManager, in a process of its own.
//!
//! One owner thread holds everything and takes one event at a time: a command, a task's change of state, a TaskManager that
//! connects or goes. Slot threads run the tasks and know nothing of this. The TaskManager is a visitor: while none is
//! connected the tasks go on, and the next one is told in the [`Hello`] what became of each execution. Only when
//! nobody has come for `executor.orphan-timeout` the executor cancels its tasks and ends.

mod checkpoints;
mod control;
mod executions;
mod output;
mod stuck;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel};
use std::time::{Duration, Instant};

use perennial_exchange::{Barrier, Counters, Guarantee, Network, Room};
use perennial_rpc::executor::{ExecutorAction, ExecutorSpec, FromExecutor, Hello, ToExecutor, write_from_executor};
use perennial_rpc::taskmanager::{
    CheckpointReport, CommandError, Deploy, NotifyCheckpoint, TaskDeployment, TriggerCheckpoint,
};
use perennial_types::config::{SetError, options};
use perennial_types::{ARTIFACT_PROTOCOL, ExecutionAttemptId, ExecutionState, Fence, SlotIndex};

use self::checkpoints::Checkpoints;
use self::executions::{Executions, placement_of};
use self::output::RollingOutput;
use self::stuck::Watch;
use crate::builder::TaskBuilder;
use crate::mailbox::TaskCommand;
use crate::operator::chain;
use crate::settings::{TaskSettings, configuration};
use crate::slot::{NewTask, Slot, TaskEvent};
use crate::upload::{Taken, Uploaded, Uploads};
use crate::wiring::{Placement, Wiring};
use crate::{ExecutableJob, TaskContext, TaskError, panics};

/// How often counters are told, and the output file and the orphan timeout are looked at.
const TICK: Duration = Duration::from_secs(1);

/// Longest write to a TaskManager; one that does not read for so long is given up, the next is told all again.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// Data ports tried from a fixed first one, for the executors of as many jobs on one TaskManager.
const DATA_PORTS: u16 = 128;

/// Why an executor ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// An option of the job is wrong.
    #[error("the job's options are wrong")]
    Config(#[source] SetError),
    /// The control socket cannot be made.
    #[error("cannot listen on {path}")]
    Socket {
        /// Its path.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The data port cannot be had.
    #[error(
        "cannot listen on {address} for the job's other executors (`taskmanager.bind-host`, `taskmanager.data.port`)"
    )]
    DataPort {
        /// Address and first port.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The system gave no thread.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// Nobody asked for this executor any more.
    #[error("no TaskManager came for {} s (`executor.orphan-timeout`): the job's tasks here were cancelled", .0.as_secs())]
    Orphaned(Duration),
}

/// What the owner thread hears.
pub(crate) enum Event {
    Task(TaskEvent),
    Taken(Box<Taken>),
    Uploaded(Uploaded),
    Connected {
        connection: u64,
        stream: UnixStream,
    },
    /// The connection reads on when `taken` was sent to: one command at a time.
    Command {
        connection: u64,
        command: ToExecutor,
        taken: SyncSender<()>,
    },
    Disconnected {
        connection: u64,
        reason: String,
    },
}

impl From<TaskEvent> for Event {
    fn from(event: TaskEvent) -> Self {
        Self::Task(event)
    }
}

impl From<Taken> for Event {
    fn from(taken: Taken) -> Self {
        Self::Taken(Box::new(taken))
    }
}

impl From<Uploaded> for Event {
    fn from(uploaded: Uploaded) -> Self {
        Self::Uploaded(uploaded)
    }
}

/// Serves TaskManagers on the socket of `spec` until one says [`ExecutorAction::Stop`] and the tasks have ended.
pub fn run(spec: &ExecutorSpec, job: &ExecutableJob) -> Result<(), ExecutorError> {
    let config = configuration(&spec.config).map_err(ExecutorError::Config)?;
    let settings = TaskSettings::new(&config);
    let data = bind_data_port(spec)?;
    let data_port = data.local_addr().map(|address| address.port()).unwrap_or_default();
    let socket_error = |source| ExecutorError::Socket { path: spec.socket.display().to_string(), source };
    let _ = std::fs::remove_file(&spec.socket);
    let control = UnixListener::bind(&spec.socket).map_err(socket_error)?;

    let (events, heard) = channel();
    control::accept(control, events.clone()).map_err(ExecutorError::Thread)?;
    let network = Network::start(data, spec.job, spec.taskmanager.clone(), settings.writer.credit)
        .map_err(ExecutorError::Thread)?;
    let uploads = Uploads::start(events.clone()).map_err(ExecutorError::Thread)?;
    let wiring = Wiring::new(Arc::clone(&job.graph), settings.writer, Some(network));
    Executor {
        spec,
        job,
        settings,
        wiring,
        data_port,
        task_config: Arc::new(spec.config.clone()),
        slots: BTreeMap::new(),
        executions: Executions::new(spec.job),
        checkpoints: Checkpoints::new(),
        uploads,
        fence: Fence::default(),
        stale_commands: 0,
        peer: None,
        last_contact: Instant::now(),
        orphan_timeout: config.get(&options::EXECUTOR_ORPHAN_TIMEOUT),
        output: RollingOutput::of_this_process(config.get(&options::TASKMANAGER_STDOUT_MAX_SIZE)),
        watch: Watch::default(),
        stopping: false,
        events,
    }
    .serve(&heard)
}

/// The data port asked for, or the first free one of those behind it.
fn bind_data_port(spec: &ExecutorSpec) -> Result<TcpListener, ExecutorError> {
    let tries = if spec.data_port == 0 { 1 } else { DATA_PORTS };
    let mut last = None;
    for port in (0..tries).map_while(|step| spec.data_port.checked_add(step)) {
        match TcpListener::bind((spec.bind_host.as_str(), port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some(error),
        }
    }
    let address = format!("{}:{}", spec.bind_host, spec.data_port);
    Err(ExecutorError::DataPort { address, source: last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()) })
}

/// Name of a slot's thread.
fn slot_name(slot: SlotIndex) -> String {
    format!("slot-{slot}")
}

struct Executor<'a> {
    spec: &'a ExecutorSpec,
    job: &'a ExecutableJob,
    settings: TaskSettings,
    wiring: Wiring,
    data_port: u16,
    task_config: Arc<BTreeMap<String, String>>,
    slots: BTreeMap<SlotIndex, Slot>,
    executions: Executions,
    checkpoints: Checkpoints,
    uploads: Uploads,
    /// Highest token of a command.
    fence: Fence,
    /// Commands refused because of it.
    stale_commands: u64,
    /// The TaskManager connected last.
    peer: Option<(u64, UnixStream)>,
    last_contact: Instant,
    orphan_timeout: Duration,
    output: RollingOutput,
    watch: Watch,
    stopping: bool,
    events: Sender<Event>,
}

impl Executor<'_> {
    fn serve(mut self, heard: &Receiver<Event>) -> Result<(), ExecutorError> {
        let mut next_tick = Instant::now() + TICK;
        loop {
            match heard.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(event) => self.apply(event),
                // The sender in `self` lives on, so only the clock ends the wait without an event.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    next_tick = Instant::now() + TICK;
                    self.tick();
                }
            }
            let silent = self.last_contact.elapsed();
            let orphaned = silent > self.orphan_timeout;
            if orphaned && !self.stopping {
                self.stop();
            }
            if self.stopping && self.executions.all_ended() {
                let _ = std::fs::remove_file(&self.spec.socket);
                return if orphaned { Err(ExecutorError::Orphaned(silent)) } else { Ok(()) };
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Task(event) => self.on_task(event),
            Event::Taken(taken) => {
                if let Some((taken, directory)) = self.checkpoints.taken(*taken) {
                    self.upload(taken, directory);
                }
            }
            Event::Uploaded(uploaded) => self.on_uploaded(uploaded),
            Event::Connected { connection, stream } => self.on_connected(connection, stream),
            Event::Command { connection, command, taken } => {
                if self.peer.as_ref().is_some_and(|(current, _)| *current == connection) {
                    self.on_command(command);
                }
                // The reader has gone with its connection: nobody waits.
                let _ = taken.send(());
            }
            Event::Disconnected { connection, reason } => {
                if self.peer.as_ref().is_some_and(|(current, _)| *current == connection) {
                    eprintln!("executor of job {}: the TaskManager's connection ended: {reason}", self.spec.job);
                    self.peer = None;
                }
            }
        }
    }

    fn on_connected(&mut self, connection: u64, stream: UnixStream) {
        self.last_contact = Instant::now();
        if let Err(error) = stream.set_write_timeout(Some(WRITE_TIMEOUT)) {
            eprintln!("executor of job {}: a connection was refused: {error}", self.spec.job);
            return;
        }
        if let Some((_, old)) = self.peer.replace((connection, stream)) {
            // Ends the old connection's reader; it may have ended already.
            let _ = old.shutdown(std::net::Shutdown::Both);
        }
        self.tell(&FromExecutor::Hello(Hello {
            protocol: ARTIFACT_PROTOCOL,
            job: self.spec.job,
            pid: std::process::id(),
            data_port: self.data_port,
            fence: self.fence,
            executions: self.executions.reports().collect(),
            stale_commands: self.stale_commands,
        }));
    }

    fn on_command(&mut self, ToExecutor { fence, id, action }: ToExecutor) {
        self.last_contact = Instant::now();
        if matches!(action, ExecutorAction::Heartbeat) {
            return;
        }
        let result = if self.fence.admit(fence) {
            match action {
                ExecutorAction::Deploy(deploy) => self.deploy(&deploy),
                ExecutorAction::Cancel { attempts } => {
                    attempts.into_iter().for_each(|attempt| self.cancel(attempt));
                    Ok(())
                }
                ExecutorAction::Stop => {
                    self.stop();
                    Ok(())
                }
                ExecutorAction::Heartbeat => Ok(()),
                ExecutorAction::TriggerCheckpoint(trigger) => {
                    self.trigger(&trigger);
                    Ok(())
                }
                ExecutorAction::NotifyCheckpoint(notice) => {
                    self.notify(&notice);
                    Ok(())
                }
            }
        } else {
            self.stale_commands += 1;
            eprintln!("executor of job {}: a command of {fence} was refused, {} has spoken", self.spec.job, self.fence);
            Err(CommandError::Stale { seen: self.fence })
        };
        self.tell(&FromExecutor::Answer { id, result });
    }

    /// Starts the executions that are not known yet.
    fn deploy(&mut self, deploy: &Deploy) -> Result<(), CommandError> {
        if self.stopping {
            return Err(CommandError::Failed("the executor is stopping".to_owned()));
        }
        self.wiring.reshape(&deploy.vertices);
        let placement =
            placement_of(self.wiring.graph(), deploy, &self.spec.taskmanager).map_err(CommandError::Failed)?;
        let mut ready = Vec::new();
        for task in &deploy.tasks {
            if self.executions.knows(task.attempt) {
                continue;
            }
            ready.push((task.slot, self.prepare(task, &placement)?));
        }
        for (slot, task) in ready {
            self.executions.add(task.attempt, slot, task.builder.counters(), &task);
            if let Some(slot) = self.slots.get(&slot) {
                slot.run(task);
            }
        }
        Ok(())
    }

    /// Connects one execution; its code runs later, on the slot's thread.
    fn prepare(&mut self, task: &TaskDeployment, placement: &Placement) -> Result<NewTask, CommandError> {
        let failed = |reason: String| CommandError::Failed(reason);
        let attempt = task.attempt;
        let mut vertices = self.wiring.graph().vertices.iter().zip(&self.job.vertices).enumerate();
        let (index, (vertex, factory)) = vertices
            .find(|(_, (vertex, _))| vertex.id == attempt.vertex)
            .ok_or_else(|| failed(format!("the job has no vertex {}", attempt.vertex)))?;
        if attempt.subtask >= vertex.parallelism {
            return Err(failed(format!("`{}` has no subtask {}", vertex.name, attempt.subtask)));
        }
        if !self.slots.contains_key(&task.slot) {
            let name = slot_name(task.slot);
            let slot = Slot::start(&name, self.settings, self.events.clone());
            let slot = slot.map_err(|error| failed(format!("cannot start the thread of {name}: {error}")))?;
            self.slots.insert(task.slot, slot);
        }
        let signal =
            self.slots.get(&task.slot).map(Slot::signal).ok_or_else(|| failed("the slot is gone".to_owned()))?;
        let counters = Arc::new(Counters::default());
        let room = Arc::new(Room::new(Arc::clone(signal)));
        let input = self.wiring.input(index, attempt, placement);
        input.attach(signal);
        let outputs = self.wiring.outputs(index, attempt, placement, &room).map_err(|error| failed(chain(&error)))?;
        let context = TaskContext {
            job: self.spec.job,
            vertex_name: vertex.name.clone(),
            attempt,
            parallelism: vertex.parallelism,
            max_parallelism: vertex.max_parallelism,
            config: Arc::clone(&self.task_config),
        };
        let restore = task.restore.clone().map(Arc::new);
        let builder = TaskBuilder::new(context, outputs, self.settings.writer, counters, restore);
        let (factory, cancelled, mailbox) = (Arc::clone(factory), Arc::default(), Arc::default());
        let last_checkpoint = self.settings.last_checkpoint;
        Ok(NewTask { attempt, builder, factory, input, room, cancelled, mailbox, last_checkpoint })
    }

    fn cancel(&mut self, attempt: ExecutionAttemptId) {
        if let Some(execution) = self.executions.get_mut(attempt)
            && !execution.state.is_terminal()
        {
            execution.state = ExecutionState::Canceling;
            execution.cancelled.store(true, Ordering::Relaxed);
            if let Some(slot) = self.slots.get(&execution.slot) {
                slot.signal().wake();
            }
        }
    }

    fn stop(&mut self) {
        self.stopping = true;
        let attempts: Vec<ExecutionAttemptId> = self.executions.attempts().collect();
        attempts.into_iter().for_each(|attempt| self.cancel(attempt));
    }

    fn on_task(&mut self, TaskEvent { attempt, state, input_ended, error }: TaskEvent) {
        let Some(execution) = self.executions.get_mut(attempt) else { return };
        let new_state = execution.state.may_become(state);
        if !new_state && (!input_ended || execution.state.is_terminal()) {
            return;
        }
        execution.input_ended |= input_ended;
        if new_state {
            execution.state = state;
        }
        execution.peer_lost = matches!(error, Some(TaskError::Exchange { .. }));
        execution.failure = error.map(|error| match panics::take_elsewhere() {
            Some(panic) => format!("{}; before that {panic}", chain(&error)),
            None => chain(&error),
        });
        if let Some(failure) = &execution.failure {
            eprintln!("executor of job {}: execution {attempt} failed: {failure}", self.spec.job);
        }
        if state.is_terminal() {
            self.wiring.forget(attempt);
        }
        if let Some(report) = self.executions.report(attempt) {
            self.tell(&FromExecutor::Execution(report));
        }
    }

    /// Has the tasks that no barrier reaches make their own. A second time changes nothing, but that what was said of it is said
    /// again.
    fn trigger(&mut self, trigger: &TriggerCheckpoint) {
        let TriggerCheckpoint { checkpoint, kind, exactly_once, ref directory, at_ms } = *trigger;
        let guarantee = if exactly_once { Guarantee::ExactlyOnce } else { Guarantee::AtLeastOnce };
        let barrier = Barrier { checkpoint, kind, guarantee, triggered_ms: at_ms };
        for (taken, directory) in self.checkpoints.triggered(checkpoint, directory) {
            self.upload(taken, directory);
        }
        for report in self.executions.said_of(checkpoint) {
            self.tell(&FromExecutor::Checkpoint(report));
        }
        if !self.checkpoints.is_over(checkpoint) {
            self.post(TaskCommand::Trigger(barrier));
        }
    }

    /// A checkpoint is complete, and others are given up.
    fn notify(&mut self, notice: &NotifyCheckpoint) {
        self.executions.settle(notice);
        for checkpoint in notice.aborted.iter().copied() {
            if !self.checkpoints.is_over(checkpoint) {
                self.checkpoints.aborted(checkpoint);
                self.post(TaskCommand::Aborted(checkpoint));
            }
        }
        if let Some(completed) = notice.completed.filter(|completed| !self.checkpoints.is_over(*completed)) {
            self.checkpoints.completed(completed);
            self.post(TaskCommand::Completed(completed));
        }
    }

    /// Tells tasks that have not ended.
    fn post(&self, command: TaskCommand) {
        for (_, execution) in self.executions.alive() {
            execution.mailbox.post(command);
            if let Some(slot) = self.slots.get(&execution.slot) {
                slot.signal().wake();
            }
        }
    }

    fn upload(&mut self, taken: Taken, directory: String) {
        if let Err(refused) = self.uploads.submit(taken, directory) {
            self.on_uploaded(refused);
        }
    }

    fn on_uploaded(&mut self, Uploaded { attempt, checkpoint, result }: Uploaded) {
        if self.checkpoints.is_over(checkpoint) {
            return;
        }
        if let Err(reason) = &result {
            eprintln!("executor of job {}: no checkpoint {checkpoint} of {attempt}: {reason}", self.spec.job);
        }
        let report = CheckpointReport { job: self.spec.job, attempt, checkpoint, result };
        if self.executions.keep(&report) {
            self.tell(&FromExecutor::Checkpoint(report));
        }
    }

    fn tick(&mut self) {
        self.output.roll_if_full();
        self.tell_of_stuck_tasks();
        let progress: Vec<_> = self.executions.progress().collect();
        if !progress.is_empty() {
            self.tell(&FromExecutor::Progress(progress));
        }
    }

    /// Sends to the TaskManager if one is there. What is lost with a connection is told again in the next [`Hello`].
    fn tell(&mut self, message: &FromExecutor) {
        if let Some((_, stream)) = &mut self.peer
            && let Err(error) = write_from_executor(stream, message)
        {
            eprintln!("executor of job {}: the TaskManager cannot be told: {error}", self.spec.job);
            let _ = stream.shutdown(std::net::Shutdown::Both);
            self.peer = None;
        }
    }
}
