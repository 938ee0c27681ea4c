//! What the leader has to know about the jobs here, whether there is a leader or not. Pure.
//!
//! The ledger is the report buffer of the TaskManager: it keeps the latest state of each execution and how an executor
//! ended until the leader lets the job go. Whatever was on its way when a leader died is told to the next one: live
//! executors inside the registration, the others right after it.

use std::collections::BTreeMap;

use perennial_rpc::taskmanager::{
    CheckpointReport, ExecutionReport, ExecutorReport, FromTaskManager, NotifyCheckpoint, TaskDeployment,
};
use perennial_types::{ExecutionAttemptId, JobId};

/// Jobs without an executor that are remembered at most; above it the one that ended first is forgotten. Reached only
/// when leaders forget to stop executors that ended by themselves.
const ENDED_JOBS_MAX: usize = 1024;

/// What an execution has said about checkpoints and is kept at most. More than a leader has under way at once; above it
/// the oldest is dropped.
const CHECKPOINTS_KEPT_MAX: usize = 8;

/// How an executor ended without being asked to.
#[derive(Debug, Clone)]
struct Lost {
    /// The order in which it did among all.
    order: u64,
    cause: String,
    /// Whether its code ended it.
    own_doing: bool,
}

#[derive(Debug, Default)]
struct Job {
    /// Where the executor's data port listens; none when it is not running.
    data_address: Option<String>,
    /// How the executor ended.
    lost: Option<Lost>,
    executions: BTreeMap<ExecutionAttemptId, ExecutionReport>,
}

/// All jobs of this TaskManager.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    jobs: BTreeMap<JobId, Job>,
    losses: u64,
}

impl Ledger {
    /// An executor takes commands.
    pub(crate) fn executor_ready(&mut self, job: JobId, data_address: String) {
        let entry = self.jobs.entry(job).or_default();
        if entry.lost.take().is_some() {
            entry.executions.clear();
        }
        entry.data_address = Some(data_address);
    }

