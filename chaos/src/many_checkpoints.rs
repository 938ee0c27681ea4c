//! Thousands of checkpoints in one run: their numbers rise, and what is on the disks stays as much.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use perennial_tests::{ClusterBuilder, Report, wait_for};

use crate::interrupt;
use crate::random::{Random, fresh_seed};
use crate::scene::LIMIT;
use crate::sums::{Asked, Judge};

/// Directories of checkpoints there may be at a time: the one retained, the one being written, one that a dead leader left, and those of
/// a few moments in which nobody deleted.
const DIRECTORIES_MAX: usize = 50;

/// Time without a new checkpoint after which none comes any more.
const STANDSTILL: Duration = Duration::from_secs(30);

/// Growth of the metadata of a JobManager from the first third of the run to its end that still counts as bounded.
const METADATA_GROWTH_MAX: u64 = 64 << 20;

#[derive(Args)]
pub(crate) struct Options {
    /// How many checkpoints.
    #[arg(long, default_value_t = 10_000)]
    count: usize,
    /// Time between them, in milliseconds.
    #[arg(long, default_value_t = 10)]
    interval_ms: u64,
    /// How often the leader is killed meanwhile.
    #[arg(long, default_value_t = 5)]
    kills: usize,
    /// Choices of an earlier run.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave the directory with all logs and the output.
    #[arg(long)]
    keep: bool,
}

/// Runs and reports.
pub(crate) fn run(binary: &Path, options: &Options) -> Result<Report> {
    interrupt::listen()?;
    let seed = options.seed.unwrap_or_else(fresh_seed);
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut cluster = ClusterBuilder::new(binary).jobmanagers(3).taskmanagers(2, 2).start()?;
    let (out, checkpoints) = (cluster.dir().join("out"), cluster.dir().join("checkpoints"));
    let asked = Asked { keys: 1000, of_each: 1 << 40, every: 10 };
    let flags = [
        format!("execution.checkpointing.interval={}ms", options.interval_ms),
        format!("execution.checkpointing.dir=file://{}", checkpoints.display()),
    ];
    let flags: Vec<&str> = flags.iter().flat_map(|option| ["-D", option.as_str()]).collect();
    let args = ["--keys", "1000", "--every", "10", "--rate", "20000", "--out", &out.display().to_string()];
    let job = cluster.submit_with("running_sums", 2, &flags, &args)?;
    cluster.wait_state(&job, "RUNNING", LIMIT)?;
    let of_job = checkpoints.join(&job.job);
    let mut judge = Judge::new(&out, asked)?;
    let (begun, mut progress, mut most, mut kills) = (Instant::now(), (0, Instant::now()), 0, 0);
    let mut metadata = None;
    loop {
        interrupt::check()?;
        std::thread::sleep(Duration::from_millis(random.within(200..1000)));
        most = most.max(directories(&of_job)?.len());
        ensure!(judge.read_on()?.is_exact(), "the output is wrong: {:?}", judge.read_on()?);
        let completed = cluster.completed_checkpoints()?.len();
        if completed >= options.count {
            break;
        }
        if completed > progress.0 {
            progress = (completed, Instant::now());
        } else if progress.1.elapsed() > STANDSTILL {
            cluster.keep();
            bail!("no checkpoint for {} s after {completed}: {}", STANDSTILL.as_secs(), cluster.job(&job)?);
        }
        if completed > options.count / 3 && metadata.is_none() {
            metadata = Some(size_of_jobmanagers(cluster.dir())?);
        }
        // Evenly over the run.
        if kills < options.kills && completed > (kills + 1) * options.count / (options.kills + 1) {
            let (leader, _) = cluster.leader(LIMIT)?;
            cluster.jobmanager(leader)?.kill()?;
            kills += 1;
            cluster.start_jobmanager(leader)?;
            cluster.wait_ready()?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut report = Report::default();
    let completed = cluster.completed_checkpoints()?;
    let seen = format!("{} in {seconds:.0} s, {kills} leaders killed", completed.len());
    report.row("checkpoints completed", options.count.to_string(), seen, completed.len() >= options.count);
    let rising = completed.windows(2).all(|pair| pair.first() < pair.last());
    report.row("their numbers rise", "yes", if rising { "yes" } else { "no" }, rising);
    let seen = most.to_string();
    report.row("directories of checkpoints, at most", format!("≤ {DIRECTORIES_MAX}"), seen, most <= DIRECTORIES_MAX);
    let (before, after) = (metadata.unwrap_or_default(), size_of_jobmanagers(cluster.dir())?);
    let seen = format!("{} MB to {} MB", before >> 20, after >> 20);
    let bar = format!("growth ≤ {} MB", METADATA_GROWTH_MAX >> 20);
    report.row("data of the JobManagers, from a third to the end", bar, seen, after <= before + METADATA_GROWTH_MAX);
    let restarts = cluster.restarts(&job)?;
    report.row("restarts", "0", restarts.to_string(), restarts == 0);
    cluster.run_cli(&["cancel", &job.job])?;
    cluster.wait_state(&job, "CANCELED", LIMIT)?;
    let swept = wait_for("the checkpoints of the job to be gone", LIMIT, || {
        let left = directories(&of_job)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
    let seen = swept.as_ref().map_or_else(|error| format!("{error:#}"), |()| "0".to_owned());
    report.row("directories left once the job has ended", "0", seen, swept.is_ok());
    let found = judge.read_on()?;
    let seen = found.first.clone().unwrap_or_else(|| format!("exact, over {} lines", found.lines));
    report.row("output", "exact", seen, found.is_exact());
    if options.keep || !report.holds() {
        cluster.keep();
    }
    Ok(report)
}

/// Names of the directories of a job's checkpoints.
fn directories(of_job: &Path) -> Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(of_job) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        entries => entries?,
    };
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// Bytes in the directories of the JobManagers.
fn size_of_jobmanagers(cluster: &Path) -> Result<u64> {
    let mut open: Vec<PathBuf> = (1..=3).map(|n| cluster.join(format!("jm-{n}"))).collect();
    let mut bytes = 0;
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let entry = entry?;
            // What is being replaced may be gone.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                open.push(entry.path());
            } else {
                bytes += metadata.len();
            }
        }
    }
    Ok(bytes)
}
