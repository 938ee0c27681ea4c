//! From a file to a running job.

use std::path::Path;
use std::time::Duration;

use perennial_rpc::artifact::PutArtifactError;
use perennial_rpc::dispatcher::{DispatcherGateway, SubmitJob, SubmitJobError, Unavailable};
use perennial_types::{ArtifactManifest, JobId, PlanRequest, ProtocolRange, RequestId, RestoreSettings};

use crate::artifact::ArtifactFile;
use crate::{Artifact, ArtifactFileError, Client, Plan, RoleError, roles};

/// An artifact and the job to run from it, not yet given to a cluster.
#[derive(Debug)]
pub struct Prepared {
    /// The executable.
    pub artifact: Artifact,
    /// What the graph was planned from.
    pub request: PlanRequest,
    /// What its builder made.
    pub plan: Plan,
}

/// Why a file gives no job to submit. Nothing was sent to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The file is no artifact.
    #[error(transparent)]
    File(#[from] ArtifactFileError),
    /// It did not answer in one of its roles.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// It was built with another version of the library.
    #[error("artifact {path} speaks the artifact protocols {} to {} (library {library}), this version speaks {} to {}", theirs.min, theirs.max, ProtocolRange::OURS.min, ProtocolRange::OURS.max)]
    Protocol {
        /// The file.
        path: String,
        /// What it speaks.
        theirs: ProtocolRange,
        /// Version of its library.
        library: String,
    },
    /// It has no job of this name.
    #[error("artifact {path} has no job `{job}`; it has {}", listed(jobs))]
    UnknownJob {
        /// The file.
        path: String,
        /// The name that was asked for.
        job: String,
        /// The names there are.
        jobs: Vec<String>,
    },
    /// It has several jobs, or none, and none was named.
    #[error("artifact {path} has {}; name one with --job-classname", listed(jobs))]
    AmbiguousJob {
        /// The file.
        path: String,
        /// The names there are.
        jobs: Vec<String>,
    },
}

/// Why a job was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The artifact was not stored.
    #[error("cannot upload artifact {path}")]
    Upload {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: PutArtifactError,
    },
    /// The job was not accepted.
    #[error("the job was not accepted")]
    Submit(#[source] SubmitJobError),
    /// The cluster could not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Prepared {
    /// Checks a file, asks it for its manifest and the job's graph, and takes its digest. `limit` is the time the
    /// artifact has for each of its roles.
    pub async fn new(path: &Path, request: PlanRequest, limit: Duration) -> Result<Self, PrepareError> {
        let file = blocking({
            let path = path.to_owned();
            move || ArtifactFile::inspect(&path)
        })
        .await?;
        let program = file.program();
        let shown = path.display().to_string();
        let (artifact, manifest, graph) = tokio::join!(
            blocking(move || file.digest()),
            roles::describe(&program, limit),
            roles::plan(&program, &request, limit),
        );
        // A wrong name or protocol explains a plan that failed, so it is looked at first.
        let manifest = manifest?;
        check(&shown, &manifest, request.job.as_deref())?;
        Ok(Self { artifact: artifact?, request, plan: Plan { manifest, graph: graph? } })
    }
}

/// What an artifact says of itself. The file is looked at before it is run; `limit` is the time it has.
pub async fn describe(path: &Path, limit: Duration) -> Result<ArtifactManifest, PrepareError> {
    let path = path.to_owned();
    let file = blocking(move || ArtifactFile::inspect(&path)).await?;
    Ok(roles::describe(&file.program(), limit).await?)
}

fn check(path: &str, manifest: &ArtifactManifest, job: Option<&str>) -> Result<(), PrepareError> {
    let path = || path.to_owned();
    if !manifest.protocol.overlaps(ProtocolRange::OURS) {
        let (theirs, library) = (manifest.protocol, manifest.library_version.clone());
        return Err(PrepareError::Protocol { path: path(), theirs, library });
    }
    match job {
        Some(job) if !manifest.jobs.iter().any(|known| known == job) => {
            Err(PrepareError::UnknownJob { path: path(), job: job.to_owned(), jobs: manifest.jobs.clone() })
        }
        None if manifest.jobs.len() != 1 => {
            Err(PrepareError::AmbiguousJob { path: path(), jobs: manifest.jobs.clone() })
        }
        _ => Ok(()),
    }
}

fn listed(jobs: &[String]) -> String {
    match jobs {
        [] => "no jobs".to_owned(),
        [one] => format!("the job `{one}`"),
        many => format!("the jobs `{}`", many.join("`, `")),
    }
}

impl Client {
    /// Submits a job, to start from `restore` if that is given, uploading its artifact if the cluster does not have it.
    ///
    /// Tries again with the same request id until the client's timeout, so that a lost answer never makes a second job.
    pub async fn submit(&self, prepared: &Prepared, restore: Option<RestoreSettings>) -> Result<JobId, SubmitError> {
        self.submit_as(prepared, RequestId::random(), None, restore).await
    }

    /// The same under a request id that the caller may use again: whoever does gets the same job. `job` fixes the job's id.
    pub async fn submit_as(
        &self,
        prepared: &Prepared,
        request: RequestId,
        job: Option<JobId>,
        restore: Option<RestoreSettings>,
    ) -> Result<JobId, SubmitError> {
        let job = SubmitJob {
            request,
            job,
            artifact: prepared.artifact.digest(),
            plan: prepared.request.clone(),
            graph: prepared.plan.graph.clone(),
            restore,
        };
        // Most submissions are of an artifact the cluster has: asking first would cost them a round trip.
        match self.submit_job(job.clone()).await {
            Err(SubmitJobError::UnknownArtifact { .. }) => {}
            Ok(job) => return Ok(job),
            Err(error) => return Err(error.into()),
        }
        self.upload(&prepared.artifact).await.map_err(|source| match source {
            PutArtifactError::Unavailable(error) => SubmitError::Unavailable(error),
            source => SubmitError::Upload { path: prepared.artifact.path().display().to_string(), source },
        })?;
        Ok(self.submit_job(job).await?)
    }

    /// Makes the first connection, so that it is there when it is needed.
    ///
    /// Fails like any call when nobody answers, with every endpoint and its reason.
    pub async fn connect(&self) -> Result<(), Unavailable> {
        self.cluster_status().await.map(drop)
    }
}

impl From<SubmitJobError> for SubmitError {
    fn from(error: SubmitJobError) -> Self {
        match error {
            SubmitJobError::Unavailable(error) => Self::Unavailable(error),
            error => Self::Submit(error),
        }
    }
}

/// Runs work that reads files on a thread for it.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}
