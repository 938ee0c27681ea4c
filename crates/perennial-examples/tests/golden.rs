//! Jobs whose output is known beforehand, line by line: run whole, at several parallelisms.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

use std::fs;
use std::path::Path;
use std::process::Command;

use perennial_examples::{broadcast_rules, event_timers, join, window_count};

const BINARY: &str = env!("CARGO_BIN_EXE_perennial-examples");

fn sorted_lines(dir: &Path) -> Vec<String> {
    let texts = fs::read_dir(dir).unwrap().map(|part| fs::read_to_string(part.unwrap().path()).unwrap());
    let mut lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    lines.sort();
    lines
}

fn check(job: &str, expect: &[String]) {
    for parallelism in ["1", "2", "3"] {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let arguments = ["--job", job, "-p", parallelism, "-D", "pipeline.auto-watermark-interval=1ms"];
        let of_job = ["--keys", "10", "--count", "30000", "--rate", "200000", "--out", out.to_str().unwrap()];
        let output = Command::new(BINARY).args(arguments).args(of_job).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(sorted_lines(&out) == expect, "{job} at parallelism {parallelism} writes other lines");
    }
}

#[test]
fn timers_fire_for_every_key_and_second() {
    check("event_timers", &event_timers::expected(30_000, 10));
}

#[test]
fn every_number_meets_the_rule_of_its_time() {
    check("broadcast_rules", &broadcast_rules::expected(30_000));
}

#[test]
fn every_window_is_counted_once() {
    check("window_count", &window_count::expected(30_000, 10));
}

#[test]
fn every_pair_is_joined_once() {
    check("join", &join::expected(30_000, 10));
}
