//! Clients against servers in this process, over real sockets of 127.0.0.1.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use perennial_rpc::artifact::{ArtifactBytes, ArtifactContent, ArtifactServer, GetArtifactError};
use perennial_rpc::dispatcher::{DispatcherServer, StateAge};
use perennial_types::{
    ArtifactDigest, ExceptionEntry, ExecutionState, JobGraph, JobManagerId, JobStatus, LeaderEpoch, MANIFEST_MAGIC,
    PlanRequest,
};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;
use tonic::transport::Server;

use super::*;
use crate::{PrepareError, Prepared, SubmitError};

/// Longest wait for anything here.
const LIMIT: Duration = Duration::from_secs(20);

/// What stale answers say of themselves.
const AGE: StateAge = StateAge { from: JobManagerId(1), applied: 7, age_ms: Some(1234) };

/// A cluster of one member that is a value.
#[derive(Clone, Default)]
struct Fake {
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Calls still to be answered with "no leader".
    leaderless: u32,
    /// Answers to submissions still to be thrown away after they were recorded.
    lost_answers: u32,
    artifacts: BTreeMap<ArtifactDigest, Vec<u8>>,
    submitted: BTreeMap<RequestId, JobId>,
    status: Option<JobStatus>,
}

impl Fake {
    fn led(&self) -> Result<(), Unavailable> {
        let mut state = self.shared.lock().unwrap();
        if state.leaderless == 0 {
            return Ok(());
        }
        state.leaderless -= 1;
        Err(Unavailable::NoLeader { reason: "election under way".to_owned() })
    }

    fn summary(&self, job: JobId) -> JobSummary {
        let status = self.shared.lock().unwrap().status.unwrap_or(JobStatus::Running);
        JobSummary {
            job,
            name: "job".to_owned(),
            status,
            start_ms: 1,
            end_ms: status.is_globally_terminal().then_some(2),
            tasks: BTreeMap::from([(ExecutionState::Running, 3)]),
            slots_needed: 1,
            waiting_for: "needs 8 slots, 4 are free".to_owned(),
            failure: String::new(),
            restarts: 0,
        }
    }

    /// Serves until the token is cancelled.
    async fn serve(&self) -> (String, CancellationToken) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut routes = RoutesBuilder::default();
        DispatcherServer::new(self.clone()).add_to(&mut routes);
        ArtifactServer::new(self.clone()).add_to(&mut routes);
        let token = CancellationToken::new();
        let stop = token.clone().cancelled_owned();
        let server = Server::builder().add_routes(routes.routes());
        tokio::spawn(async move {
            tokio::select! {
                () = stop => {}
                served = server.serve_with_incoming(TcpListenerStream::new(listener)) => served.unwrap(),
            }
        });
        (address, token)
    }
}

impl DispatcherGateway for Fake {
    async fn submit_job(&self, job: SubmitJob) -> Result<JobId, SubmitJobError> {
        self.led()?;
        let mut state = self.shared.lock().unwrap();
        if !state.artifacts.contains_key(&job.artifact) {
            return Err(SubmitJobError::UnknownArtifact { digest: job.artifact });
        }
        let id = *state.submitted.entry(job.request).or_insert_with(JobId::random);
        if state.lost_answers > 0 {
            state.lost_answers -= 1;
            return Err(Unavailable::Store { reason: "stepped down".to_owned() }.into());
        }
        Ok(id)
    }

    async fn cancel_job(&self, job: JobId, _: RequestId) -> Result<(), CancelJobError> {
        Err(CancelJobError::AlreadyEnded { job, status: JobStatus::Canceled })
    }

    async fn list_jobs(&self) -> Result<Vec<JobSummary>, Unavailable> {
        self.led()?;
        let jobs: Vec<JobId> = self.shared.lock().unwrap().submitted.values().copied().collect();
        Ok(jobs.into_iter().map(|job| self.summary(job)).collect())
    }

    async fn job(&self, _: JobId) -> Result<Option<JobDetails>, Unavailable> {
        Ok(None)
    }

    async fn exceptions(&self, _: JobId) -> Result<Option<Vec<ExceptionEntry>>, Unavailable> {
        Ok(None)
    }

    async fn watch_job(&self, job: JobId) -> Result<Option<JobSummaries>, Unavailable> {
        self.led()?;
        let now = self.summary(job);
        let ended = now.status.is_globally_terminal();
        let broken = Err(Unavailable::NoLeader { reason: "the leader went away".to_owned() });
        Ok(Some(Box::pin(tokio_stream::iter([Ok(now), broken].into_iter().take(if ended { 1 } else { 2 })))))
    }

    async fn list_jobs_stale(&self) -> Result<Stale<Vec<JobSummary>>, Unavailable> {
        let jobs: Vec<JobId> = self.shared.lock().unwrap().submitted.values().copied().collect();
        Ok(Stale { value: jobs.into_iter().map(|job| self.summary(job)).collect(), age: AGE })
    }

