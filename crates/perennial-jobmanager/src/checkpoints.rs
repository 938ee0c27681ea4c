//! Where the checkpoints of a job are, and the metadata that the leader writes and reads there.
//!
//! ```text
//! {execution.checkpointing.dir}/{job}/chk-{number}/_metadata
//!                                   /shared/{vertex}-{subtask}-{attempt}-{number}.state
//! ```
//! The files of its tasks are beside the metadata or, when checkpoints are incremental, in the directory of shared files.
//!
//! What is discarded is deleted by name. The rest is found by looking: after a checkpoint, whatever has its number or a lower one
//! and is neither kept nor named by what is kept will not be needed any more, since no task builds on a file that the newest
//! checkpoint does not name. So shared files go with the last checkpoint that names them, and so does what was written by an
//! executor or a leader that has died since.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use perennial_coordination::checkpoint::{CannotRestore, CheckpointRecord, StoredCheckpoint, adapt};
use perennial_meta::{CompletedCheckpoint, DiscardedCheckpoint, ReadError, StateReader};
use perennial_state::{
    EncodedMetadata, METADATA_FILE, MetadataError, StateHeader, check_files, read_metadata, write_metadata,
};
use perennial_types::{
    CheckpointId, CheckpointMetadata, ClaimMode, JobGraph, JobId, OperatorId, RestoreSettings, SHARED_DIRECTORY,
    SnapshotKind,
};
use tracing::{debug, warn};

/// Largest metadata of a checkpoint that is kept in the log, too: an entry has an end, and every JobManager holds it. Larger
/// metadata is read from its file by the next leader.
const INLINE_BYTES_MAX: usize = 4 << 20;

/// Directory of the checkpoints of one job, below that of all.
pub(crate) fn directory(all: &str, job: JobId) -> String {
    format!("{}/{job}", all.trim_end_matches('/'))
}

/// Directory of one checkpoint.
pub(crate) fn location(all: &str, job: JobId, checkpoint: CheckpointId) -> String {
    format!("{}/chk-{checkpoint}", directory(all, job))
}

/// A checkpoint as the log keeps it.
pub(crate) fn completed(stored: &StoredCheckpoint) -> CompletedCheckpoint {
    CompletedCheckpoint {
        id: stored.checkpoint(),
        kind: stored.metadata.kind,
        started_ms: stored.started_ms,
        at_ms: stored.metadata.at_ms,
        location: stored.location.clone(),
        bytes: stored.bytes(),
        metadata_crc: stored.crc,
        inline: (stored.encoded.len() <= INLINE_BYTES_MAX).then(|| stored.encoded.to_vec()),
    }
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
    let damaged = |what: String| CannotRecover::Damaged { checkpoint: id, what };
    let encoded: Arc<[u8]> = match inline {
        Some(inline) => inline.into(),
        None => read_metadata(&location).map_err(|error| damaged(error.to_string()))?.encoded.into(),
    };
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

/// The files of a job's checkpoints that are to stay, as the log knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Completed and retained, and in flight.
    checkpoints: BTreeSet<CheckpointId>,
    /// Names of the shared files of those that are completed.
    shared: BTreeSet<String>,
    /// The newest that is completed.
    newest: CheckpointId,
}

/// What the log says is to be kept of a job's checkpoints; nothing when none is complete. Reads metadata, so it blocks.
pub(crate) fn kept(state: &StateReader, job: JobId) -> Result<Option<Kept>, CannotRecover> {
    let mut kept = Kept { checkpoints: BTreeSet::new(), shared: BTreeSet::new(), newest: CheckpointId(0) };
    let in_flight = state.checkpoint_head(job)?.map(|head| head.in_flight).unwrap_or_default();
    kept.checkpoints.extend(in_flight.iter().map(|reserved| reserved.id));
    for completed in state.checkpoints(job)? {
        kept.checkpoints.insert(completed.id);
        // A savepoint stands alone.
        if completed.kind != SnapshotKind::Checkpoint {
            continue;
        }
        kept.newest = kept.newest.max(completed.id);
        let metadata = stored(completed)?.metadata;
        let subtasks = metadata.vertices.into_iter().flat_map(|vertex| vertex.subtasks);
        let files = subtasks.flat_map(|subtask| subtask.operators).flat_map(|operator| operator.keyed);
        kept.shared.extend(files.filter(|file| file.shared).map(|file| file.name));
    }
    Ok((kept.newest.0 > 0).then_some(kept))
}

impl Kept {
    /// Whether something in the directory of a job will not be needed any more, by its name. What has no number stays.
    fn is_orphan(&self, directory: Directory, name: &str) -> bool {
        // What was never finished is called after what it should have been.
        let name = name.strip_suffix(".tmp").unwrap_or(name);
        let (number, is_kept) = match directory {
            Directory::Job => (name.strip_prefix("chk-"), None),
            Directory::Shared => {
                let number = name.strip_suffix(".state").and_then(|name| name.rsplit_once('-'));
                (number.map(|(_, number)| number), Some(self.shared.contains(name)))
            }
        };
        let Some(number) = number.and_then(|number| number.parse().ok()).map(CheckpointId) else { return false };
        number <= self.newest && !is_kept.unwrap_or_else(|| self.checkpoints.contains(&number))
    }
}

