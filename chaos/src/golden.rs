//! Jobs whose output is known to be one and the same: run whole, and run with kills and restores at other parallelisms.
//!
//! A run with restores is cut into stages, each in a cluster of its own. In each an executor is killed and the job goes on from its newest
//! checkpoint; then every process is killed at once, and the next cluster starts the job from the newest checkpoint on the disk, at
//! the next parallelism, into the same output. The last one runs to the end. Lines may come in any order.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use perennial_tests::{Cluster, ClusterBuilder, Report, Submission, send_signal, wait_for};
use rustix::process::Signal;

use crate::interrupt;
use crate::scene::LIMIT;

/// Parallelism of the run that is whole.
const WHOLE: u32 = 2;

/// Parallelisms of the stages.
const STAGES: [u32; 3] = [1, 3, 2];

/// Checkpoints before something is killed.
const CHECKPOINTS: usize = 3;

/// The jobs, with what they need besides the number of records, the number of keys, the rate and where to write.
const JOBS: [(&str, &[&str]); 5] = [
    ("running_sums", &["--every", "1"]),
    ("window_count", &[]),
    ("join", &[]),
    ("broadcast_rules", &[]),
    ("event_timers", &[]),
];

/// Keys of each job: each stage has as many for each subtask.
const KEYS: u64 = 60;

#[derive(Args)]
pub(crate) struct Options {
    /// Number of records.
    #[arg(long, default_value_t = 60_000)]
    records: u64,
    /// Records per second: the stages have to be over before the records are.
    #[arg(long, default_value_t = 5_000)]
    rate: u64,
    /// Only these jobs; all by default.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Leave the directory with output and checkpoints.
    #[arg(long)]
    keep: bool,
}

/// Runs and reports.
pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    interrupt::listen()?;
    for name in &options.only {
        let names: Vec<&str> = JOBS.iter().map(|(name, _)| *name).collect();
        ensure!(names.contains(&name.as_str()), "there is no golden job {name}; these are: {}", names.join(", "));
    }
    let root = std::env::temp_dir().join(format!("perennial-golden-{}", std::process::id()));
    let mut report = Report::default();
    for (name, args) in JOBS {
        if !options.only.is_empty() && !options.only.iter().any(|only| only == name) {
            continue;
        }
        let golden = Golden { binary, name, args, options, directory: root.join(name) };
        match golden.compare() {
            Ok((seen, equal)) => report.row(format!("{name}: lines of both runs"), "equal", seen, equal),
            Err(error) => report.row(format!("{name}: lines of both runs"), "equal", format!("{error:#}"), false),
        }
    }
    if options.keep || !report.holds() {
        eprintln!("output and checkpoints are kept: {}", root.display());
    } else {
        std::fs::remove_dir_all(&root)?;
    }
    Ok(report)
}

struct Golden<'a> {
    binary: &'a Path,
    name: &'a str,
    args: &'a [&'a str],
    options: &'a Options,
    directory: PathBuf,
}

