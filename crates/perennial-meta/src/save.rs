//! The state of now as a file for people to keep.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use openraft::async_runtime::watch::WatchReceiver;
use perennial_rpc::artifact::CHUNK_BYTES_MAX;
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::group::{GroupError, SnapshotBytes, SnapshotContent};

use crate::ground;
use crate::store::MetaStore;

/// Time the store has to write its state to a file.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(30);

impl MetaStore {
    /// Everything written before the call, as the bytes of a RaftSnapshot file. Leader only.
    pub async fn save_snapshot(&self) -> Result<SnapshotContent, GroupError> {
        let store = |reason: String| GroupError::from(Unavailable::Store { reason });
        self.read_barrier().await.map_err(|error| match error {
            crate::WriteError::NotLeader { .. } => Unavailable::NoLeader { reason: error.to_string() },
            error => Unavailable::Store { reason: error.to_string() },
        })?;
        let wanted = *self.applied().borrow();
        let mut metrics = self.inner.raft.metrics();
        let written = async {
            // One that is being built now may be older than what is wanted.
            while metrics.borrow_watched().snapshot.map_or(0, |id| id.index) < wanted {
                self.inner.raft.trigger().snapshot().await.map_err(|error| error.to_string())?;
                metrics.changed().await.map_err(|error| error.to_string())?;
            }
            Ok::<(), String>(())
        };
        match tokio::time::timeout(SNAPSHOT_DEADLINE, written).await {
            Ok(written) => written.map_err(store)?,
            Err(_) => return Err(store(format!("no snapshot was written within {} s", SNAPSHOT_DEADLINE.as_secs()))),
        }
        let snapshots = self.inner.snapshots.clone();
        let current = ground::spawn_blocking(move || snapshots.current()).await;
        let current = current.map_err(|error| store(error.to_string()))?.map_err(|error| store(error.to_string()))?;
        let file = current.ok_or_else(|| store("there is no snapshot".to_owned()))?.file;
        let size = file.metadata().map_err(|error| store(error.to_string()))?.len();
        Ok(SnapshotContent { size, bytes: chunks(file) })
    }
}

/// The bytes of an open file from its beginning.
fn chunks(file: std::fs::File) -> SnapshotBytes {
    Box::pin(stream::try_unfold((file, 0), |(file, offset)| async move {
        let read = ground::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK_BYTES_MAX];
            file.read_at(&mut chunk, offset).map(|read| {
                chunk.truncate(read);
                (file, chunk)
            })
        });
        let (file, chunk) = read.await.map_err(std::io::Error::other)??;
        let next = offset + chunk.len() as u64;
        Ok((!chunk.is_empty()).then_some((Bytes::from(chunk), (file, next))))
    }))
}
