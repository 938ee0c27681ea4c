//! Executables of jobs, by their digest: fetched once from any JobManager, kept while there is room.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use perennial_rpc::artifact::{ArtifactBytes, ArtifactClient, ArtifactGateway};
use perennial_rpc::transport;
use perennial_types::ArtifactDigest;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;
use tokio_stream::StreamExt;
use tracing::{info, warn};

/// Time a whole artifact may take from one JobManager: 256 MiB at 1 MiB/s. The chunks have deadlines of their own.
const FETCH_TIMEOUT: Duration = Duration::from_secs(300);

/// Ending of a file that is being written. One that is found later was left by a process that died.
const PARTIAL: &str = "partial";

/// Why an artifact is not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// No JobManager gave it; each with its reason.
    #[error("cannot fetch artifact {digest}: {reasons}")]
    Unavailable {
        /// What was wanted.
        digest: ArtifactDigest,
        /// `address: reason; address: reason`.
        reasons: String,
    },
    /// It cannot be written here.
    #[error("cannot keep artifact {digest} in {}", dir.display())]
    Disk {
        /// What was wanted.
        digest: ArtifactDigest,
        /// Where it would be.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// An artifact that stays in the cache for as long as this lives.
#[derive(Debug, Clone)]
pub(crate) struct Artifact {
    path: PathBuf,
    /// Held to mark the file as used.
    _lease: Arc<tokio::sync::Mutex<()>>,
}

impl Artifact {
    /// The executable file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct ArtifactCache {
    dir: PathBuf,
    bytes_max: u64,
    /// A lock for each artifact in use or being fetched: one fetch at a time, and no eviction while it lives.
    leases: Arc<Mutex<HashMap<ArtifactDigest, Weak<tokio::sync::Mutex<()>>>>>,
    /// Artifacts whose bytes this process has checked. Files of an earlier process are checked when first used.
    checked: Arc<Mutex<HashSet<ArtifactDigest>>>,
}

impl ArtifactCache {
    /// A cache in this directory, which exists. Unused artifacts above `bytes_max` are removed.
    pub(crate) fn open(dir: PathBuf, bytes_max: u64) -> Self {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.path().extension().is_some_and(|extension| extension == PARTIAL) {
                remove(&entry.path());
            }
        }
        Self { dir, bytes_max, leases: Arc::default(), checked: Arc::default() }
    }

    /// The artifact, from the cache or from the first JobManager that has it.
    pub(crate) async fn get(
        &self,
        digest: ArtifactDigest,
        size: u64,
        jobmanagers: &[String],
    ) -> Result<Artifact, FetchError> {
        let lease = self.lease(digest);
        let path = self.dir.join(digest.to_string());
        let _alone = lease.lock().await;
        if self.is_here(digest, size, &path).await {
            touch(&path);
        } else {
            self.fetch(digest, size, &path, jobmanagers).await?;
            lock(&self.checked).insert(digest);
            let (cache, keep) = (self.clone(), digest);
            // Eviction only frees disk; nothing waits for it and a failure is logged where it happens.
            drop(spawn_blocking(move || cache.evict(keep)));
        }
        Ok(Artifact { path, _lease: Arc::clone(&lease) })
    }

    /// The artifact of an executor that runs already, whether or not the file is still here.
    pub(crate) fn lend(&self, digest: ArtifactDigest) -> Artifact {
        Artifact { path: self.dir.join(digest.to_string()), _lease: self.lease(digest) }
    }

    fn lease(&self, digest: ArtifactDigest) -> Arc<tokio::sync::Mutex<()>> {
        let mut leases = lock(&self.leases);
        leases.retain(|_, lease| lease.strong_count() > 0);
        if let Some(lease) = leases.get(&digest).and_then(Weak::upgrade) {
            return lease;
        }
        let lease = Arc::new(tokio::sync::Mutex::new(()));
        leases.insert(digest, Arc::downgrade(&lease));
        lease
    }

    /// Whether the file is in the cache, with the bytes it should have.
    async fn is_here(&self, digest: ArtifactDigest, size: u64, path: &Path) -> bool {
        if !fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() == size) {
            return false;
        }
        if lock(&self.checked).contains(&digest) {
            return true;
        }
        let file = path.to_owned();
        let actual =
            spawn_blocking(move || digest_of(&file)).await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match actual {
            Ok(actual) if actual == digest => {
                lock(&self.checked).insert(digest);
                true
            }
            Ok(_) => {
                warn!(artifact = %digest, "artifact in the cache is damaged, fetching it again");
                false
            }
            Err(error) => {
                warn!(artifact = %digest, %error, "artifact in the cache cannot be read, fetching it again");
                false
            }
        }
    }

    async fn fetch(
        &self,
        digest: ArtifactDigest,
        size: u64,
        path: &Path,
        jobmanagers: &[String],
    ) -> Result<(), FetchError> {
        let disk = |source| FetchError::Disk { digest, dir: self.dir.clone(), source };
        let mut reasons = Vec::new();
        for address in jobmanagers {
            let started = SystemTime::now();
            let partial = path.with_extension(PARTIAL);
            let fetched = tokio::time::timeout(FETCH_TIMEOUT, fetch_from(address, digest, size, &partial)).await;
            match fetched {
                Ok(Ok(())) => {
                    fs::rename(&partial, path).map_err(disk)?;
                    File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(disk)?;
                    let elapsed_ms = started.elapsed().unwrap_or_default().as_millis() as u64;
                    info!(artifact = %digest, bytes = size, elapsed_ms, jobmanager = %address, "artifact fetched");
                    return Ok(());
                }
                Ok(Err(Refused::Disk(error))) => {
                    remove(&partial);
                    return Err(disk(error));
                }
                Ok(Err(Refused::Peer(reason))) => reasons.push(format!("{address}: {reason}")),
                Err(_) => reasons.push(format!("{address}: not complete after {} s", FETCH_TIMEOUT.as_secs())),
            }
            remove(&partial);
        }
        if jobmanagers.is_empty() {
            reasons.push("no JobManager is known".to_owned());
        }
        Err(FetchError::Unavailable { digest, reasons: reasons.join("; ") })
    }

    /// Removes unused artifacts, the longest unused first, until they fit.
    fn evict(&self, keep: ArtifactDigest) {
        let mut unused = Vec::new();
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let Some(digest) = entry.file_name().to_str().and_then(|name| name.parse::<ArtifactDigest>().ok()) else {
                continue;
            };
            let Ok(metadata) = entry.metadata() else { continue };
            if digest != keep && !self.in_use(digest) {
                unused.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), digest));
            }
        }
        unused.sort();
        let mut total: u64 = unused.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, digest) in unused {
            if total <= self.bytes_max {
                return;
            }
            // Checked again under the lock: whoever takes a lease meanwhile finds the file gone and fetches it.
            let lease = self.lease(digest);
            if let Ok(_alone) = lease.try_lock()
                && Arc::strong_count(&lease) == 1
            {
                remove(&self.dir.join(digest.to_string()));
                lock(&self.checked).remove(&digest);
                total -= bytes;
                info!(artifact = %digest, bytes, "unused artifact removed from the cache");
            };
        }
    }

    fn in_use(&self, digest: ArtifactDigest) -> bool {
        let leases = lock(&self.leases);
        leases.get(&digest).is_some_and(|lease| lease.strong_count() > 0)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SHA-256 of a file's bytes.
fn digest_of(path: &Path) -> io::Result<ArtifactDigest> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(ArtifactDigest::from_bytes(hash.finalize().into()))
}

