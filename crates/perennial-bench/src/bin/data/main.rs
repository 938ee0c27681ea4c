//! Throughput of jobs beside what this machine can do: each workload is written by hand in this crate too, and both run
//! alternately, so that whatever else the machine does meets both.
//!
//! This binary is all programs of the measurement: it starts itself as a limit (`data limit NAME`), as a job in the
//! local mini-cluster (`data job …`), and submits itself as the artifact of a job to a real cluster. Ends with exit code 1 when a bar is missed.

mod comparison;
mod counter;
mod jobs;
mod limit;
mod measure;
mod product;
mod program;
mod report;
mod workload;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use perennial::JobRegistry;

use crate::comparison::{COMPARISONS, Comparison, INFORMATION, INFORMATION_KEYS, Name};
use crate::measure::{Schedule, Window, median, watch};
use crate::program::Program;
use crate::report::Outcome;

/// Throughput of jobs beside hand-written limits. Exit code 1 when a bar is missed.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    #[command(flatten)]
    measurement: Measurement,
}

#[derive(Subcommand)]
enum Role {
    /// Runs a limit until it is killed.
    Limit(limit::LimitArgs),
    /// Runs a job in this process until it is killed.
    Job {
        /// As a job's program takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(clap::Args)]
struct Measurement {
    /// Measures these workloads only.
    #[arg(long, value_enum)]
    only: Vec<Name>,
    /// Leaves the limits out: for profiling.
    #[arg(long, conflicts_with = "limit_only")]
    product_only: bool,
    /// Leaves the product out: for profiling.
    #[arg(long)]
    limit_only: bool,
    /// Windows per program.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of a window.
    #[arg(long, default_value_t = 3.0)]
    window: f64,
    /// Seconds between the first records and the window.
    #[arg(long, default_value_t = 1.5)]
    warm_up: f64,
    /// The cluster's binary; by default `perennial` beside this program.
    #[arg(long)]
    binary: Option<PathBuf>,
}

fn main() -> Result<ExitCode> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if JobRegistry::is_cluster_role(&arguments) {
        return Ok(jobs::registry().run_with(&arguments));
    }
    let cli = Cli::parse();
    if cli.role.is_some() {
        program::settle()?;
    }
    match &cli.role {
        Some(Role::Limit(args)) => limit::run(args).map(|()| ExitCode::SUCCESS),
        Some(Role::Job { arguments }) => Ok(jobs::registry().run_with(arguments)),
        None => cli.measurement.run(),
    }
}

impl Measurement {
    fn run(&self) -> Result<ExitCode> {
        report::head();
        let (mut outcomes, mut holds) = (Vec::new(), true);
        for comparison in COMPARISONS.iter().filter(|comparison| self.wants(comparison.name)) {
            let outcome = self.compare(comparison).with_context(|| comparison.title)?;
            holds &= outcome.print();
            outcomes.push(outcome);
        }
        holds &= report::print_flink(&outcomes);
        if self.only.is_empty() && !self.product_only {
            self.inform()?;
        }
        Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn wants(&self, name: Name) -> bool {
        self.only.is_empty() || self.only.contains(&name)
    }

    /// Measures limit and product in turns, each time in fresh processes.
    fn compare(&self, comparison: &'static Comparison) -> Result<Outcome> {
        let (mut limit, mut product) = (Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            if !self.product_only {
                let mut program = Program::limit(comparison.limit, comparison.keys)?;
                limit.push(watch(&mut program, self.schedule()).context("the limit")?);
            }
            if !self.limit_only {
                let mut subject = product::start(comparison, || self.binary())?;
                product.push(watch(subject.as_mut(), self.schedule()).context("the product")?);
            }
        }
        Ok(Outcome { comparison, limit: median(&limit), product: median(&product) })
    }

    fn inform(&self) -> Result<()> {
        report::information_head();
        for keys in INFORMATION_KEYS {
            for (limit, title) in INFORMATION {
                let mut program = Program::limit(limit, keys)?;
                let window: Window = watch(&mut program, self.schedule()).context(title)?;
                report::information(title, keys, window);
            }
        }
        Ok(())
    }

    fn schedule(&self) -> Schedule {
        let seconds = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
        Schedule { warm_up: seconds(self.warm_up), window: seconds(self.window) }
    }

    fn binary(&self) -> Result<PathBuf> {
        let binary = match &self.binary {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("perennial"),
        };
        binary.canonicalize().with_context(|| {
            format!("{} does not exist; build it first: cargo build --release -p perennial-cli", binary.display())
        })
    }
}
