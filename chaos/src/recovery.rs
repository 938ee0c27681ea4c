//! How soon output goes on when a part of a job is lost: an executor, a machine, a machine that says nothing any more.
//!
//! The job `gap_probe` holds a state of many keys and takes a checkpoint every second. Each subtask of its sink writes down when
//! records come. A gap is the time from the loss to the first record in the last subtask of the sink that runs again; that is seen to
//! about 10 ms, always on the long side.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission, send_signal, wait_for};
use rustix::process::Signal;

use crate::interrupt;
use crate::pauses::{Pauses, now_us};
use crate::random::{Random, fresh_seed};
use crate::requests::percentile;
use crate::scene::{LIMIT, ms};

/// Subtasks of each stage of the job; as many slots are spare.
const PARALLELISM: u32 = 2;

/// Time between checkpoints, in milliseconds. A loss comes anywhere within one.
const INTERVAL_MS: u64 = 1000;

/// What Flink 2.x needs for the loss of an executor on such a machine with its timers tuned low: the shorter of the measured gaps.
const FLINK_TUNED: Duration = Duration::from_millis(1700);

/// `heartbeat.timeout`, and a second.
const SILENT_MAX: Duration = Duration::from_secs(6);

#[derive(Args)]
pub(crate) struct Options {
    /// Only these losses; all by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Loss>,
    /// How many executors are killed.
    #[arg(long, default_value_t = 30)]
    executors: usize,
    /// How many machines are killed, and how many are paused.
    #[arg(long, default_value_t = 5)]
    machines: usize,
    /// Keys of the state.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Records per second.
    #[arg(long, default_value_t = 200_000)]
    rate: u64,
    /// Choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the directory with all logs.
    #[arg(long)]
    keep: bool,
}

/// What is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Loss {
    /// An executor is killed; its TaskManager is well.
    Executor,
    /// A TaskManager and its executor are killed at once: their connections are reset.
    Machine,
    /// A TaskManager and its executor are paused: they say nothing, and nothing refuses their connections.
    Silence,
}

/// Runs and reports.
pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    ensure!(options.keys > 0 && options.rate > 0, "--keys and --rate are at least 1");
    interrupt::listen()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let mut stage = Stage::start(binary, options, seed)?;
    let mut report = Report::default();
    let losses = if options.only.is_empty() { Loss::value_variants() } else { &options.only };
    for loss in losses {
        let count = if *loss == Loss::Executor { options.executors } else { options.machines };
        let gaps = (0..count).map(|_| stage.lose(*loss)).collect::<Result<Vec<_>>>();
        match gaps {
            Ok(gaps) => judge(*loss, gaps, &mut report),
            Err(error) => report.row(format!("{loss:?}: carried out"), "yes", format!("{error:#}"), false),
        }
    }
    if options.keep || !report.holds() {
        stage.cluster.keep();
    }
    Ok(report)
}

fn judge(loss: Loss, mut gaps: Vec<Duration>, report: &mut Report) {
    let [median, most, longest] = [0.5, 0.99, 1.0].map(|part| percentile(&mut gaps, part));
    let what = match loss {
        Loss::Executor => "executor killed",
        Loss::Machine => "machine killed",
        Loss::Silence => "machine silent",
    };
    let mut row = |name: &str, bar: Duration, seen: Duration| {
        let name = format!("{what}, {} times: {name} to the first output of all", gaps.len());
        report.row(name, format!("≤ {}", ms(bar)), ms(seen), seen <= bar);
    };
    match loss {
        Loss::Executor => {
            row("p50", Duration::from_millis(400), median);
            row("p99", Duration::from_secs(1), most);
            row("p50, a quarter of Flink's,", FLINK_TUNED / 4, median);
        }
        Loss::Machine => row("longest", Duration::from_secs(2), longest),
        Loss::Silence => row("longest", SILENT_MAX, longest),
    }
}

