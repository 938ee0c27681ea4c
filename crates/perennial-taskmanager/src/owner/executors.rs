//! The executors of a TaskManager: started, adopted, stopped, and what they report.

use std::time::Duration;

use perennial_base::OnError;
use perennial_rpc::taskmanager::{
    CheckpointReport, CommandDone, CommandError, ExecutionReport, FromTaskManager, Registrar, StartExecutor,
};
use perennial_types::{ArtifactDigest, Fence, JobId};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::commands::ReplyTo;
use super::{ExecutorEvents, Owner};
use crate::executor::{ExecutorEvent, ExecutorFiles, ExecutorHandle, Order, Origin, Process, Supervisor};

/// Time executors have to end when the TaskManager stops them all. Shorter than what service managers and containers
/// give a process between asking and killing, which is ten seconds and more.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A job's executor as the owner sees it.
#[derive(Debug)]
pub(super) struct Executor {
    pub(super) handle: ExecutorHandle,
    /// What it runs: artifact and structural hash.
    pub(super) identity: (ArtifactDigest, u64),
    pub(super) stage: Stage,
    /// Data port it was given; 0 when it took a free one.
    data_port: u16,
}

/// How far an executor is.
#[derive(Debug)]
pub(super) enum Stage {
    /// An earlier TaskManager started it; it has not said hello yet.
    Adopting,
    /// It does not take commands yet.
    Starting {
        /// Who wants to know when it does.
        waiting: Vec<ReplyTo>,
    },
    /// It takes commands.
    Ready,
    /// It was told to end.
    Stopping {
        /// Who wants to know when it has.
        waiting: Vec<ReplyTo>,
        /// What to start then, and who wants to know.
        next: Option<(StartExecutor, Vec<ReplyTo>)>,
    },
}

impl Owner {
    /// Starts the task of a new executor. The answers follow.
    pub(super) fn spawn_executor(
        &mut self,
        job: JobId,
        start: StartExecutor,
        waiting: Vec<ReplyTo>,
    ) -> Result<(), String> {
        let data_port = self.free_data_port()?;
        let leader = self.registrar.leader().and_then(|(stream, _)| self.peers.get(&stream));
        let mut jobmanagers: Vec<String> = leader.map(|peer| peer.stream.address.clone()).into_iter().collect();
        jobmanagers
            .extend(self.dialled.iter().filter(|address| !jobmanagers.contains(address)).cloned().collect::<Vec<_>>());
        let identity = (start.artifact, start.structural_hash);
        let cluster = self.registrar.cluster();
        let handle = self.supervise(job, Origin::Start { start: Box::new(start), data_port, jobmanagers, cluster });
        self.executors.insert(job, Executor { handle, identity, stage: Stage::Starting { waiting }, data_port });
        Ok(())
    }

    fn supervise(&mut self, job: JobId, origin: Origin) -> ExecutorHandle {
        let events = ExecutorEvents { job, events: self.events.clone() };
        let (supervisor, handle) = Supervisor::new(
            job,
            self.dir.id().clone(),
            self.settings.clone(),
            self.cache.clone(),
            self.files(job),
            events,
            self.leave.clone(),
        );
        self.tasks.spawn("executor", OnError::Report, async move {
            Box::pin(supervisor.run(origin)).await;
            Ok::<(), std::convert::Infallible>(())
        });
        handle
    }

    fn files(&self, job: JobId) -> ExecutorFiles {
        ExecutorFiles::new(self.dir.executor(job), self.dir.output())
    }

    /// The lowest data port that no executor has, or 0 when the system is to choose.
    fn free_data_port(&self) -> Result<u16, String> {
        let first = self.settings.data_port;
        if first == 0 {
            return Ok(0);
        }
        let free = (first..=u16::MAX).find(|port| self.executors.values().all(|executor| executor.data_port != *port));
        free.ok_or_else(|| format!("no data port from {first} on is free"))
    }

