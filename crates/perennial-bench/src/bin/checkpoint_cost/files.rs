//! How many bytes a checkpoint writes when little has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use perennial_tests::Report;

use crate::Bench;

/// Keys of the job, and records per second: a tenth of the keys change from one checkpoint to the next.
const KEYS: u64 = 200_000;
const RATE: u64 = 20_000;

/// What a checkpoint may write beyond the share of the keys that have changed: every so often all of it is written anew, and a record of
/// a change names its key.
const SHARE_MAX: f64 = 0.25;

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(super) fn measure(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let probes = bench.cluster.dir().join("probes-files");
    std::fs::create_dir(&probes)?;
    let (keys, rate) = (KEYS.to_string(), RATE.to_string());
    let args = ["--probes", &probes.display().to_string(), "--keys", &keys, "--rate", &rate];
    let job = bench.start("gap_probe", true, &args)?;
    std::thread::sleep(Duration::from_secs_f64(KEYS as f64 / RATE as f64 + 1.0));
    let directory = bench.directory().join(&job.job);
    // Files that are there already belong to checkpoints before.
    let mut before = BTreeMap::new();
    look(&directory, &mut before);
    let (mut seen, begun) = (BTreeMap::new(), Instant::now());
    while begun.elapsed() < 2 * bench.window() {
        std::thread::sleep(LOOK_EVERY);
        look(&directory, &mut seen);
    }
    bench.end(&job)?;
    seen.retain(|path, _| !before.contains_key(path));
    let checkpoints = seen.keys().filter(|path| path.ends_with("_metadata")).count();
    ensure!(checkpoints > 2, "only {checkpoints} checkpoints were seen in {}", directory.display());
    let written = seen.values().sum::<u64>() as f64 / checkpoints as f64;
    // Count and key, eight bytes each.
    let full = KEYS as f64 * 16.0;
    let changed = RATE as f64 / KEYS as f64 * bench.options.interval_ms as f64 / 10.0;
    let (part, most) = (written / full * 100.0, SHARE_MAX * 100.0);
    let seen = format!("{part:.0} %, {:.0} of {:.0} kB, in {checkpoints} checkpoints", written / 1e3, full / 1e3);
    let what = format!("bytes a checkpoint writes when {changed:.0} % of the keys have changed");
    report.row(what, format!("≤ {most:.0} % of the state"), seen, part <= most);
    Ok(())
}

/// Notes the files that are there, each with its largest size.
fn look(directory: &Path, seen: &mut BTreeMap<PathBuf, u64>) {
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        // What is not needed any more goes away meanwhile.
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                let noted = seen.entry(entry.path()).or_default();
                *noted = metadata.len().max(*noted);
            }
        }
    }
}
