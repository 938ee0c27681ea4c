//! Where the checkpoints of a job are, and the metadata that the leader writes there.
//!
//! ```text
//! {execution.checkpointing.dir}/{job}/chk-{number}/_metadata
//! ```
//! One line of JSON says what the file is and the CRC-32 of the rest, which is [`CheckpointMetadata`] as JSON. Its tasks'
//! files are beside it, under the names it gives, so that the directory can be moved.

use std::sync::Arc;

use perennial_coordination::checkpoint::StoredCheckpoint;
use perennial_types::{CheckpointId, CheckpointMetadata, JobId};
use serde::Serialize;

/// Name of the file in a checkpoint's directory.
const METADATA_FILE: &str = "_metadata";

/// First line of the file.
#[derive(Serialize)]
struct Header {
    format: &'static str,
    version: u32,
    crc: u32,
}

/// Directory of one checkpoint, below that of all.
pub(crate) fn location(directory: &str, job: JobId, checkpoint: CheckpointId) -> String {
    format!("{}/{job}/chk-{checkpoint}", directory.trim_end_matches('/'))
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
