//! TaskManagers on the leader: taken in, listened to, and told what no job owns.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use perennial_coordination::execution_graph::Counters;
use perennial_coordination::job::{CommandKind, Event, ExecutionUpdate, ExecutorState};
use perennial_rpc::taskmanager::{
    CheckpointReport, CommandAnswer, CommandDone, CommandError, ExecutionReport, ExecutorReport, FromTaskManager,
    Registration, TaskProgress, ToTaskManager,
};
use perennial_types::{JobId, TaskManagerId};
use tokio::sync::mpsc;
use tracing::{debug, info, warn};

use super::Leader;
use crate::masters::Mail;
use crate::session::{Pending, Session};

/// Why a TaskManager was not taken in.
pub(crate) enum NotRegistered {
    /// A person has to mend something; the TaskManager is told.
    Refused(String),
    /// This leadership is over.
    LeadershipOver,
}

impl Leader {
    /// Takes a TaskManager in: tells it so, then every job what it runs, and stops what no job owns.
    pub(crate) async fn register(
        &self,
        registration: Registration,
        to: mpsc::Sender<ToTaskManager>,
    ) -> Result<Arc<Session>, NotRegistered> {
        if let Some(theirs) = registration.cluster.filter(|theirs| *theirs != self.cluster) {
            return Err(NotRegistered::Refused(format!(
                "TaskManager {} belongs to cluster {theirs}, this is cluster {}; correct taskmanager.jobmanagers, or give it \
                 an empty process.working-dir to have it join this cluster",
                registration.id, self.cluster
            )));
        }
        let session = Arc::new(Session::new(self.next_session(), &registration, to));
        if !self.resources.register(Arc::clone(&session)).await {
            return Err(NotRegistered::LeadershipOver);
        }
        let mut executors: HashMap<JobId, ExecutorState> = HashMap::new();
        let mut reports = Vec::new();
        for ExecutorReport { job, data_address, mut executions } in registration.executors {
            reports.extend(executions.iter_mut().flat_map(|execution| std::mem::take(&mut execution.checkpoints)));
            let executions = executions.into_iter().map(update).collect();
            executors.insert(job, ExecutorState { data_address, executions });
        }
        let mut orphans = Vec::new();
        for handle in self.masters.all() {
            let job = handle.about.job;
            let executor = executors.remove(&job);
            let runs = executor.is_some();
            let event = Event::TaskManagerHere { taskmanager: session.taskmanager.clone(), executor };
            let told = handle.inbox.send(Mail::Here { host: session.host.clone(), event }).await.is_ok();
            if runs && !told {
                orphans.push(job);
            }
        }
        // What it has said of checkpoints and nobody has settled may not have been heard.
        for report in reports {
            let job = report.job;
            self.masters.tell(job, Mail::Event(snapshot(session.taskmanager.clone(), report))).await;
        }
        // Of jobs without a JobMaster, and of those whose JobMaster has just ended.
        orphans.extend(executors.into_keys());
        for job in orphans {
            info!(taskmanager = %session.taskmanager, job_id = %job, "stopping an executor no job owns");
            self.stop_orphan(&session.taskmanager, job);
        }
        Ok(session)
    }

    /// Takes one message of a registered TaskManager.
    pub(crate) async fn hear(&self, session: &Session, message: FromTaskManager) {
        session.heard();
        let taskmanager = session.taskmanager.clone();
        match message {
            FromTaskManager::Heartbeat { from: _, stale_commands } => {
                session.count_stale(stale_commands);
                session.send(ToTaskManager::Heartbeat);
            }
            FromTaskManager::Answer(answer) => self.take_answer(session, answer).await,
            FromTaskManager::Execution(report) => {
                let job = report.job;
                if self.masters.get(job).is_some() {
                    let event = Event::Execution { taskmanager, update: update(report) };
                    self.masters.tell(job, Mail::Event(event)).await;
                } else if !report.state.is_terminal() {
                    info!(%taskmanager, job_id = %job, "stopping an executor no job owns");
                    self.stop_orphan(&taskmanager, job);
                }
            }
            FromTaskManager::Progress(progress) => self.take_progress(progress),
            FromTaskManager::ExecutorLost { job, cause, own_doing } => {
                warn!(%taskmanager, job_id = %job, cause, own_doing, "executor lost");
                self.masters.tell(job, Mail::Event(Event::ExecutorLost { taskmanager, cause, own_doing })).await;
            }
            // A second registration on one stream is taken by the conversation.
            FromTaskManager::Register(_) => {}
            FromTaskManager::Checkpoint(report) => {
                self.masters.tell(report.job, Mail::Event(snapshot(taskmanager, report))).await;
            }
        }
    }