    /// Finds the executors that an earlier process has left. Those alive are adopted, the others were lost.
    pub(super) fn adopt_all(&mut self) {
        let entries = match std::fs::read_dir(self.dir.executors()) {
            Ok(entries) => entries,
            Err(error) => {
                error!(path = %self.dir.executors().display(), %error, "executors of an earlier process cannot be found");
                return;
            }
        };
        for entry in entries.flatten() {
            let Some(job) = entry.file_name().to_str().and_then(|name| name.parse::<JobId>().ok()) else { continue };
            let files = self.files(job);
            let record = match files.read_record() {
                Ok(record) if record.job == job => record,
                Ok(record) => {
                    warn!(%job, other = %record.job, "directory of an executor belongs to another job, removed");
                    files.clean();
                    continue;
                }
                Err(error) => {
                    warn!(%job, %error, "an executor was never started completely, its directory is removed");
                    files.clean();
                    continue;
                }
            };
            let Some(process) = Process::adopt(record.pid, record.start_ticks) else {
                let words = files.last_lines();
                let cause = format!("ended while no TaskManager watched it: {words}");
                warn!(%job, pid = record.pid, cause, "executor lost");
                self.ledger.executor_lost(job, cause, false);
                files.clean();
                continue;
            };
            if let Some(cluster) = record.cluster.filter(|_| self.registrar.cluster().is_none()) {
                self.registrar = Registrar::new(Some(cluster));
                // What an earlier process has followed binds this one too, as long as it commands the same executors.
                if let Some(epoch) = self.dir.epoch_followed(cluster) {
                    self.fence.admit(Fence { epoch, index: 0 });
                }
            }
            let identity = (record.artifact, record.structural_hash);
            let handle = self.supervise(job, Origin::Adopt { process: Box::new(process), record: Box::new(record) });
            self.executors.insert(job, Executor { handle, identity, stage: Stage::Adopting, data_port: 0 });
        }
    }

    pub(super) fn is_adopting(&self) -> bool {
        self.executors.values().any(|executor| matches!(executor.stage, Stage::Adopting))
    }

    pub(super) fn executor(&mut self, job: JobId, event: ExecutorEvent) {
        match event {
            ExecutorEvent::Ready { data_port, executions } => self.ready(job, data_port, executions),
            ExecutorEvent::Answer { ticket, result } => self.answered(ticket, result),
            ExecutorEvent::Execution(report) => self.execution(report),
            ExecutorEvent::Checkpoint(report) => self.checkpoint(report),
            ExecutorEvent::Progress(tasks) => self.report(FromTaskManager::Progress(tasks)),
            ExecutorEvent::Stale(more) => {
                self.stale_commands += more;
                warn!(%job, more, total = self.stale_commands, "commands of a deposed leader refused by an executor");
            }
            ExecutorEvent::NotStarted { cause } => {
                warn!(%job, cause, "executor not started");
                self.ended(job, &cause);
            }
            ExecutorEvent::Lost { cause, own_doing } => {
                let wanted = self.executors.get(&job).is_some_and(|e| !matches!(e.stage, Stage::Stopping { .. }));
                if wanted {
                    self.ledger.executor_lost(job, cause.clone(), own_doing);
                    self.report_lost(job, cause.clone(), own_doing);
                }
                self.ended(job, &cause);
            }
            ExecutorEvent::Gone => self.ended(job, "the executor was stopped"),
        }
        self.register_postponed();
    }

    fn ready(&mut self, job: JobId, data_port: u16, executions: Vec<ExecutionReport>) {
        let Some(executor) = self.executors.get_mut(&job) else { return };
        executor.data_port = data_port;
        let data_address = format!("{}:{data_port}", self.settings.host);
        let waiting = match &mut executor.stage {
            Stage::Stopping { .. } => return,
            stage => match std::mem::replace(stage, Stage::Ready) {
                Stage::Starting { waiting } => waiting,
                _ => Vec::new(),
            },
        };
        self.ledger.executor_ready(job, data_address.clone());
        for reply in waiting {
            self.answer(reply, Ok(CommandDone::ExecutorReady { data_address: data_address.clone() }));
        }
        for report in executions {
            self.execution(report);
        }
    }

