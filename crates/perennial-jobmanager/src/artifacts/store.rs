//! Artifacts as files of one directory, named by their digest. A file is there whole and durable, or not at all.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial_rpc::artifact::{ArtifactBytes, CHUNK_BYTES_MAX, PutArtifact, PutArtifactError};
use perennial_rpc::dispatcher::Unavailable;
use perennial_types::ArtifactDigest;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::inspect::Inspection;

/// Name of files that are being written.
const UNFINISHED: &str = ".part";

/// Chunks read ahead of who takes them.
const READ_AHEAD: usize = 2;

/// The directory of this member.
#[derive(Debug)]
pub(crate) struct ArtifactStore {
    dir: PathBuf,
    bytes_max: u64,
    next_part: AtomicU64,
}

/// A file that is removed unless it was kept.
struct Part {
    path: PathBuf,
    kept: bool,
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.kept {
            _ = std::fs::remove_file(&self.path);
        }
    }
}

impl ArtifactStore {
    /// Opens the directory, making it if needed. Uploads that were interrupted are removed.
    pub(crate) fn open(dir: PathBuf, bytes_max: u64) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        // What a killed process has renamed but not synced is built upon from now on, and so is the directory's own name.
        for path in [Some(dir.as_path()), dir.parent()].into_iter().flatten() {
            File::open(path)?.sync_all()?;
        }
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "part") {
                std::fs::remove_file(path)?;
            }
        }
        Ok(Self { dir, bytes_max, next_part: AtomicU64::new(0) })
    }

    fn path(&self, digest: ArtifactDigest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Whether the bytes are here.
    pub(crate) fn contains(&self, digest: ArtifactDigest) -> bool {
        self.size(digest).is_some()
    }

    /// Number of bytes, if they are here.
    pub(crate) fn size(&self, digest: ArtifactDigest) -> Option<u64> {
        std::fs::metadata(self.path(digest)).ok().map(|metadata| metadata.len())
    }

    /// Stores what arrives, if it is what was announced and a job artifact for this cluster. Durable when it returns.
    pub(crate) async fn write(&self, artifact: &PutArtifact, bytes: ArtifactBytes) -> Result<(), PutArtifactError> {
        if artifact.size > self.bytes_max {
            return Err(PutArtifactError::TooLarge { size: artifact.size, limit: self.bytes_max });
        }
        if self.contains(artifact.digest) {
            // Whoever stores the same bytes right now may have renamed the file and not synced its name yet.
            let dir = self.dir.clone();
            let synced = tokio::task::spawn_blocking(move || File::open(&dir)?.sync_all()).await;
            return synced.map_err(io::Error::other).flatten().map_err(|error| self.failed(&error));
        }
        let number = self.next_part.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{}-{number}{UNFINISHED}", artifact.digest));
        let mut part = Part { path, kept: false };
        let file = self.receive(&part.path, artifact, bytes).await?;
        let (dir, from, to) = (self.dir.clone(), part.path.clone(), self.path(artifact.digest));
        let settle = tokio::task::spawn_blocking(move || {
            file.sync_all()?;
            std::fs::rename(&from, &to)?;
            // A sync that has failed is not made up for by a later one that succeeds: the file goes.
            File::open(&dir)?.sync_all().inspect_err(|_| _ = std::fs::remove_file(&to))
        });
        match settle.await {
            Ok(Ok(())) => {
                part.kept = true;
                Ok(())
            }
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(error) => Err(Unavailable::Store { reason: error.to_string() }.into()),
        }
    }

    async fn receive(
        &self,
        path: &Path,
        artifact: &PutArtifact,
        mut bytes: ArtifactBytes,
    ) -> Result<File, PutArtifactError> {
        let mut file = tokio::fs::File::create_new(path).await.map_err(|error| self.failed(&error))?;
        let (mut hash, mut inspection, mut size) = (Sha256::new(), Inspection::default(), 0u64);
        while let Some(chunk) = bytes.next().await {
            let interrupted =
                |error: io::Error| Unavailable::Unreachable { reason: format!("the upload ended: {error}") };
            let chunk = chunk.map_err(interrupted)?;
            size += chunk.len() as u64;
            if size > self.bytes_max {
                return Err(PutArtifactError::TooLarge { size, limit: self.bytes_max });
            }
            hash.update(&chunk);
            inspection.add(&chunk);
            file.write_all(&chunk).await.map_err(|error| self.failed(&error))?;
        }
        file.flush().await.map_err(|error| self.failed(&error))?;
        let actual = ArtifactDigest::from_bytes(hash.finalize().into());
        if actual != artifact.digest {
            return Err(PutArtifactError::DigestMismatch { actual });
        }
        inspection.judge()?;
        Ok(file.into_std().await)
    }

    fn failed(&self, error: &io::Error) -> PutArtifactError {
        let reason = format!("the artifact cannot be written to {}: {error}", self.dir.display());
        Unavailable::Store { reason }.into()
    }

    /// The bytes, read as they are taken.
    pub(crate) async fn read(&self, digest: ArtifactDigest) -> io::Result<ArtifactBytes> {
        let mut file = tokio::fs::File::open(self.path(digest)).await?;
        let (sender, receiver) = tokio::sync::mpsc::channel(READ_AHEAD);
        tokio::spawn(async move {
            loop {
                let mut chunk = bytes::BytesMut::with_capacity(CHUNK_BYTES_MAX);
                let read = file.read_buf(&mut chunk).await.map(|_| chunk.freeze());
                let ended = !matches!(&read, Ok(chunk) if !chunk.is_empty());
                if matches!(&read, Ok(chunk) if chunk.is_empty()) || sender.send(read).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    /// Removes files that no record names and that are older than `age`.
    pub(crate) fn sweep(&self, recorded: &HashSet<ArtifactDigest>, age: Duration) {
        let Ok(entries) = std::fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<ArtifactDigest>().ok());
            let Some(digest) = digest.filter(|digest| !recorded.contains(digest)) else { continue };
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed >= age)) {
                match std::fs::remove_file(entry.path()) {
                    Ok(()) => info!(%digest, "artifact removed, no job needs it"),
                    Err(error) => warn!(%digest, %error, "artifact not removed"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use perennial_rpc::artifact::PutScope;

    use super::super::inspect::testing::artifact_bytes;
    use super::*;

    fn put(content: &[u8]) -> PutArtifact {
        PutArtifact {
            digest: ArtifactDigest::from_bytes(Sha256::digest(content).into()),
            name: "job".to_owned(),
            size: content.len() as u64,
            scope: PutScope::LocalOnly,
        }
    }

    fn stream(content: &[u8]) -> ArtifactBytes {
        let chunks: Vec<_> = content.chunks(100).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        Box::pin(tokio_stream::iter(chunks))
    }

    fn files(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[tokio::test]
    async fn what_was_stored_is_read_back_and_storing_again_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path().to_owned(), 1 << 20).unwrap();
        let content = artifact_bytes(1000);
        let artifact = put(&content);
        for _ in 0..2 {
            store.write(&artifact, stream(&content)).await.unwrap();
        }
        let mut chunks = store.read(artifact.digest).await.unwrap();
        let mut read = Vec::new();
        while let Some(chunk) = chunks.next().await {
            read.extend_from_slice(&chunk.unwrap());
        }
        assert_eq!(read, content);
        assert_eq!(files(dir.path()), 1);
    }

    #[tokio::test]
    async fn what_is_not_as_announced_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path().to_owned(), 2000).unwrap();
        let content = artifact_bytes(1000);
        let refused = store.write(&put(b"other"), stream(&content)).await.unwrap_err();
        assert_eq!(refused, PutArtifactError::DigestMismatch { actual: put(&content).digest });
        let large = artifact_bytes(3000);
        let refused = store.write(&PutArtifact { size: 10, ..put(&large) }, stream(&large)).await.unwrap_err();
        assert!(matches!(refused, PutArtifactError::TooLarge { limit: 2000, .. }), "{refused}");
        let script = b"#!/bin/sh\n".to_vec();
        let refused = store.write(&put(&script), stream(&script)).await.unwrap_err();
        assert!(matches!(refused, PutArtifactError::NotAnArtifact { .. }), "{refused}");
        let broken: ArtifactBytes = Box::pin(tokio_stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
        assert!(store.write(&put(&content), broken).await.is_err());
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_sweep_removes_only_what_no_record_names_and_is_old_enough() {
        let dir = tempfile::tempdir().unwrap();
        let store = ArtifactStore::open(dir.path().to_owned(), 1 << 20).unwrap();
        let (kept, dropped) = (artifact_bytes(500), artifact_bytes(600));
        for content in [&kept, &dropped] {
            store.write(&put(content), stream(content)).await.unwrap();
        }
        let recorded = HashSet::from([put(&kept).digest]);
        store.sweep(&recorded, Duration::from_secs(3600));
        assert_eq!(files(dir.path()), 2);
        store.sweep(&recorded, Duration::ZERO);
        assert!(store.contains(put(&kept).digest) && !store.contains(put(&dropped).digest));
    }
}