    async fn take_answer(&self, session: &Session, answer: CommandAnswer) {
        let taskmanager = session.taskmanager.clone();
        let Some(Pending { job, kind, .. }) = session.answered(answer.id) else {
            debug!(%taskmanager, command = answer.id, "answer to a command nobody waits for");
            return;
        };
        let event = match (kind, answer.result) {
            (_, Err(CommandError::Stale { seen })) => {
                warn!(%taskmanager, job_id = %job, epoch = %self.epoch, %seen, "TaskManager follows a newer leader");
                return session.supersede();
            }
            (None, result) => return debug!(%taskmanager, job_id = %job, ?result, "orphaned executor"),
            (Some(CommandKind::StartExecutor), Ok(CommandDone::ExecutorReady { data_address })) => {
                Event::ExecutorReady { taskmanager, data_address }
            }
            (Some(command @ CommandKind::StartExecutor), Ok(CommandDone::Done)) => {
                let reason = "it did not say where the executor's data port listens".to_owned();
                Event::CommandFailed { taskmanager, command, reason }
            }
            (Some(command), Ok(_)) => Event::CommandDone { taskmanager, command },
            (Some(command), Err(CommandError::Failed(reason))) => Event::CommandFailed { taskmanager, command, reason },
        };
        self.masters.tell(job, Mail::Event(event)).await;
    }

    fn take_progress(&self, progress: Vec<TaskProgress>) {
        let mut by_job: HashMap<JobId, Vec<_>> = HashMap::new();
        for task in progress {
            by_job.entry(task.job).or_default().push((task.attempt, counters(task)));
        }
        for (job, counters) in by_job {
            self.masters.mention(job, Mail::Progress(counters));
        }
    }

    /// Fails commands that were not answered in time.
    pub(crate) async fn fail_overdue(&self, session: &Session) {
        for Pending { job, kind, .. } in session.overdue(Instant::now()) {
            let Some(command) = kind else { continue };
            let deadline = perennial_types::format_duration(self.settings.command_deadline);
            let reason = format!("no answer within {deadline}");
            let event = Event::CommandFailed { taskmanager: session.taskmanager.clone(), command, reason };
            self.masters.tell(job, Mail::Event(event)).await;
        }
    }
}

fn update(report: ExecutionReport) -> ExecutionUpdate {
    let ExecutionReport { job: _, attempt, state, failure, progress, peer_lost, start_ms, ended, .. } = report;
    let (counters, input_ended) = (progress.map(counters), ended);
    ExecutionUpdate { attempt, state, failure, peer_lost, counters, start_ms, input_ended }
}

fn snapshot(taskmanager: TaskManagerId, report: CheckpointReport) -> Event {
    let CheckpointReport { job: _, attempt, checkpoint, result } = report;
    Event::Snapshot { taskmanager, attempt, checkpoint, result }
}

fn counters(progress: TaskProgress) -> Counters {
    Counters {
        records_in: progress.records_in,
        records_out: progress.records_out,
        bytes_in: progress.bytes_in,
        bytes_out: progress.bytes_out,
        busy_ms: progress.busy_ms,
        back_pressured_ms: progress.back_pressured_ms,
    }
}