/// Why one JobManager did not give an artifact.
enum Refused {
    /// Ask another.
    Peer(String),
    /// Asking another does not help.
    Disk(io::Error),
}

/// Writes an artifact from one JobManager to a file, durably, and checks that it is the one that was asked for.
async fn fetch_from(address: &str, digest: ArtifactDigest, size: u64, to: &Path) -> Result<(), Refused> {
    let channel = transport::channel(address).map_err(|error| Refused::Peer(error.to_string()))?;
    let client = ArtifactClient::new(channel, address);
    let content = client.get(digest).await.map_err(|error| Refused::Peer(error.to_string()))?;
    if content.size != size {
        return Err(Refused::Peer(format!("offers {} bytes instead of {size}", content.size)));
    }
    write(content.bytes, digest, size, to).await
}

async fn write(mut bytes: ArtifactBytes, digest: ArtifactDigest, size: u64, to: &Path) -> Result<(), Refused> {
    let mut file = File::create(to).map_err(Refused::Disk)?;
    let mut hash = Sha256::new();
    let mut written = 0;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| Refused::Peer(error.to_string()))?;
        written += chunk.len() as u64;
        if written > size {
            return Err(Refused::Peer(format!("sent more than {size} bytes")));
        }
        (file, hash) = spawn_blocking(move || {
            hash.update(&chunk);
            file.write_all(&chunk).map(|()| (file, hash))
        })
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(Refused::Disk)?;
    }
    let actual = ArtifactDigest::from_bytes(hash.finalize().into());
    if actual != digest {
        return Err(Refused::Peer(format!("sent {written} bytes with digest {actual}")));
    }
    spawn_blocking(move || {
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()
    })
    .await
    .unwrap_or_else(|error| Err(io::Error::other(error)))
    .map_err(Refused::Disk)
}