    /// The leader deploys executions. Earlier attempts of the same subtasks that have ended are of no interest any more.
    pub(crate) fn deployed(&mut self, job: JobId, tasks: &[TaskDeployment]) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        for task in tasks {
            let new = task.attempt;
            entry.executions.retain(|old, report| {
                (old.vertex, old.subtask) != (new.vertex, new.subtask)
                    || old.attempt >= new.attempt
                    || !report.state.is_terminal()
            });
        }
    }

    /// Notes the state of an execution. False when it says nothing new: the state is known, or has been left for good.
    /// What it has said about checkpoints stays: see [`Ledger::checkpoint`].
    pub(crate) fn record(&mut self, mut report: ExecutionReport) -> bool {
        let entry = self.jobs.entry(report.job).or_default();
        let known = entry.executions.get(&report.attempt);
        if let Some(known) = known {
            if known.state.is_terminal() || (known.state, known.ended) == (report.state, report.ended) {
                return false;
            }
            report.checkpoints.clone_from(&known.checkpoints);
        }
        entry.executions.insert(report.attempt, report);
        true
    }

    /// Notes what an execution says about a checkpoint, until a leader settles it. False when it was said before.
    pub(crate) fn checkpoint(&mut self, report: CheckpointReport) -> bool {
        let entry = self.jobs.entry(report.job).or_default();
        // Without a state there is nothing a registration could carry it with; whoever leads now hears it all the same.
        let Some(execution) = entry.executions.get_mut(&report.attempt) else { return true };
        if execution.checkpoints.contains(&report) {
            return false;
        }
        execution.checkpoints.retain(|known| known.checkpoint != report.checkpoint);
        if execution.checkpoints.len() == CHECKPOINTS_KEPT_MAX {
            execution.checkpoints.remove(0);
        }
        execution.checkpoints.push(report);
        true
    }

    /// A leader has settled checkpoints: what was said about them need not be said again.
    pub(crate) fn settle(&mut self, job: JobId, notice: &NotifyCheckpoint) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        for execution in entry.executions.values_mut() {
            execution.checkpoints.retain(|report| !notice.settles(report.checkpoint));
        }
    }

    /// Whether anything has been reported about an execution.
    pub(crate) fn knows(&self, job: JobId, attempt: ExecutionAttemptId) -> bool {
        self.jobs.get(&job).is_some_and(|entry| entry.executions.contains_key(&attempt))
    }

    /// Whether an execution has reached a terminal state.
    pub(crate) fn has_ended(&self, job: JobId, attempt: ExecutionAttemptId) -> bool {
        let report = self.jobs.get(&job).and_then(|entry| entry.executions.get(&attempt));
        report.is_some_and(|report| report.state.is_terminal())
    }

    /// An executor has ended without being asked to.
    pub(crate) fn executor_lost(&mut self, job: JobId, cause: String, own_doing: bool) {
        self.losses += 1;
        let entry = self.jobs.entry(job).or_default();
        entry.data_address = None;
        entry.lost = Some(Lost { order: self.losses, cause, own_doing });
        let ended = self.jobs.iter().filter_map(|(job, entry)| entry.lost.as_ref().map(|lost| (lost.order, *job)));
        if ended.clone().count() > ENDED_JOBS_MAX
            && let Some((_, oldest)) = ended.min()
        {
            self.jobs.remove(&oldest);
        }
    }

    /// The leader has let the job go.
    pub(crate) fn forget(&mut self, job: JobId) {
        self.jobs.remove(&job);
    }

    /// Where the executor of a job listens, if it runs.
    pub(crate) fn data_address(&self, job: JobId) -> Option<&str> {
        self.jobs.get(&job)?.data_address.as_deref()
    }

    /// What a registration says about executors.
    pub(crate) fn live(&self) -> Vec<ExecutorReport> {
        self.jobs
            .iter()
            .filter_map(|(job, entry)| {
                let executions = entry.executions.values().cloned().collect();
                Some(ExecutorReport { job: *job, data_address: entry.data_address.clone()?, executions })
            })
            .collect()
    }

    /// Jobs whose executors have ended without being asked to, and that no leader has let go.
    pub(crate) fn lost_jobs(&self) -> Vec<JobId> {
        self.jobs.iter().filter(|(_, entry)| entry.lost.is_some()).map(|(job, _)| *job).collect()
    }

    /// What follows an accepted registration about an executor that ended: the last states of its executions, then how
    /// it ended. Nothing, if the job has been started again or let go meanwhile.
    pub(crate) fn ended(&self, job: JobId) -> Vec<FromTaskManager> {
        let Some(Job { lost: Some(lost), executions, .. }) = self.jobs.get(&job) else { return Vec::new() };
        let Lost { cause, own_doing, .. } = lost.clone();
        let executions = executions.values().cloned().map(FromTaskManager::Execution);
        executions.chain([FromTaskManager::ExecutorLost { job, cause, own_doing }]).collect()
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::{AllocationId, CheckpointId, ExecutionState, SlotIndex, VertexId};

    use super::*;

    const JOB: JobId = JobId::from_bytes([1; 16]);

    fn report(subtask: u32, attempt: u32, state: ExecutionState) -> ExecutionReport {
        let attempt = ExecutionAttemptId { vertex: VertexId::from_bytes([9; 16]), subtask, attempt };
        ExecutionReport {
            job: JOB,
            attempt,
            state,
            failure: None,
            progress: None,
            peer_lost: false,
            start_ms: None,
            checkpoints: Vec::new(),
            ended: false,
        }
    }

    fn ready(reports: Vec<ExecutionReport>) -> Ledger {
        let mut ledger = Ledger::default();
        ledger.executor_ready(JOB, "h:1".to_owned());
        for report in reports {
            assert!(ledger.record(report));
        }
        ledger
    }

    fn states(ledger: &Ledger) -> Vec<(u32, u32, ExecutionState)> {
        let executor = &ledger.live()[0];
        executor.executions.iter().map(|r| (r.attempt.subtask, r.attempt.attempt, r.state)).collect()
    }

    #[test]
    fn the_latest_state_wins_and_terminal_states_stay() {
        use ExecutionState::*;
        let mut ledger = ready(vec![report(0, 0, Running)]);
        assert!(!ledger.record(report(0, 0, Running)));
        assert!(ledger.record(report(0, 0, Finished)));
        assert!(!ledger.record(report(0, 0, Running)));
        assert!(!ledger.record(report(0, 0, Failed)));
        assert_eq!(states(&ledger), [(0, 0, Finished)]);
    }

    #[test]
    fn what_is_said_about_checkpoints_is_kept_until_a_leader_settles_it() {
        use ExecutionState::*;
        let kept = |ledger: &Ledger| -> Vec<u64> {
            let executor = &ledger.live()[0];
            executor.executions[0].checkpoints.iter().map(|report| report.checkpoint.0).collect()
        };
        let said = |checkpoint| CheckpointReport {
            job: JOB,
            attempt: report(0, 0, Running).attempt,
            checkpoint: CheckpointId(checkpoint),
            result: Err("busy".to_owned()),
        };
        let mut ledger = ready(vec![report(0, 0, Running)]);
        assert!(ledger.checkpoint(said(3)));
        assert!(!ledger.checkpoint(said(3)), "said again");
        assert!(ledger.checkpoint(said(4)));
        assert!(ledger.checkpoint(said(5)));
        assert!(ledger.record(ExecutionReport { ended: true, ..report(0, 0, Running) }), "its input is over");
        assert_eq!(kept(&ledger), [3, 4, 5], "a state replaces nothing that was said");
        ledger.settle(JOB, &NotifyCheckpoint { completed: Some(CheckpointId(3)), aborted: vec![CheckpointId(5)] });
        assert_eq!(kept(&ledger), [4]);
        for checkpoint in 10..30 {
            ledger.checkpoint(said(checkpoint));
        }
        assert_eq!(kept(&ledger), (22..30).collect::<Vec<_>>());
    }

    #[test]
    fn a_new_attempt_replaces_the_ended_ones_before_it() {
        use ExecutionState::*;
        let reports = vec![report(0, 0, Failed), report(0, 1, Canceled), report(1, 0, Running), report(2, 0, Finished)];
        let mut ledger = ready(reports);
        let deploy = |subtask| TaskDeployment {
            attempt: report(subtask, 2, Deploying).attempt,
            slot: SlotIndex(0),
            allocation: AllocationId::from_bytes([0; 16]),
            restore: None,
        };
        ledger.deployed(JOB, &[deploy(0), deploy(1)]);
        assert_eq!(states(&ledger), [(1, 0, Running), (2, 0, Finished)]);
    }

    #[test]
    fn an_executor_that_ended_is_told_to_every_leader_until_the_job_is_let_go_or_started_again() {
        use ExecutionState::*;
        let mut ledger = ready(vec![report(0, 0, Finished), report(1, 0, Running)]);
        ledger.executor_lost(JOB, "killed by signal 9".to_owned(), false);
        assert!(ledger.live().is_empty());
        for _ in 0..2 {
            let told = ledger.ended(JOB);
            assert_eq!(told.len(), 3);
            assert!(matches!(told.last(), Some(FromTaskManager::ExecutorLost { job: JOB, .. })));
        }
        ledger.executor_ready(JOB, "h:2".to_owned());
        assert!(ledger.ended(JOB).is_empty() && ledger.lost_jobs().is_empty());
        assert_eq!(ledger.live()[0].executions, []);
        ledger.executor_lost(JOB, "again".to_owned(), false);
        assert_eq!(ledger.lost_jobs(), [JOB]);
        ledger.forget(JOB);
        assert!(ledger.ended(JOB).is_empty() && ledger.lost_jobs().is_empty());
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut ledger = Ledger::default();
        for number in 0..ENDED_JOBS_MAX as u32 + 10 {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&(u32::MAX - number).to_be_bytes());
            ledger.executor_lost(JobId::from_bytes(bytes), "gone".to_owned(), false);
        }
        let kept = ledger.lost_jobs();
        assert_eq!(kept.len(), ENDED_JOBS_MAX);
        assert!(!kept.iter().any(|job| job.as_bytes()[..4] == u32::MAX.to_be_bytes()), "the first is forgotten");
    }
}
