//! What checkpoints cost a job with a large state: throughput, standstill of its tasks, and bytes.
//!
//! A real cluster on 127.0.0.1, a state of so many keys in each slot, and a checkpoint every second, in turns with the same job without
//! checkpoints, so that whatever else the machine does meets both. Prints a table and ends with exit code 1 when a bar is missed.

mod files;
mod stall;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission};

/// Slots, one worker thread each.
const SLOTS: u32 = 2;

/// Longest wait for anything that takes milliseconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(30);

/// Cost of a checkpoint every second. Exit code 1 when a bar is missed.
#[derive(Parser)]
struct Cli {
    /// The binary under test; by default `perennial` beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Keys of each slot.
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Time between checkpoints, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    interval_ms: u64,
    /// Windows with and without checkpoints.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of a window.
    #[arg(long, default_value_t = 10.0)]
    window: f64,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let binary = perennial_tests::binary_under_test(cli.binary.clone())?;
    let mut bench = Bench { cluster: ClusterBuilder::new(binary).taskmanagers(1, SLOTS).start()?, options: cli };
    let mut report = Report::default();
    throughput::measure(&mut bench, &mut report)?;
    stall::measure(&mut bench, &mut report)?;
    files::measure(&mut bench, &mut report)?;
    Ok(report.finish())
}

/// The cluster, and what was asked for.
struct Bench {
    cluster: Cluster,
    options: Cli,
}

impl Bench {
    /// Starts a sample job over both slots, with or without checkpoints, and waits until it runs.
    fn start(&mut self, name: &str, checkpoints: bool, args: &[&str]) -> Result<Submission> {
        let interval = format!("execution.checkpointing.interval={}ms", self.options.interval_ms);
        let directory = format!("execution.checkpointing.dir=file://{}", self.directory().display());
        let flags = ["-D", interval.as_str(), "-D", directory.as_str()];
        let flags = if checkpoints { flags.as_slice() } else { &[] };
        let job = self.cluster.submit_with(name, SLOTS, flags, args)?;
        self.cluster.wait_state(&job, "RUNNING", LIMIT)?;
        Ok(job)
    }

    /// Ends a job and waits until its slots are free.
    fn end(&mut self, job: &Submission) -> Result<()> {
        self.cluster.run_cli(&["cancel", &job.job])?;
        self.cluster.wait_state(job, "CANCELED", LIMIT)
    }

    /// Where checkpoints are.
    fn directory(&self) -> PathBuf {
        self.cluster.dir().join("checkpoints")
    }

    fn window(&self) -> Duration {
        Duration::from_secs_f64(self.options.window)
    }
}

/// The middle one of some values; zero of none.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
