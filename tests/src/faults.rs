//! What fault runs want to know of a cluster, and what they do to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use crate::{Cluster, Endpoint, Submission, send_signal, wait_for};

/// The group as one member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemberView {
    /// The newest epoch it knows.
    pub epoch: u64,
    /// Index of the JobManager that leads in it, if it knows.
    pub leader: Option<usize>,
}

impl MemberView {
    /// What the answer to `/v1/cluster/members` says.
    pub fn read(answer: &Value) -> Result<Self> {
        let epoch = answer.get("epoch").and_then(Value::as_u64).with_context(|| format!("no epoch in {answer}"))?;
        // Members are numbered from 1 in the order of their names.
        let leader = answer.get("leader").and_then(Value::as_u64);
        Ok(Self { epoch, leader: leader.and_then(|id| usize::try_from(id).ok()?.checked_sub(1)) })
    }
}

/// Where and since when a subtask runs. What must not change while only JobManagers have faults.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// Its vertex.
    pub vertex: String,
    /// Which copy of it.
    pub subtask: u64,
    /// Which attempt.
    pub attempt: u64,
    /// When it was deployed, in milliseconds of the Unix epoch.
    pub start_ms: i64,
    /// Where it runs.
    pub taskmanager: String,
}

impl Endpoint {
    /// What the member says of the group, within `limit`. Needs no leader.
    pub fn member_view(&self, limit: Duration) -> Result<MemberView> {
        let (status, body) = self.request("GET", "/v1/cluster/members", limit)?;
        ensure!(status == 200, "{status}: {body}");
        MemberView::read(&serde_json::from_str(&body)?)
    }
}

impl Cluster {
    /// What one member says of the group, within `limit`. Needs no leader.
    pub fn member_view(&self, jobmanager: usize, limit: Duration) -> Result<MemberView> {
        self.endpoint(jobmanager)?.member_view(limit)
    }

    /// Index of the JobManager that leads, in the highest epoch that one of `asked` knows a leader of and that leader
    /// confirms; and that epoch.
    pub fn leader_among(&self, asked: &[usize], limit: Duration) -> Result<(usize, u64)> {
        wait_for("a leader", limit, || {
            let views = asked.iter().filter_map(|index| {
                let view = self.member_view(*index, Duration::from_millis(500)).ok()?;
                (view.leader == Some(*index)).then_some((*index, view.epoch))
            });
            views.max_by_key(|(_, epoch)| *epoch).context("none of them says that it leads")
        })
    }

    /// The same among all members.
    pub fn leader(&self, limit: Duration) -> Result<(usize, u64)> {
        self.leader_among(&(0..self.jobmanager_count()).collect::<Vec<_>>(), limit)
    }

    /// Every subtask of a job as its leader shows it, in order.
    pub fn placed(&self, submission: &Submission) -> Result<Vec<Placed>> {
        placed_in(&self.job(submission)?)
    }

    /// How often a job was restarted.
    pub fn restarts(&self, submission: &Submission) -> Result<u64> {
        self.job(submission)?.get("restarts").and_then(Value::as_u64).context("a job counts its restarts")
    }

    /// Numbers of the checkpoints that JobManagers have completed, in the order they say so.
    pub fn completed_checkpoints(&self) -> Result<Vec<u64>> {
        let mut completed = Vec::new();
        for jobmanager in 1..=self.jobmanager_count() {
            let log = fs::read_to_string(self.dir().join(format!("jm-{jobmanager}.log"))).unwrap_or_default();
            for line in log.lines().filter(|line| line.contains("checkpoint completed")) {
                let number = line.split_once("checkpoint=").and_then(|(_, rest)| rest.split_whitespace().next());
                let number: u64 = number.and_then(|number| number.parse().ok()).with_context(|| line.to_owned())?;
                let time = line.split_whitespace().next().unwrap_or_default();
                completed.push((time.to_owned(), number));
            }
        }
        completed.sort();
        Ok(completed.into_iter().map(|(_, number)| number).collect())
    }

    /// Pids of the executors of one TaskManager.
    pub fn executors_on(&self, taskmanager: usize) -> Vec<u32> {
        executors_below(&self.dir().join(format!("tm-{}", taskmanager + 1))).map(|(_, pid)| pid).collect()
    }

    /// Kills a TaskManager's process and all its executors at once: a machine is gone.
    pub fn kill_whole_taskmanager(&mut self, index: usize) -> Result<()> {
        let mut process = self.take_taskmanager(index)?;
        let executors = self.executors_on(index);
        process.signal(Signal::KILL)?;
        executors.into_iter().for_each(end);
        process.kill().map(drop)
    }

    /// Pids of the executors of one job.
    pub fn executors_of(&self, submission: &Submission) -> Vec<u32> {
        let mut pids: Vec<u32> =
            records(self.dir()).filter(|(job, _)| *job == submission.job).map(|(_, pid)| pid).collect();
        pids.sort_unstable();
        pids
    }
}

/// Every subtask in Flink's JSON of a job, in order.
pub fn placed_in(job: &Value) -> Result<Vec<Placed>> {
    let list = |value: &Value, field: &str| value.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut all = Vec::new();
    for vertex in list(job, "vertices") {
        let name = vertex.get("name").and_then(Value::as_str).context("a vertex has a name")?;
        for subtask in list(&vertex, "subtasks") {
            let number =
                |field: &str| subtask.get(field).and_then(Value::as_i64).with_context(|| format!("no {field}"));
            all.push(Placed {
                vertex: name.to_owned(),
                subtask: number("subtask")?.unsigned_abs(),
                attempt: number("attempt")?.unsigned_abs(),
                start_ms: number("start-time")?,
                taskmanager: subtask.get("taskmanager-id").and_then(Value::as_str).unwrap_or_default().to_owned(),
            });
        }
    }
    ensure!(!all.is_empty(), "the job shows no subtasks: {job}");
    all.sort();
    Ok(all)
}

/// Pids of executors that TaskManagers of this directory have written down and that live.
pub(crate) fn recorded(dir: &Path) -> Vec<u32> {
    records(dir).map(|(_, pid)| pid).collect()
}

/// Job and pid of every executor below this directory that lives.
fn records(dir: &Path) -> impl Iterator<Item = (String, u32)> {
    fs::read_dir(dir).into_iter().flatten().flatten().flat_map(|home| executors_below(&home.path()))
}

/// Job and pid of every executor of the TaskManager with this directory that lives.
fn executors_below(home: &Path) -> impl Iterator<Item = (String, u32)> + use<> {
    let executors = fs::read_dir(home.join("executors")).into_iter().flatten().flatten();
    executors.filter_map(|executor| {
        let record: Value = serde_json::from_slice(&fs::read(executor.path().join("executor.json")).ok()?).ok()?;
        let pid = u32::try_from(record.get("pid")?.as_u64()?).ok()?;
        let start = record.get("start_ticks")?.as_u64()?;
        lives(pid, start).then(|| (executor.file_name().to_string_lossy().into_owned(), pid))
    })
}

/// Whether the process that started at this tick runs.
fn lives(pid: u32, start_ticks: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
    let started = fields.get(19).and_then(|text| text.parse::<u64>().ok());
    fields.first().is_some_and(|state| *state != "Z") && started == Some(start_ticks)
}

/// Kills a process that may be gone already.
pub(crate) fn end(pid: u32) {
    let _ = send_signal(pid, Signal::KILL);
}
