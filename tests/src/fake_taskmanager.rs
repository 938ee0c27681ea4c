//! A TaskManager that speaks the real protocol over the network and only pretends to run tasks.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use perennial_rpc::taskmanager::{
    Action, Command, CommandAnswer, CommandDone, CommandError, ExecutionReport, ExecutorReport, FromTaskManager,
    Incoming, Registration, TaskProgress, ToTaskManager, attach,
};
use perennial_types::{ClusterId, ExecutionAttemptId, ExecutionState, Fence, Incarnation, JobId, TaskManagerId};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What it does when told to deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Tasks are RUNNING at once.
    Runs,
    /// Every deployment is refused.
    RefusesDeployments,
    /// Commands are noted and not answered.
    Ignores,
}

/// How often it says that it lives: well below any `heartbeat.timeout`.
const HEARTBEAT_EVERY: Duration = Duration::from_millis(500);

#[derive(Default)]
struct State {
    executors: BTreeMap<JobId, BTreeMap<ExecutionAttemptId, ExecutionState>>,
    commands: Vec<Command>,
    registrations: u32,
    refusal: Option<String>,
    seen: Fence,
}

/// The state of a pretended host: survives the connections and the JobManagers.
#[derive(Clone)]
pub struct FakeTaskManager {
    /// Its name.
    pub name: &'static str,
    slots: u32,
    manner: Manner,
    heartbeats: bool,
    /// Where its executors say that they listen.
    data_address: String,
    /// The cluster it says it belongs to.
    pub cluster: Option<ClusterId>,
    incarnation: Incarnation,
    state: Arc<Mutex<State>>,
    reports: watch::Sender<Option<mpsc::Sender<FromTaskManager>>>,
}

/// A connection to one JobManager. Dropping it closes the stream.
pub struct Attached {
    task: JoinHandle<()>,
    reports: watch::Sender<Option<mpsc::Sender<FromTaskManager>>>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.task.abort();
        self.reports.send_replace(None);
    }
}

impl FakeTaskManager {
    /// A host with so many slots that runs nothing.
    pub fn new(name: &'static str, slots: u32) -> Self {
        Self {
            name,
            slots,
            manner: Manner::Runs,
            heartbeats: false,
            data_address: format!("{name}:4000"),
            cluster: None,
            incarnation: Incarnation::random(),
            state: Arc::default(),
            reports: watch::Sender::new(None),
        }
    }

    /// The same with other manners.
    pub fn with_manner(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }

    /// The same, saying that it lives. Without this it is silent between reports, and is given up for it.
    pub fn with_heartbeats(self) -> Self {
        Self { heartbeats: true, ..self }
    }

