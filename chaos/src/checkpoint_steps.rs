//! The leader dies at each step of a checkpoint, and the next one goes on from there.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission, send_signal, wait_for};
use rustix::process::Signal;

use crate::interrupt;
use crate::scene::{LIMIT, ms};
use crate::sums::{Asked, Judge};

/// Subtasks of the job; as many slots are spare. The job has two stages, so this is half the number of acknowledgements.
const PARALLELISM: u32 = 2;

/// Points of a JobManager in the order of a checkpoint, and how often each is reached in one: the leader dies at each time.
const STEPS: [(&str, u64); 9] = [
    ("reserved", 1),
    ("triggered", 2),
    ("acknowledged", 4),
    ("all-acknowledged", 1),
    ("written", 1),
    ("completing", 1),
    ("completed", 1),
    ("notified", 2),
    ("discarded", 1),
];

/// Time from the death of a leader to a new checkpoint, beyond two intervals.
const BEYOND_TWO_INTERVALS: Duration = Duration::from_millis(1500);

#[derive(Args)]
pub(crate) struct Options {
    /// Time between checkpoints, in milliseconds.
    #[arg(long, default_value_t = 500)]
    interval_ms: u64,
    /// How often the leader dies at each step.
    #[arg(long, default_value_t = 1)]
    times: u32,
    /// Only these steps; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave the directory with all logs and the output.
    #[arg(long)]
    keep: bool,
}

/// Whether more than the leader dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Also {
    Nothing,
    /// An executor dies with the leader, so that the next leader has to restore the right checkpoint.
    AnExecutor,
}

/// Runs and reports.
pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    interrupt::listen()?;
    for name in &options.only {
        let names: Vec<&str> = STEPS.iter().map(|(name, _)| *name).collect();
        ensure!(names.contains(&name.as_str()), "there is no step {name}; these are: {}", names.join(", "));
    }
    let points = std::env::temp_dir().join(format!("perennial-crash-points-{}", std::process::id()));
    std::fs::create_dir_all(&points)?;
    let cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(2, PARALLELISM);
    let cluster = cluster.environment("PERENNIAL_CRASH_POINTS", &points).start()?;
    let mut stage = Stage::start(cluster, points, options)?;
    let mut report = Report::default();
    for _ in 0..options.times {
        for (step, reached) in STEPS {
            for nth in 1..=reached {
                if !options.only.is_empty() && !options.only.iter().any(|only| only == step) {
                    continue;
                }
                for also in [Also::Nothing, Also::AnExecutor] {
                    interrupt::check()?;
                    stage.die_at(step, nth, also, &mut report)?;
                }
            }
        }
    }
    stage.finish(&mut report)?;
    if options.keep || !report.holds() {
        stage.cluster.keep();
    }
    std::fs::remove_dir_all(&stage.points)?;
    Ok(report)
}

struct Stage {
    cluster: Cluster,
    job: Submission,
    judge: Judge,
    /// Arms the points.
    points: PathBuf,
    interval: Duration,
    /// Restarts that were asked for.
    restarts: u64,
}

impl Stage {
    fn start(mut cluster: Cluster, points: PathBuf, options: &Options) -> Result<Self> {
        let asked = Asked { keys: 1000, of_each: 1 << 40, every: 1 };
        let out = cluster.dir().join("out");
        let interval = format!("execution.checkpointing.interval={}ms", options.interval_ms);
        let args = ["--keys", &asked.keys.to_string(), "--rate", "20000", "--out", &out.display().to_string()];
        let job = cluster.submit_with("running_sums", PARALLELISM, &["-D", &interval], &args)?;
        cluster.wait_state(&job, "RUNNING", LIMIT)?;
        let (judge, interval) = (Judge::new(&out, asked)?, Duration::from_millis(options.interval_ms));
        Ok(Self { cluster, job, judge, points, interval, restarts: 0 })
    }

    /// The leader dies when it reaches a step for the n-th time in a checkpoint; adds a row.
    fn die_at(&mut self, step: &str, nth: u64, also: Also, report: &mut Report) -> Result<()> {
        let before = self.newest()?;
        self.wait_newer(before)?;
        // Complete at once: who reads half a number takes the point for not armed.
        let draft = self.points.join(".draft");
        std::fs::write(&draft, nth.to_string())?;
        std::fs::rename(&draft, self.points.join(step))?;
        let dead = wait_for(&format!("the leader to die when {step}"), LIMIT, || self.dead())?;
        let died = Instant::now();
        drop(self.cluster.take_jobmanager(dead)?);
        if also == Also::AnExecutor {
            let executor = *self.cluster.executors_of(&self.job).first().context("an executor runs")?;
            send_signal(executor, Signal::KILL)?;
            self.restarts += 1;
        }
        let newest = self.newest()?;
        self.wait_newer(newest)?;
        let took = died.elapsed();
        let most = 2 * self.interval + BEYOND_TWO_INTERVALS;
        let with = if also == Also::AnExecutor { ", and an executor" } else { "" };
        let what = format!("{step} {nth}: leader dead{with}, to a new checkpoint");
        report.row(what, format!("≤ {}", ms(most)), ms(took), took <= most);
        self.cluster.start_jobmanager(dead)?;
        self.cluster.wait_ready()?;
        self.cluster.wait_state(&self.job, "RUNNING", LIMIT)?;
        let found = self.judge.read_on()?;
        ensure!(found.is_exact(), "after {step} {nth}{with}: {found:?}");
        Ok(())
    }

    /// The JobManager that has died.
    fn dead(&mut self) -> Result<usize> {
        let dead = (0..self.cluster.jobmanager_count())
            .find(|index| self.cluster.jobmanager(*index).is_ok_and(|process| process.check_alive().is_err()));
        dead.context("all JobManagers live")
    }

    fn newest(&self) -> Result<u64> {
        Ok(self.cluster.completed_checkpoints()?.into_iter().max().unwrap_or_default())
    }

    fn wait_newer(&self, than: u64) -> Result<()> {
        wait_for(&format!("a checkpoint after {than}"), LIMIT, || {
            let newest = self.newest()?;
            ensure!(newest > than, "the newest is {newest}");
            Ok(())
        })
    }

    fn finish(&mut self, report: &mut Report) -> Result<()> {
        let restarts = self.cluster.restarts(&self.job)?;
        report.row("restarts", self.restarts.to_string(), restarts.to_string(), restarts == self.restarts);
        let completed = self.cluster.completed_checkpoints()?;
        let rising = completed.windows(2).all(|pair| pair.first() < pair.last());
        let seen = format!("{} completed, {}", completed.len(), if rising { "rising" } else { "NOT rising" });
        report.row("numbers of checkpoints (I-04)", "rising over all leaders", seen, rising);
        self.cluster.run_cli(&["cancel", &self.job.job])?;
        self.cluster.wait_state(&self.job, "CANCELED", LIMIT)?;
        let proven = self.judge.proven();
        let found = self.judge.read_on()?;
        let seen = found.first.clone().unwrap_or_else(|| format!("exact, over {} lines", found.lines));
        report.row(
            "output: no step missing, doubled or phantom (I-05, I-06)",
            "exact",
            seen,
            found.is_exact() && proven > 0,
        );
        Ok(())
    }
}
