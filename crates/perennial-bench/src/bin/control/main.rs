//! Control-plane measurements on real processes: start-up, idle memory, submission.
//!
//! Each prints a table and ends with exit code 1 when a bar is missed.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};
use perennial_tests::{Cluster, ClusterBuilder, Report, wait_for};

/// Control-plane measurements on real processes.
#[derive(Parser)]
struct Cli {
    /// The binary under test; by default `perennial` beside this program.
    #[arg(long, global = true)]
    binary: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Clone, Copy)]
enum What {
    /// Process start to REST answering, and to the TaskManager being registered.
    Startup {
        /// Number of starts.
        #[arg(long, default_value_t = 20)]
        runs: usize,
    },
    /// Memory of JobManagers and TaskManagers that do nothing.
    Idle {
        /// Seconds to do nothing.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// `run -d` of a trivial job: command start to RUNNING, with the artifact cached.
    Submit {
        /// Number of submissions.
        #[arg(long, default_value_t = 50)]
        runs: usize,
    },
    /// All of the above.
    All,
}

fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    let binary = perennial_tests::binary_under_test(cli.binary)?;
    let mut report = Report::default();
    match cli.what {
        What::Startup { runs } => startup(&binary, runs, &mut report)?,
        What::Idle { seconds } => idle(&binary, seconds, &mut report)?,
        What::Submit { runs } => submit(&binary, runs, &mut report)?,
        What::All => {
            startup(&binary, 20, &mut report)?;
            idle(&binary, 20, &mut report)?;
            submit(&binary, 50, &mut report)?;
        }
    }
    Ok(report.finish())
}

/// A row of durations whose median has a bar.
fn row(what: &str, bar: Duration, mut samples: Vec<Duration>, report: &mut Report) {
    samples.sort();
    let at = |part: f64| samples.get(((samples.len() - 1) as f64 * part) as usize).copied().unwrap_or_default();
    let ms = |duration: Duration| format!("{:.1}", duration.as_secs_f64() * 1e3);
    let [min, p50, p90, max] = [0.0, 0.5, 0.9, 1.0].map(|part| ms(at(part)));
    let seen = format!("min {min} / p50 {p50} / p90 {p90} / max {max} ms, n = {}", samples.len());
    report.row(what, format!("p50 ≤ {} ms", bar.as_millis()), seen, at(0.5) <= bar);
}

/// How long after the start of a process something is first seen, polled every two milliseconds.
fn seen_after(start: Instant, what: &str, condition: impl FnMut() -> Result<()>) -> Result<Duration> {
    wait_for(what, Duration::from_secs(20), condition)?;
    Ok(start.elapsed())
}

fn registered(cluster: &Cluster) -> Result<()> {
    let known = cluster.rest("/v1/taskmanagers")?;
    let count = known.get("taskmanagers").and_then(|list| list.as_array()).map_or(0, Vec::len);
    ensure!(count >= 1, "none is registered");
    Ok(())
}

fn startup(binary: &Path, runs: usize, report: &mut Report) -> Result<()> {
    let (mut rest, mut attached) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        let mut cluster = ClusterBuilder::new(binary).taskmanagers(1, 1).prepare()?;
        cluster.start_jobmanager(0)?;
        let start = cluster.jobmanager(0)?.started();
        rest.push(seen_after(start, "REST to answer", || {
            let (status, body) = cluster.rest_of(0, "/v1/overview")?;
            ensure!(status == 200, "{status}: {body}");
            Ok(())
        })?);
        cluster.start_taskmanager(0)?;
        let start = cluster.taskmanager(0)?.started();
        attached.push(seen_after(start, "the taskmanager to be registered", || registered(&cluster))?);
    }
    let bar = Duration::from_millis(200);
    row("process start to REST answering", bar, rest, report);
    row("process start to TaskManager registered", bar, attached, report);
    Ok(())
}

fn idle(binary: &Path, seconds: u64, report: &mut Report) -> Result<()> {
    let cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(2, 2).start()?;
    let before: Vec<f64> = cluster.processes().map(|p| Ok(p.usage()?.cpu_seconds)).collect::<Result<_>>()?;
    std::thread::sleep(Duration::from_secs(seconds));
    for (process, before) in cluster.processes().zip(before) {
        let usage = process.usage()?;
        let mb = usage.rss_kib as f64 / 1024.0;
        let busy = (usage.cpu_seconds - before) / seconds as f64 * 100.0;
        let what = format!("idle {} after {seconds} s", process.name());
        let seen = format!("{mb:.1} MB, {busy:.2} % of a core, {} threads", usage.threads);
        report.row(what, "≤ 30 MB RSS", seen, mb <= 30.0);
    }
    Ok(())
}

fn submit(binary: &Path, runs: usize, report: &mut Report) -> Result<()> {
    let mut cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(2, 2).start()?;
    let mut samples = Vec::new();
    // The first submission uploads the artifact and fills the caches; it is not counted.
    for run in 0..=runs {
        let start = Instant::now();
        let job = cluster.submit("idle", 1, &[])?;
        wait_for("the job to run", Duration::from_secs(20), || {
            let state = cluster.job_state(&job)?;
            ensure!(state == "RUNNING", "it is {state}");
            Ok(())
        })?;
        if run > 0 {
            samples.push(start.elapsed());
        }
        cluster.run_cli(&["cancel", &job.job])?;
        cluster.wait_state(&job, "CANCELED", Duration::from_secs(20))?;
    }
    row("run -d of a trivial job, command start to RUNNING", Duration::from_millis(100), samples, report);
    Ok(())
}