    /// The same with executors that say that they listen there.
    pub fn with_data_address(self, data_address: impl Into<String>) -> Self {
        Self { data_address: data_address.into(), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    /// Commands received so far.
    pub fn commands(&self) -> Vec<Command> {
        self.state().commands.clone()
    }

    /// Pretends to have heard a leader of a later epoch than any here.
    pub fn follow_another(&self) {
        self.state().seen.epoch.0 = u64::MAX;
    }

    /// Names of the commands received so far.
    pub fn command_names(&self) -> Vec<&'static str> {
        let name = |command: &Command| match command.action {
            Action::StartExecutor(_) => "start",
            Action::Deploy(_) => "deploy",
            Action::Cancel { .. } => "cancel",
            Action::StopExecutor => "stop",
            Action::TriggerCheckpoint(_) => "trigger checkpoint",
            Action::NotifyCheckpoint(_) => "notify checkpoint",
        };
        self.state().commands.iter().map(name).collect()
    }

    /// How often it was accepted.
    pub fn registrations(&self) -> u32 {
        self.state().registrations
    }

    /// Why it was refused last.
    pub fn refusal(&self) -> Option<String> {
        self.state().refusal.clone()
    }

    /// Executions in a state that is not terminal.
    pub fn running(&self, job: JobId) -> Vec<ExecutionAttemptId> {
        let state = self.state();
        let executions = state.executors.get(&job).into_iter().flatten();
        executions.filter(|(_, state)| !state.is_terminal()).map(|(attempt, _)| *attempt).collect()
    }

    /// Jobs with an executor.
    pub fn executors(&self) -> Vec<JobId> {
        self.state().executors.keys().copied().collect()
    }

    /// Pretends that an executor with a task is there that nobody asked for.
    pub fn plant(&self, job: JobId, attempt: ExecutionAttemptId) {
        self.state().executors.insert(job, BTreeMap::from([(attempt, ExecutionState::Running)]));
    }

    /// Sends something to the leader it is registered at.
    pub async fn say(&self, message: FromTaskManager) {
        let mut reports = self.reports.subscribe();
        let sender = reports.wait_for(Option::is_some).await.expect("the sender lives in self").clone();
        _ = sender.expect("it was waited for").send(message).await;
    }

    /// Moves an execution and reports it.
    pub async fn report(&self, job: JobId, attempt: ExecutionAttemptId, state: ExecutionState) {
        if let Some(executions) = self.state().executors.get_mut(&job) {
            executions.insert(attempt, state);
        }
        self.say(FromTaskManager::Execution(report(job, attempt, state))).await;
    }

    /// An executor ends with all its tasks, and this is told.
    pub async fn lose_executor(&self, job: JobId) {
        self.state().executors.remove(&job);
        self.say(FromTaskManager::ExecutorLost { job, cause: "killed by signal 9".to_owned(), own_doing: false }).await;
    }

    /// An executor ends while nobody is connected.
    pub fn lose_executor_unheard(&self, job: JobId) {
        self.state().executors.remove(&job);
    }

    /// Ends all tasks of a job while nobody is connected.
    pub fn finish_unheard(&self, job: JobId) {
        let mut state = self.state();
        let executions = state.executors.get_mut(&job).into_iter().flatten();
        executions.for_each(|(_, state)| *state = ExecutionState::Finished);
    }

    /// Ends all tasks of a job by themselves.
    pub async fn finish(&self, job: JobId) {
        for attempt in self.running(job) {
            self.report(job, attempt, ExecutionState::Finished).await;
        }
    }

    /// Connects to a JobManager and stays.
    pub fn attach(&self, address: impl Into<String>) -> Attached {
        let (this, address) = (self.clone(), address.into());
        let task = tokio::spawn(async move {
            loop {
                if let Ok((sender, incoming)) = attach(&address).await {
                    this.converse(sender, incoming).await;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        Attached { task, reports: self.reports.clone() }
    }

    async fn converse(&self, sender: mpsc::Sender<FromTaskManager>, mut incoming: Incoming<ToTaskManager>) {
        let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
        loop {
            let message = tokio::select! {
                message = incoming.next() => message,
                _ = heartbeat.tick(), if self.heartbeats => {
                    let from = Some(TaskManagerId(self.name.to_owned()));
                    _ = sender.send(FromTaskManager::Heartbeat { from, stale_commands: 0 }).await;
                    continue;
                }
            };
            let Some(Ok(message)) = message else { return };
            match message {
                ToTaskManager::Leadership(leadership) => {
                    if leadership.leader == Some(leadership.from) {
                        _ = sender.send(FromTaskManager::Register(self.registration())).await;
                    }
                }
                ToTaskManager::Registered { .. } => {
                    self.state().registrations += 1;
                    self.reports.send_replace(Some(sender.clone()));
                }
                ToTaskManager::Refused { reason } => self.state().refusal = Some(reason),
                ToTaskManager::Heartbeat => {}
                ToTaskManager::Command(command) => {
                    for answer in self.obey(command) {
                        _ = sender.send(answer).await;
                    }
                }
            }
        }
    }

    fn registration(&self) -> Registration {
        let state = self.state();
        let executors = state.executors.iter().map(|(job, executions)| ExecutorReport {
            job: *job,
            data_address: self.data_address.clone(),
            executions: executions.iter().map(|(attempt, state)| report(*job, *attempt, *state)).collect(),
        });
        let executors: Vec<ExecutorReport> = executors.collect();
        drop(state);
        Registration {
            cluster: self.cluster,
            id: TaskManagerId(self.name.to_owned()),
            incarnation: self.incarnation,
            host: "127.0.0.1".to_owned(),
            slots: self.slots,
            target: "x86_64-linux".to_owned(),
            pid: 4711,
            executors,
        }
    }

    fn obey(&self, command: Command) -> Vec<FromTaskManager> {
        let mut state = self.state();
        let Command { id, job, action, fence } = command.clone();
        state.commands.push(command);
        let answer = |result| FromTaskManager::Answer(CommandAnswer { id, result });
        if !state.seen.admit(fence) {
            return vec![answer(Err(CommandError::Stale { seen: state.seen }))];
        }
        let mut said = Vec::new();
        match (action, self.manner) {
            (_, Manner::Ignores) => {}
            (Action::StartExecutor(_), _) => {
                state.executors.entry(job).or_default();
                let data_address = self.data_address.clone();
                said.push(answer(Ok(CommandDone::ExecutorReady { data_address })));
            }
            (Action::Deploy(_), Manner::RefusesDeployments) => {
                said.push(answer(Err(CommandError::Failed("the artifact does not start".to_owned()))));
            }
            (Action::Deploy(deploy), Manner::Runs) => {
                said.push(answer(Ok(CommandDone::Done)));
                for task in deploy.tasks {
                    state.executors.entry(job).or_default().insert(task.attempt, ExecutionState::Running);
                    said.push(FromTaskManager::Execution(report(job, task.attempt, ExecutionState::Initializing)));
                    said.push(FromTaskManager::Execution(report(job, task.attempt, ExecutionState::Running)));
                }
            }
            (Action::Cancel { attempts }, _) => {
                said.push(answer(Ok(CommandDone::Done)));
                for attempt in attempts {
                    state.executors.entry(job).or_default().insert(attempt, ExecutionState::Canceled);
                    said.push(FromTaskManager::Execution(report(job, attempt, ExecutionState::Canceled)));
                }
            }
            (Action::TriggerCheckpoint(_) | Action::NotifyCheckpoint(_), _) => said.push(answer(Ok(CommandDone::Done))),
            (Action::StopExecutor, _) => {
                state.executors.remove(&job);
                said.push(answer(Ok(CommandDone::Done)));
            }
        }
        said
    }
}

fn report(job: JobId, attempt: ExecutionAttemptId, state: ExecutionState) -> ExecutionReport {
    let failure = (state == ExecutionState::Failed).then(|| "user code: division by zero".to_owned());
    let progress = state.is_terminal().then(|| progress(job, attempt, 100));
    let checkpoints = Vec::new();
    ExecutionReport {
        job,
        attempt,
        state,
        failure,
        progress,
        peer_lost: false,
        start_ms: None,
        checkpoints,
        ended: false,
    }
}

/// Counters of a task that read so many records.
pub fn progress(job: JobId, attempt: ExecutionAttemptId, records_in: u64) -> TaskProgress {
    TaskProgress {
        job,
        attempt,
        records_in,
        records_out: records_in,
        bytes_in: 0,
        bytes_out: 0,
        busy_ms: 0,
        back_pressured_ms: 0,
    }
}
