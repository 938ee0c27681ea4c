//! Kills processes of a cluster at random with SIGKILL and starts them again; hostile strikes also pause some, and leave some away for
//! so long that they are given up.

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

/// Time a process is paused or away when it is to be given up: more than `heartbeat.timeout`.
const GIVEN_UP_MS: std::ops::Range<u64> = 5500..9000;

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
    /// Every JobManager.
    Group,
    /// The JobManager that leads, paused and resumed: another leads meanwhile.
    PausedLeader,
    /// A TaskManager with its executors, paused and resumed.
    PausedMachine,
    /// An executor, paused and resumed.
    PausedExecutor,
}

/// What is killed.
const KILLED: [Victim; 5] =
    [Victim::Leader, Victim::JobManager, Victim::TaskManager, Victim::Machine, Victim::Executor];

/// What hostile strikes hit besides.
const HOSTILE: [Victim; 4] = [Victim::Group, Victim::PausedLeader, Victim::PausedMachine, Victim::PausedExecutor];

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leaders",
            Self::JobManager => "JobManagers",
            Self::TaskManager => "TaskManagers without their executors",
            Self::Machine => "TaskManagers with their executors",
            Self::Executor => "executors",
            Self::Group => "all JobManagers",
            Self::PausedLeader => "leaders (paused)",
            Self::PausedMachine => "TaskManagers with their executors (paused)",
            Self::PausedExecutor => "executors (paused)",
        })
    }
}

/// What is done when somebody comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Back {
    JobManager(usize),
    TaskManager(usize),
    /// Processes go on.
    Resumed(Vec<u32>),
}

/// Strikes of one run. The choices follow from the seed; what they hit depends on who leads and which executors there are.
pub(crate) struct Strikes {
    random: Random,
    victims: Vec<Victim>,
    started: Instant,
    next: Instant,
    /// Whether the next strike hits the recovery from the one before.
    second: bool,
    /// What is away or paused, and when it comes back.
    away: Vec<(Instant, Back)>,
    /// When the JobManager that was paused last goes on.
    paused_until: Instant,
    /// What was killed, in order.
    killed: Vec<Victim>,
}

impl Strikes {
    /// The strikes of a seed.
    pub(crate) fn new(seed: u64, hostile: bool) -> Self {
        let (random, started) = (Random::new(seed), Instant::now());
        let next = started + Duration::from_millis(BETWEEN_MS.start);
        let victims = KILLED.into_iter().chain(HOSTILE.into_iter().filter(|_| hostile)).collect();
        let (away, killed) = (Vec::new(), Vec::new());
        Self { random, victims, started, next, second: false, away, paused_until: started, killed }
    }

    /// Kills and starts what is due. Has to be called often.
    pub(crate) fn strike_if_due(&mut self, cluster: &mut Cluster, job: &Submission) -> Result<()> {
        let now = Instant::now();
        let (due, away) = std::mem::take(&mut self.away).into_iter().partition(|(back, _)| *back <= now);
        self.away = away;
        Self::bring_back(cluster, due)?;
        // A process that ended by itself is a find of its own.
        cluster.check_alive()?;
        if now >= self.next {
            self.strike(cluster, job)?;
        }
        Ok(())
    }

    /// Brings back everything that is away.
    pub(crate) fn end(&mut self, cluster: &mut Cluster) -> Result<()> {
        Self::bring_back(cluster, std::mem::take(&mut self.away))
    }

    /// How many of each were hit.
    pub(crate) fn killed(&self) -> Vec<(Victim, usize)> {
        let hit = |victim: &Victim| self.killed.iter().filter(|killed| *killed == victim).count();
        self.victims.iter().map(|victim| (*victim, hit(victim))).collect()
    }

    fn bring_back(cluster: &mut Cluster, due: Vec<(Instant, Back)>) -> Result<()> {
        due.into_iter().try_for_each(|(_, back)| match back {
            Back::JobManager(index) => cluster.start_jobmanager(index),
            Back::TaskManager(index) => cluster.start_taskmanager(index),
            Back::Resumed(pids) => {
                // They may have been killed meanwhile.
                pids.into_iter().for_each(|pid| _ = send_signal(pid, Signal::CONT));
                Ok(())
            }
        })
    }

