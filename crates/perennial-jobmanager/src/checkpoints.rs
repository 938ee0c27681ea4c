//! Where the checkpoints of a job are, and the metadata that the leader writes there.
//!
//! ```text
//! {execution.checkpointing.dir}/{job}/chk-{number}/_metadata
//! ```
//! One line of JSON says what the file is and the CRC-32 of the rest, which is [`CheckpointMetadata`] as JSON. Its tasks'
//! files are beside it, under the names it gives, so that the directory can be moved.

use std::sync::Arc;

use perennial_coordination::checkpoint::{CheckpointRecord, StoredCheckpoint};
use perennial_meta::{CompletedCheckpoint, DiscardedCheckpoint, ReadError, StateReader};
use perennial_types::{CheckpointId, CheckpointMetadata, JobId};
use serde::Serialize;
use tracing::warn;

/// Name of the file in a checkpoint's directory.
const METADATA_FILE: &str = "_metadata";

/// First line of the file.
#[derive(Serialize)]
struct Header {
    format: &'static str,
    version: u32,
    crc: u32,
}

/// Largest metadata of a checkpoint that is kept in the log: an entry has an end, and every JobManager holds it.
const METADATA_BYTES_MAX: usize = 4 << 20;

/// Directory of the checkpoints of one job, below that of all.
pub(crate) fn directory(all: &str, job: JobId) -> String {
    format!("{}/{job}", all.trim_end_matches('/'))
}

/// Directory of one checkpoint.
pub(crate) fn location(all: &str, job: JobId, checkpoint: CheckpointId) -> String {
    format!("{}/chk-{checkpoint}", directory(all, job))
}

/// A checkpoint as the log keeps it. An error is one that is too large for it.
pub(crate) fn completed(stored: &StoredCheckpoint) -> Result<CompletedCheckpoint, String> {
    let bytes = stored.encoded.len();
    if bytes > METADATA_BYTES_MAX {
        return Err(format!("its metadata has {bytes} bytes, {METADATA_BYTES_MAX} are possible"));
    }
    Ok(CompletedCheckpoint {
        id: stored.checkpoint(),
        kind: stored.metadata.kind,
        started_ms: stored.started_ms,
        at_ms: stored.metadata.at_ms,
        location: stored.location.clone(),
        bytes: stored.bytes(),
        metadata_crc: stored.crc,
        inline: Some(stored.encoded.to_vec()),
    })
}

/// What a new leader finds of a job's checkpoints.
pub(crate) fn recovered(state: &StateReader, job: JobId) -> Result<(CheckpointRecord, Option<String>), CannotRecover> {
    let Some(head) = state.checkpoint_head(job)? else { return Ok((CheckpointRecord::default(), None)) };
    let newest = state.checkpoints(job)?.into_iter().max_by_key(|checkpoint| checkpoint.id);
    let completed = newest.map(stored).transpose()?.map(Arc::new);
    let in_flight = head.in_flight.into_iter().map(|reserved| reserved.id).collect();
    let all = head.directory.strip_suffix(&format!("/{job}")).map(str::to_owned);
    Ok((CheckpointRecord { counter: head.counter.0, in_flight, completed }, all))
}

fn stored(completed: CompletedCheckpoint) -> Result<StoredCheckpoint, CannotRecover> {
    let CompletedCheckpoint { id, started_ms, location, metadata_crc: crc, inline, .. } = completed;
    let encoded: Arc<[u8]> = inline.unwrap_or_default().into();
    let damaged = |what: String| CannotRecover::Damaged { checkpoint: id, what };
    if crc32fast::hash(&encoded) != crc {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    let metadata = serde_json::from_slice(&encoded).map_err(|error| damaged(error.to_string()))?;
    Ok(StoredCheckpoint { metadata, started_ms, encoded, crc, location })
}

/// Why a job's checkpoints are not known. It must not go on without them: it would do again what it has done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotRecover {
    /// The state cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The metadata of a checkpoint in the log makes no sense.
    #[error("the metadata of checkpoint {checkpoint} is damaged: {what}")]
    Damaged { checkpoint: CheckpointId, what: String },
}

/// Deletes the files of checkpoints. Returns which are gone; the others are tried again with the next. Blocks.
pub(crate) fn delete(discarded: Vec<DiscardedCheckpoint>) -> Vec<CheckpointId> {
    discarded.into_iter().filter(|discarded| delete_all(&discarded.location)).map(|discarded| discarded.id).collect()
}

/// Deletes a directory with what is in it. Returns whether it is gone. Blocks.
pub(crate) fn delete_all(location: &str) -> bool {
    let deleted = perennial_state::open(location).and_then(|storage| storage.delete_all(""));
    if let Err(error) = &deleted {
        warn!(location, %error, "a checkpoint that does not count any more was not deleted");
    }
    deleted.is_ok()
}

/// Writes the metadata of a checkpoint that was begun at `started_ms`. When it returns without error it is durable. Writing
/// it again does no harm. Blocks.
pub(crate) fn store(
    location: String,
    metadata: CheckpointMetadata,
    started_ms: u64,
) -> std::io::Result<Arc<StoredCheckpoint>> {
    let encoded: Arc<[u8]> = serde_json::to_vec(&metadata)?.into();
    let crc = crc32fast::hash(&encoded);
    let mut header = serde_json::to_vec(&Header { format: "perennial-checkpoint", version: 1, crc })?;
    header.push(b'\n');
    let storage = perennial_state::open(&location)?;
    storage.put(METADATA_FILE, &mut [header, encoded.to_vec()].into_iter())?;
    Ok(Arc::new(StoredCheckpoint { metadata, started_ms, encoded, crc, location }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use perennial_types::SnapshotKind;

    #[test]
    fn the_metadata_lies_beside_the_files_it_names_and_says_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let (job, checkpoint) = (JobId::from_bytes([7; 16]), CheckpointId(3));
        let kind = SnapshotKind::Checkpoint;
        let metadata = CheckpointMetadata { job, checkpoint, kind, at_ms: 9, vertices: Vec::new() };
        let location = location(&format!("file://{}/", directory.path().display()), job, checkpoint);
        for _ in 0..2 {
            let stored = store(location.clone(), metadata.clone(), 5).unwrap();
            assert_eq!((stored.checkpoint(), stored.started_ms, &stored.location), (checkpoint, 5, &location));
        }
        let path = directory.path().join(job.to_string()).join("chk-3").join("_metadata");
        let text = std::fs::read_to_string(path).unwrap();
        let (header, rest) = text.split_once('\n').unwrap();
        let crc = crc32fast::hash(rest.as_bytes());
        assert_eq!(header, format!(r#"{{"format":"perennial-checkpoint","version":1,"crc":{crc}}}"#));
        assert_eq!(serde_json::from_str::<CheckpointMetadata>(rest).unwrap(), metadata);
    }

    #[test]
    fn a_directory_that_is_not_there_and_cannot_be_made_is_an_error() {
        let metadata = CheckpointMetadata {
            job: JobId::from_bytes([7; 16]),
            checkpoint: CheckpointId(3),
            kind: SnapshotKind::Checkpoint,
            at_ms: 9,
            vertices: Vec::new(),
        };
        assert!(store("/proc/nowhere".to_owned(), metadata, 5).is_err());
    }
}
