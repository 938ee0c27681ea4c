//! What it costs that a JobManager goes, and what a commit costs, beside etcd on the same machine in the same run.
//!
//! Real processes on 127.0.0.1 with shipped defaults; every run prints a table and ends with exit code 1 when a bar is missed or
//! could not be measured.
//!
//! One client measures both: tonic over the connections of `perennial-rpc`, on one runtime in this process. A write to
//! Perennial is the cancellation of a job that does not exist: an entry of the log, answered after its commit. A write to etcd is
//! a `Put` of the same size.

mod busy;
mod commits;
mod etcd;
mod group;
mod handover;
mod job;
mod kills;
mod member;
mod product;
mod stats;
mod track;
mod write;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

/// Failover and commits of real clusters, beside etcd. Exit code 1 when a bar is missed.
#[derive(Parser)]
struct Cli {
    /// The binary under test; by default `perennial` beside this program.
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// SIGKILL of the leader under load, again and again: first accepted write, TaskManagers attached, standstill of the tasks.
    Kills(kills::Options),
    /// Latency and throughput of commits, in turns with etcd.
    Commits(commits::Options),
    /// SIGTERM to the leader, and a rolling restart of all JobManagers.
    HandOver(handover::Options),
    /// Keeps one core busy until it is killed.
    #[command(hide = true)]
    BusyLoop,
}

fn main() -> Result<ExitCode> {
    let Cli { binary, what } = Cli::parse();
    let binary = || perennial_tests::binary_under_test(binary);
    let report = match what {
        What::Kills(options) => kills::run(&binary()?, &runtime()?, &options)?,
        What::Commits(options) => commits::run(&binary()?, &runtime()?, &options)?,
        What::HandOver(options) => handover::run(&binary()?, &runtime()?, &options)?,
        What::BusyLoop => return busy::run(),
    };
    Ok(report.finish())
}

/// The clients' runtime, the same for both systems.
fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().context("no client runtime")
}
