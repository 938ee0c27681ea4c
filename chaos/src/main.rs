//! `perennial-chaos`: long and hostile runs against real clusters, each with a verdict.
//!
//! Every run starts its own processes on 127.0.0.1, prints a table of what was asked and what was seen, and ends with exit code
//! 1 when something does not hold.

mod cycles;
mod disk;
mod group;
mod interrupt;
mod kills;
mod load;
mod node;
mod power_cuts;
mod random;
mod slow_sink;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Long and hostile runs against real Perennial clusters.
#[derive(Parser)]
struct Cli {
    /// The binary under test; by default `perennial` beside this program.
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    run: Run,
}

#[derive(Subcommand)]
enum Run {
    /// Submit, run and finish a job again and again: memory stays flat, nothing leaks.
    Cycles(cycles::Options),
    /// A source at full speed before a slow sink: memory stays bounded, the rate follows the sink, nothing is lost.
    SlowSink(slow_sink::Options),
    /// Kill members of a metadata group with SIGKILL while it is written to: no acknowledged write is lost.
    Kills(kills::Options),
    /// Take away what the disks of members had not made durable: no acknowledged write is lost. Needs root.
    PowerCuts(power_cuts::Options),
    /// One member of a metadata group, as `kills` and `power-cuts` start it.
    #[command(hide = true)]
    Node(node::Options),
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let binary = || perennial_tests::binary_under_test(cli.binary);
    let report = match cli.run {
        Run::Cycles(options) => cycles::run(&binary()?, &options)?,
        Run::SlowSink(options) => slow_sink::run(&binary()?, &options)?,
        Run::Kills(options) => kills::run(&options)?,
        Run::PowerCuts(options) => power_cuts::run(binary, &options)?,
        Run::Node(options) => return node::run(options),
    };
    Ok(report.finish())
}
