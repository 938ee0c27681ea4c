//! What a job knows of a TaskManager.

use perennial_types::TaskManagerId;

use super::{Command, Effect, Job, Phase};

/// How far the job's executor on a TaskManager is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    /// After a change of leader: the TaskManager has not come yet.
    Unknown,
    /// There is none.
    Empty,
    /// It was asked for.
    Starting,
    /// It takes commands.
    Ready { data_address: String },
    /// It was told to stop.
    Stopping,
}

/// A TaskManager that the job has or had slots on. One that is lost is forgotten: should it come back, whatever it still
/// runs is a leftover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) stage: Stage,
    /// Whether its connection is broken: what is told to it does not arrive, and is made up for when it comes.
    pub(super) detached: bool,
}

impl Host {
    pub(super) fn new(stage: Stage) -> Self {
        Self { stage, detached: false }
    }
}

impl Job {
    pub(super) fn stage(&self, taskmanager: &TaskManagerId) -> Option<&Stage> {
        self.hosts.get(taskmanager).map(|host| &host.stage)
    }

    pub(super) fn set_stage(&mut self, taskmanager: &TaskManagerId, stage: Stage) {
        if let Some(host) = self.hosts.get_mut(taskmanager) {
            host.stage = stage;
        }
    }

    pub(super) fn start_executor(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        self.set_stage(taskmanager, Stage::Starting);
        self.send(taskmanager, Command::StartExecutor, out);
    }

    pub(super) fn stop_executor(&mut self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        self.set_stage(taskmanager, Stage::Stopping);
        self.send(taskmanager, Command::StopExecutor, out);
    }

    pub(super) fn on_executor_ready(&mut self, taskmanager: &TaskManagerId, data_address: String) {
        let wanted = matches!(self.phase, Phase::Active | Phase::Ending { .. });
        if wanted && self.stage(taskmanager) == Some(&Stage::Starting) {
            self.set_stage(taskmanager, Stage::Ready { data_address });
        }
    }

    /// Asks whether the executor on a TaskManager that is not connected is alive.
    pub(super) fn probe(&self, taskmanager: &TaskManagerId, out: &mut Vec<Effect>) {
        if let Some(Host { stage: Stage::Ready { data_address }, detached: true }) = self.hosts.get(taskmanager) {
            let (taskmanager, data_address) = (taskmanager.clone(), data_address.clone());
            out.push(Effect::Probe { taskmanager, data_address });
        }
    }
}
