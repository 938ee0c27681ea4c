//! The leader's death, measured from outside: what the survivors answer when, and what the tasks noticed.
//!
//! Times begin right before the signal is sent. Every phase is asked for by a task of its own at every survivor; the first
//! answer counts.

use std::time::{Duration, Instant};

use perennial_client::{CancelJobError, ClusterStatus, DispatcherGateway, ExecutionSummary, JobDetails};
use perennial_rpc::dispatcher::DispatcherClient;
use perennial_rpc::transport::channel;
use perennial_types::{ExecutionState, JobId, JobStatus, LeaderEpoch, RequestId, TaskManagerId, VertexId};
use tokio::task::JoinSet;

use super::Stage;
use super::cluster::leader_name;
use super::progress::unix_ms;
use super::steps::Seen;
use crate::failure::{Exit, Failure};

/// Pause between two questions to one survivor.
const POLL: Duration = Duration::from_millis(5);

/// Longest wait for a phase, and for the killed member to have caught up.
const LIMIT: Duration = Duration::from_secs(60);

/// How long tasks are watched after everything is in place again: longer than any of their reports takes.
const WATCH: Duration = Duration::from_secs(1);

/// Entries a member may be behind to count as caught up: the log goes on meanwhile.
const LAG_MAX: u64 = 16;

/// A leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leader {
    pub(super) name: String,
    pub(super) epoch: LeaderEpoch,
}

/// Vertex, subtask, attempt and TaskManager of a task.
type Attempt = (VertexId, u32, u32, Option<TaskManagerId>);

/// What tasks were and did before.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) leader: Leader,
    attempts: Vec<Attempt>,
    restarts: u32,
    executors: Vec<i32>,
    seen: Seen,
    from_ms: u64,
    killed_ms: u64,
}

/// Times from the signal to what the survivors answered.
#[derive(Debug)]
pub(super) struct Phases {
    pub(super) next: Leader,
    pub(super) known: Duration,
    pub(super) written: Duration,
    pub(super) attached: Duration,
    pub(super) running: Duration,
}

/// What the tasks noticed.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) restarts: u32,
    pub(super) attempts_changed: usize,
    pub(super) executors_restarted: usize,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) miscounted: u64,
    /// Longest pause in any task, around the kill and before it.
    pub(super) gap: Duration,
    pub(super) gap_before: Duration,
}

impl Verdict {
    /// Whether no task noticed anything.
    pub(super) fn is_clean(&self) -> bool {
        let Self { restarts, attempts_changed, executors_restarted, lost, doubled, miscounted, gap: _, gap_before: _ } =
            *self;
        restarts == 0 && (attempts_changed, executors_restarted) == (0, 0) && (lost, doubled, miscounted) == (0, 0, 0)
    }
}

fn leader(status: &ClusterStatus) -> Option<Leader> {
    Some(Leader { name: leader_name(status)?.to_owned(), epoch: status.epoch })
}

/// Which attempt of every task runs, and where.
fn attempts(details: &JobDetails) -> Vec<Attempt> {
    let attempt = |one: &ExecutionSummary| (one.vertex, one.subtask, one.attempt, one.taskmanager.clone());
    details.executions.iter().map(attempt).collect()
}

async fn details(stage: &Stage<'_>, job: JobId) -> Result<JobDetails, Failure> {
    let details = stage.client.job(job).await?;
    details.ok_or_else(|| Failure::new(Exit::NotFound, anyhow::anyhow!("job {job} is no longer listed")))
}

fn seen(stage: &Stage<'_>) -> Result<Seen, Failure> {
    Seen::read(&super::story::progress_dir(stage.dir), stage.parallelism())
}

impl Before {
    /// Looks at everything. Pauses count from `from_ms` on, in milliseconds of the Unix epoch.
    pub(super) async fn look(stage: &Stage<'_>, job: JobId, from_ms: u64) -> Result<Self, Failure> {
        let status = stage.client.cluster_status().await?;
        let leader = leader(&status).ok_or_else(|| anyhow::anyhow!("nobody leads"))?;
        let details = details(stage, job).await?;
        Ok(Self {
            leader,
            attempts: attempts(&details),
            restarts: details.summary.restarts,
            executors: stage.cluster.executors(),
            seen: seen(stage)?,
            from_ms,
            killed_ms: 0,
        })
    }