/// A directory in which names have a meaning.
#[derive(Debug, Clone, Copy)]
enum Directory {
    /// That of a job.
    Job,
    /// That of its shared files.
    Shared,
}

/// Deletes what is not needed any more in the directory of a job. What is in the way is left for the next time. Blocks.
pub(crate) fn delete_orphans(directory: &str, kept: &Kept) {
    let deleted = perennial_state::open(directory).and_then(|storage| {
        for (below, path) in [(Directory::Job, ""), (Directory::Shared, SHARED_DIRECTORY)] {
            for name in storage.list(path)?.into_iter().filter(|name| kept.is_orphan(below, name)) {
                let path = if path.is_empty() { name } else { format!("{path}/{name}") };
                debug!(directory, path, "no checkpoint needs it any more");
                storage.delete_all(&path)?;
            }
        }
        Ok(())
    });
    if let Err(error) = deleted {
        warn!(directory, %error, "what no checkpoint needs any more was not deleted");
    }
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
    let stored = StoredCheckpoint { metadata, started_ms, encoded: encoded.into(), crc, location };
    let completed = completed(&stored);
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
    use perennial_types::{OperatorSnapshot, TaskSnapshot, VertexId, VertexSnapshot};

    use super::*;

    /// Metadata that is too large for the log is read from its file, and noticed when it is not what was written.
    #[test]
    fn large_metadata_is_found_in_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let (job, checkpoint) = (JobId::from_bytes([7; 16]), CheckpointId(3));
        let list = vec![vec![b'x'; 1000]; 5000];
        let operator = OperatorId::from_bytes([1; 16]);
        let (keyed, union_list, broadcast) = (Vec::new(), Vec::new(), None);
        let operators = vec![OperatorSnapshot { operator, keyed, list, union_list, broadcast }];
        let subtasks = vec![TaskSnapshot { operators, ..TaskSnapshot::default() }];
        let vertices = vec![VertexSnapshot {
            vertex: VertexId::from_bytes([2; 16]),
            name: "sink".to_owned(),
            operators: Vec::new(),
            max_parallelism: 128,
            subtasks,
        }];
        let kind = SnapshotKind::Checkpoint;
        let metadata = CheckpointMetadata { job, checkpoint, kind, at_ms: 9, vertices };
        let location = location(directory.path().to_str().unwrap(), job, checkpoint);
        let written = store(location.clone(), metadata, 5).unwrap();
        let entry = completed(&written);
        assert!(written.encoded.len() > 4 << 20 && entry.inline.is_none());
        assert_eq!(stored(entry.clone()).unwrap(), *written);
        std::fs::write(format!("{location}/_metadata"), "{}\n{}").unwrap();
        assert!(matches!(stored(entry), Err(CannotRecover::Damaged { .. })));
    }

    #[test]
    fn what_no_checkpoint_needs_is_known_by_its_number() {
        let kept = Kept {
            checkpoints: [4, 7, 8].map(CheckpointId).into(),
            shared: ["v-0-0-2.state", "v-0-0-7.state"].map(str::to_owned).into(),
            newest: CheckpointId(7),
        };
        let orphans = |below, names: &[&str]| -> Vec<String> {
            names.iter().filter(|name| kept.is_orphan(below, name)).map(|name| (*name).to_owned()).collect()
        };
        let job =
            ["chk-3", "chk-4", "chk-6", "chk-7", "chk-8", "chk-9", "chk-", "shared", "notes", "chk-5.tmp", "chk-x"];
        assert_eq!(orphans(Directory::Job, &job), ["chk-3", "chk-6", "chk-5.tmp"]);
        let shared =
            ["v-0-0-1.state", "v-0-0-2.state", "v-0-0-7.state", "v-1-0-7.state.tmp", "v-0-0-8.state", "README"];
        assert_eq!(orphans(Directory::Shared, &shared), ["v-0-0-1.state", "v-1-0-7.state.tmp"]);
    }

    #[test]
    fn orphans_are_deleted_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let job = directory.path().join("job");
        for path in ["chk-1/a", "chk-2/_metadata", "chk-3/a", "shared/v-0-0-1.state", "shared/v-0-0-2.state"] {
            let path = job.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let shared = ["v-0-0-2.state".to_owned()].into();
        let kept = Kept { checkpoints: [CheckpointId(2)].into(), shared, newest: CheckpointId(2) };
        // A second time there is nothing to do, also where nothing is at all.
        for directory in [job.to_str().unwrap(), job.to_str().unwrap(), "/nowhere/at/all"] {
            delete_orphans(directory, &kept);
        }
        let left = |path: &str, expected: bool| assert_eq!(job.join(path).exists(), expected, "{path}");
        left("chk-1", false);
        left("chk-2/_metadata", true);
        left("chk-3/a", true);
        left("shared/v-0-0-1.state", false);
        left("shared/v-0-0-2.state", true);
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
