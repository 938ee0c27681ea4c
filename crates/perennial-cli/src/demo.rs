//! `perennial demo`: a cluster of real processes on this machine that counts the words of real text.

mod cluster;
mod counts;
mod input;
pub(crate) mod job;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use perennial_client::{Client, DispatcherGateway, JobSummary, Prepared};
use perennial_types::config::options;
use perennial_types::{Configuration, JobId, JobStatus, PlanRequest, RequestId};

use crate::args::Demo;
use crate::command::StopSignals;
use crate::failure::{Exit, Failure};
use crate::output;
use cluster::Cluster;
use input::Input;

/// Lines of text per second: enough to see the counts move, little enough to leave the machine to its owner.
const LINES_PER_SECOND: u64 = 5000;

/// Seconds the job of `--once` has input for.
const ONCE_SECONDS: u64 = 3;

/// How often the counts are shown.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// How many of the most frequent words are shown.
const WORDS_SHOWN: usize = 5;

/// How long the job of `--once` may take beyond its input.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Starts the cluster, runs the job, and ends everything it started, whatever happens.
pub(crate) async fn run(options: Demo, config: &Configuration) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let dir = Directory::new(options.keep.as_deref())?;
    let mut cluster = Cluster::start(&dir.path, options.jobmanagers, options.taskmanagers)?;
    let ended = tokio::select! {
        ended = show(&options, config, &dir.path, &mut cluster) => ended,
        _ = signals.next() => Ok(Exit::Done),
    };
    if ended.is_err() {
        eprintln!("{}", cluster.ends_of_logs());
    }
    eprintln!("stopping {} processes", cluster.process_count());
    // Blocks until all are gone; a second Ctrl-C meanwhile changes nothing, since they are ended in any case.
    drop(cluster);
    if options.keep.is_some() {
        output::line(format_args!("everything they wrote is in {}", dir.path.display()))?;
    }
    ended
}

async fn show(options: &Demo, config: &Configuration, dir: &Path, cluster: &mut Cluster) -> Result<Exit, Failure> {
    let started = Instant::now();
    let input = Input::prepare(options.input.as_deref(), dir)?;
    let rounds = match options.once {
        true => (ONCE_SECONDS * LINES_PER_SECOND).div_ceil(input.line_count.max(1)),
        false => u64::MAX / input.line_count.max(1),
    };
    let counts_dir = dir.join("counts");
    std::fs::create_dir_all(&counts_dir).with_context(|| format!("cannot create {}", counts_dir.display()))?;
    let request = PlanRequest {
        job: Some(job::NAME.to_owned()),
        args: job::arguments(&input.path, &counts_dir, rounds * input.line_count, LINES_PER_SECOND),
        config: BTreeMap::from([(options::PARALLELISM_DEFAULT.key.to_owned(), options.taskmanagers.to_string())]),
    };
    let program = std::env::current_exe().context("cannot find this program's file")?;
    let client = Client::new(&cluster.endpoints(), config.get(&options::CLIENT_TIMEOUT))?;
    // The artifact plans while the cluster elects its leader.
    let prepare = Prepared::new(&program, request, config.get(&options::JOBMANAGER_PLAN_TIMEOUT));
    let (prepared, ready) = tokio::join!(prepare, cluster.wait_ready(&client));
    let status = ready?;
    output::line(cluster.table(&status))?;
    output::line(format_args!("\ncounting the words of {}", input.what))?;
    let job = client.submit(&prepared?).await?;
    output::line(format_args!("Job has been submitted with JobID {job}\n"))?;
    output::line(format_args!("  REST    http://{}/v1/jobs/{job}", cluster.rest_of_leader(&status)))?;
    output::line(format_args!("  look    perennial status --endpoints {}", cluster.endpoints().join(",")))?;
    if !options.once {
        output::line("  stop    Ctrl-C")?;
    }
    output::line("")?;
    let summary = watch(&client, job, &counts_dir, started, options.once, cluster).await?;
    verify(&summary, &input, rounds, &counts_dir)
}

