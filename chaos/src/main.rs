//! `perennial-chaos`: long and hostile runs against real clusters, each with a verdict.
//!
//! Every run starts its own processes on 127.0.0.1, prints a table of what was asked and what was seen, and ends with exit code
//! 1 when something does not hold.

mod checkpoint_steps;
mod compose;
mod cycles;
mod disk;
mod exactly_once;
mod golden;
mod group;
mod headless;
mod interrupt;
mod kills;
mod load;
mod many_checkpoints;
mod many_jobs;
mod node;
mod partition;
mod pause;
mod pauses;
mod power_cuts;
mod random;
mod recovery;
mod requests;
mod rolling;
mod scene;
mod slow_sink;
mod stability;
mod stale;
mod strikes;
mod sums;
mod taskmanager_kill;
mod witness;

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
    /// Pause the leader for 20 s: another takes over, the woken one is deposed, no task notices either.
    Pause(pause::Options),
    /// Break the network in parts: one leader commands, deposed ones are refused, everything heals.
    Partition(partition::Options),
    /// Kill all JobManagers for a minute: tasks go on, memory stays bounded, the jobs are adopted.
    Headless(headless::Options),
    /// Kill or pause a TaskManager: its executors are adopted again, or its tasks run elsewhere, none of them twice.
    TaskmanagerKill(taskmanager_kill::Options),
    /// Kill the leader of hundreds of jobs: the next one adopts them all within seconds.
    ManyJobs(many_jobs::Options),
    /// Kill JobManagers, TaskManagers and executors every few seconds while a job counts and sums: each record is in its output once.
    ExactlyOnce(exactly_once::Options),
    /// Lose executors and machines of a job with a large state: its output goes on within fractions of a second.
    Recovery(recovery::Options),
    /// Let the leader die at each step of a checkpoint: the next one goes on from there, and a new checkpoint follows soon.
    CheckpointSteps(checkpoint_steps::Options),
    /// Take 10,000 checkpoints in one run: their numbers rise, and what is on the disks stays as much.
    ManyCheckpoints(many_checkpoints::Options),
    /// Run jobs whole, and with kills and restores at other parallelisms: both outputs are equal.
    Golden(golden::Options),
    /// Keep processors and disk busy: the leader stays, writes work.
    Stability(stability::Options),
    /// Restart all JobManagers one after the other under load: no request fails, no task notices.
    Rolling(rolling::Options),
    /// Build the image, run the compose files, kill and cut off their JobManagers: no task notices. Needs a Docker engine.
    Compose,
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
        Run::Pause(options) => pause::run(&binary()?, &options)?,
        Run::Partition(options) => partition::run(&binary()?, &options)?,
        Run::Headless(options) => headless::run(&binary()?, &options)?,
        Run::TaskmanagerKill(options) => taskmanager_kill::run(&binary()?, &options)?,
        Run::ManyJobs(options) => many_jobs::run(&binary()?, &options)?,
        Run::ExactlyOnce(options) => exactly_once::run(&binary()?, &options)?,
        Run::Recovery(options) => recovery::run(&binary()?, &options)?,
        Run::CheckpointSteps(options) => checkpoint_steps::run(&binary()?, &options)?,
        Run::ManyCheckpoints(options) => many_checkpoints::run(&binary()?, &options)?,
        Run::Golden(options) => golden::run(&binary()?, &options)?,
        Run::Stability(options) => stability::run(&binary()?, &options)?,
        Run::Rolling(options) => rolling::run(&binary()?, &options)?,
        Run::Compose => compose::run(&binary()?)?,
    };
    Ok(report.finish())
}
