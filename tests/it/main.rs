//! Real processes, real sockets, real disks. One binary with a module per theme; the harness is `perennial-tests`.

mod application;
mod bad_input;
mod checkpoints;
mod demo;
mod deploy;
mod exceptions;
mod golden;
mod group;
mod history;
mod jobs;
mod members;
mod partitions;
mod requests;
mod storage;
mod taskmanagers;
mod wordcount;

use std::time::Duration;

use perennial_tests::ClusterBuilder;

/// Longest wait for anything that takes milliseconds on a quiet machine.
const LIMIT: Duration = Duration::from_secs(60);

/// A cluster of the binary under test.
fn cluster() -> ClusterBuilder {
    ClusterBuilder::new(env!("CARGO_BIN_EXE_perennial"))
}