    async fn job_stale(&self, _: JobId) -> Result<Stale<Option<JobDetails>>, Unavailable> {
        Ok(Stale { value: None, age: AGE })
    }

    async fn taskmanagers(&self) -> Result<Vec<TaskManagerSummary>, Unavailable> {
        Ok(Vec::new())
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Unavailable> {
        let (from, epoch) = (JobManagerId(1), LeaderEpoch(1));
        Ok(ClusterStatus {
            cluster: None,
            from,
            epoch,
            leader: None,
            applied: 0,
            members: Vec::new(),
            own: Default::default(),
            age_ms: None,
        })
    }

    async fn leaderships(&self) -> Result<Vec<LeadershipSummary>, Unavailable> {
        Ok(Vec::new())
    }
}

impl ArtifactGateway for Fake {
    async fn has(&self, digest: ArtifactDigest) -> Result<bool, Unavailable> {
        Ok(self.shared.lock().unwrap().artifacts.contains_key(&digest))
    }

    async fn put(&self, artifact: PutArtifact, mut bytes: ArtifactBytes) -> Result<(), PutArtifactError> {
        self.led()?;
        let mut whole = Vec::new();
        while let Some(chunk) = bytes.next().await {
            whole.extend(chunk.map_err(|error| Unavailable::Unreachable { reason: error.to_string() })?);
        }
        let actual = ArtifactDigest::from_bytes(Sha256::digest(&whole).into());
        if actual != artifact.digest {
            return Err(PutArtifactError::DigestMismatch { actual });
        }
        self.shared.lock().unwrap().artifacts.insert(actual, whole);
        Ok(())
    }

    async fn get(&self, digest: ArtifactDigest) -> Result<ArtifactContent, GetArtifactError> {
        let bytes = self.shared.lock().unwrap().artifacts.get(&digest).cloned();
        let bytes = bytes.ok_or(GetArtifactError::NotFound { digest })?;
        let size = bytes.len() as u64;
        let chunks: Vec<_> = bytes.chunks(1000).map(|chunk| Ok(bytes::Bytes::copy_from_slice(chunk))).collect();
        Ok(ArtifactContent { name: "job".to_owned(), size, bytes: Box::pin(tokio_stream::iter(chunks)) })
    }
}

/// An address of 127.0.0.1 at which nobody listens.
async fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string()
}

/// A shell script behind an ELF header that would do as an artifact, were it run by the kernel.
fn prepared(dir: &Path, bytes: usize) -> Prepared {
    let path = dir.join("job");
    let mut content = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    content.truncate(bytes);
    content.extend(MANIFEST_MAGIC);
    std::fs::write(&path, content).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let artifact = crate::artifact::ArtifactFile::inspect(&path).unwrap().digest().unwrap();
    let graph = JobGraph {
        name: "job".to_owned(),
        vertices: Vec::new(),
        edges: Vec::new(),
        structural_hash: u64::MAX,
        config: BTreeMap::new(),
    };
    let manifest = perennial_types::ArtifactManifest {
        protocol: perennial_types::ProtocolRange::OURS,
        library_version: String::new(),
        target: String::new(),
        jobs: Vec::new(),
    };
    Prepared { artifact, request: PlanRequest::default(), plan: crate::Plan { manifest, graph } }
}

#[tokio::test]
async fn unreachable_endpoints_are_listed_with_their_reasons_at_once() {
    let (one, other) = (nobody().await, nobody().await);
    let client = Client::new(&[one.clone(), other.clone()], LIMIT).unwrap();
    let error = client.list_jobs().await.unwrap_err().to_string();
    assert_eq!(error, format!("no JobManager answers: {one}: connection refused; {other}: connection refused"));
}

#[tokio::test]
async fn any_endpoint_will_do_and_elections_are_waited_for() {
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    let client = Client::new(&[nobody().await, address], LIMIT).unwrap();
    fake.shared.lock().unwrap().leaderless = 3;
    assert_eq!(client.list_jobs().await, Ok(Vec::new()));
    assert_eq!(fake.shared.lock().unwrap().leaderless, 0);
}

/// What needs no leader is answered at once, by whoever is reached.
#[tokio::test]
async fn stale_reads_and_surveys_wait_for_no_leader() {
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    let dead = nobody().await;
    let client = Client::new(&[dead.clone(), address.clone()], LIMIT).unwrap();
    fake.shared.lock().unwrap().leaderless = u32::MAX;
    let job = JobId::from_bytes([3; 16]);
    fake.shared.lock().unwrap().submitted.insert(RequestId::from_bytes([4; 16]), job);
    let jobs = client.list_jobs_stale().await.unwrap();
    assert_eq!((jobs.value[0].job, jobs.age), (job, AGE));
    assert_eq!(client.job_stale(job).await, Ok(Stale { value: None, age: AGE }));
    let survey = client.survey().await;
    assert_eq!(survey.iter().map(|(endpoint, _)| endpoint).collect::<Vec<_>>(), [&dead, &address]);
    assert_eq!((survey[0].1.is_ok(), survey[1].1.is_ok()), (false, true));
}

