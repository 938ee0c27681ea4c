//! Submit, run and finish, again and again.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_tests::{ClusterBuilder, Report, Usage, wait_for};
use serde_json::Value;

/// Longest time one job may take.
const CYCLE_LIMIT: Duration = Duration::from_secs(30);
/// Growth of memory that still counts as flat.
const FLAT: f64 = 0.05;

#[derive(Args)]
pub(crate) struct Options {
    /// How many jobs.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// JobManagers of the cluster.
    #[arg(long, default_value_t = 3)]
    jobmanagers: usize,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut cluster = ClusterBuilder::new(binary).jobmanagers(options.jobmanagers).taskmanagers(2, 2).start()?;
    let mut samples: BTreeMap<String, Vec<Usage>> = BTreeMap::new();
    let start = Instant::now();
    for cycle in 0..options.count {
        let job = cluster.submit("trivial", 2, &[])?;
        cluster.wait_state(&job, "FINISHED", CYCLE_LIMIT).with_context(|| format!("cycle {cycle}"))?;
        if cycle % (options.count / 100).max(1) == 0 || cycle + 1 == options.count {
            for process in cluster.processes() {
                samples.entry(process.name().to_owned()).or_default().push(process.usage()?);
            }
        }
    }
    let seconds = start.elapsed().as_secs_f64();

    let mut report = Report::default();
    let all = format!("{} in {seconds:.0} s", options.count);
    report.row("submit, run, finish cycles", options.count.to_string(), all, true);
    for (name, usages) in &samples {
        let rss: Vec<f64> = usages.iter().map(|usage| usage.rss_kib as f64).collect();
        let last_half = rss.get(rss.len() / 2..).unwrap_or_default();
        let tenth = (last_half.len() / 5).max(1);
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let (early, late) = (
            mean(last_half.get(..tenth).unwrap_or_default()),
            mean(last_half.get(last_half.len() - tenth..).unwrap_or_default()),
        );
        let growth = late / early - 1.0;
        let seen = format!("{:.1} MB to {:.1} MB, {:+.1} %", early / 1024.0, late / 1024.0, growth * 100.0);
        report.row(format!("memory of {name}, last half"), "within 5 %", seen, growth <= FLAT);
        let files = |at: usize| usages.get(at).map_or(0, |usage| usage.open_files);
        let (half, end) = (files(usages.len() / 2), files(usages.len() - 1));
        report.row(
            format!("open files of {name}"),
            "no more at the end than at half",
            format!("{half} to {end}"),
            end <= half + 4,
        );
    }
    let left = wait_for("executors to be gone", CYCLE_LIMIT, || {
        let left = cluster.executors();
        ensure!(left.is_empty(), "{left:?} run");
        Ok(left.len())
    })
    .unwrap_or_else(|_| cluster.executors().len());
    report.row("executors left", "0", left.to_string(), left == 0);
    let free = free_slots(&cluster.rest("/v1/taskmanagers")?);
    report.row("free slots", "4", free.to_string(), free == 4);
    Ok(report)
}

/// Sum of the free slots of all TaskManagers.
fn free_slots(taskmanagers: &Value) -> u64 {
    let all = taskmanagers.get("taskmanagers").and_then(Value::as_array).cloned().unwrap_or_default();
    all.iter().filter_map(|tm| tm.get("freeSlots").and_then(Value::as_u64)).sum()
}
