//! Where the checkpoints of a job are, and the metadata that the leader writes and reads there.
//!
//! ```text
//! {execution.checkpointing.dir}/{job}/chk-{number}/_metadata
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use perennial_coordination::checkpoint::{CannotRestore, CheckpointRecord, StoredCheckpoint, adapt};
use perennial_meta::{CompletedCheckpoint, DiscardedCheckpoint, ReadError, StateReader};
use perennial_state::{
    EncodedMetadata, METADATA_FILE, MetadataError, StateHeader, check_files, read_metadata, write_metadata,
};
use perennial_types::{
    CheckpointId, CheckpointMetadata, ClaimMode, JobGraph, JobId, OperatorId, RestoreSettings, SnapshotKind,
};
use tracing::warn;

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
    // A savepoint that was taken while the job went on is somebody else's; the one it was started from is not.
    let restored = head.restored.map(|restored| restored.checkpoint);
    let counts = |at: &CompletedCheckpoint| at.kind.is_recovery_point() || Some(at.id) == restored;
    let newest = state.checkpoints(job)?.into_iter().filter(counts).max_by_key(|checkpoint| checkpoint.id);
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
    let EncodedMetadata { metadata, encoded, crc } = write_metadata(&location, metadata)?;
    Ok(Arc::new(StoredCheckpoint { metadata, started_ms, encoded: encoded.into(), crc, location }))
}

/// Why a job cannot be started from a checkpoint or savepoint. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CannotStart {
    /// It is not there, not whole, or not readable here.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The job does not fit it.
    #[error("the job cannot start from {location}: {source}")]
    Fit { location: String, source: CannotRestore },
    /// The types of a state have changed.
    #[error(
        "the job cannot start from {location}: its state {state} is of schema version {taken}, the job reads version {now}; start \
         it with an operator of that version, or give the operator another uid to begin without the state"
    )]
    OtherVersion { location: String, state: String, taken: u32, now: u32 },
    /// It is too large for the log.
    #[error("the job cannot start from {location}: {reason}")]
    TooLarge { location: String, reason: String },
}

/// Looks at what a job is to be started from, makes the job fit, and returns what the log says of it. Blocks.
pub(crate) fn open_restored(
    settings: &RestoreSettings,
    graph: &mut JobGraph,
) -> Result<CompletedCheckpoint, CannotStart> {
    // Whoever copies the path of the file means its directory.
    let path = settings.path.trim_end_matches('/');
    let location = path.strip_suffix(&format!("/{METADATA_FILE}")).unwrap_or(path).to_owned();
    let EncodedMetadata { metadata, encoded, crc } = read_metadata(&location)?;
    let states = check_files(&location, &metadata)?;
    let fits = adapt(&metadata, graph, settings.allow_non_restored);
    fits.map_err(|source| CannotStart::Fit { location: location.clone(), source })?;
    check_versions(&location, &states, graph)?;
    let started_ms = metadata.at_ms;
    let stored = StoredCheckpoint { metadata, started_ms, encoded: encoded.into(), crc, location: location.clone() };
    let completed = completed(&stored).map_err(|reason| CannotStart::TooLarge { location, reason })?;
    let kind = match settings.claim {
        ClaimMode::Claim => SnapshotKind::Checkpoint,
        ClaimMode::NoClaim => SnapshotKind::Savepoint,
    };
    Ok(CompletedCheckpoint { kind, ..completed })
}

/// State is read as it was written: operators of another schema version cannot.
fn check_versions(location: &str, states: &[StateHeader], graph: &JobGraph) -> Result<(), CannotStart> {
    let operators = graph.vertices.iter().flat_map(|vertex| &vertex.operators);
    let now: BTreeMap<OperatorId, u32> = operators.map(|operator| (operator.id, operator.state_version)).collect();
    let other = |state: &&StateHeader| now.get(&state.operator).is_some_and(|version| *version != state.version);
    match states.iter().find(other) {
        None => Ok(()),
        Some(StateHeader { operator, uid, name, version, .. }) => Err(CannotStart::OtherVersion {
            location: location.to_owned(),
            state: format!("`{name}` of `{uid}`"),
            taken: *version,
            now: now.get(operator).copied().unwrap_or_default(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn a_restored_checkpoint_is_the_jobs_only_if_it_claims_it() {
        let directory = tempfile::tempdir().unwrap();
        let location = directory.path().display().to_string();
        let (job, kind) = (JobId::from_bytes([7; 16]), SnapshotKind::Checkpoint);
        let metadata = CheckpointMetadata { job, checkpoint: CheckpointId(3), kind, at_ms: 9, vertices: Vec::new() };
        store(location.clone(), metadata, 5).unwrap();
        let mut graph = JobGraph {
            name: "job".to_owned(),
            vertices: Vec::new(),
            edges: Vec::new(),
            structural_hash: 0,
            config: Default::default(),
        };
        let mut open = |path: String, claim| {
            open_restored(&RestoreSettings { path, allow_non_restored: false, claim }, &mut graph).unwrap()
        };
        let user = open(format!("{location}/"), ClaimMode::NoClaim);
        assert_eq!((user.id, user.kind, &user.location), (CheckpointId(3), SnapshotKind::Savepoint, &location));
        let own = open(format!("{location}/_metadata"), ClaimMode::Claim);
        assert_eq!((own.kind, &own.location), (SnapshotKind::Checkpoint, &location));
    }
}
