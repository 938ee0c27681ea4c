//! All JobManagers are gone for a while.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use perennial_tests::{Report, Submission, usage_of};
use serde_json::Value;

use crate::pauses::now_us;
use crate::scene::{ALL, LIMIT, Random, Scene, ms};

/// Growth of a process' memory that is not looked at: what an allocator keeps at hand.
const SLACK_KIB: u64 = 8 << 10;

/// Growth that still counts as bounded.
const GROWTH_MAX: f64 = 0.1;

#[derive(Args)]
pub(crate) struct Options {
    /// How long there is no JobManager.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Decides the order in which they are started again.
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    let mut random = Random::new(options.seed);
    let length = Duration::from_secs(options.seconds);
    let mut scene = Scene::plain(binary, 3)?;
    // Runs as fast as it can, beside the job that measures.
    let fast = scene.submit(&ALL, "keyed_count", 2, &[])?;
    scene.wait_state(&ALL, &fast, "RUNNING", LIMIT)?;
    let fast_pids = scene.cluster.executors_of(&fast);
    // Ends while nobody is there to be told.
    let (rate, seconds) = (1000, options.seconds / 2 + 1);
    let args = ["--rate", &rate.to_string(), "--count", &(rate * seconds).to_string()];
    let bounded = scene.submit(&ALL, "keyed_count", 2, &args)?;
    scene.wait_state(&ALL, &bounded, "RUNNING", LIMIT)?;
    // With the processors taken, what is ordinary is another thing.
    scene.take_baseline()?;

    let mut report = Report::default();
    let before = sizes(&scene)?;
    let fast_before = records(&scene, &fast)?;
    for member in ALL {
        scene.cluster.take_jobmanager(member)?.kill()?;
    }
    let (start, start_us) = (Instant::now(), now_us());
    let mut peak = before.clone();
    while start.elapsed() < length {
        for (name, size) in sizes(&scene)? {
            let peak = peak.entry(name).or_default();
            *peak = (*peak).max(size);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    scene.check_gap(&mut report, "without JobManagers", start_us)?;
    let order = random.shuffled(ALL);
    let names: Vec<String> = order.iter().map(|member| format!("jm-{}", member + 1)).collect();
    let (back, back_us) = (Instant::now(), now_us());
    for member in order {
        scene.cluster.start_jobmanager(member)?;
    }
    scene.wait_whole(&ALL)?;
    report.information(format!("start of {} to all adopted", names.join(", ")), ms(back.elapsed()));
    let told = scene.wait_state(&ALL, &bounded, "FINISHED", LIMIT);
    let seen = told.as_ref().map_or_else(|error| format!("{error:#}"), |()| "FINISHED".to_owned());
    report.row("state of a job that ended without JobManagers", "FINISHED", seen, told.is_ok());
    std::thread::sleep(Duration::from_secs(3));
    scene.check_gap(&mut report, "after their return", back_us)?;
    scene.check_untouched(&mut report, "afterwards", &ALL);
    let same = scene.cluster.executors_of(&fast) == fast_pids;
    report.row("executors of the job at full rate", "unchanged", if same { "unchanged" } else { "replaced" }, same);
    let made = records(&scene, &fast)?.checked_sub(fast_before);
    let seen = made.map_or("less than before".to_owned(), |made| {
        format!("{:.1} M/s on average", made as f64 / start.elapsed().as_secs_f64() / 1e6)
    });
    report.row("records of the job at full rate", "counted on", seen, made.is_some_and(|made| made > 0));
    for (name, size) in before {
        let peak = peak.get(&name).copied().unwrap_or(size);
        let growth = peak.saturating_sub(size);
        let holds = growth <= SLACK_KIB || growth as f64 <= size as f64 * GROWTH_MAX;
        let seen = format!("{:.1} MB to at most {:.1} MB", size as f64 / 1024.0, peak as f64 / 1024.0);
        report.row(format!("memory of {name}"), "within 10 % or 8 MB", seen, holds);
    }
    Ok(report)
}

/// Resident memory in KiB of TaskManagers and of the executors of jobs that go on.
fn sizes(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for process in scene.cluster.processes().filter(|process| process.name().starts_with("tm-")) {
        sizes.insert(process.name().to_owned(), process.usage()?.rss_kib);
    }
    for pid in scene.cluster.executors() {
        // One that has just ended is not looked at.
        if let Ok(usage) = usage_of(pid) {
            sizes.insert(format!("executor {pid}"), usage.rss_kib);
        }
    }
    Ok(sizes)
}

/// Records that all vertices of a job have read, as its leader shows them.
fn records(scene: &Scene, job: &Submission) -> Result<u64> {
    let job = scene.ask(&ALL, &format!("/v1/jobs/{}", job.job))?;
    let vertices = job.get("vertices").and_then(Value::as_array).context("a job has vertices")?;
    Ok(vertices.iter().filter_map(|vertex| vertex.pointer("/metrics/read-records").and_then(Value::as_u64)).sum())
}
