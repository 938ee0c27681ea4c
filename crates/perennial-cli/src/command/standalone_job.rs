//! `perennial standalone-job`: a JobManager of a group that runs one job and ends with it.
//!
//! Flink's application mode. Every member of the group is started with the same words. The one that leads plans the job and
//! submits it, once: its JobGraph is in the log from then on and is never planned again, whoever leads. All members end when the
//! job has, with an exit code that says how. A member that starts later finds the end in its log, and ends at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use perennial_client::{Client, DispatcherGateway, JobSummary, Prepared, SubmitError, SubmitJobError};
use perennial_jobmanager::JobManagerHandle;
use perennial_types::config::{Origin, options};
use perennial_types::{Configuration, JobId, JobStatus, PlanRequest, RequestId};
use tracing::{info, warn};

use super::jobmanager;
use crate::args::StandaloneJob;
use crate::failure::{Exit, Failure};
use crate::output;

/// Where images have the executable of an application: ours, and the one that Flink's users mount.
const ARTIFACT_DIRECTORIES: [&str; 2] = ["/opt/perennial/usrlib", "/opt/flink/usrlib"];

/// How often a member looks how the job stands, in what it has applied itself.
const LOOK: Duration = Duration::from_millis(100);

/// Time a member gives the others to hear of the end from it, and TaskManagers to stop the job's executors.
const FAREWELL: Duration = Duration::from_secs(1);

/// Options that are the job's as well as the cluster's, which runs no other.
const JOB_OPTIONS: [&str; 5] = ["execution.", "parallelism.", "pipeline.", "restart-strategy.", "state."];

/// How long the end of the job is known: a member may be started again after years.
const END_KNOWN_FOR: &str = "36500 d";

pub(crate) async fn run(options: StandaloneJob, config: &Configuration) -> Result<Exit, Failure> {
    let application = Application::new(options, config)?;
    let mut config = config.clone();
    let origin = Origin::Flag("standalone-job".to_owned());
    config.set(options::JOBSTORE_EXPIRATION_TIME.key, END_KNOWN_FOR, origin).map_err(anyhow::Error::from)?;
    jobmanager::run(&config, Some(&application)).await
}

/// The job that a group is there for.
#[derive(Debug)]
pub(crate) struct Application {
    artifact: PathBuf,
    request: PlanRequest,
    /// The job's id, unless it is made of the cluster's.
    job: Option<JobId>,
    plan_timeout: Duration,
    client_timeout: Duration,
}

impl Application {
    fn new(chosen: StandaloneJob, config: &Configuration) -> Result<Self, Failure> {
        let mut options = config.overrides();
        options.retain(|key, _| JOB_OPTIONS.iter().any(|prefix| key.starts_with(prefix)));
        if let Some(parallelism) = chosen.parallelism {
            options.insert(options::PARALLELISM_DEFAULT.key.to_owned(), parallelism.to_string());
        }
        Ok(Self {
            artifact: artifact(&chosen.jars, &ARTIFACT_DIRECTORIES.map(Path::new))?,
            request: PlanRequest { job: chosen.job, args: chosen.args, config: options },
            job: chosen.job_id,
            plan_timeout: config.get(&options::JOBMANAGER_PLAN_TIMEOUT),
            client_timeout: config.get(&options::CLIENT_TIMEOUT),
        })
    }

