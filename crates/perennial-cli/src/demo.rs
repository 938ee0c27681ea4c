//! `perennial demo`: a cluster of real processes on this machine, and what its jobs notice of the leader's death.

mod cluster;
mod counts;
mod input;
mod kill;
mod progress;
pub(crate) mod steps;
mod story;
pub(crate) mod wordcount;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use perennial_client::{Client, JobSummary, Prepared};
use perennial_types::config::options;
use perennial_types::{Configuration, JobId, JobStatus, PlanRequest};

use crate::args::{Demo, DemoCommand};
use crate::command::StopSignals;
use crate::failure::{Exit, Failure};
use crate::output;
use cluster::Cluster;

/// How often the state of the job is shown.
const SHOW_INTERVAL: Duration = Duration::from_secs(1);

/// Starts the cluster, runs the job, and ends everything it started, whatever happens.
pub(crate) async fn run(options: Demo, config: &Configuration) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let dir = Directory::new(options.keep.as_deref())?;
    let cluster = Cluster::start(&dir.path, options.jobmanagers, options.taskmanagers)?;
    let client = Client::new(&cluster.endpoints(), config.get(&options::CLIENT_TIMEOUT))?;
    let mut stage = Stage { dir: &dir.path, config, cluster, client, jobmanagers: options.jobmanagers };
    let ended = tokio::select! {
        ended = play(&options, &mut stage) => ended,
        _ = signals.next() => Ok(Exit::Done),
    };
    if ended.is_err() {
        eprintln!("{}", stage.cluster.ends_of_logs());
    }
    eprintln!("stopping {} processes", stage.cluster.process_count());
    // Blocks until all are gone; a second Ctrl-C meanwhile changes nothing, since they are ended in any case.
    drop(stage);
    if options.keep.is_some() {
        output::line(format_args!("everything they wrote is in {}", dir.path.display()))?;
    }
    ended
}

async fn play(options: &Demo, stage: &mut Stage<'_>) -> Result<Exit, Failure> {
    match (&options.command, &options.input) {
        (Some(DemoCommand::Failover { times }), _) => story::repeat(stage, *times).await,
        (None, Some(file)) => words::show(stage, file, options.once).await,
        (None, None) => story::tell(stage, options.once).await,
    }
}

/// Where a demonstration plays.
struct Stage<'a> {
    dir: &'a Path,
    config: &'a Configuration,
    cluster: Cluster,
    client: Client,
    jobmanagers: u16,
}

impl Stage<'_> {
    /// Parallelism of the job: one subtask of each kind on every TaskManager.
    fn parallelism(&self) -> u16 {
        u16::try_from(self.cluster.taskmanager_count()).unwrap_or(u16::MAX)
    }

    /// Waits for the cluster, shows who is who, and submits a job of this program.
    async fn begin(&mut self, job: &str, args: Vec<String>, what: &str, ends: bool) -> Result<JobId, Failure> {
        let parallelism = (options::PARALLELISM_DEFAULT.key.to_owned(), self.parallelism().to_string());
        let request = PlanRequest { job: Some(job.to_owned()), args, config: BTreeMap::from([parallelism]) };
        let program = std::env::current_exe().context("cannot find this program's file")?;
        // The artifact plans while the cluster elects its leader.
        let prepare = Prepared::new(&program, request, self.config.get(&options::JOBMANAGER_PLAN_TIMEOUT));
        let (prepared, ready) = tokio::join!(prepare, self.cluster.wait_ready(&self.client));
        let status = ready?;
        output::line(self.cluster.table(&status))?;
        output::line(format_args!("\n{what}"))?;
        let job = self.client.submit(&prepared?, None).await?;
        output::line(format_args!("Job has been submitted with JobID {job}\n"))?;
        output::line(format_args!("  REST    http://{}/v1/jobs/{job}", self.cluster.rest_of_leader(&status)))?;
        output::line(format_args!("  look    perennial status --endpoints {}", self.cluster.endpoints().join(",")))?;
        if !ends {
            output::line("  stop    Ctrl-C")?;
        }
        output::line("")?;
        Ok(job)
    }
}

/// Refuses a job that ended otherwise than by itself.
fn finished(summary: &JobSummary) -> Result<(), Failure> {
    if summary.status == JobStatus::Finished {
        return Ok(());
    }
    let exit = if summary.status == JobStatus::Failed { Exit::JobFailed } else { Exit::Failed };
    let text = format!("job {} ended {}: {}", summary.job, summary.status, summary.failure);
    Err(Failure::new(exit, anyhow::anyhow!(text)))
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
