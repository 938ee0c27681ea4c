//! Kills processes of a cluster at random with SIGKILL and starts them again.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use perennial_tests::{Cluster, Submission, send_signal};
use rustix::process::Signal;

use crate::random::Random;

/// Time from one strike to the next, in milliseconds.
const BETWEEN_MS: std::ops::Range<u64> = 2000..5000;

/// Time a process is away, in milliseconds.
const AWAY_MS: std::ops::Range<u64> = 0..1500;

/// Time from a strike to another that hits its recovery, in milliseconds; a third of the strikes have one.
const SECOND_MS: std::ops::Range<u64> = 0..1000;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    /// The JobManager that leads.
    Leader,
    /// Any JobManager.
    JobManager,
    /// A TaskManager's process; its executors live on.
    TaskManager,
    /// A TaskManager's process with its executors.
    Machine,
    /// An executor of the job.
    Executor,
}

/// All of them.
pub(crate) const VICTIMS: [Victim; 5] =
    [Victim::Leader, Victim::JobManager, Victim::TaskManager, Victim::Machine, Victim::Executor];

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leaders",
            Self::JobManager => "JobManagers",
            Self::TaskManager => "TaskManagers without their executors",
            Self::Machine => "TaskManagers with their executors",
            Self::Executor => "executors",
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    JobManager,
    TaskManager,
}

/// Strikes of one run. The choices follow from the seed; what they hit depends on who leads and which executors there are.
pub(crate) struct Strikes {
    random: Random,
    started: Instant,
    next: Instant,
    /// Whether the next strike hits the recovery from the one before.
    second: bool,
    /// Processes that are away, and when they come back.
    away: Vec<(Instant, Role, usize)>,
    /// What was killed, in order.
    killed: Vec<Victim>,
}

impl Strikes {
    /// The strikes of a seed.
    pub(crate) fn new(seed: u64) -> Self {
        let (random, started) = (Random::new(seed), Instant::now());
        let next = started + Duration::from_millis(BETWEEN_MS.start);
        Self { random, started, next, second: false, away: Vec::new(), killed: Vec::new() }
    }

    /// Kills and starts what is due. Has to be called often.
    pub(crate) fn strike_if_due(&mut self, cluster: &mut Cluster, job: &Submission) -> Result<()> {
        let now = Instant::now();
        let (back, away) = std::mem::take(&mut self.away).into_iter().partition(|(back, ..)| *back <= now);
        self.away = away;
        Self::start(cluster, back)?;
        // A process that ended by itself is a find of its own.
        cluster.check_alive()?;
        if now >= self.next {
            self.strike(cluster, job)?;
        }
        Ok(())
    }

    /// Starts everything that is away.
    pub(crate) fn end(&mut self, cluster: &mut Cluster) -> Result<()> {
        Self::start(cluster, std::mem::take(&mut self.away))
    }

    /// How many of each were killed.
    pub(crate) fn killed(&self) -> Vec<(Victim, usize)> {
        VICTIMS.iter().map(|victim| (*victim, self.killed.iter().filter(|killed| *killed == victim).count())).collect()
    }

    fn start(cluster: &mut Cluster, back: Vec<(Instant, Role, usize)>) -> Result<()> {
        back.into_iter().try_for_each(|(_, role, index)| match role {
            Role::JobManager => cluster.start_jobmanager(index),
            Role::TaskManager => cluster.start_taskmanager(index),
        })
    }

    fn strike(&mut self, cluster: &mut Cluster, job: &Submission) -> Result<()> {
        let drawn = self.random.within(0..VICTIMS.len() as u64) as usize;
        let victim = *VICTIMS.get(drawn).context("one of them was drawn")?;
        let (chosen, away) = (self.random.within(0..1 << 32) as usize, self.random.within(AWAY_MS));
        let second = !self.second && self.random.within(0..3) == 0;
        let wait = self.random.within(if second { SECOND_MS } else { BETWEEN_MS });
        self.second = second;
        self.next = Instant::now() + Duration::from_millis(wait);
        let back = Instant::now() + Duration::from_millis(away);
        let hit = match victim {
            Victim::Leader | Victim::JobManager => {
                // The group needs its majority.
                if self.away.iter().any(|(_, role, _)| *role == Role::JobManager) {
                    return Ok(());
                }
                let leader = cluster.leader(Duration::from_millis(300)).ok().map(|(leader, _)| leader);
                let index = match (victim, leader) {
                    (Victim::Leader, Some(leader)) => leader,
                    _ => chosen % cluster.jobmanager_count(),
                };
                cluster.take_jobmanager(index)?.kill()?;
                self.away.push((back, Role::JobManager, index));
                format!("jm-{}{}", index + 1, if Some(index) == leader { ", the leader" } else { "" })
            }
            Victim::TaskManager | Victim::Machine => {
                let index = chosen % cluster.taskmanager_count();
                if cluster.taskmanager(index).is_err() {
                    return Ok(());
                }
                if victim == Victim::Machine {
                    cluster.kill_whole_taskmanager(index)?;
                } else {
                    cluster.take_taskmanager(index)?.kill()?;
                }
                self.away.push((back, Role::TaskManager, index));
                format!("tm-{}", index + 1)
            }
            Victim::Executor => {
                let executors = cluster.executors_of(job);
                let Some(pid) = executors.get(chosen % executors.len().max(1)) else { return Ok(()) };
                // It may just have ended.
                let _ = send_signal(*pid, Signal::KILL);
                format!("pid {pid}")
            }
        };
        self.killed.push(victim);
        let at = self.started.elapsed().as_secs_f64();
        eprintln!("{at:8.3} s: one of {victim} killed: {hit}, away for {away} ms");
        Ok(())
    }
}