    /// Submits the job while this member leads and there is none, and waits for its end.
    ///
    /// `rest` is where this member's services listen. Fails when the job cannot be planned or is refused.
    pub(crate) async fn see_through(&self, jobmanager: &JobManagerHandle, rest: &str) -> Result<JobSummary, Failure> {
        let dispatcher = jobmanager.dispatcher();
        let client = Client::new(&[rest.to_owned()], self.client_timeout)?;
        loop {
            let status = dispatcher.cluster_status().await?;
            if let Some(job) = self.job.or(status.cluster.map(|cluster| JobId::from_bytes(*cluster.as_bytes()))) {
                // What is applied here is enough: an end is final, and the other members may have gone with it.
                let here = dispatcher.job_stale(job).await.map(|stale| stale.value);
                match here {
                    Ok(Some(details)) if details.summary.status.is_globally_terminal() => {
                        tokio::time::sleep(FAREWELL).await;
                        return Ok(details.summary);
                    }
                    Ok(Some(_)) => {}
                    // A leader asks once more what is committed, and only then plans.
                    _ if status.leader == Some(status.from) && matches!(dispatcher.job(job).await, Ok(None)) => {
                        self.submit(&client, job).await?;
                    }
                    _ => {}
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn submit(&self, client: &Client, job: JobId) -> Result<(), Failure> {
        let prepared = Prepared::new(&self.artifact, self.request.clone(), self.plan_timeout).await?;
        // Whoever submits it says the same request, so there is one job whatever happens to answers and leaders.
        match client.submit_as(&prepared, RequestId::from_bytes(*job.as_bytes()), Some(job), None).await {
            Ok(_) => info!(%job, artifact = %self.artifact.display(), "the application's job is submitted"),
            Err(SubmitError::Submit(SubmitJobError::Duplicate { .. })) => {}
            Err(SubmitError::Unavailable(error)) => warn!(%job, %error, "not submitted yet"),
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

/// How the process ends after its job.
pub(crate) fn ended(summary: &JobSummary) -> Result<Exit, Failure> {
    let job = summary.job;
    match summary.status {
        JobStatus::Failed => {
            Err(Failure::new(Exit::JobFailed, anyhow::anyhow!("job {job} FAILED: {}", summary.failure)))
        }
        // As in Flink, who cancels an application has got what was asked for.
        status => {
            output::line(format_args!("Job with JobID {job} ended {status}."))?;
            Ok(Exit::Done)
        }
    }
}

/// The executable that was named, else the only file of the first directory that has any.
fn artifact(jars: &[String], directories: &[&Path]) -> Result<PathBuf, Failure> {
    let usage = |problem: String, hint: &str| Err(Failure::new(Exit::Usage, anyhow::anyhow!(problem)).hint(hint));
    match jars {
        [jar] => {
            let local = jar.strip_prefix("file://").or_else(|| jar.strip_prefix("local://")).unwrap_or(jar);
            match local.split_once("://") {
                Some((scheme, _)) => usage(
                    format!("--jars {jar}: `{scheme}` is not read from here"),
                    "name a local file, such as /opt/job",
                ),
                None => Ok(PathBuf::from(local)),
            }
        }
        [] => {
            let mut files = directories.iter().map(|directory| files_in(directory)).find(|files| !files.is_empty());
            match files.as_mut().map(|files| (files.pop(), files.len())) {
                Some((Some(file), 0)) => Ok(file),
                Some(_) => usage(
                    "the directory of the application has several files".to_owned(),
                    "name the job's executable with --jars FILE",
                ),
                None => usage(
                    "no artifact: --jars is not given, and /opt/perennial/usrlib has no file".to_owned(),
                    "name the job's executable with --jars FILE, or mount it there",
                ),
            }
        }
        [_, side, ..] => usage(
            format!("--jars names `{side}` beside the job's executable"),
            "a job is one file; put what it needs into it",
        ),
    }
}

/// Files of a directory; none when it cannot be read.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jars(jars: &[&str], directories: &[&Path]) -> Result<PathBuf, String> {
        let jars: Vec<String> = jars.iter().map(|jar| (*jar).to_owned()).collect();
        artifact(&jars, directories).map_err(|failure| failure.to_string())
    }

    #[test]
    fn the_artifact_is_the_one_named_or_the_only_one_there() {
        let (empty, full) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let directories = [Path::new("/no/such/directory"), empty.path(), full.path()];
        assert!(jars(&[], &directories).unwrap_err().contains("--jars FILE"));
        std::fs::write(full.path().join("job"), "").unwrap();
        std::fs::create_dir(full.path().join("data")).unwrap();
        assert_eq!(jars(&[], &directories), Ok(full.path().join("job")));
        std::fs::write(full.path().join("other"), "").unwrap();
        assert!(jars(&[], &directories).unwrap_err().contains("several files"));
        for named in ["/opt/job", "file:///opt/job", "local:///opt/job"] {
            assert_eq!(jars(&[named], &directories), Ok(PathBuf::from("/opt/job")));
        }
        assert!(jars(&["s3://bucket/job"], &directories).unwrap_err().contains("`s3`"));
        assert!(jars(&["a", "b"], &directories).unwrap_err().contains("`b`"));
    }
}