    /// Kills the leader and waits until another one does all it did. Gives the pid that was killed, too.
    pub(super) async fn kill(&mut self, stage: &mut Stage<'_>, job: JobId) -> Result<(u32, Phases), Failure> {
        let survivors = stage.cluster.endpoints_without(&self.leader.name);
        let survivors = survivors.iter().map(|endpoint| Ok(DispatcherClient::new(channel(endpoint)?, endpoint)));
        let survivors = survivors.collect::<Result<Vec<_>, perennial_client::AddressError>>()?;
        let taskmanagers = stage.cluster.taskmanager_count();
        let old = self.leader.epoch;
        // Connections are there before they are needed.
        for survivor in &survivors {
            survivor.cluster_status().await?;
        }
        self.killed_ms = unix_ms();
        let begun = Instant::now();
        let pid = stage.cluster.kill(&self.leader.name)?;
        let known = first(&survivors, move |survivor: DispatcherClient| async move {
            let status = survivor.cluster_status().await.ok()?;
            leader(&status).filter(|leader| leader.epoch > old).map(|leader| (leader, begun.elapsed()))
        });
        // Ending a job that does not exist is an entry of the log like any other: it is answered after its commit.
        let written = first(&survivors, move |survivor: DispatcherClient| async move {
            let answer = survivor.cancel_job(JobId::random(), RequestId::random()).await;
            matches!(answer, Err(CancelJobError::UnknownJob { .. })).then(|| begun.elapsed())
        });
        let attached = first(&survivors, move |survivor: DispatcherClient| async move {
            let attached = survivor.taskmanagers().await.ok()?.len();
            (attached >= taskmanagers).then(|| begun.elapsed())
        });
        let running = first(&survivors, move |survivor: DispatcherClient| async move {
            let details = survivor.job(job).await.ok()??;
            let runs = |execution: &ExecutionSummary| execution.state == ExecutionState::Running;
            let all = details.summary.status == JobStatus::Running && details.executions.iter().all(runs);
            all.then(|| begun.elapsed())
        });
        let ((next, known), written, attached, running) = tokio::try_join!(known, written, attached, running)?;
        Ok((pid, Phases { next, known, written, attached, running }))
    }

    /// Waits until the killed member, started again, is where the others are, and says what the tasks noticed of it all.
    pub(super) async fn judge(&self, stage: &mut Stage<'_>, job: JobId) -> Result<Verdict, Failure> {
        caught_up(stage, &self.leader.name).await?;
        tokio::time::sleep(WATCH).await;
        let details = details(stage, job).await?;
        let (now, seen) = (attempts(&details), seen(stage)?);
        let changed = now.iter().zip(&self.attempts).filter(|(now, before)| now != before).count();
        let executors = stage.cluster.executors();
        Ok(Verdict {
            restarts: details.summary.restarts.saturating_sub(self.restarts),
            attempts_changed: changed + now.len().abs_diff(self.attempts.len()),
            executors_restarted: self.executors.iter().filter(|pid| !executors.contains(pid)).count(),
            lost: seen.lost() - self.seen.lost(),
            doubled: seen.doubled() - self.seen.doubled(),
            miscounted: seen.miscounted() - self.seen.miscounted(),
            gap: seen.longest_pause(self.killed_ms, u64::MAX),
            gap_before: seen.longest_pause(self.from_ms, self.killed_ms),
        })
    }
}

/// Waits until a member that was started again follows the leader closely.
async fn caught_up(stage: &Stage<'_>, name: &str) -> Result<(), Failure> {
    let endpoint = stage.cluster.endpoint(name)?;
    let this = DispatcherClient::new(channel(&endpoint)?, &endpoint);
    let caught_up = async {
        loop {
            let (seen_here, seen_there) = tokio::join!(this.cluster_status(), stage.client.cluster_status());
            if let (Ok(here), Ok(there)) = (seen_here, seen_there)
                && here.leader.is_some()
                && here.leader == there.leader
                && here.applied + LAG_MAX >= there.applied
            {
                return;
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let late = || anyhow::anyhow!("{name} was started again and did not catch up within {} s", LIMIT.as_secs());
    Ok(tokio::time::timeout(LIMIT, caught_up).await.map_err(|_| late())?)
}

/// The first answer of any survivor that is one.
async fn first<T, F, A>(survivors: &[DispatcherClient], ask: A) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = Option<T>> + Send + 'static,
    A: Fn(DispatcherClient) -> F + Clone + Send + 'static,
{
    let mut probes = JoinSet::new();
    for survivor in survivors {
        let (survivor, ask) = (survivor.clone(), ask.clone());
        probes.spawn(async move {
            loop {
                if let Some(answer) = ask(survivor.clone()).await {
                    return answer;
                }
                tokio::time::sleep(POLL).await;
            }
        });
    }
    match tokio::time::timeout(LIMIT, probes.join_next()).await {
        Ok(Some(Ok(answer))) => Ok(answer),
        _ => Err(anyhow::anyhow!("the survivors had no working leader within {} s", LIMIT.as_secs()).into()),
    }
}