    fn execution(&mut self, mut report: ExecutionReport) {
        // A state that is known says nothing new, but what comes with it may: it was said while nobody was connected.
        let checkpoints = std::mem::take(&mut report.checkpoints);
        if self.ledger.record(report.clone()) {
            self.changed(report);
        }
        for report in checkpoints {
            self.checkpoint(report);
        }
    }

    fn checkpoint(&mut self, report: CheckpointReport) {
        if self.ledger.checkpoint(report.clone()) && self.stopping.is_none() {
            self.report(FromTaskManager::Checkpoint(report));
        }
    }

    fn changed(&mut self, report: ExecutionReport) {
        if report.state.is_terminal() {
            self.slots.ended(report.job, report.attempt);
        }
        if self.stopping.is_none() {
            self.report(FromTaskManager::Execution(report));
        }
    }

    /// An executor's task has ended.
    fn ended(&mut self, job: JobId, cause: &str) {
        self.slots.release(job);
        self.fail_tickets(job, cause);
        let Some(executor) = self.executors.remove(&job) else { return };
        match executor.stage {
            Stage::Starting { waiting } => {
                for reply in waiting {
                    self.answer(reply, Err(CommandError::Failed(cause.to_owned())));
                }
            }
            Stage::Stopping { waiting, next } => {
                self.ledger.forget(job);
                for reply in waiting {
                    self.answer(reply, Ok(CommandDone::Done));
                }
                if let Some((start, waiting)) = next {
                    self.start_next(job, start, waiting);
                }
            }
            Stage::Adopting | Stage::Ready => {}
        }
        if self.executors.is_empty()
            && let Some(done) = self.stopping.take()
        {
            // Whoever asked may have stopped waiting.
            _ = done.send(());
        }
    }

    fn start_next(&mut self, job: JobId, start: StartExecutor, waiting: Vec<ReplyTo>) {
        let refused = match &self.stopping {
            Some(_) => Some("this TaskManager is shutting down".to_owned()),
            None => self.spawn_executor(job, start, waiting.clone()).err(),
        };
        if let Some(reason) = refused {
            for reply in waiting {
                self.answer(reply, Err(CommandError::Failed(reason.clone())));
            }
        }
    }

    /// Tells an executor to end, and answers when it has.
    pub(super) fn stop_one(
        &mut self,
        job: JobId,
        fence: Option<Fence>,
        grace: Option<Duration>,
        reply: Option<ReplyTo>,
    ) {
        let Some(executor) = self.executors.get_mut(&job) else { return };
        if executor.handle.order(Order::Stop { fence, grace }).is_err() {
            // Its queue is full of orders it does not take, or it is ending already and says so next.
            warn!(%job, "executor takes no orders");
        }
        let earlier = std::mem::replace(&mut executor.stage, Stage::Stopping { waiting: Vec::new(), next: None });
        let (mut stopped, started) = match earlier {
            Stage::Stopping { waiting, next } => (waiting, next.map_or_else(Vec::new, |(_, waiting)| waiting)),
            Stage::Starting { waiting } => (Vec::new(), waiting),
            Stage::Adopting | Stage::Ready => (Vec::new(), Vec::new()),
        };
        stopped.extend(reply);
        executor.stage = Stage::Stopping { waiting: stopped, next: None };
        for reply in started {
            self.answer(reply, Err(CommandError::Failed("the executor was stopped before it was ready".to_owned())));
        }
    }

    /// Stops every executor; from now on none is started.
    pub(super) fn stop_executors(&mut self, done: oneshot::Sender<()>) {
        if self.executors.is_empty() {
            // Whoever asked may have stopped waiting.
            _ = done.send(());
            return;
        }
        info!(executors = self.executors.len(), "stopping executors");
        self.stopping = Some(done);
        let jobs: Vec<JobId> = self.executors.keys().copied().collect();
        for job in jobs {
            // What the executor says of its executions from here on is no news about the job: it was told to end them.
            let cause = format!("its TaskManager {} was shut down", self.dir.id());
            self.report_lost(job, cause, false);
            self.stop_one(job, None, Some(SHUTDOWN_GRACE), None);
        }
    }
}