    fn strike(&mut self, cluster: &mut Cluster, job: &Submission) -> Result<()> {
        let drawn = self.random.within(0..self.victims.len() as u64) as usize;
        let victim = *self.victims.get(drawn).context("one of them was drawn")?;
        let chosen = self.random.within(0..1 << 32) as usize;
        let hostile = self.victims.len() > KILLED.len();
        let away = self.random.within(AWAY_MS);
        let away = if hostile && self.random.within(0..4) == 0 { self.random.within(GIVEN_UP_MS) } else { away };
        let second = !self.second && self.random.within(0..3) == 0;
        let wait = self.random.within(if second { SECOND_MS } else { BETWEEN_MS });
        self.second = second;
        self.next = Instant::now() + Duration::from_millis(wait);
        let hit = match victim {
            // The group needs its majority, unless all of it is meant.
            Victim::Leader | Victim::JobManager | Victim::PausedLeader if self.is_group_short() => None,
            Victim::Leader | Victim::PausedLeader => match cluster.leader(Duration::from_millis(300)) {
                Ok((leader, _)) if victim == Victim::Leader => Some(kill_jobmanagers(cluster, &[leader])?),
                Ok((leader, _)) => Some(pause(vec![cluster.jobmanager(leader)?.pid()])),
                Err(_) => None,
            },
            Victim::JobManager => Some(kill_jobmanagers(cluster, &[chosen % cluster.jobmanager_count()])?),
            Victim::Group => {
                let up: Vec<usize> =
                    (0..cluster.jobmanager_count()).filter(|index| cluster.jobmanager(*index).is_ok()).collect();
                Some(kill_jobmanagers(cluster, &up)?)
            }
            Victim::TaskManager | Victim::Machine | Victim::PausedMachine => {
                let index = chosen % cluster.taskmanager_count();
                match (cluster.taskmanager(index).map(|process| process.pid()), victim) {
                    (Err(_), _) => None,
                    (Ok(_), Victim::TaskManager) => {
                        cluster.take_taskmanager(index)?.kill()?;
                        Some(vec![Back::TaskManager(index)])
                    }
                    (Ok(_), Victim::Machine) => {
                        cluster.kill_whole_taskmanager(index)?;
                        Some(vec![Back::TaskManager(index)])
                    }
                    (Ok(pid), _) => Some(pause(cluster.executors_on(index).into_iter().chain([pid]).collect())),
                }
            }
            Victim::Executor | Victim::PausedExecutor => {
                let executors = cluster.executors_of(job);
                executors.get(chosen % executors.len().max(1)).map(|pid| match victim {
                    Victim::PausedExecutor => pause(vec![*pid]),
                    _ => {
                        // It may just have ended.
                        _ = send_signal(*pid, Signal::KILL);
                        Vec::new()
                    }
                })
            }
        };
        let Some(backs) = hit else { return Ok(()) };
        self.killed.push(victim);
        if victim == Victim::PausedLeader {
            self.paused_until = Instant::now() + Duration::from_millis(away);
        }
        let at = self.started.elapsed().as_secs_f64();
        eprintln!("{at:8.3} s: {victim}: {backs:?} for {away} ms");
        let back_at = Instant::now() + Duration::from_millis(away);
        self.away.extend(backs.into_iter().map(|back| (back_at, back)));
        Ok(())
    }

    /// Whether a JobManager is away or paused.
    fn is_group_short(&self) -> bool {
        let killed = self.away.iter().any(|(_, back)| matches!(back, Back::JobManager(_)));
        killed || Instant::now() < self.paused_until
    }
}

fn kill_jobmanagers(cluster: &mut Cluster, indices: &[usize]) -> Result<Vec<Back>> {
    let mut killed = Vec::new();
    for index in indices {
        cluster.take_jobmanager(*index)?.kill()?;
        killed.push(Back::JobManager(*index));
    }
    Ok(killed)
}

/// Pauses processes that may be gone.
fn pause(pids: Vec<u32>) -> Vec<Back> {
    pids.iter().for_each(|pid| _ = send_signal(*pid, Signal::STOP));
    vec![Back::Resumed(pids)]
}
