//! Jobs whose output is known beforehand, line by line, through the death of everything that ran them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use perennial_examples::{broadcast_rules, event_timers, join, window_count};
use perennial_tests::wait_for;

use crate::{LIMIT, cluster};

const COUNT: u64 = 40_000;
const KEYS: u64 = 10;
/// A job, and its lines.
type Golden = (&'static str, fn() -> Vec<String>);
const JOBS: [Golden; 4] = [
    ("event_timers", || event_timers::expected(COUNT, KEYS)),
    ("broadcast_rules", || broadcast_rules::expected(COUNT)),
    ("window_count", || window_count::expected(COUNT, KEYS)),
    ("join", || join::expected(COUNT, KEYS)),
];

/// The lines of all finished files of a job, in order.
fn sorted_lines(out: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(out)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("part-")) {
            lines.extend(fs::read_to_string(&path)?.lines().map(str::to_owned));
        }
    }
    lines.sort();
    Ok(lines)
}

/// Numbers and directories of the checkpoints of the only job that has its checkpoints below `all`.
fn checkpoints(all: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let job = fs::read_dir(all)?.next().context("no job has checkpoints yet")??.path();
    let mut found = Vec::new();
    for entry in fs::read_dir(job)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if let Some(number) = name.strip_prefix("chk-")
            && path.join("_metadata").exists()
        {
            found.push((number.parse()?, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Timers, broadcast state, windows and joins, from checkpoint to checkpoint: at parallelism 1 until everything is killed, then at 3 until everything
/// is killed, then at 2 to the end. The files together have every line once.
#[test]
fn golden_jobs_go_on_at_other_parallelisms() -> Result<()> {
    let kept = tempfile::tempdir()?;
    let place = |what: &str, job: &str| kept.path().join(format!("{what}-{job}"));
    let mut from: Vec<Option<PathBuf>> = vec![None; JOBS.len()];
    for (run, parallelism) in [1, 3, 2].into_iter().enumerate() {
        let mut cluster = cluster().taskmanagers(2, 6).start()?;
        let mut submitted = Vec::new();
        for ((job, _), from) in JOBS.iter().zip(&from) {
            let checkpoints =
                format!("execution.checkpointing.dir={}", place(&format!("checkpoints-{run}"), job).display());
            let mut flags = vec!["-D", "execution.checkpointing.interval=200ms", "-D", &checkpoints];
            flags.extend(["-D", "pipeline.auto-watermark-interval=20ms", "-D", "pipeline.max-parallelism=16"]);
            let from = from.as_ref().map(|from| from.display().to_string());
            flags.extend(from.iter().flat_map(|from| ["--fromSavepoint", from.as_str()]));
            let (out, keys, count) = (place("out", job).display().to_string(), KEYS.to_string(), COUNT.to_string());
            let arguments = ["--keys", &keys, "--count", &count, "--rate", "10000", "--out", &out];
            submitted.push(cluster.submit_with(job, parallelism, &flags, &arguments)?);
        }
        if run == 2 {
            for job in &submitted {
                cluster.wait_state(job, "FINISHED", LIMIT)?;
            }
            continue;
        }
        for ((job, _), from) in JOBS.iter().zip(&mut from) {
            let all = place(&format!("checkpoints-{run}"), job);
            wait_for("three checkpoints", LIMIT, || {
                let found = checkpoints(&all)?;
                ensure!(found.last().is_some_and(|(number, _)| *number >= 3), "{found:?}");
                Ok(())
            })?;
            *from = Some(all);
        }
        drop(cluster);
        for from in from.iter_mut().flatten() {
            *from = checkpoints(from)?.pop().context("a checkpoint is left")?.1;
        }
    }
    for (job, expected) in JOBS {
        ensure!(sorted_lines(&place("out", job))? == expected(), "{job} has written other lines");
    }
    Ok(())
}