/// Shows the counts once a second until the job ends.
async fn watch(
    client: &Client,
    job: JobId,
    counts_dir: &Path,
    started: Instant,
    once: bool,
    cluster: &mut Cluster,
) -> Result<JobSummary, Failure> {
    let mut shown = Shown::default();
    let deadline = Instant::now() + Duration::from_secs(ONCE_SECONDS) + END_LIMIT;
    loop {
        for lost in cluster.newly_ended() {
            output::line(lost)?;
        }
        // Without a leader there is nothing to ask; the job goes on meanwhile and so does its output.
        let details = tokio::time::timeout(SHOW_INTERVAL, client.job(job)).await;
        let summary = details.ok().and_then(Result::ok).flatten().map(|details| details.summary);
        let counts = counts::read(counts_dir)?;
        if let Some(line) = shown.line(&counts, started) {
            output::line(line)?;
        }
        if let Some(summary) = summary {
            if !summary.waiting_for.is_empty() {
                output::line(format_args!("the job waits: {}", summary.waiting_for))?;
            }
            if summary.status.is_globally_terminal() {
                return Ok(summary);
            }
        }
        if once && Instant::now() > deadline {
            _ = client.cancel_job(job, RequestId::random()).await;
            return Err(anyhow::anyhow!("job {job} did not end within {} s", END_LIMIT.as_secs()).into());
        }
        tokio::time::sleep(SHOW_INTERVAL).await;
    }
}

/// What was last shown, for the rate.
#[derive(Debug, Default)]
struct Shown {
    words: u64,
    at: Option<Instant>,
}

impl Shown {
    /// A line for these counts; none as long as there are none.
    fn line(&mut self, counts: &BTreeMap<String, u64>, started: Instant) -> Option<String> {
        let words: u64 = counts.values().sum();
        if words == 0 {
            return None;
        }
        let now = Instant::now();
        let rate = self.at.map(|at| (words.saturating_sub(self.words)) as f64 / (now - at).as_secs_f64());
        (self.words, self.at) = (words, Some(now));
        let rate = rate.map_or_else(String::new, |rate| format!(" ({}/s)", output::thousands(rate as u64)));
        let mut top: Vec<(&String, &u64)> = counts.iter().collect();
        top.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let top: Vec<String> = top
            .iter()
            .take(WORDS_SHOWN)
            .map(|(word, count)| format!("{word} {}", output::thousands(**count)))
            .collect();
        Some(format!(
            "{:5.1} s  {} words{rate}, {} different: {}",
            started.elapsed().as_secs_f64(),
            output::thousands(words),
            output::thousands(counts.len() as u64),
            top.join(" · ")
        ))
    }
}

/// Compares what the job counted with a count of our own.
fn verify(summary: &JobSummary, input: &Input, rounds: u64, counts_dir: &Path) -> Result<Exit, Failure> {
    if summary.status != JobStatus::Finished {
        let exit = if summary.status == JobStatus::Failed { Exit::JobFailed } else { Exit::Failed };
        let text = format!("job {} ended {}: {}", summary.job, summary.status, summary.failure);
        return Err(Failure::new(exit, anyhow::anyhow!(text)));
    }
    let (expect, counted) = (counts::count(&input.text, rounds), counts::read(counts_dir)?);
    let differences = counts::differences(&expect, &counted);
    if differences.is_empty() {
        output::line(format_args!(
            "verified: {} words, {} different, every count is right",
            output::thousands(expect.values().sum()),
            output::thousands(expect.len() as u64)
        ))?;
        return Ok(Exit::Done);
    }
    let shown: Vec<String> = differences.iter().take(20).map(|difference| format!("\n  {difference}")).collect();
    Err(anyhow::anyhow!("{} counts are wrong:{}", differences.len(), shown.concat()).into())
}

/// Where everything goes. Removed at the end unless the user named it.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn new(keep: Option<&Path>) -> Result<Self, Failure> {
        let path = match keep {
            Some(path) => path.to_owned(),
            None => std::env::temp_dir().join(format!("perennial-demo-{}", std::process::id())),
        };
        let create = || -> std::io::Result<PathBuf> {
            std::fs::create_dir_all(&path)?;
            path.canonicalize()
        };
        let path = create().with_context(|| format!("cannot create {}", path.display()))?;
        let mut entries = std::fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))?;
        if entries.next().is_some() {
            let error = anyhow::anyhow!("{} is not empty", path.display());
            return Err(
                Failure::new(Exit::Refused, error).hint("the demonstration starts from nothing; name a new directory")
            );
        }
        Ok(Self { path, keep: keep.is_some() })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            _ = std::fs::remove_dir_all(&self.path);
        }
    }
}
