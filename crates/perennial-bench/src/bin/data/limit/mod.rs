//! What this machine can do: the workloads written by hand, with nothing of an engine around them.
//!
//! Each runs in a process of its own until it is killed, so that it is measured exactly as the product is.

mod pass_through;
mod processes;
mod table;
mod threads;
mod windows;
mod workers;

use std::fmt;
use std::path::PathBuf;

use std::thread::ScopedJoinHandle;

use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};

pub(crate) use table::{Flat, Hashed};

/// Which limit to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Limit {
    /// Two threads: generator, map, filter, map, discard; one virtual call per step and batch.
    PassThrough,
    /// Two producing and two counting threads, a hash map in each.
    Threads,
    /// The same with a flat table whose slots are prefetched a batch ahead.
    ThreadsFlat,
    /// Two threads which both produce and count.
    Workers,
    /// The same with the flat table.
    WorkersFlat,
    /// Two producing and two counting threads, a hash map per window in each.
    Windows,
    /// Two processes, each one producing and one counting thread; half of the records cross.
    Processes,
}

/// A limit program's command line.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitArgs {
    /// Which one.
    #[arg(value_enum)]
    pub(crate) limit: Limit,
    /// Number of different keys.
    #[arg(long, default_value_t = 1000)]
    pub(crate) keys: u64,
    /// Directory for the totals of its threads.
    #[arg(long)]
    pub(crate) counters: PathBuf,
    /// Address of the first process; given to the second one only.
    #[arg(long, hide = true)]
    pub(crate) peer: Option<String>,
}

/// Runs a limit until the process is killed.
pub(crate) fn run(args: &LimitArgs) -> Result<()> {
    match args.limit {
        Limit::PassThrough => pass_through::run(args),
        Limit::Threads => threads::run::<Hashed>(args),
        Limit::ThreadsFlat => threads::run::<Flat>(args),
        Limit::Workers => workers::run::<Hashed>(args),
        Limit::WorkersFlat => workers::run::<Flat>(args),
        Limit::Windows => windows::run(args),
        Limit::Processes => processes::run(args),
    }
}

/// Which of `targets` threads counts a key: Fibonacci hashing to 128 groups, groups spread evenly.
#[inline(always)]
fn target(key: u64, targets: usize) -> usize {
    (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 57) as usize * targets / 128
}

/// What a thread ended with.
fn outcome(thread: ScopedJoinHandle<'_, Result<()>>) -> Result<()> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

impl fmt::Display for Limit {
    /// The name it has on the command line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}