/// Marks a file as used now, for eviction after a restart too.
fn touch(path: &Path) {
    // A cache that cannot order its files still works.
    _ = File::open(path).and_then(|file| file.set_modified(SystemTime::now()));
}

fn remove(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            warn!(path = %path.display(), %error, "file cannot be removed");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file in the cache as an earlier process left it, used `age` seconds ago.
    fn left(dir: &Path, bytes: &[u8], age: u64) -> ArtifactDigest {
        let digest = ArtifactDigest::from_bytes(Sha256::digest(bytes).into());
        let path = dir.join(digest.to_string());
        fs::write(&path, bytes).unwrap();
        File::open(path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        digest
    }

    fn kept(dir: &Path) -> Vec<ArtifactDigest> {
        let mut kept: Vec<ArtifactDigest> = fs::read_dir(dir)
            .unwrap()
            .map(|file| file.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect();
        kept.sort();
        kept
    }

    #[tokio::test]
    async fn the_longest_unused_go_first_and_those_in_use_stay() {
        let tmp = tempfile::tempdir().unwrap();
        let [lent, old, used, new] = [(b"lent".as_slice(), 90), (b"old.", 80), (b"used", 70), (b"new.", 1)]
            .map(|(bytes, age)| left(tmp.path(), bytes, age));
        let cache = ArtifactCache::open(tmp.path().to_owned(), 4);
        let _running = cache.lend(lent);
        drop(cache.get(used, 4, &[]).await.unwrap());
        cache.evict(new);
        let mut expected = vec![lent, used, new];
        expected.sort();
        assert_eq!(kept(tmp.path()), expected, "{old} is gone");
    }

    #[tokio::test]
    async fn damaged_and_unfinished_files_of_an_earlier_process_are_not_used() {
        let tmp = tempfile::tempdir().unwrap();
        let digest = left(tmp.path(), b"good", 10);
        fs::write(tmp.path().join(digest.to_string()), b"evil").unwrap();
        fs::write(tmp.path().join("x.partial"), b"half").unwrap();
        let cache = ArtifactCache::open(tmp.path().to_owned(), 4);
        assert!(!tmp.path().join("x.partial").exists());
        let error = cache.get(digest, 4, &[]).await.unwrap_err().to_string();
        assert_eq!(error, format!("cannot fetch artifact {digest}: no JobManager is known"));
    }
}