/// The cluster and the job.
struct Stage {
    cluster: Cluster,
    job: Submission,
    random: Random,
}

impl Stage {
    /// Starts all processes and the job, and waits until it has seen every key.
    fn start(binary: &Path, options: &Options, seed: u64) -> Result<Self> {
        let cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(2, PARALLELISM);
        let mut cluster = cluster.start()?;
        let probes = cluster.dir().join("probes");
        std::fs::create_dir(&probes)?;
        let interval = format!("execution.checkpointing.interval={INTERVAL_MS}ms");
        let (keys, rate) = (options.keys.to_string(), options.rate.to_string());
        let args = ["--probes", &probes.display().to_string(), "--keys", &keys, "--rate", &rate];
        let job = cluster.submit_with("gap_probe", PARALLELISM, &["-D", &interval], &args)?;
        cluster.wait_state(&job, "RUNNING", LIMIT)?;
        let filling = Duration::from_secs_f64(options.keys as f64 / options.rate as f64);
        std::thread::sleep(filling);
        Ok(Self { cluster, job, random: Random::new(seed) })
    }

    /// Loses something at a random moment after a checkpoint of a job that runs; returns the gap, once all is as before.
    fn lose(&mut self, loss: Loss) -> Result<Duration> {
        interrupt::check()?;
        let checkpoints = self.cluster.completed_checkpoints()?.len();
        wait_for("another checkpoint", LIMIT, || {
            let completed = self.cluster.completed_checkpoints()?.len();
            ensure!(completed > checkpoints, "{completed} are completed");
            Ok(())
        })?;
        std::thread::sleep(Duration::from_millis(self.random.within(0..INTERVAL_MS)));
        let occupied =
            (0..self.cluster.taskmanager_count()).filter(|index| !self.cluster.executors_on(*index).is_empty());
        let occupied: Vec<usize> = occupied.collect();
        let drawn = self.random.within(0..occupied.len() as u64) as usize;
        let victim = *occupied.get(drawn).context("a TaskManager runs tasks")?;
        let executors = self.cluster.executors_on(victim);
        let lost_us = now_us();
        match loss {
            Loss::Executor => executors.iter().try_for_each(|pid| send_signal(*pid, Signal::KILL))?,
            Loss::Machine => self.cluster.kill_whole_taskmanager(victim)?,
            Loss::Silence => {
                let pids = executors.iter().copied().chain([self.cluster.taskmanager(victim)?.pid()]);
                pids.into_iter().try_for_each(|pid| send_signal(pid, Signal::STOP))?;
            }
        }
        let gap = self.wait_output(lost_us);
        eprintln!(
            "{loss:?} on tm-{}: {}",
            victim + 1,
            gap.as_ref().map_or_else(|error| format!("{error:#}"), |gap| ms(*gap))
        );
        match loss {
            Loss::Executor => {}
            Loss::Machine => self.cluster.start_taskmanager(victim)?,
            Loss::Silence => {
                let pids = executors.iter().copied().chain([self.cluster.taskmanager(victim)?.pid()]);
                pids.into_iter().for_each(|pid| _ = send_signal(pid, Signal::CONT));
            }
        }
        self.cluster.wait_ready()?;
        self.cluster.wait_state(&self.job, "RUNNING", LIMIT)?;
        gap
    }

    /// Waits until each subtask of the sink has begun again, and returns how long after `lost_us` the last of them had its first record.
    fn wait_output(&self, lost_us: u64) -> Result<Duration> {
        let probes = self.cluster.dir().join("probes");
        wait_for("every subtask of the sink to have records again", LIMIT, || {
            let first = Pauses::so_far(&probes)?.begun_after("sink", lost_us);
            ensure!(first.len() >= PARALLELISM as usize, "{} of {PARALLELISM} have", first.len());
            let last = first.into_iter().max().unwrap_or_default();
            Ok(Duration::from_micros(last.saturating_sub(lost_us)))
        })
    }
}
