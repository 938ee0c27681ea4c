//! The artifact store: executables by their SHA-256.
//!
//! Clients upload to any JobManager, which copies to a majority before it answers. TaskManagers fetch from any of them.

mod grpc;

use std::pin::Pin;

use bytes::Bytes;
use perennial_types::ArtifactDigest;
use tokio_stream::Stream;

use crate::dispatcher::Unavailable;

pub use grpc::{ArtifactClient, ArtifactServer};

/// Largest chunk of an [`ArtifactBytes`] stream: big enough that calls do not count, small against any memory limit.
pub const CHUNK_BYTES_MAX: usize = 256 << 10;

/// An artifact's bytes in order, in chunks of at most [`CHUNK_BYTES_MAX`]. Ends after the last byte or an error.
pub type ArtifactBytes = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Reaches an artifact store.
pub trait ArtifactGateway: Clone + Send + Sync + 'static {
    /// Whether the artifact is stored and a submission may name it.
    fn has(&self, digest: ArtifactDigest) -> impl Future<Output = Result<bool, Unavailable>> + Send;

    /// Stores an artifact. Resolves once it is durable in the scope asked for; storing it again changes nothing.
    fn put(
        &self,
        artifact: PutArtifact,
        bytes: ArtifactBytes,
    ) -> impl Future<Output = Result<(), PutArtifactError>> + Send;

    /// Reads an artifact. The reader checks the digest.
    fn get(&self, digest: ArtifactDigest) -> impl Future<Output = Result<ArtifactContent, GetArtifactError>> + Send;
}

/// What is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutArtifact {
    /// SHA-256 of the bytes.
    pub digest: ArtifactDigest,
    /// File name, for people.
    pub name: String,
    /// Number of bytes.
    pub size: u64,
    /// Where it has to be before the answer.
    pub scope: PutScope,
}

/// Where an artifact has to be before an upload is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutScope {
    /// On a majority of the JobManagers: what clients ask for.
    Replicated,
    /// On the asked JobManager: what JobManagers ask of each other.
    LocalOnly,
}

/// What is read.
pub struct ArtifactContent {
    /// File name, for people.
    pub name: String,
    /// Number of bytes.
    pub size: u64,
    /// The bytes.
    pub bytes: ArtifactBytes,
}

impl std::fmt::Debug for ArtifactContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactContent").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// Why an artifact was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutArtifactError {
    /// The bytes are not those that were announced.
    #[error(
        "the bytes that arrived have digest {actual}; the file changed during the upload, or was damaged on the way"
    )]
    DigestMismatch {
        /// The digest they have.
        actual: ArtifactDigest,
    },
    /// It is larger than `rest.server.max-content-length`.
    #[error("it has {size} bytes, more than the limit of {limit} bytes (rest.server.max-content-length)")]
    TooLarge {
        /// Number of bytes announced or seen.
        size: u64,
        /// Number of bytes allowed.
        limit: u64,
    },
    /// It is no executable linked with the library `perennial`.
    #[error("not a job artifact: {reason}")]
    NotAnArtifact {
        /// What is wrong with it.
        reason: String,
    },
    /// It was built for another architecture or operating system.
    #[error("built for {artifact}, but the cluster runs on {cluster}")]
    WrongTarget {
        /// What it was built for, such as `aarch64-linux`.
        artifact: String,
        /// What the cluster runs on.
        cluster: String,
    },
    /// Nothing is known to have been stored; try again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// Why an artifact was not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GetArtifactError {
    /// It is not stored here.
    #[error("artifact {digest} is not in the artifact store")]
    NotFound {
        /// The digest asked for.
        digest: ArtifactDigest,
    },
    /// Try again, here or elsewhere.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}
