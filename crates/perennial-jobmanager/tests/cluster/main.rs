//! Whole JobManagers in this process, and TaskManagers that speak the real protocol and run nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which clippy does not see as such")]

mod group;
mod jobs;
mod restart;
mod retention;
mod support;
mod takeover;

use perennial_tests::fake_taskmanager;
