//! `perennial demo --input FILE`: live counts of the words of a text.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use perennial_client::{Client, DispatcherGateway, JobSummary};
use perennial_types::{JobId, RequestId};

use super::cluster::Cluster;
use super::input::Input;
use super::{SHOW_INTERVAL, Stage, counts, finished, wordcount};
use crate::failure::{Exit, Failure};
use crate::output;

/// Lines of text per second: enough to see the counts move, little enough to leave the machine to its owner.
const LINES_PER_SECOND: u64 = 5000;

/// Seconds the job of `--once` has input for.
const ONCE_SECONDS: u64 = 3;

/// How many of the most frequent words are shown.
const WORDS_SHOWN: usize = 5;

/// How long the job of `--once` may take beyond its input.
const END_LIMIT: Duration = Duration::from_secs(60);

/// Submits the job and shows its counts until it ends.
pub(super) async fn show(stage: &mut Stage<'_>, file: &Path, once: bool) -> Result<Exit, Failure> {
    let started = Instant::now();
    let dir = stage.dir;
    let input = Input::prepare(file, dir)?;
    let rounds = match once {
        true => (ONCE_SECONDS * LINES_PER_SECOND).div_ceil(input.line_count.max(1)),
        false => u64::MAX / input.line_count.max(1),
    };
    let counts_dir = dir.join("counts");
    std::fs::create_dir_all(&counts_dir).with_context(|| format!("cannot create {}", counts_dir.display()))?;
    let args = wordcount::arguments(&input.path, &counts_dir, rounds * input.line_count, LINES_PER_SECOND);
    let what = format!("counting the words of {}", input.what);
    let job = stage.begin(wordcount::NAME, args, &what, once).await?;
    let summary = watch(&stage.client, job, &counts_dir, started, once, &mut stage.cluster).await?;
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
    finished(summary)?;
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
