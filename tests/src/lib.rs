//! Starts real Perennial processes and watches them from outside, for integration tests, benchmarks and fault runs.
//!
//! A [`Cluster`] is a directory with one sub-directory per process: its configuration, its data, its log. Ports are free
//! ones of 127.0.0.1. Conditions are waited for with a text that says what is missing when time runs out; nothing sleeps
//! for "long enough". When a test fails the directory stays and its path is printed; else it is removed.
//!
//! Processes are ended by pid, when their [`Process`] is dropped at the latest, and so are the executors below them.

mod cluster;
mod exact;
pub mod fake_taskmanager;
mod faults;
mod job;
mod process;
mod proxy;
mod report;
mod wait;
mod wrap;

pub use cluster::{Cluster, ClusterBuilder, Endpoint, binary_under_test, free_ports};
pub use exact::{Counted, verify_exactly_once};
pub use faults::{MemberView, Placed, placed_in};
pub use job::Submission;
pub use process::{Process, Usage, descendants, send_signal, usage_of};
pub use proxy::{Flow, Held, Proxy};
pub use report::Report;
pub use wait::wait_for;
