//! How long tasks stand still for a checkpoint: what they say themselves, and what a probe in the stream sees.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use perennial_examples::gap_probe::Line;
use perennial_tests::Report;
use perennial_types::CheckpointMetadata;

use crate::{Bench, SLOTS, median};

/// Longest standstill that a checkpoint may cost.
const STALL_MAX_MS: f64 = 5.0;

/// Records per second: what two slots take beside all else on a machine with two cores.
const RATE: u64 = 200_000;

/// Time between two looks at the directory of the checkpoints.
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) fn measure(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let mut sync = Vec::new();
    let without = pauses(bench, false, &mut sync)?;
    let with = pauses(bench, true, &mut sync)?;
    ensure!(!sync.is_empty(), "no checkpoint was seen in {}", bench.directory().display());
    let longest = sync.iter().copied().fold(0.0, f64::max);
    let seen = format!("{longest:.2} ms in {} snapshots (median {:.2} ms)", sync.len(), median(&mut sync));
    report.row("longest standstill that a task reports", format!("≤ {STALL_MAX_MS} ms"), seen, longest <= STALL_MAX_MS);
    let longest = |pauses: &[f64]| pauses.iter().copied().fold(0.0, f64::max);
    let (ordinary, most) = (longest(&without), longest(&with));
    let [usual_without, usual_with] = [without, with].map(|mut pauses| median(&mut pauses));
    report.information(
        "longest pause of any second in the stream, median: without, with checkpoints",
        format!("{usual_without:.2}, {usual_with:.2} ms"),
    );
    let seen = format!("{:.2} ms ({most:.2} ms with, {ordinary:.2} ms without)", (most - ordinary).max(0.0));
    let bar = format!("≤ {STALL_MAX_MS} ms beyond that without");
    report.row("longest pause in the stream", bar, seen, most - ordinary <= STALL_MAX_MS);
    Ok(())
}

/// The longest pause of each second, in milliseconds, of all subtasks of the job `gap_probe`. Adds what its tasks report to `sync`.
fn pauses(bench: &mut Bench, checkpoints: bool, sync: &mut Vec<f64>) -> Result<Vec<f64>> {
    let keys = bench.options.keys * u64::from(SLOTS);
    let probes = bench.cluster.dir().join(if checkpoints { "probes-with" } else { "probes-without" });
    std::fs::create_dir(&probes)?;
    let (keys_arg, rate) = (keys.to_string(), RATE.to_string());
    let args = ["--probes", &probes.display().to_string(), "--keys", &keys_arg, "--rate", &rate];
    let job = bench.start("gap_probe", checkpoints, &args)?;
    // Until every key is there, and a second more.
    std::thread::sleep(Duration::from_secs_f64(keys as f64 / RATE as f64 + 1.0));
    let (begun, from_us, mut seen) = (Instant::now(), now_us(), BTreeSet::new());
    while begun.elapsed() < bench.window() {
        std::thread::sleep(LOOK_EVERY);
        if checkpoints {
            read_sync(&bench.directory().join(&job.job), &mut seen, sync)?;
        }
    }
    let to_us = now_us();
    bench.end(&job)?;
    let mut longest = BTreeMap::<u64, u64>::new();
    for entry in std::fs::read_dir(&probes)? {
        let text = std::fs::read_to_string(entry?.path())?;
        // A line without its end was being written when its task ended.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        for line in whole.lines() {
            let line: Line = line.parse()?;
            if (from_us..=to_us).contains(&line.unix_us) {
                let of_second = longest.entry(line.unix_us / 1_000_000).or_default();
                *of_second = (*of_second).max(line.pause_us);
            }
        }
    }
    ensure!(!longest.is_empty(), "no probe has written anything");
    Ok(longest.into_values().map(|us| us as f64 / 1000.0).collect())
}

/// Reads the standstills, in milliseconds, out of the metadata of checkpoints that were not seen before.
fn read_sync(of_job: &Path, seen: &mut BTreeSet<String>, sync: &mut Vec<f64>) -> Result<()> {
    // What is not retained goes away between two looks.
    for entry in std::fs::read_dir(of_job).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Ok(text) = std::fs::read_to_string(entry.path().join("_metadata")) else { continue };
        if !seen.insert(name.clone()) {
            continue;
        }
        let (_, json) = text.split_once('\n').with_context(|| format!("{name} has no header"))?;
        let metadata: CheckpointMetadata = serde_json::from_str(json).with_context(|| name.clone())?;
        let subtasks = metadata.vertices.iter().flat_map(|vertex| &vertex.subtasks);
        sync.extend(subtasks.map(|subtask| subtask.sync_us as f64 / 1000.0));
    }
    Ok(())
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}