impl Golden<'_> {
    /// What is said of the two outputs, and whether they are equal.
    fn compare(&self) -> Result<(String, bool)> {
        std::fs::create_dir_all(&self.directory)?;
        let whole = self.directory.join("whole");
        let mut cluster = self.cluster()?;
        let job = self.submit(&cluster, WHOLE, &whole, None)?;
        cluster.wait_state(&job, "FINISHED", self.limit())?;
        drop(cluster);
        let cut = self.directory.join("cut");
        let mut from: Option<PathBuf> = None;
        let (last, stages) = STAGES.split_last().context("there are stages")?;
        for parallelism in stages {
            from = Some(
                self.stage(*parallelism, &cut, from.as_deref())
                    .with_context(|| format!("at parallelism {parallelism}"))?,
            );
        }
        let mut cluster = self.cluster()?;
        let job = self.submit(&cluster, *last, &cut, from.as_deref())?;
        cluster.wait_state(&job, "FINISHED", self.limit())?;
        drop(cluster);
        Ok(compared(&lines(&whole)?, &lines(&cut)?))
    }

    /// Runs the job at a parallelism, kills an executor, and then everything. Returns where the newest checkpoint is.
    fn stage(&self, parallelism: u32, out: &Path, from: Option<&Path>) -> Result<PathBuf> {
        interrupt::check()?;
        let mut cluster = self.cluster()?;
        let job = self.submit(&cluster, parallelism, out, from)?;
        cluster.wait_state(&job, "RUNNING", LIMIT)?;
        more_checkpoints(&cluster)?;
        let executor = *cluster.executors_of(&job).first().context("an executor runs")?;
        send_signal(executor, Signal::KILL)?;
        wait_for("the job to be RUNNING again", LIMIT, || {
            let (state, restarts) = (cluster.job_state(&job)?, cluster.restarts(&job)?);
            ensure!(state == "RUNNING" && restarts == 1, "it is {state}, restarted {restarts} times");
            Ok(())
        })?;
        more_checkpoints(&cluster)?;
        // First those that complete and delete checkpoints.
        for index in 0..cluster.jobmanager_count() {
            cluster.take_jobmanager(index)?.kill()?;
        }
        drop(cluster);
        newest(&self.checkpoints().join(&job.job))
    }

    fn cluster(&self) -> Result<Cluster> {
        ClusterBuilder::new(self.binary).jobmanagers(1).taskmanagers(2, 2).start()
    }

    fn checkpoints(&self) -> PathBuf {
        self.directory.join("checkpoints")
    }

    fn limit(&self) -> Duration {
        LIMIT + 2 * Duration::from_secs(self.options.records / self.options.rate)
    }

    fn submit(&self, cluster: &Cluster, parallelism: u32, out: &Path, from: Option<&Path>) -> Result<Submission> {
        let directory = format!("execution.checkpointing.dir=file://{}", self.checkpoints().display());
        let mut flags = vec!["-D", "execution.checkpointing.interval=200ms", "-D", directory.as_str()];
        let from = from.map(|from| from.display().to_string());
        flags.extend(from.iter().flat_map(|from| ["--fromSavepoint", from.as_str()]));
        let numbers = [("--count", self.options.records), ("--keys", KEYS), ("--rate", self.options.rate)];
        let numbers = numbers.map(|(name, number)| (name, number.to_string()));
        let mut args: Vec<&str> = numbers.iter().flat_map(|(name, number)| [*name, number.as_str()]).collect();
        let out = out.display().to_string();
        args.extend(["--out", out.as_str()]);
        args.extend(self.args);
        cluster.submit_with(self.name, parallelism, &flags, &args)
    }
}

fn more_checkpoints(cluster: &Cluster) -> Result<()> {
    let before = cluster.completed_checkpoints()?.len();
    wait_for("more checkpoints", LIMIT, || {
        let completed = cluster.completed_checkpoints()?.len();
        ensure!(completed >= before + CHECKPOINTS, "{} more are completed", completed - before);
        Ok(())
    })
}

/// The newest checkpoint in the directory of a job: what has metadata is whole.
fn newest(of_job: &Path) -> Result<PathBuf> {
    let mut whole = Vec::new();
    for entry in std::fs::read_dir(of_job).with_context(|| of_job.display().to_string())? {
        let path = entry?.path();
        let number = path.file_name().and_then(|name| name.to_str()?.strip_prefix("chk-")?.parse::<u64>().ok());
        whole.extend(number.filter(|_| path.join("_metadata").exists()).map(|number| (number, path)));
    }
    let (_, path) = whole.into_iter().max().with_context(|| format!("no checkpoint in {}", of_job.display()))?;
    Ok(path)
}

/// The lines of all finished parts, in order.
fn lines(out: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(out).with_context(|| out.display().to_string())? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if !hidden {
            lines.extend(std::fs::read_to_string(&path)?.lines().map(str::to_owned));
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

/// How two outputs compare, with the first line that is in one only.
fn compared(whole: &[String], cut: &[String]) -> (String, bool) {
    let at = whole.iter().zip(cut).position(|(one, other)| one != other);
    let at = at.or((whole.len() != cut.len()).then(|| whole.len().min(cut.len())));
    let line = |of: &[String], at: usize| of.get(at).map_or("nothing", String::as_str).to_owned();
    match at {
        None => (format!("{} lines, equal", whole.len()), !whole.is_empty()),
        Some(at) => {
            let (counts, one, other) = (format!("{} and {}", whole.len(), cut.len()), line(whole, at), line(cut, at));
            (format!("{counts} lines; the first that differ: `{one}` whole, `{other}` with restores"), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_equal_when_every_line_is_there_as_often() {
        let compare = |whole: &[&str], cut: &[&str]| {
            let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
            compared(&owned(whole), &owned(cut)).1
        };
        assert!(compare(&["1", "2", "2"], &["1", "2", "2"]));
        for cut in [&["1", "2"][..], &["1", "2", "2", "2"], &["1", "1", "2"], &["1", "2", "3"], &[]] {
            assert!(!compare(&["1", "2", "2"], cut), "{cut:?}");
        }
        assert!(!compare(&[], &[]), "no output proves nothing");
    }
}