#[tokio::test]
async fn a_cluster_without_leader_is_given_up_after_the_timeout() {
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    fake.shared.lock().unwrap().leaderless = u32::MAX;
    let client = Client::new(std::slice::from_ref(&address), Duration::from_millis(200)).unwrap();
    let error = client.list_jobs().await.unwrap_err();
    assert!(matches!(error, Unavailable::NoLeader { .. }), "{error}");
    assert!(error.to_string().contains(&format!("{address}: no leader: election under way")), "{error}");
}

#[tokio::test]
async fn a_submission_uploads_what_is_missing_and_survives_lost_answers_as_one_job() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = prepared(dir.path(), 3 << 20);
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    let client = Client::new(&[address], LIMIT).unwrap();
    fake.shared.lock().unwrap().lost_answers = 2;
    let job = client.submit(&prepared, None).await.unwrap();
    let state = fake.shared.lock().unwrap();
    assert_eq!(state.submitted.values().copied().collect::<Vec<_>>(), [job]);
    assert_eq!(state.artifacts.len(), 1);
    assert_eq!(state.artifacts[&prepared.artifact.digest()].len() as u64, prepared.artifact.size());
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = prepared(dir.path(), 1 << 20);
    std::fs::write(dir.path().join("job"), "something else").unwrap();
    let (address, _stop) = Fake::default().serve().await;
    let error = Client::new(&[address], LIMIT).unwrap().submit(&prepared, None).await.unwrap_err();
    let SubmitError::Upload { path, source: PutArtifactError::DigestMismatch { .. } } = error else {
        panic!("{error}");
    };
    assert!(path.ends_with("/job"));
}

#[tokio::test]
async fn downloads_are_the_bytes_that_were_uploaded() {
    let dir = tempfile::tempdir().unwrap();
    let prepared = prepared(dir.path(), 2 << 20);
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    let artifacts = ArtifactClient::new(channel(&address).unwrap(), address);
    let digest = prepared.artifact.digest();
    assert_eq!(artifacts.get(digest).await.unwrap_err(), GetArtifactError::NotFound { digest });
    assert_eq!(artifacts.has(digest).await, Ok(false));
    Client::new(&[fake.serve().await.0], LIMIT).unwrap().upload(&prepared.artifact).await.unwrap();
    assert_eq!(artifacts.has(digest).await, Ok(true));
    let mut content = artifacts.get(digest).await.unwrap();
    let mut whole = Vec::new();
    while let Some(chunk) = content.bytes.next().await {
        whole.extend(chunk.unwrap());
    }
    assert_eq!(whole.len() as u64, content.size);
    assert_eq!(Sha256::digest(&whole)[..], digest.as_bytes()[..]);
}

#[tokio::test]
async fn a_watch_goes_on_after_the_leader_went_away_and_ends_with_the_job() {
    let fake = Fake::default();
    let (address, _stop) = fake.serve().await;
    let client = Client::new(&[address], LIMIT).unwrap();
    let job = JobId::random();
    let mut summaries = client.watch_job(job).await.unwrap().unwrap();
    let first = summaries.next().await.unwrap().unwrap();
    assert_eq!((first.status, first.waiting_for.as_str()), (JobStatus::Running, "needs 8 slots, 4 are free"));
    fake.shared.lock().unwrap().leaderless = 2;
    fake.shared.lock().unwrap().status = Some(JobStatus::Finished);
    assert_eq!(summaries.next().await.unwrap().unwrap().status, JobStatus::Finished);
    assert!(summaries.next().await.is_none());
}

#[tokio::test]
async fn refusals_keep_their_kind_on_the_way() {
    let (address, _stop) = Fake::default().serve().await;
    let client = Client::new(&[address], LIMIT).unwrap();
    let job = JobId::random();
    let error = client.cancel_job(job, RequestId::random()).await.unwrap_err();
    assert_eq!(error, CancelJobError::AlreadyEnded { job, status: JobStatus::Canceled });
    assert_eq!(client.job(job).await, Ok(None));
}

#[tokio::test]
async fn a_script_is_refused_before_it_is_run() {
    let (dir, path) = crate::testing::script("touch \"$(dirname $0)/was-run\" # long enough for a header");
    let error = Prepared::new(&path, PlanRequest::default(), LIMIT).await.unwrap_err();
    assert!(matches!(error, PrepareError::File(_)), "{error}");
    assert!(!dir.path().join("was-run").exists());
}
