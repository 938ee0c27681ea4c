//! `perennial run`: plan, submit, follow.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use perennial_client::{Client, DispatcherGateway, JobSummary, Prepared};
use perennial_types::config::options;
use perennial_types::{Configuration, JobId, JobStatus, PlanRequest, RestoreSettings};
use tokio_stream::StreamExt;

use super::signals::StopSignals;
use crate::args::{Global, JobChoice, Restore, Run};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

pub(crate) async fn run(run: Run, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let client = settings::client(global, config)?;
    let limit = config.get(&options::JOBMANAGER_PLAN_TIMEOUT);
    let restore = run.restore.from.as_deref().map(|path| restore_settings(path, &run.restore)).transpose()?;
    let prepare = Prepared::new(&run.choice.artifact, request(&run.choice, &global.options), limit);
    // The connection is made while the artifact plans. What is wrong with the artifact is told first.
    let (prepared, connected) = tokio::join!(prepare, client.connect());
    let prepared = prepared?;
    connected?;
    let job = client.submit(&prepared, restore).await?;
    output::line(format_args!("Job has been submitted with JobID {job}"))?;
    if run.detached {
        return say_what_it_waits_for(&client, job).await;
    }
    follow(&client, job).await
}

fn restore_settings(path: &str, restore: &Restore) -> Result<RestoreSettings, Failure> {
    let Restore { allow_non_restored, claim, .. } = *restore;
    Ok(RestoreSettings { path: location(path)?, allow_non_restored, claim })
}

/// A place that means the same to the JobManagers: a path is made absolute, a URI stays.
pub(crate) fn location(path: &str) -> Result<String, Failure> {
    if path.contains("://") {
        return Ok(path.to_owned());
    }
    let absolute = std::path::absolute(path).with_context(|| format!("`{path}` is no path"))?;
    Ok(absolute.display().to_string())
}

/// What the graph is planned from: `-p` and every `-D` travel with the job.
pub(crate) fn request(choice: &JobChoice, flags: &[String]) -> PlanRequest {
    let flags = flags.iter().filter_map(|flag| flag.split_once('='));
    let mut config: BTreeMap<String, String> =
        flags.map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned())).collect();
    if let Some(parallelism) = choice.parallelism {
        config.insert(options::PARALLELISM_DEFAULT.key.to_owned(), parallelism.to_string());
    }
    PlanRequest { job: choice.job.clone(), args: choice.args.clone(), config }
}

/// Time an accepted job has to be deployed or to say why it is not, before `run -d` returns without either.
const FIRST_WORD: Duration = Duration::from_millis(500);

/// Tells at once when there are too few slots. The job is accepted: what goes wrong here is no failure.
async fn say_what_it_waits_for(client: &Client, job: JobId) -> Result<Exit, Failure> {
    let first_word = async {
        let Ok(Some(mut summaries)) = client.watch_job(job).await else { return None };
        while let Some(Ok(summary)) = summaries.next().await {
            if !summary.waiting_for.is_empty() {
                return Some(summary.waiting_for);
            }
            if !matches!(summary.status, JobStatus::Initializing | JobStatus::Created) {
                return None;
            }
        }
        None
    };
    if let Ok(Some(waiting_for)) = tokio::time::timeout(FIRST_WORD, first_word).await {
        eprintln!("job {job} waits: {waiting_for}");
    }
    Ok(Exit::Done)
}

/// Follows a job to its end and tells how it goes.
async fn follow(client: &Client, job: JobId) -> Result<Exit, Failure> {
    let mut signals = StopSignals::listen()?;
    let goes_on = format!("the job goes on; perennial list shows it, perennial cancel {job} ends it");
    let end = async {
        let Some(mut summaries) = client.watch_job(job).await? else {
            return Err(Failure::new(Exit::NotFound, anyhow::anyhow!("job {job} is not listed")));
        };
        let mut told = Told::default();
        while let Some(summary) = summaries.next().await {
            let summary = summary?;
            for line in told.news(&summary) {
                eprintln!("{line}");
            }
            if summary.status.is_globally_terminal() {
                return Ok(summary);
            }
        }
        Err(Failure::new(Exit::Unavailable, anyhow::anyhow!("the cluster no longer tells how job {job} goes")))
    };
    let summary = tokio::select! {
        end = end => match end {
            Ok(summary) => summary,
            Err(failure) => return Err(failure.hint(goes_on)),
        },
        _ = signals.next() => {
            eprintln!("interrupted; {goes_on}");
            return Ok(Exit::Interrupted);
        }
    };
    match summary.status {
        JobStatus::Finished => {
            let runtime_ms = summary.end_ms.unwrap_or(summary.start_ms).saturating_sub(summary.start_ms);
            output::line("Program execution finished")?;
            output::line(format_args!("Job with JobID {job} has finished."))?;
            output::line(format_args!("Job Runtime: {runtime_ms} ms"))?;
            Ok(Exit::Done)
        }
        JobStatus::Failed => {
            Err(Failure::new(Exit::JobFailed, anyhow::anyhow!("job {job} FAILED: {}", summary.failure)))
        }
        other => Err(Failure::new(Exit::Failed, anyhow::anyhow!("job {job} ended {other}"))),
    }
}

/// What the user has been told of a job.
#[derive(Debug, Default)]
struct Told {
    status: Option<JobStatus>,
    waiting_for: String,
    restarts: u32,
}

impl Told {
    /// Lines for what is new in a summary.
    fn news(&mut self, summary: &JobSummary) -> Vec<String> {
        let mut lines = Vec::new();
        if self.status != Some(summary.status) {
            lines.push(format!("job {} is {}", summary.job, summary.status));
        }
        if self.waiting_for != summary.waiting_for && !summary.waiting_for.is_empty() {
            lines.push(format!("job {} waits: {}", summary.job, summary.waiting_for));
        }
        if self.restarts < summary.restarts {
            lines.push(format!("job {} was restarted ({} so far)", summary.job, summary.restarts));
        }
        *self =
            Self { status: Some(summary.status), waiting_for: summary.waiting_for.clone(), restarts: summary.restarts };
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_parallelism_travel_with_the_job() {
        let choice = JobChoice {
            job: Some("words".to_owned()),
            parallelism: Some(4),
            artifact: "job".into(),
            args: vec!["--input".to_owned()],
        };
        let request = request(&choice, &["pipeline.name = a=b".to_owned(), "parallelism.default=1".to_owned()]);
        assert_eq!(request.config["pipeline.name"], "a=b");
        assert_eq!(request.config["parallelism.default"], "4", "-p wins");
        assert_eq!((request.job.as_deref(), request.args.len()), (Some("words"), 1));
    }

    #[test]
    fn only_news_is_told() {
        let mut summary = JobSummary {
            job: JobId::from_bytes([1; 16]),
            name: String::new(),
            status: JobStatus::Created,
            start_ms: 0,
            end_ms: None,
            tasks: BTreeMap::new(),
            slots_needed: 8,
            waiting_for: "needs 8 slots".to_owned(),
            failure: String::new(),
            restarts: 0,
        };
        let mut told = Told::default();
        assert_eq!(told.news(&summary).len(), 2);
        assert!(told.news(&summary).is_empty());
        (summary.status, summary.waiting_for) = (JobStatus::Running, String::new());
        assert_eq!(told.news(&summary), ["job 01010101010101010101010101010101 is RUNNING"]);
    }
}
