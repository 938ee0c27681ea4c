//! A source at full speed before a slow sink.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use perennial_tests::{ClusterBuilder, Report, usage_of};
use serde_json::Value;

#[derive(Args)]
pub(crate) struct Options {
    /// How long the sink takes for all records.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Records per second that the sink takes, over all its subtasks.
    #[arg(long, default_value_t = 20_000)]
    rate: u64,
    /// Memory an executor may use at most, in MB.
    #[arg(long, default_value_t = 64)]
    memory_mb: u64,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut cluster = ClusterBuilder::new(binary).taskmanagers(2, 1).start()?;
    let count = options.rate * options.seconds;
    let job = cluster.submit("slow_sink", 2, &["--count", &count.to_string(), "--rate", &options.rate.to_string()])?;
    cluster.wait_state(&job, "RUNNING", Duration::from_secs(30))?;
    let start = Instant::now();
    let mut peak = 0;
    let limit = Duration::from_secs(2 * options.seconds + 30);
    let mut state = String::new();
    while start.elapsed() < limit {
        for pid in cluster.executors() {
            if let Ok(usage) = usage_of(pid) {
                peak = peak.max(usage.peak_rss_kib);
            }
        }
        state = cluster.job_state(&job)?;
        if state != "RUNNING" {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    let seconds = start.elapsed().as_secs_f64();
    let taken = records_into_last_vertex(&cluster.job(&job)?)?;

    let mut report = Report::default();
    report.row("state at the end", "FINISHED", &state, state == "FINISHED");
    report.row("records the sink took", count.to_string(), taken.to_string(), taken == count);
    let rate = taken as f64 / seconds;
    let follows = (rate / options.rate as f64 - 1.0).abs() <= 0.1;
    report.row("rate", format!("{} records/s, within 10 %", options.rate), format!("{rate:.0} records/s"), follows);
    let (bar, seen) = (options.memory_mb, peak / 1024);
    report.row("largest memory of an executor", format!("{bar} MB"), format!("{seen} MB"), seen <= bar);
    Ok(report)
}

/// Records that the subtasks of the job's last vertex have read.
fn records_into_last_vertex(job: &Value) -> Result<u64> {
    let vertices = job.get("vertices").and_then(Value::as_array).context("a job has vertices")?;
    let last = vertices.last().context("a job has a vertex")?;
    last.pointer("/metrics/read-records").and_then(Value::as_u64).context("a vertex counts its records")
}
