//! JobManagers in temporary directories, jobs, and waiting for conditions.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use perennial_jobmanager::{JobManager, JobManagerHandle};
use perennial_rpc::artifact::{ArtifactGateway, PutArtifact, PutScope};
use perennial_rpc::dispatcher::{DispatcherGateway, JobSummary, SubmitJob};
use perennial_types::config::Origin;
use perennial_types::{
    ArtifactDigest, Configuration, JobGraph, JobId, JobStatus, JobVertex, MANIFEST_MAGIC, MaxParallelism, PlanRequest,
    RequestId, VertexId,
};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_stream::StreamExt;

/// Nothing in these tests takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `holds`; says what it waited for when that never comes.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "never came true: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Options for a JobManager that keeps its data below `dir`.
pub(crate) fn config(dir: &TempDir, options: &[(&str, &str)]) -> Configuration {
    let mut config = Configuration::new();
    let data_dir = dir.path().join("data");
    let fixed = [
        ("jobmanager.rpc.address", "127.0.0.1"),
        ("jobmanager.bind-host", "127.0.0.1"),
        ("jobmanager.rpc.port", "0"),
        ("jobmanager.data-dir", data_dir.to_str().expect("temporary paths are text")),
    ];
    // A later value of the same origin replaces an earlier one.
    for (key, value) in fixed.iter().chain(options) {
        config.set(key, value, Origin::Flag("test".to_owned())).expect("the option is known");
    }
    config
}

/// A JobManager of a group of one.
pub(crate) async fn single(dir: &TempDir, options: &[(&str, &str)]) -> JobManagerHandle {
    JobManager::start(&config(dir, options)).await.expect("the JobManager starts")
}

/// Stops a JobManager and lets go of its directory.
pub(crate) async fn stop(jobmanager: JobManagerHandle) {
    jobmanager.shutdown().await;
}

/// Bytes that pass for an artifact of this machine.
pub(crate) fn artifact_bytes() -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(18, 0);
    bytes.extend(machine.to_le_bytes());
    bytes.extend(MANIFEST_MAGIC);
    bytes.resize(1 << 20, 1);
    bytes
}

pub(crate) fn digest_of(content: &[u8]) -> ArtifactDigest {
    ArtifactDigest::from_bytes(Sha256::digest(content).into())
}

/// Uploads an artifact.
pub(crate) async fn upload(artifacts: &impl ArtifactGateway) -> ArtifactDigest {
    let content = Bytes::from(artifact_bytes());
    let digest = digest_of(&content);
    let artifact =
        PutArtifact { digest, name: "job".to_owned(), size: content.len() as u64, scope: PutScope::Replicated };
    let chunks: Vec<_> = content.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    artifacts.put(artifact, Box::pin(tokio_stream::iter(chunks))).await.expect("the artifact is stored");
    digest
}

/// A job of two vertices with this parallelism.
pub(crate) fn job(artifact: ArtifactDigest, parallelism: u32) -> SubmitJob {
    let vertex = |number: u8, name: &str| JobVertex {
        id: VertexId::from_bytes([number; 16]),
        name: name.to_owned(),
        parallelism,
        max_parallelism: MaxParallelism::default_for(parallelism),
        max_parallelism_is_set: false,
        slot_sharing_group: "default".to_owned(),
        operators: Vec::new(),
    };
    SubmitJob {
        request: RequestId::random(),
        job: None,
        artifact,
        plan: PlanRequest::default(),
        graph: JobGraph {
            name: "word count".to_owned(),
            vertices: vec![vertex(1, "Source: lines"), vertex(2, "Sink: counts")],
            edges: Vec::new(),
            structural_hash: 1,
            config: BTreeMap::new(),
        },
        restore: None,
    }
}

/// Follows a job until `holds`; panics when it ends before.
pub(crate) async fn follow(
    dispatcher: &impl DispatcherGateway,
    job: JobId,
    mut holds: impl FnMut(&JobSummary) -> bool,
) -> JobSummary {
    let watch = async {
        loop {
            let Ok(Some(mut summaries)) = dispatcher.watch_job(job).await else { continue };
            while let Some(Ok(summary)) = summaries.next().await {
                if holds(&summary) {
                    return summary;
                }
                assert!(!summary.status.is_globally_terminal(), "the job has ended: {summary:?}");
            }
        }
    };
    tokio::time::timeout(PATIENCE, watch).await.expect("the job comes there in time")
}

/// Follows a job until it has a status.
pub(crate) async fn reach(dispatcher: &impl DispatcherGateway, job: JobId, status: JobStatus) -> JobSummary {
    follow(dispatcher, job, |summary| summary.status == status).await
}
